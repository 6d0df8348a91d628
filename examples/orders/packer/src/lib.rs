//! Works through a queue of orders. What it cannot pack comes again, and in the end as a dead letter.

wit_bindgen::generate!({
    path: "../../../wit/deps/wasi-messaging-0.2.0-draft",
    world: "messaging-core",
});

use exports::wasi::messaging::incoming_handler::Guest;
use wasi::messaging::types::{Error, Message};

struct Packer;

export!(Packer);

impl Guest for Packer {
    fn handle(message: Message) -> Result<(), Error> {
        let order = String::from_utf8_lossy(&message.data()).into_owned();
        if message.topic().as_deref() == Some("orders.dead") {
            let metadata = message.metadata().unwrap_or_default();
            let why = metadata.iter().find(|(key, _)| key == "realm-dead-why");
            println!("gave up on {order}: {}", why.map_or("", |(_, why)| why));
            return Ok(());
        }
        if order.contains("unicorn") {
            return Err(Error::Other("out of unicorns".to_owned()));
        }
        println!("packed {order}");
        Ok(())
    }
}
