//! Mail over SMTP, to a real server: what arrives is what was written, and what does not arrive is told as
//! it was.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../../../tests/peers/mail.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use realm_backends::mail::{Security, Smtp, SmtpSettings};
use realm_backends::{Access, Watch};
use realm_model::cloud::mail::{Attachment, Mailbox};
use realm_model::cloud::{CloudError, Mail, MailError, Mailer as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use server::{MailServer, PASSWORD, USER, certified};

/// What an operator hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Watch for Heard {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(format!("down {why}"));
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

impl Heard {
    /// Everything since the last time.
    fn all(&self) -> String {
        self.0
            .lock()
            .unwrap()
            .drain(..)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// A server in a folder of its own, and who brings mail there.
struct Post {
    server: MailServer,
    smtp: Smtp,
    heard: Arc<Heard>,
    _folder: TempDir,
}

fn settings(port: u16, security: Security, authorities: Option<PathBuf>) -> SmtpSettings {
    let is_let_in = security != Security::Plain;
    SmtpSettings {
        host: "127.0.0.1".to_owned(),
        port,
        security,
        senders: vec!["shop@example.org".to_owned()],
        access: Access {
            user: is_let_in.then(|| USER.to_owned()),
            password: is_let_in.then(|| PASSWORD.to_owned().into()),
            authorities,
            prefix: String::new(),
        },
    }
}

/// After a change of the settings.
fn post(security: Security, change: impl FnOnce(&mut SmtpSettings)) -> Post {
    let folder = tempfile::tempdir().unwrap();
    let authority = certified(folder.path());
    let server = MailServer::start(
        folder.path(),
        match security {
            Security::Tls => "tls",
            Security::StartTls => "starttls",
            Security::Plain => "plain",
        },
    );
    let mut settings = settings(server.port, security, Some(authority));
    change(&mut settings);
    let heard = Arc::new(Heard::default());
    Post {
        smtp: Smtp::new(settings, heard.clone()).unwrap(),
        server,
        heard,
        _folder: folder,
    }
}

impl Post {
    fn envelope(&self, number: usize) -> Value {
        serde_json::from_str(&self.server.envelope(number)).unwrap()
    }

    fn parsed(&self, number: usize) -> Value {
        let parsed: Value = serde_json::from_str(&self.server.parsed(number)).unwrap();
        // Whatever it is: no line is longer than it may be, or ends as none may.
        assert_eq!(parsed["defects"], json!([]), "{parsed}");
        assert_eq!(parsed["bare"], json!(false), "{parsed}");
        assert_eq!(parsed["ascii"], json!(true), "{parsed}");
        assert!(parsed["line"].as_u64().unwrap() <= 998, "{parsed}");
        parsed
    }
}

fn mailbox(name: Option<&str>, address: &str) -> Mailbox {
    Mailbox {
        name: name.map(str::to_owned),
        address: address.to_owned(),
    }
}

fn mail(to: &str, text: &str) -> Mail {
    Mail {
        from: mailbox(Some("Shop"), "shop@example.org"),
        to: vec![mailbox(None, to)],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: None,
        subject: "Hello".to_owned(),
        text: Some(text.to_owned()),
        html: None,
        attachments: Vec::new(),
        headers: Vec::new(),
    }
}

#[tokio::test]
async fn mail_is_brought_over_tls_with_a_password() {
    for security in [Security::StartTls, Security::Tls] {
        let post = post(security, |_| ());
        let id = post
            .smtp
            .send(mail("ann@example.net", "Hello, Ann"))
            .await
            .unwrap();
        let envelope = post.envelope(1);
        assert_eq!(envelope["from"], "shop@example.org");
        assert_eq!(envelope["to"], json!(["ann@example.net"]));
        assert_eq!(envelope["user"], json!(true), "{security:?}");
        assert_eq!(envelope["hello"], "[127.0.0.1]");
        let parsed = post.parsed(1);
        assert_eq!(parsed["id"], id);
        assert_eq!(parsed["subject"], "Hello");
        assert_eq!(parsed["from"], json!([["Shop", "shop@example.org"]]));
        assert_eq!(parsed["text"], "Hello, Ann\r\n");
        assert_eq!(post.heard.all(), "");
    }
}

#[tokio::test]
async fn what_arrives_is_what_was_written() {
    let post = post(Security::Plain, |_| ());
    let long = "Gr\u{fc}\u{df}e aus K\u{f6}ln \u{2014} \u{4f60}\u{597d} ".repeat(10);
    let subject = long.trim().to_owned();
    // Lines of dots, the end of a message, commands, lines without end, all kinds of line ends.
    let text = format!(
        "Hello\n.\n..\n.\r\n\r\n.\r\nQUIT\r\nRCPT TO:<eve@example.net>\r\nFrom me\n{}\n\u{e4}\rb\n=20=\n trailing \n",
        "x".repeat(5_000)
    );
    let names = [
        "J\u{fc}rgen M\u{fc}ller",
        "Doe, John \"Joe\" <x@y.z>",
        "\u{4f60}\u{597d}",
        "a; b: c@d",
        "=?utf-8?q?forged?=",
    ];
    let people = names.map(|name| mailbox(Some(name), "ann@example.net"));
    let bytes: Vec<u8> = (0..100_000_u32)
        .map(|at| at.to_le_bytes()[at as usize % 3])
        .collect();
    let sent = Mail {
        from: mailbox(Some("Der Sh\u{f6}p"), "shop@example.org"),
        to: people.to_vec(),
        cc: vec![mailbox(None, "bob@example.net")],
        bcc: vec![mailbox(Some("Eve"), "eve@example.net")],
        reply_to: Some(mailbox(None, "answers@example.org")),
        subject: subject.clone(),
        text: Some(text.clone()),
        html: Some(format!("<p>{long}</p>\n.\n")),
        attachments: vec![
            Attachment {
                name: "Pr\u{fc}fung \"1\"; a=b.pdf".to_owned(),
                content_type: "application/pdf".to_owned(),
                data: bytes.clone(),
                inline_id: None,
            },
            Attachment {
                name: "lines.txt".to_owned(),
                content_type: "text/plain".to_owned(),
                data: b"a\n.\r\n.\rb\0\xff".to_vec(),
                inline_id: None,
            },
        ],
        headers: vec![("X-Realm-Shop".to_owned(), long.trim().to_owned())],
    };
    post.smtp.send(sent).await.unwrap();
    let (envelope, parsed) = (post.envelope(1), post.parsed(1));
    let everybody = ["ann@example.net", "bob@example.net", "eve@example.net"];
    assert_eq!(envelope["to"], json!(everybody));
    assert_eq!(envelope["tls"], json!(false));
    assert_eq!(parsed["bcc"], json!([]));
    assert!(!parsed["headers"].to_string().contains("eve@"), "{parsed}");
    assert_eq!(parsed["subject"], subject);
    // Python's parser puts a space between two parts of one encoded word.
    let without = |name: &str| name.replace(' ', "");
    let shown = parsed["to"].as_array().unwrap().iter();
    let shown: Vec<String> = shown
        .map(|one| without(one[0].as_str().unwrap()) + one[1].as_str().unwrap())
        .collect();
    let expected = names.map(|name| without(name) + "ann@example.net");
    assert_eq!(shown, expected);
    assert_eq!(parsed["cc"], json!([["", "bob@example.net"]]));
    let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
    assert_eq!(
        lines(parsed["text"].as_str().unwrap()).trim_end(),
        lines(&text).trim_end()
    );
    assert!(
        parsed["html"].as_str().unwrap().contains(long.trim()),
        "{parsed}"
    );
    let hash = |bytes: &[u8]| {
        let digest = Sha256::digest(bytes);
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(
        parsed["files"],
        json!([
            [
                "Pr\u{fc}fung \"1\"; a=b.pdf",
                "application/pdf",
                100_000,
                hash(&bytes)
            ],
            ["lines.txt", "text/plain", 10, hash(b"a\n.\r\n.\rb\0\xff")],
        ])
    );
    let headers = parsed["headers"].as_array().unwrap();
    let of = |name: &str| headers.iter().filter(|header| header[0] == name).count();
    assert_eq!(
        (
            of("X-Realm-Shop"),
            of("Reply-To"),
            of("Date"),
            of("Message-ID")
        ),
        (1, 1, 1, 1)
    );
    assert!(
        headers.iter().any(|header| header[1] == long.trim()),
        "{parsed}"
    );
    assert_eq!(post.server.count(), 1);
}

#[tokio::test]
async fn ten_megabytes_arrive() {
    let post = post(Security::StartTls, |_| ());
    let data: Vec<u8> = (0..10 * 1024 * 1024_u32)
        .map(|at| (at / 7).to_le_bytes()[0])
        .collect();
    let hash = Sha256::digest(&data);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut sent = mail("ann@example.net", "see there");
    sent.attachments = vec![Attachment {
        name: "film.bin".to_owned(),
        content_type: "application/octet-stream".to_owned(),
        data,
        inline_id: None,
    }];
    post.smtp.send(sent).await.unwrap();
    assert_eq!(
        post.parsed(1)["files"],
        json!([[
            "film.bin",
            "application/octet-stream",
            10 * 1024 * 1024,
            hash
        ]])
    );
}

#[tokio::test]
async fn what_a_server_refuses_nobody_gets() {
    let post = post(Security::Plain, |_| ());
    let send = async |to: &[&str]| {
        let mut sent = mail("ann@example.net", "Hello");
        sent.to = to.iter().map(|to| mailbox(None, to)).collect();
        post.smtp.send(sent).await
    };
    let refused = MailError::Recipient {
        address: "nobody@example.net".to_owned(),
        code: 550,
    };
    assert_eq!(
        send(&["ann@example.net", "nobody@example.net"]).await,
        Err(refused)
    );
    assert_eq!(
        send(&["full@example.net"]).await,
        Err(MailError::Temporary(452))
    );
    assert_eq!(
        send(&["spam@example.net"]).await,
        Err(MailError::Rejected(554))
    );
    let mut other = mail("ann@example.net", "Hello");
    other.from.address = "ceo@example.org".to_owned();
    assert_eq!(
        post.smtp.send(other).await,
        Err(MailError::Sender("ceo@example.org".to_owned()))
    );
    let mut wrong = mail("ann@example.net", "Hello");
    wrong.subject = "a\r\nBcc: eve@example.net".to_owned();
    let wrong = post.smtp.send(wrong).await;
    assert!(
        matches!(wrong, Err(MailError::Cloud(CloudError::Invalid(_)))),
        "{wrong:?}"
    );
    assert_eq!(post.server.count(), 0);
    // The server is well: nobody is woken.
    assert_eq!(post.heard.all(), "");
}

#[tokio::test]
async fn a_connection_that_breaks_says_how_far_the_message_came() {
    let post = post(Security::Plain, |_| ());
    let down = Err(MailError::Cloud(CloudError::Unavailable));
    // More than lies between the two on the way.
    let long = "a line of the text\n".repeat(700_000);
    assert_eq!(post.smtp.send(mail("cut@example.net", &long)).await, down);
    let heard = post.heard.all();
    assert!(
        heard.contains(&format!("down 127.0.0.1:{}", post.server.port)),
        "{heard}"
    );
    let mute = post.smtp.send(mail("mute@example.net", "Hello")).await;
    assert_eq!(mute, Err(MailError::Unknown));
    assert!(post.heard.all().starts_with("down "));
    assert_eq!(post.server.count(), 0);
    post.smtp
        .send(mail("ann@example.net", "Hello"))
        .await
        .unwrap();
    assert_eq!(post.heard.all(), "up");
}

#[tokio::test]
async fn a_server_that_is_away_is_told_and_found_again() {
    let mut post = post(Security::StartTls, |_| ());
    let down = Err(MailError::Cloud(CloudError::Unavailable));
    post.server.stop();
    assert_eq!(post.smtp.send(mail("ann@example.net", "Hello")).await, down);
    assert!(post.heard.all().contains("connect"));
    post.server.start_again();
    post.smtp
        .send(mail("ann@example.net", "Hello"))
        .await
        .unwrap();
    assert_eq!(post.heard.all(), "up");
    assert_eq!(post.server.count(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    for security in [Security::StartTls, Security::Tls] {
        let wrong = |settings: &mut SmtpSettings| {
            settings.access.password = Some("hunter2".to_owned().into());
        };
        let post = post(security, wrong);
        let sent = post.smtp.send(mail("ann@example.net", "Hello")).await;
        assert_eq!(sent, Err(MailError::Cloud(CloudError::Unavailable)));
        let heard = post.heard.all();
        assert!(
            heard.contains("it does not let this user in (535)"),
            "{heard}"
        );
        assert!(!heard.contains("hunter2"), "{heard}");
        assert_eq!(post.server.count(), 0);
    }
}

#[tokio::test]
async fn a_server_that_is_somebody_else_gets_nothing() {
    for security in [Security::StartTls, Security::Tls] {
        let without = |settings: &mut SmtpSettings| settings.access.authorities = None;
        let post = post(security, without);
        let sent = post.smtp.send(mail("ann@example.net", "Hello")).await;
        assert_eq!(sent, Err(MailError::Cloud(CloudError::Unavailable)));
        let heard = post.heard.all();
        assert!(heard.contains("TLS"), "{heard}");
        assert_eq!(post.server.count(), 0);
    }
}

/// Says these lines, one for each that it hears, and keeps what it heard.
async fn scripted(lines: &'static [&'static str]) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        for line in lines {
            if stream.write_all(line.as_bytes()).await.is_err() {
                break;
            }
            match stream.read(&mut buffer).await {
                Ok(n) if n > 0 => heard.extend_from_slice(&buffer[..n]),
                Ok(_) | Err(_) => break,
            }
        }
        String::from_utf8_lossy(&heard).into_owned()
    });
    (port, said)
}

/// A server, or who stands before it, that would have TLS left out or brings its own words into it.
#[tokio::test]
async fn without_tls_no_password_and_no_message_is_said() {
    for (lines, why) in [
        (
            &["220 a\r\n", "250-a\r\n250 AUTH PLAIN\r\n", "250 ok\r\n"][..],
            "offers no STARTTLS",
        ),
        (
            &[
                "220 a\r\n",
                "250-a\r\n250 STARTTLS\r\n",
                "454 not now\r\n",
                "250 ok\r\n",
            ],
            "it answered 454",
        ),
        (
            &[
                "220 a\r\n",
                "250-a\r\n250 STARTTLS\r\n",
                "220 go on\r\n250-a\r\n250 AUTH PLAIN\r\n",
                "250 ok\r\n",
            ],
            "more before TLS",
        ),
        (&["554 go away\r\n"], "it answered 554"),
        (&["nonsense\r\n"], "it answered non"),
    ] {
        let (port, said) = scripted(lines).await;
        let heard = Arc::new(Heard::default());
        let smtp = Smtp::new(settings(port, Security::StartTls, None), heard.clone()).unwrap();
        let sent = smtp.send(mail("ann@example.net", "Hello")).await;
        assert_eq!(
            sent,
            Err(MailError::Cloud(CloudError::Unavailable)),
            "{why}"
        );
        drop(smtp);
        let said = said.await.unwrap();
        assert!(!said.contains("AUTH") && !said.contains("MAIL"), "{said}");
        let heard = heard.all();
        assert!(heard.contains(why), "{heard}");
    }
}

/// It took all of the message, and says that it goes: nothing is unknown.
#[tokio::test]
async fn a_server_that_goes_when_it_has_the_message_says_that_it_took_none() {
    let lines = &[
        "220 a\r\n",
        "250 a\r\n",
        "250 sender\r\n",
        "250 recipient\r\n",
        "354 go on\r\n",
        "421 I go\r\n",
    ];
    let (port, said) = scripted(lines).await;
    let heard = Arc::new(Heard::default());
    let smtp = Smtp::new(settings(port, Security::Plain, None), heard.clone()).unwrap();
    let sent = smtp.send(mail("ann@example.net", "Hello")).await;
    assert_eq!(sent, Err(MailError::Cloud(CloudError::Unavailable)));
    assert!(heard.all().contains("it answered 421"));
    drop(smtp);
    assert!(said.await.unwrap().contains("RCPT TO:<ann@example.net>"));
}

#[tokio::test]
async fn a_server_that_says_nothing_or_too_much_is_left() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for security in [Security::StartTls, Security::Plain] {
        let smtp = Smtp::new(settings(port, security, None), Arc::new(Heard::default())).unwrap();
        let chatter = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A line without an end.
            while stream.write_all(&[b'2'; 4096]).await.is_ok() {}
        };
        let begun = Instant::now();
        let (sent, ()) = tokio::join!(smtp.send(mail("ann@example.net", "Hello")), chatter);
        assert_eq!(sent, Err(MailError::Cloud(CloudError::Unavailable)));
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it waited for more"
        );
    }
    let heard = Arc::new(Heard::default());
    let smtp = Smtp::new(settings(port, Security::Plain, None), heard.clone()).unwrap();
    let begun = Instant::now();
    let sent = smtp.send(mail("ann@example.net", "Hello")).await;
    assert_eq!(sent, Err(MailError::Cloud(CloudError::Timeout)));
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(heard.all().contains("in time"));
}

/// Many at once wait for each other, and none is lost or comes twice.
#[tokio::test]
async fn many_at_once_all_arrive() {
    let post = post(Security::StartTls, |_| ());
    let sent = (0..40).map(|number| {
        let text = format!("number {number}");
        let smtp = &post.smtp;
        async move { smtp.send(mail("ann@example.net", &text)).await }
    });
    let sent = futures_util::future::join_all(sent).await;
    let ids: std::collections::BTreeSet<String> = sent.into_iter().map(Result::unwrap).collect();
    assert_eq!((ids.len(), post.server.count()), (40, 40));
}

/// The folder of a server that nothing came to.
#[test]
fn authorities_that_are_none_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("authority.pem");
    std::fs::write(path, "nothing").unwrap();
    let settings = settings(1, Security::Tls, Some(path.to_owned()));
    assert!(Smtp::new(settings, Arc::new(Heard::default())).is_err());
}
