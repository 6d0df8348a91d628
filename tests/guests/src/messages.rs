//! What holds for `wasi:messaging` on any backend: answers with a line for each check, `ok NAME` or
//! `FAIL NAME: why`. On `echo`, `twice` and `silent` its own handler replies, in whichever replica; what
//! comes on `work` it notes in `/state`, if it has that, as a file of that name.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/deps/wasi-messaging-0.2.0-draft",
        world: "messaging-request-reply",
    });
    export!(Handler);

    struct Handler;

    impl exports::wasi::messaging::incoming_handler::Guest for Handler {
        fn handle(message: wasi::messaging::types::Message) -> Result<(), super::Error> {
            super::handle(message)
        }
    }
}

use bindings::wasi::messaging::producer::send;
use bindings::wasi::messaging::request_reply::{RequestOptions, reply, request};
use bindings::wasi::messaging::types::{Client, Error, Message};

guests::serve!(answer);

fn handle(message: Message) -> Result<(), Error> {
    let topic = message.topic().unwrap_or_default();
    println!("took {topic}");
    if topic == "work" && std::fs::metadata("/state").is_ok() {
        let name = String::from_utf8_lossy(&message.data()).into_owned();
        std::fs::write(format!("/state/{name}"), "done").expect("the folder is its own");
    }
    let times = match topic.as_str() {
        "echo" => 1,
        "twice" => 2,
        _ => 0,
    };
    for _ in 0..times {
        let answer = Message::new(&message.data());
        answer.set_content_type(&message.content_type().unwrap_or_default());
        answer.set_metadata(&message.metadata().unwrap_or_default());
        answer.add_metadata("echoed", &topic);
        reply(&message, answer)?;
    }
    Ok(())
}

/// `?client=`: the name that is bound. `?send=`: nothing but a message with these bytes to `work`.
fn answer(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let name = guests::parameter(&request, "client").unwrap_or_else(|| "default".to_owned());
    if let Some(data) = guests::parameter(&request, "send") {
        let sent = Client::connect(&name)
            .and_then(|client| send(&client, "work", Message::new(data.as_bytes())));
        return match sent {
            Ok(()) => guests::text(out, 200, "sent\n"),
            Err(error) => guests::text(out, 503, &format!("{error:?}\n")),
        };
    }
    let mut lines = String::new();
    for (check, run) in CHECKS {
        match run(&name) {
            Ok(()) => lines.push_str(&format!("ok {check}\n")),
            Err(why) => lines.push_str(&format!("FAIL {check}: {why}\n")),
        }
    }
    guests::text(out, 200, &lines);
}

type Check = fn(&str) -> Result<(), String>;

const CHECKS: &[(&str, Check)] = &[
    ("connect", connect),
    ("connect-to-nothing", connect_to_nothing),
    ("message", message),
    ("send", send_some),
    ("send-large", send_large),
    ("send-too-large", send_too_large),
    ("send-odd", send_odd),
    ("request", request_one),
    ("request-several", request_several),
    ("request-timeout", request_timeout),
    ("request-nobody", request_nobody),
    ("reply-to-nobody", reply_to_nobody),
    ("disconnect", disconnect),
];

fn same<T: PartialEq + std::fmt::Debug>(seen: T, expected: T) -> Result<(), String> {
    if seen == expected {
        return Ok(());
    }
    Err(format!("{seen:?}, expected {expected:?}"))
}

fn open(name: &str) -> Result<Client, String> {
    Client::connect(name).map_err(|error| format!("{error:?}"))
}

fn said<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| format!("{error:?}"))
}

fn connect(name: &str) -> Result<(), String> {
    // Twice is two clients of one place.
    let (one, two) = (open(name)?, open(name)?);
    drop(one);
    said(send(&two, "nobody.listens", Message::new(b"")))
}

fn connect_to_nothing(_: &str) -> Result<(), String> {
    for name in ["no-such-client", "", "a\nb", "*"] {
        match Client::connect(name) {
            Err(Error::Connection(_)) => {}
            Err(error) => return Err(format!("{name:?}: {error:?}")),
            Ok(_) => return Err(format!("{name:?} is there")),
        }
    }
    Ok(())
}

