//! Deals with a message as its bytes say: `ok`, `err`, `trap`, `exit`, `park`, `slow`, `forward TOPIC`,
//! anything else is well. Writes what it took; in `/state`, if it has that, a file for each message that
//! is done.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/deps/wasi-messaging-0.2.0-draft",
        world: "messaging-core",
    });
    export!(Handler);

    struct Handler;

    impl exports::wasi::messaging::incoming_handler::Guest for Handler {
        fn handle(message: wasi::messaging::types::Message) -> Result<(), super::Error> {
            super::handle(&message)
        }
    }
}

use std::time::Duration;

use bindings::wasi::messaging::producer::send;
use bindings::wasi::messaging::types::{Client, Error, Message};

fn handle(message: &Message) -> Result<(), Error> {
    let data = String::from_utf8_lossy(&message.data()).into_owned();
    println!("took {data}");
    match data.split_once(' ').unwrap_or((&data, "")) {
        ("err", _) => return Err(Error::Other("it cannot be done".to_owned())),
        ("trap", _) => std::process::abort(),
        ("exit", _) => std::process::exit(3),
        ("park", _) => std::thread::sleep(Duration::from_secs(3_600)),
        ("slow", _) => std::thread::sleep(Duration::from_millis(400)),
        ("forward", topic) => send(
            &Client::connect("default")?,
            topic,
            Message::new(b"forwarded"),
        )?,
        (_, _) => {}
    }
    if std::fs::metadata("/state").is_ok() {
        std::fs::write(format!("/state/{data}"), "done").expect("the folder is its own");
    }
    println!("done {data}");
    Ok(())
}
