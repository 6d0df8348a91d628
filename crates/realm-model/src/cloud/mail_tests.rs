//! What a guest may write into a message.

use super::*;

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        name: None,
        address: address.to_owned(),
    }
}

fn mail() -> Mail {
    Mail {
        from: mailbox("shop@example.org"),
        to: vec![mailbox("ann@example.net")],
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

fn file(name: &str, content_type: &str) -> Attachment {
    Attachment {
        name: name.to_owned(),
        content_type: content_type.to_owned(),
        data: vec![1],
        inline_id: None,
    }
}

/// Whether a message is good after a change of it.
fn check(change: impl FnOnce(&mut Mail), good: bool) {
    let mut mail = mail();
    change(&mut mail);
    let checked = mail.check();
    assert_eq!(checked.is_ok(), good, "{checked:?}");
}

#[test]
fn what_begins_another_header_is_refused_wherever_it_stands() {
    check(|_| (), true);
    for end in ["\r\nBcc: eve@example.org", "\nBcc: x", "\r", "\0", "\u{85}"] {
        let with = |text: &str| format!("{text}{end}");
        check(|mail| mail.subject = with("a"), false);
        check(|mail| mail.from.address = with("shop@example.org"), false);
        check(|mail| mail.from.name = Some(with("a")), false);
        check(|mail| mail.to[0].address = with("ann@example.net"), false);
        check(|mail| mail.to[0].name = Some(with("Ann")), false);
        check(|mail| mail.cc.push(mailbox(&with("a@b.c"))), false);
        check(|mail| mail.bcc.push(mailbox(&with("a@b.c"))), false);
        check(|mail| mail.reply_to = Some(mailbox(&with("a@b.c"))), false);
        check(
            |mail| mail.headers.push(("X-Realm-A".to_owned(), with("a"))),
            false,
        );
        check(
            |mail| mail.headers.push((with("X-Realm-A"), "a".to_owned())),
            false,
        );
        check(|mail| mail.attachments.push(file(&with("a"), "a/b")), false);
        check(|mail| mail.attachments.push(file("a", &with("a/b"))), false);
        let inline = |mail: &mut Mail| {
            let mut file = file("a", "a/b");
            file.inline_id = Some(with("a"));
            mail.attachments.push(file);
        };
        check(inline, false);
        // A text has lines.
        check(|mail| mail.text = Some(with("a")), true);
    }
}

#[test]
fn a_name_is_what_is_shown_of_it() {
    for name in [
        "\u{202e}gro.elpmaxe@oec",
        "a\u{200b}b",
        "\u{2066}a",
        "\u{feff}",
        "a\u{e0041}",
    ] {
        check(|mail| mail.from.name = Some(name.to_owned()), false);
        check(|mail| mail.to[0].name = Some(name.to_owned()), false);
        let answers = Mailbox {
            name: Some(name.to_owned()),
            ..mailbox("a@b.c")
        };
        check(|mail| mail.reply_to = Some(answers), false);
        check(|mail| mail.attachments.push(file(name, "a/b")), false);
        // A text in Arabic has them.
        check(|mail| mail.text = Some(name.to_owned()), true);
    }
    // Joiners are letters of some scripts, and make one picture of several.
    for name in [
        "\u{645}\u{6cc}\u{200c}\u{62e}",
        "\u{1f469}\u{200d}\u{1f4bb}",
        "J\u{fc}rgen",
    ] {
        check(|mail| mail.from.name = Some(name.to_owned()), true);
    }
}

#[test]
fn addresses_are_plain() {
    for good in ["a@b", "a.b+c@example.org", "!#$%&'*+-/=?^_`{|}~@a-b.c"] {
        assert!(check_address(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a",
        "@b",
        "a@",
        "a@b@c",
        ".a@b",
        "a.@b",
        "a..b@c",
        "a@-b",
        "a@b-",
        "a@b..c",
        "a b@c",
        "\"a\"@b",
        "a@[127.0.0.1]",
        "<a@b>",
        "a@b>",
        "a@b, c@d",
        "\u{e4}@b.c",
        "a@\u{e4}.c",
        &format!("{}@b", "a".repeat(65)),
        &format!("a@{}", "b".repeat(64)),
    ] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
}

#[test]
fn headers_that_realm_writes_are_no_guests() {
    for good in [
        "X-Realm-Shop",
        "x-realm-a-1",
        "X-Priority",
        "In-Reply-To",
        "REFERENCES",
        "List-Unsubscribe",
    ] {
        assert!(is_header(good), "{good}");
    }
    for bad in [
        "",
        "X-",
        "X-Realm-",
        "X-Shop",
        "X-SMTPAPI",
        "x-mc-bccaddress",
        "X-SES-SOURCE-ARN",
        "X-PM-Message-Stream",
        "X-Mailgun-Variables",
        "X-MJ-CustomID",
        "X-MSYS-API",
        "X-Original-To",
        "X-Forwarded-To",
        "From",
        "to",
        "Bcc",
        "Sender",
        "Subject",
        "Date",
        "Message-ID",
        "MIME-Version",
        "Content-Type",
        "Return-Path",
        "Received",
        "X-Realm-A:",
        "X-Realm-A b",
        "X-Realm-\u{e4}",
        "Resent-To",
        "DKIM-Signature",
        "Authentication-Results",
    ] {
        assert!(!is_header(bad), "{bad}");
        check(
            |mail| mail.headers.push((bad.to_owned(), "a".to_owned())),
            false,
        );
    }
}

#[test]
fn sizes_and_numbers_are_bounded() {
    let boxes = |n| vec![mailbox("a@b.c"); n];
    check(|mail| mail.to.clear(), false);
    check(|mail| (mail.to, mail.bcc) = (boxes(0), boxes(1)), true);
    check(
        |mail| (mail.to, mail.cc, mail.bcc) = (boxes(20), boxes(20), boxes(10)),
        true,
    );
    check(
        |mail| (mail.to, mail.cc, mail.bcc) = (boxes(20), boxes(20), boxes(11)),
        false,
    );
    check(|mail| mail.text = None, false);
    check(
        |mail| (mail.text, mail.html) = (None, Some(String::new())),
        true,
    );
    check(|mail| mail.subject = "x".repeat(900), true);
    check(|mail| mail.subject = "x".repeat(901), false);
    check(|mail| mail.text = Some("x".repeat(MAIL_BYTES_MAX)), true);
    check(
        |mail| mail.text = Some("x".repeat(MAIL_BYTES_MAX + 1)),
        false,
    );
    let large = |n| Attachment {
        data: vec![0; n],
        ..file("a", "a/b")
    };
    check(
        |mail| mail.attachments = vec![large(MAIL_BYTES_MAX - 10)],
        true,
    );
    check(
        |mail| mail.attachments = vec![large(MAIL_BYTES_MAX / 2); 2],
        false,
    );
    check(|mail| mail.attachments = vec![large(1); 20], true);
    check(|mail| mail.attachments = vec![large(1); 21], false);
    let header = ("X-Realm-A".to_owned(), "x".repeat(900));
    check(|mail| mail.headers = vec![header.clone(); 32], true);
    check(|mail| mail.headers = vec![header.clone(); 33], false);
    check(
        |mail| mail.headers = vec![("X-Realm-A".to_owned(), "x".repeat(901))],
        false,
    );
    for kind in [
        "",
        "a",
        "a/",
        "/b",
        "a/b; c=d",
        "multipart/mixed",
        "message/rfc822",
        "Multipart/x",
    ] {
        check(|mail| mail.attachments = vec![file("a", kind)], false);
    }
    check(|mail| mail.attachments = vec![file("", "a/b")], false);
}

#[test]
fn everybody_gets_it_once() {
    let mut mail = mail();
    mail.cc = vec![mailbox("bob@example.net"), mailbox("ann@example.net")];
    mail.bcc = vec![mailbox("eve@example.net"), mailbox("bob@example.net")];
    assert_eq!(
        mail.recipients(),
        ["ann@example.net", "bob@example.net", "eve@example.net"]
    );
}

#[test]
fn a_sender_is_one_that_the_binding_lists() {
    let senders = ["shop@example.org".to_owned(), "*@news.example".to_owned()];
    for good in [
        "shop@example.org",
        "Shop@Example.org",
        "a@news.example",
        "b@NEWS.example",
    ] {
        assert!(may_send_as(&senders, good), "{good}");
    }
    for bad in [
        "ceo@example.org",
        "shop@example.org.evil",
        "a@sub.news.example",
        "a@evilnews.example",
        "a@news.example@evil",
        "*@example.org",
        "",
    ] {
        assert!(!may_send_as(&senders, bad), "{bad}");
    }
    assert!(!may_send_as(&[], "shop@example.org"));
}