fn message(_: &str) -> Result<(), String> {
    let message = Message::new(&[0, 255]);
    same(message.topic(), None)?;
    same(message.content_type(), None)?;
    same(message.metadata(), None)?;
    same(message.data(), vec![0, 255])?;
    message.set_data(b"other");
    message.set_content_type("text/plain");
    message.add_metadata("a", "1");
    message.add_metadata("b", "2");
    message.add_metadata("a", "3");
    same(message.data(), b"other".to_vec())?;
    same(message.content_type(), Some("text/plain".to_owned()))?;
    same(message.metadata().map(|pairs| pairs.len()), Some(3))?;
    message.remove_metadata("a");
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    same(message.metadata(), Some(vec![pair("b", "2")]))?;
    message.set_metadata(&[pair("c", "4")]);
    same(message.metadata(), Some(vec![pair("c", "4")]))
}

fn send_some(name: &str) -> Result<(), String> {
    let client = open(name)?;
    for n in 0..10 {
        let message = Message::new(format!("{n}").as_bytes());
        message.add_metadata("n", &n.to_string());
        said(send(&client, "silent", message))?;
    }
    Ok(())
}

fn send_large(name: &str) -> Result<(), String> {
    let client = open(name)?;
    said(send(&client, "silent", Message::new(&vec![7; 1_000_000])))
}

fn send_too_large(name: &str) -> Result<(), String> {
    let client = open(name)?;
    let data = Message::new(&vec![7; 1_100_000]);
    let pairs = Message::new(b"");
    for n in 0..2_000 {
        pairs.add_metadata(&n.to_string(), "a value of some length");
    }
    for message in [data, pairs] {
        match send(&client, "silent", message) {
            Err(Error::Other(words))
                if words.contains("at most") || words.contains("more than") => {}
            other => return Err(format!("{other:?}")),
        }
    }
    Ok(())
}

fn send_odd(name: &str) -> Result<(), String> {
    let client = open(name)?;
    for topic in ["", "a b", "a..b", "a.*", ">", "a\r\nb"] {
        match send(&client, topic, Message::new(b"x")) {
            Err(Error::Other(_)) => {}
            other => return Err(format!("{topic:?}: {other:?}")),
        }
    }
    let message = Message::new(b"x");
    message.add_metadata("a", "line\r\nbreak");
    match send(&client, "silent", message) {
        Err(Error::Other(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn request_one(name: &str) -> Result<(), String> {
    let client = open(name)?;
    let question = Message::new(&[1, 0, 255, 13, 10]);
    question.set_content_type("application/x-question");
    question.add_metadata("größe", "ü");
    let replies = said(request(&client, "echo", &question, None))?;
    same(replies.len(), 1)?;
    same(replies[0].data(), question.data())?;
    same(replies[0].content_type(), question.content_type())?;
    let mut metadata = replies[0].metadata().unwrap_or_default();
    metadata.sort();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    same(metadata, vec![pair("echoed", "echo"), pair("größe", "ü")])?;
    // It is the guest's still, and may be asked again.
    same(said(request(&client, "echo", &question, None))?.len(), 1)
}

fn request_several(name: &str) -> Result<(), String> {
    let client = open(name)?;
    let options = RequestOptions::new();
    options.set_expected_replies(2);
    options.set_timeout_ms(20_000);
    let replies = said(request(
        &client,
        "twice",
        &Message::new(b"?"),
        Some(options),
    ))?;
    same(replies.len(), 2)?;
    // More are waited for than come: those that came.
    let options = RequestOptions::new();
    options.set_expected_replies(5);
    options.set_timeout_ms(700);
    let replies = said(request(
        &client,
        "twice",
        &Message::new(b"?"),
        Some(options),
    ))?;
    same(replies.len(), 2)
}

fn request_timeout(name: &str) -> Result<(), String> {
    let client = open(name)?;
    let options = RequestOptions::new();
    options.set_timeout_ms(300);
    match request(&client, "silent", &Message::new(b"?"), Some(options)) {
        Err(Error::Timeout) => Ok(()),
        Err(error) => Err(format!("{error:?}")),
        Ok(replies) => Err(format!("{} replies", replies.len())),
    }
}

fn request_nobody(name: &str) -> Result<(), String> {
    let client = open(name)?;
    match request(&client, "nobody.listens", &Message::new(b"?"), None) {
        Err(Error::Other(_)) => Ok(()),
        Err(error) => Err(format!("{error:?}")),
        Ok(replies) => Err(format!("{} replies", replies.len())),
    }
}

fn reply_to_nobody(_: &str) -> Result<(), String> {
    match reply(&Message::new(b"?"), Message::new(b"!")) {
        Err(Error::Other(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn disconnect(name: &str) -> Result<(), String> {
    let client = open(name)?;
    said(client.disconnect())?;
    said(client.disconnect())
}
