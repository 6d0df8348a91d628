//! Guests with keys and identities: what a vault gives, and what stays with the host.

use std::sync::Arc;

use realm_backends::keys::{Issuer, Vault};
use realm_host::Store;
use realm_model::grants::StoreGrant;
use realm_test_guests as guests;

use crate::harness::{Loaded, guest};

const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEWER: &str = "/AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn vault(roots: &str, name: &str) -> Store {
    Store::Keys(Arc::new(
        Vault::new(roots.as_bytes(), "default", name).unwrap(),
    ))
}

fn issuer(roots: &str, name: &str) -> Store {
    let issuer = Issuer::new(roots.as_bytes(), "default", name, "https://shop.example");
    Store::Identity(Arc::new(issuer.unwrap()))
}

fn with(vault: Store) -> Loaded {
    guest(guests::KEYS).bind("default", vault).load()
}

/// What a guest answers, be it an error.
async fn said(loaded: &Loaded, target: &str) -> String {
    loaded.get(target).await.unwrap().text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn keys() {
    for roots in [ROOT.to_owned(), format!("{NEWER}\n{ROOT}")] {
        let lines = with(vault(&roots, "vault")).body("/").await;
        assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
        assert_eq!(lines.lines().count(), 11, "{lines}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_those_of_the_binding_and_of_its_roots() {
    let before = with(vault(ROOT, "vault"));
    let sealed = before.body("/seal?name=orders&text=hello&context=c").await;
    let open = format!("/open?name=orders&context=c&sealed={sealed}");
    assert_eq!(before.body(&open).await, "hello");
    // Another instance elsewhere, and after a newer root came before.
    let rotated = with(vault(&format!("{NEWER}\n{ROOT}"), "vault"));
    assert_eq!(rotated.body(&open).await, "hello");
    let newer = rotated.body("/seal?name=orders&text=hello").await;
    assert_ne!(newer[2..18], sealed[2..18]);
    for (what, loaded) in [
        ("another binding", with(vault(ROOT, "other"))),
        ("another root", with(vault(NEWER, "vault"))),
        (
            "another identifier of a binding of them all",
            guest(guests::KEYS)
                .bind(StoreGrant::ANY, vault(ROOT, "vault"))
                .load(),
        ),
    ] {
        assert_eq!(said(&loaded, &open).await, "Error::UnknownKey", "{what}");
    }
    let unbound = guest(guests::KEYS).load();
    assert_eq!(said(&unbound, &open).await, "Error::NoSuchVault");
    // Of a binding of them all, each identifier has keys of its own.
    let all = guest(guests::KEYS)
        .bind(StoreGrant::ANY, vault(ROOT, "vault"))
        .load();
    let sealed = all.body("/seal?vault=a&name=orders&text=hello").await;
    let open = async |vault| {
        let path = format!("/open?vault={vault}&name=orders&sealed={sealed}");
        said(&all, &path).await
    };
    assert_eq!(open("a").await, "hello");
    assert_eq!(open("b").await, "Error::UnknownKey");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_with_keys_are_counted() {
    let slow = guest(guests::KEYS)
        .bind("default", vault(ROOT, "vault"))
        .limits(|limits| limits.operations_per_sec = Some(2))
        .load();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(said(&slow, "/public?name=a").await);
    }
    assert!(
        answers.iter().any(|one| one == "Error::Quota"),
        "{answers:?}"
    );
    assert!(!answers[0].starts_with("Error"), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn identity() {
    const FOR: &str = "https%3a%2f%2fpay.example";
    let ours = guest(guests::IDENTITY)
        .bind("default", issuer(ROOT, "id"))
        .bind("other", issuer(ROOT, "other"))
        .load();
    assert_eq!(ours.body("/subject").await, "realm/default/guest");
    let token = ours.body(&format!("/token?audience={FOR}")).await;
    let verify = async |id: &str, audience: &str| {
        let path = format!("/verify?id={id}&audience={audience}&token={token}");
        said(&ours, &path).await
    };
    let good = "https://shop.example realm/default/guest 300";
    assert_eq!(verify("default", FOR).await, good);
    assert_eq!(verify("default", "x").await, "Error::OtherAudience");
    assert_eq!(verify("other", FOR).await, "Error::NotAuthentic");
    assert_eq!(verify("none", FOR).await, "Error::NoSuchIdentity");
    let unbound = guest(guests::IDENTITY).load();
    assert_eq!(
        said(&unbound, "/token?audience=x").await,
        "Error::NoSuchIdentity"
    );
    let long = said(&ours, "/token?audience=x&lifetime=3601").await;
    assert!(long.starts_with("Error::Invalid"), "{long}");
    let jwks = ours.body("/.well-known/jwks.json").await;
    assert!(jwks.contains("\"crv\":\"Ed25519\""), "{jwks}");
}
