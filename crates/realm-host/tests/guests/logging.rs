//! What guests log, in both forms of the interface.

use realm_model::api::LogStream;
use realm_test_guests as guests;

use crate::harness::guest;

async fn check(path: &'static str) {
    let guest = guest(path).load();
    let said = async |query: &str| {
        let before = guest.log.lines(LogStream::Stderr).len();
        assert_eq!(guest.body(&format!("/?{query}")).await, "logged");
        guest.log.lines(LogStream::Stderr)[before..].to_vec()
    };
    for level in ["trace", "debug", "info", "warn", "error", "critical"] {
        let lines = said(&format!("level={level}&context=db&message=down")).await;
        assert_eq!(lines, [format!("{level} [db]: down")]);
    }
    assert_eq!(said("message=plain").await, ["info: plain"]);
    assert_eq!(said("level=warn").await, ["warn:"]);
    // Each line has the level: nobody forges another one, and no terminal is steered.
    let forged = said("level=debug&context=a%0Aerror&message=x%0Aerror:%20y%1B[2J").await;
    assert_eq!(forged.len(), 2, "{forged:?}");
    let proper = |line: &String| line.starts_with("debug [a") && !line.contains(['\u{1b}', '\n']);
    assert!(forged.iter().all(proper), "{forged:?}");
    // Bounded: a line, and the lines of one message.
    let long = said("message=x&repeat=100000").await;
    assert_eq!(long.len(), 1);
    assert!(long[0].len() <= 8 * 1024, "{}", long[0].len());
    let many = said("message=x%0A&repeat=5000").await;
    assert_eq!(many.len(), 101);
    assert!(many[100].contains("the rest is cut"), "{}", many[100]);
    assert_eq!(said("message=again&times=3").await, ["info: again"; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn logging() {
    check(guests::LOGGING).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn logging_unversioned() {
    check(guests::LOGGING_UNVERSIONED).await;
}
