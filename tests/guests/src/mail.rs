//! Sends mail: `/?to=&from=&subject=&text=&name=&header=&size=` one message, with an attachment of so many bytes; what
//! came of it. `/checks` has a line for each message that must not be sent: `ok NAME` or `FAIL NAME: why`.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit/deps/realm-cloud/mail.wit", world: "realm:cloud/mail-imports" });
}

use std::fmt::Write as _;

use bindings::realm::cloud::mail::{Attachment, Error, Mailbox, Message, Outbox};

guests::serve!(handle);

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    if guests::path(&request) == "/checks" {
        return guests::text(out, 200, &checks());
    }
    let word = |name: &str| guests::parameter(&request, name);
    let outbox = word("outbox").unwrap_or("default".to_owned());
    let mut message = message();
    if let Some(from) = word("from") {
        message.from.address = from;
    }
    if let Some(to) = word("to") {
        message.to = to.split(',').map(mailbox).collect();
    }
    if let Some(name) = word("name") {
        message.to[0].name = Some(name);
    }
    message.bcc = word("bcc").iter().map(|bcc| mailbox(bcc)).collect();
    message.subject = word("subject").unwrap_or(message.subject);
    message.text = word("text").or(message.text);
    message.html = word("html");
    message.headers = word("header")
        .map(|value| ("X-Realm-Test".to_owned(), value))
        .into_iter()
        .collect();
    let size = guests::number(&request, "size", 0);
    if size > 0 {
        let data = (0..size).map(|at| (at * at / 251) as u8).collect();
        message.attachments = vec![Attachment {
            name: word("file").unwrap_or("data.bin".to_owned()),
            content_type: "application/octet-stream".to_owned(),
            data,
            inline_id: None,
        }];
    }
    match Outbox::open(&outbox).and_then(|outbox| outbox.send(&message)) {
        Ok(id) => guests::text(out, 200, &id),
        Err(error) => guests::text(out, 503, &format!("{error:?}")),
    }
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        name: None,
        address: address.to_owned(),
    }
}

fn message() -> Message {
    Message {
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

type Change = fn(&mut Message);

const WRONG: &[(&str, Change)] = &[
    ("subject", |message| {
        message.subject = "a\r\nBcc: eve@example.net".to_owned()
    }),
    ("from", |message| {
        message.from.address = "shop@example.org>\r\nDATA".to_owned()
    }),
    ("from-name", |message| {
        message.from.name = Some("a\nb".to_owned())
    }),
    ("to", |message| {
        message.to[0].address = "ann@example.net>\r\nRCPT TO:<eve@example.net".to_owned()
    }),
    ("two-in-one", |message| {
        message.to[0].address = "a@b.c, d@e.f".to_owned()
    }),
    ("nobody", |message| message.to.clear()),
    ("everybody", |message| {
        message.cc = vec![mailbox("a@b.c"); 50]
    }),
    ("header", |message| {
        message.headers = vec![("Bcc".to_owned(), "eve@example.net".to_owned())]
    }),
    ("header-value", |message| {
        message.headers = vec![("X-Realm-A".to_owned(), "a\r\nBcc: e@f.g".to_owned())]
    }),
    ("file", |message| {
        message.attachments = vec![Attachment {
            name: "a\"\r\nX-A: b".to_owned(),
            content_type: "a/b".to_owned(),
            data: Vec::new(),
            inline_id: None,
        }];
    }),
    ("no-text", |message| message.text = None),
    ("too-large", |message| {
        message.text = Some("x".repeat(16 * 1024 * 1024 + 1))
    }),
];

fn checks() -> String {
    let mut lines = String::new();
    for (name, change) in WRONG {
        let mut message = message();
        change(&mut message);
        let sent = Outbox::open("default").and_then(|outbox| outbox.send(&message));
        let line = match sent {
            Err(Error::Invalid(_)) => format!("ok {name}"),
            sent => format!("FAIL {name}: {sent:?}"),
        };
        writeln!(lines, "{line}").expect("a String takes any text");
    }
    let mut message = message();
    message.from.address = "ceo@example.org".to_owned();
    let denied = Outbox::open("default").and_then(|outbox| outbox.send(&message));
    let unbound = Outbox::open("elsewhere").map(|_| ());
    for (name, good) in [
        ("sender-denied", matches!(denied, Err(Error::SenderDenied))),
        ("not-bound", matches!(unbound, Err(Error::NoSuchMail))),
    ] {
        writeln!(lines, "{} {name}", if good { "ok" } else { "FAIL" })
            .expect("a String takes any text");
    }
    lines
}
