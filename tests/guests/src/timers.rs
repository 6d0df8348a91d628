//! Sets a timer: `?client=`, `?topic=`, `?after=` milliseconds, `?data=`.

mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/deps/wasi-messaging-0.2.0-draft", "../../wit/deps/realm-cloud/timers.wit"],
        world: "realm:cloud/timed",
        generate_all,
    });
}

use bindings::realm::cloud::timers::send_after;
use bindings::wasi::messaging::types::{Client, Message};

guests::serve!(answer);

fn answer(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let parameter = |name: &str, default: &str| {
        guests::parameter(&request, name).unwrap_or_else(|| default.to_owned())
    };
    let after_ms = guests::number(&request, "after", 0);
    let set = Client::connect(&parameter("client", "default")).and_then(|client| {
        let message = Message::new(parameter("data", "ok").as_bytes());
        send_after(&client, &parameter("topic", "orders"), message, after_ms)
    });
    match set {
        Ok(()) => guests::text(out, 200, "set\n"),
        Err(error) => guests::text(out, 503, &format!("{error:?}\n")),
    }
}
