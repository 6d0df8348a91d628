//! A worker that is done with each message when it has read it.

wit_bindgen::generate!({
    path: "../../../wit/deps/wasi-messaging-0.2.0-draft",
    world: "messaging-core",
});

use exports::wasi::messaging::incoming_handler::Guest;
use wasi::messaging::types::{Error, Message};

struct Worker;

export!(Worker);

impl Guest for Worker {
    fn handle(message: Message) -> Result<(), Error> {
        match message.data().is_empty() {
            true => Err(Error::Other("it has no data".to_owned())),
            false => Ok(()),
        }
    }
}
