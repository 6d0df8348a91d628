//! Secrets as guests read them, in both published shapes.

use realm_test_guests as guests;

use crate::harness::guest;

/// What a guest gets: what it lists, and of everything else that it is not there.
async fn check(path: &'static str) {
    let listed = guest(path)
        .secrets(&[("db.password", b"correct horse"), ("key", &[0xff, 0])])
        .load();
    assert_eq!(listed.body("/?key=db.password").await, "text correct horse");
    assert_eq!(listed.body("/?key=key").await, "bytes [255, 0]");
    for other in ["other", "", "db.password%00", "secrets"] {
        let answer = listed.body(&format!("/?key={other}")).await;
        assert_eq!(answer, "not found", "{other}");
    }
    let nothing = guest(path).load();
    assert_eq!(nothing.body("/?key=key").await, "not found");
    let said = listed.log.agent();
    assert!(!said.contains("correct horse"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn secrets() {
    check(guests::SECRETS).await;
    let listed = guest(guests::SECRETS).secrets(&[("key", b"x")]).load();
    assert_eq!(listed.body("/?key=key&twice=1").await, "text x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_secrets() {
    check(guests::P3_SECRETS).await;
    // The one without a name.
    let one = guest(guests::P3_SECRETS).secrets(&[("key", b"x")]).load();
    assert_eq!(one.body("/?only=1").await, "text x");
    for secrets in [&[][..], &[("a", &b"x"[..]), ("b", &b"y"[..])]] {
        let several = guest(guests::P3_SECRETS).secrets(secrets).load();
        assert_eq!(several.refusal("/?only=1").await, ("trap", 500));
        let said = several.log.agent();
        assert!(said.contains("does not list one secret"), "{said}");
    }
}
