//! Guests with documents, vectors and texts in an embedded database. The same guests ask a real server in
//! the end-to-end tests.

use std::path::Path;
use std::sync::Arc;

use realm_backends::data::Database;
use realm_backends::sql::Sqlite;
use realm_host::Store;
use realm_test_guests as guests;

use crate::harness::{Guest, Loaded, guest};

fn store(folder: &Path) -> Store {
    Store::Sql(Arc::new(Database::sqlite(Sqlite::new(folder))))
}

/// A guest with a database of its own.
fn with(path: &'static str, folder: &Path) -> Guest {
    guest(path).bind("default", store(folder))
}

/// What a guest says, whatever came of it.
async fn said(loaded: &Loaded, target: &str) -> String {
    loaded.get(target).await.unwrap().text().to_owned()
}

/// Every line of a guest's checks is good, and once more over what the first run left.
async fn passes(path: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let loaded = with(path, folder.path()).load();
    for _ in 0..2 {
        let answer = loaded.body("/").await;
        let mut lines = answer.lines();
        assert!(
            lines.all(|line| line.starts_with("ok ")) && answer.lines().count() >= 5,
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn documents() {
    passes(guests::DOCUMENTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn search() {
    passes(guests::SEARCH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn vectors() {
    passes(guests::VECTORS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_a_database_that_is_not_bound_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let put = "/put?id=a&body=%7B%7D";
    let unbound = guest(guests::DOCUMENTS).load();
    assert_eq!(said(&unbound, put).await, "no-such-database");
    let bound = with(guests::DOCUMENTS, folder.path()).load();
    assert_eq!(said(&bound, put).await, "put");
    assert_eq!(said(&bound, "/get?id=a").await, "{}");
    for name in ["other", "..%2fdefault", "%2a"] {
        let asked = format!("/get?id=a&db={name}");
        assert_eq!(said(&bound, &asked).await, "no-such-database", "{name}");
    }
    // Another component's database, with the same name for the guest.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = with(guests::DOCUMENTS, elsewhere.path()).load();
    assert_eq!(said(&other, "/get?id=a").await, "nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_held_to_the_quotas_of_their_component() {
    let folder = tempfile::tempdir().unwrap();
    let body = format!("%7B%22a%22:%22{}%22%7D", "x".repeat(50_000));
    let small = with(guests::DOCUMENTS, folder.path())
        .limits(|limits| limits.storage_max_mb = 1)
        .load();
    let mut last = String::new();
    for id in 0..60 {
        last = said(&small, &format!("/put?id={id}&body={body}")).await;
        if last != "put" {
            break;
        }
    }
    assert_eq!(last, "quota `storage_max_mb`");
    assert_eq!(said(&small, "/get?id=none").await, "nothing");
    let folder = tempfile::tempdir().unwrap();
    let slow = with(guests::DOCUMENTS, folder.path())
        .limits(|limits| limits.operations_per_sec = Some(1))
        .load();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(said(&slow, "/get?id=a").await);
    }
    let refused = "quota `operations_per_sec`";
    assert!(answers.iter().any(|one| one == refused), "{answers:?}");
}
