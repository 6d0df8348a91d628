//! Guests with databases: what every database answers, and what a guest may not do with one. The same
//! guests ask a real server in the end-to-end tests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use realm_backends::data::Database;
use realm_backends::sql::Sqlite;
use realm_host::Store;
use realm_model::cloud::{Sql, SqlValue};
use realm_model::grants::StoreGrant;
use realm_test_guests as guests;

use crate::harness::{Guest, Loaded, guest};

fn store(folder: &Path) -> Store {
    Store::Sql(Arc::new(Database::sqlite(Sqlite::new(folder))))
}

/// A guest with a database of its own.
fn with(path: &'static str, folder: &Path) -> Guest {
    guest(path).bind("default", store(folder))
}

/// Every line of a guest's checks is good.
async fn passes(loaded: &Loaded) {
    let answer = loaded.body("/").await;
    let bad: Vec<_> = answer
        .lines()
        .filter(|line| !line.starts_with("ok "))
        .collect();
    assert!(bad.is_empty() && answer.lines().count() >= 5, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sql() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = with(guests::SQL, folder.path()).load();
    passes(&loaded).await;
    // And once more, over what the first run left.
    passes(&loaded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn sql_draft() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = with(guests::SQL_DRAFT, folder.path()).load();
    passes(&loaded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_found_by_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = with(guests::SQL, folder.path()).load();
    let found = loaded.body("/words?spelling=fts5").await;
    let first = found.lines().next().unwrap_or_default();
    assert!(
        first.contains("A dog sleeps") && found.lines().count() == 2,
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_bound_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let unbound = guest(guests::SQL).load();
    assert_eq!(
        said(&unbound, "default", "SELECT 1").await,
        "no-such-database"
    );
    let bound = with(guests::SQL, folder.path()).load();
    assert_eq!(
        said(&bound, "default", "SELECT 1").await,
        "[Value::Integer(1)]\n"
    );
    for name in ["other", "main", "../main", "", "*", "default\n"] {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(
            said(&bound, &encoded, "SELECT 1").await,
            "no-such-database",
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_has_is_not_reached() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("theirs");
    let other = with(guests::SQL, &theirs).load();
    assert_eq!(
        said(&other, "default", "CREATE TABLE secrets (s TEXT)").await,
        ""
    );
    let own = with(guests::SQL, &folder.path().join("own")).load();
    assert_eq!(
        said(&own, "default", "SELECT * FROM secrets").await,
        "42P01"
    );
    let path = theirs.join("main.db");
    for statement in [
        format!("ATTACH '{}' AS other", path.display()),
        format!("VACUUM INTO '{}'", folder.path().join("copy").display()),
        "PRAGMA database_list".to_owned(),
        "SELECT load_extension('x')".to_owned(),
    ] {
        assert_eq!(
            said(&own, "default", &statement).await,
            "access-denied",
            "{statement}"
        );
    }
    assert!(!folder.path().join("copy").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_not_listed_may_have_databases_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = guest(guests::SQL)
        .bind(StoreGrant::ANY, store(folder.path()))
        .load();
    assert_eq!(said(&loaded, "a", "CREATE TABLE t (i INTEGER)").await, "");
    assert_eq!(said(&loaded, "a", "SELECT * FROM t").await, "");
    assert_eq!(said(&loaded, "b", "SELECT * FROM t").await, "42P01");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold() {
    let folder = tempfile::tempdir().unwrap();
    let small = with(guests::SQL, folder.path())
        .limits(|limits| limits.storage_max_mb = 1)
        .load();
    assert_eq!(
        said(&small, "default", "CREATE TABLE t (b BYTEA)").await,
        ""
    );
    let add = "INSERT INTO t VALUES (zeroblob(300000))";
    for _ in 0..3 {
        assert_eq!(said(&small, "default", add).await, "");
    }
    assert_eq!(said(&small, "default", add).await, "quota `storage_max_mb`");
    assert_eq!(said(&small, "default", "DELETE FROM t").await, "");
    assert_eq!(said(&small, "default", add).await, "");

    let slow = with(guests::SQL, folder.path())
        .limits(|limits| limits.operations_per_sec = Some(2))
        .load();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(said(&slow, "default", "SELECT 1").await);
    }
    assert!(
        answers.contains(&"quota `operations_per_sec`".to_owned()),
        "{answers:?}"
    );
}

/// What a guest holds of rows is the host's memory: it has an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_held_have_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = with(guests::SQL, folder.path()).load();
    for _ in 0..2 {
        let held = loaded.body("/held").await;
        assert!(held.contains("too many large values"), "{held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_ends_in_a_transaction_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::sqlite(Sqlite::new(folder.path())));
    let loaded = guest(guests::SQL)
        .bind("default", Store::Sql(database.clone()))
        .load();
    assert_eq!(
        said(&loaded, "default", "CREATE TABLE t (i INTEGER)").await,
        ""
    );
    let trapped = loaded
        .refusal("/hold?sql=INSERT%20INTO%20t%20VALUES%20(1)")
        .await;
    assert_eq!(trapped, ("trap", 500));
    // The lock is free at once, and the row was never there.
    let begun = Instant::now();
    let mut session = database.open("", 1 << 30).await.unwrap();
    let changed = session.execute("INSERT INTO t VALUES (2)", &[]).await;
    assert_eq!(changed, Ok(1));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    session.query("SELECT i FROM t", &[]).await.unwrap();
    assert_eq!(session.fetch().await, Ok(vec![vec![SqlValue::Integer(2)]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_ends_with_the_request_that_asked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = with(guests::SQL, folder.path())
        .limits(|limits| limits.wall_timeout_ms = 500)
        .load();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i > 0) \
        SELECT COUNT(*) FROM n WHERE i < 0";
    let target = format!("/run?sql={}", encoded(endless));
    let begun = Instant::now();
    // More of them than a binding has sessions: each one is free again.
    for _ in 0..2 {
        let asked = (0..20).map(|_| loaded.get(&target));
        for answer in futures_util::future::join_all(asked).await {
            assert!(answer.is_err(), "{answer:?}");
        }
    }
    assert_eq!(
        said(&loaded, "default", "SELECT 1").await,
        "[Value::Integer(1)]\n"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

/// What a guest hears of a statement.
async fn said(loaded: &Loaded, database: &str, statement: &str) -> String {
    let target = format!("/run?db={database}&sql={}", encoded(statement));
    loaded.get(&target).await.unwrap().text().to_owned()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}
