//! Messages as they are written down.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn mailbox(name: Option<&str>, address: &str) -> mail::Mailbox {
    mail::Mailbox {
        name: name.map(str::to_owned),
        address: address.to_owned(),
    }
}

fn message() -> Mail {
    Mail {
        from: mailbox(Some("Shop"), "shop@example.org"),
        to: vec![mailbox(None, "ann@example.net")],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: None,
        subject: "Hello".to_owned(),
        text: Some("Hello, Ann".to_owned()),
        html: None,
        attachments: Vec::new(),
        headers: Vec::new(),
    }
}

fn composed(mail: Mail) -> String {
    mail.check().unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let composed = compose(mail, 7, now).unwrap();
    String::from_utf8(composed.bytes).unwrap()
}

#[test]
fn a_plain_message_is_plain() {
    assert_eq!(
        composed(message()),
        "Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n\
         Message-ID: <00000000000000000000000000000007@example.org>\r\n\
         From: Shop <shop@example.org>\r\n\
         Subject: Hello\r\n\
         To: ann@example.net\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n\
         Hello, Ann"
    );
}

#[test]
fn who_gets_it_unseen_stands_nowhere() {
    let mut mail = message();
    mail.bcc = vec![mailbox(Some("Eve"), "eve@example.net")];
    assert!(!composed(mail.clone()).to_lowercase().contains("eve"));
    mail.to.clear();
    let text = composed(mail);
    assert!(text.contains("To: undisclosed-recipients:;\r\n"), "{text}");
    assert!(!text.to_lowercase().contains("eve"), "{text}");
}

/// However lines end in what a guest wrote, and whatever looks like the end of a message in it.
#[test]
fn every_line_ends_as_it_has_to() {
    for text in [
        "a\nb",
        "a\rb",
        "a\r\nb",
        "\r",
        "\n.\n",
        "\r\n.\r\nMAIL FROM:<x@y>\r\n",
        "\r.\r",
    ] {
        let mut mail = message();
        mail.text = Some(text.to_owned());
        mail.html = Some(format!("<p>{text}</p>"));
        mail.attachments = vec![mail::Attachment {
            name: "a.txt".to_owned(),
            content_type: "text/plain".to_owned(),
            data: text.as_bytes().to_vec(),
            inline_id: None,
        }];
        composed(mail);
    }
    for (bytes, good) in [
        (&b"a\r\nb\r\n"[..], true),
        (b"a\r\nb", true),
        (b"a\nb", false),
        (b"a\rb", false),
        (b"a\r\r\nb", false),
        (b"a\r\n\nb", false),
        (b"a\0", false),
        ("\u{e4}".as_bytes(), false),
        (&[b'x'; 998], true),
        (&[b'x'; 999], false),
    ] {
        assert_eq!(plain_lines(bytes).is_ok(), good, "{bytes:?}");
    }
}

#[test]
fn words_in_any_script_are_written_in_ascii() {
    let mut mail = message();
    let long = "\u{4f60}\u{597d} ".repeat(100);
    mail.subject = long.clone();
    mail.from.name = Some("J\u{fc}rgen, \"der\" <Chef>".to_owned());
    mail.to[0].name = Some(long.clone());
    mail.text = Some(long);
    mail.headers = vec![
        ("X-Realm-Long".to_owned(), "x".repeat(900)),
        ("X-Realm-Words".to_owned(), "\u{e4}\u{f6} ".repeat(150)),
    ];
    mail.attachments = vec![mail::Attachment {
        name: format!("{}.pdf", "\u{e4}".repeat(200)),
        content_type: "application/pdf".to_owned(),
        data: vec![0, 159, 146, 150],
        inline_id: None,
    }];
    let text = composed(mail);
    assert!(text.is_ascii());
}

#[test]
fn what_the_html_shows_needs_html() {
    let mut mail = message();
    mail.attachments = vec![mail::Attachment {
        name: "a.png".to_owned(),
        content_type: "image/png".to_owned(),
        data: vec![1],
        inline_id: Some("logo".to_owned()),
    }];
    let refused = compose(mail.clone(), 7, UNIX_EPOCH);
    assert!(matches!(
        refused,
        Err(MailError::Cloud(CloudError::Invalid(_)))
    ));
    mail.html = Some("<img src='cid:logo'>".to_owned());
    let text = composed(mail);
    assert!(text.contains("Content-ID: <logo>"), "{text}");
    assert!(text.contains("multipart/alternative") && text.contains("multipart/related"));
}
