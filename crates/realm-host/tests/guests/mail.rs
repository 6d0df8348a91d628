//! A guest that sends mail: through what it binds, as whom it may, and what it hears of it.

use std::sync::Arc;

use realm_backends::mail::{Security, Smtp, SmtpSettings};
use realm_backends::{Access, Unwatched};
use realm_host::Store;
use realm_test_guests as guests;
use tempfile::TempDir;

use crate::harness::{Loaded, guest};
use crate::mail_server::{MailServer, PASSWORD, USER, certified};

/// A server over TLS, and a guest that sends through it.
fn with_mail() -> (MailServer, Store, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let authority = certified(folder.path());
    let server = MailServer::start(folder.path(), "starttls");
    let settings = SmtpSettings {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        security: Security::StartTls,
        senders: vec!["shop@example.org".to_owned()],
        access: Access {
            user: Some(USER.to_owned()),
            password: Some(PASSWORD.to_owned().into()),
            authorities: Some(authority),
            prefix: String::new(),
        },
    };
    let smtp = Smtp::new(settings, Arc::new(Unwatched)).unwrap();
    (server, Store::Mail(Arc::new(smtp)), folder)
}

async fn said(loaded: &Loaded, target: &str) -> String {
    loaded.get(target).await.unwrap().text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn mail() {
    let (server, store, _folder) = with_mail();
    let loaded = guest(guests::MAIL).bind("default", store).load();
    let lines = loaded.body("/checks").await;
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    assert_eq!(lines.lines().count(), 14, "{lines}");
    assert_eq!(server.count(), 0);
    // What stands in a text is text, whatever it looks like.
    let target =
        "/?subject=Gr%c3%bc%c3%9fe&text=a%0a.%0ab&bcc=eve@example.net&size=70000&file=%c3%a4.bin";
    let id = loaded.body(target).await;
    assert_eq!(server.count(), 1);
    let (envelope, parsed) = (server.envelope(1), server.parsed(1));
    assert!(envelope.contains("eve@example.net"), "{envelope}");
    assert!(!parsed.contains("eve@example.net"), "{parsed}");
    for part in [
        &*id,
        r"Gr\u00fc\u00dfe",
        r"a\r\n.\r\nb",
        r#"["\u00e4.bin", "application/octet-stream", 70000"#,
    ] {
        assert!(parsed.contains(part), "{part} in {parsed}");
    }
    let refused = said(&loaded, "/?to=ann@example.net,nobody@example.net").await;
    assert!(
        refused.starts_with("Error::RecipientRefused(") && refused.contains("550"),
        "{refused}"
    );
    let full = said(&loaded, "/?to=full@example.net").await;
    assert_eq!(full, "Error::Temporary(452)");
    let spam = said(&loaded, "/?to=spam@example.net").await;
    assert_eq!(spam, "Error::Rejected(554)");
    let mute = said(&loaded, "/?to=mute@example.net").await;
    assert_eq!(mute, "Error::Unknown");
    assert_eq!(server.count(), 1);
    drop(server);
    let gone = said(&loaded, "/").await;
    assert!(gone.starts_with("Error::Unavailable"), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_counted_and_go_nowhere_without_a_binding() {
    let (server, store, _folder) = with_mail();
    let slow = guest(guests::MAIL)
        .bind("default", store)
        .limits(|limits| limits.operations_per_sec = Some(1))
        .load();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(said(&slow, "/").await);
    }
    let sent = answers.iter().filter(|one| one.starts_with('<')).count();
    assert_eq!(server.count(), sent);
    assert!(
        answers.iter().any(|one| one == "Error::Quota"),
        "{answers:?}"
    );
    let unbound = guest(guests::MAIL).load();
    assert_eq!(said(&unbound, "/").await, "Error::NoSuchMail");
}
