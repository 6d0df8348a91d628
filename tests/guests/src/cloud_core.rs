//! Built for the world `http-service` of `wasi:cloud-core@0.2.0-draft2`, with nothing but its bindings:
//! config, keyvalue, blobstore, messaging and HTTP in one component. Answers with a line for each.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "wasi:cloud-core/http-service@0.2.0-draft2",
        generate_all,
    });
    export!(Service);

    struct Service;

    impl exports::wasi::http0_2_1::incoming_handler::Guest for Service {
        fn handle(
            request: wasi::http0_2_1::types::IncomingRequest,
            out: wasi::http0_2_1::types::ResponseOutparam,
        ) {
            super::handle(&request, out);
        }
    }
}

use bindings::wasi;
// The folder has several versions of these, so their modules are named with the one that the world means.
use wasi::blobstore::blobstore;
use wasi::blobstore::types::{IncomingValue, OutgoingValue};
use wasi::config0_2_0_draft as configuration;
use wasi::http0_2_1::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasi::keyvalue0_2_0_draft2::{atomics, batch, store};
use wasi::messaging::producer;
use wasi::messaging::types::{Client, Message};

/// What an interface gave, or why not.
type Check = fn() -> Result<String, String>;

fn handle(request: &IncomingRequest, out: ResponseOutparam) {
    let path = request.path_with_query().unwrap_or_default();
    let checks: [(&str, Check); 4] = [
        ("config", config),
        ("keyvalue", keyvalue),
        ("blobstore", objects),
        ("messaging", messaging),
    ];
    let mut text = format!("path {path}\n");
    for (name, check) in checks {
        match check() {
            Ok(said) => text += &format!("ok {name} {said}\n"),
            Err(why) => text += &format!("FAIL {name}: {why}\n"),
        }
    }
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    let _ = stream.blocking_write_and_flush(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn words(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn config() -> Result<String, String> {
    let greeting = configuration::store::get("greeting").map_err(words)?;
    greeting.ok_or_else(|| "not there".to_owned())
}

fn keyvalue() -> Result<String, String> {
    let bucket = store::open("default").map_err(words)?;
    bucket.set("key", b"value").map_err(words)?;
    let several = batch::get_many(&bucket, &["key".to_owned(), "other".to_owned()]);
    let several = several.map_err(words)?;
    let n_there = several.iter().flatten().count();
    let visits = atomics::increment(&bucket, "visits", 1).map_err(words)?;
    Ok(format!("{n_there} there, visit {visits}"))
}

fn objects() -> Result<String, String> {
    let name = "pictures".to_owned();
    if !blobstore::container_exists(&name)? {
        blobstore::create_container(&name)?;
    }
    let container = blobstore::get_container(&name)?;
    let value = OutgoingValue::new_outgoing_value();
    let stream = value.outgoing_value_write_body().map_err(words)?;
    container.write_data("one", &value)?;
    stream
        .blocking_write_and_flush(b"bytes of an object")
        .map_err(words)?;
    drop(stream);
    OutgoingValue::finish(value)?;
    let read = container.get_data("one", 0, u64::MAX)?;
    let bytes = IncomingValue::incoming_value_consume_sync(read)?;
    String::from_utf8(bytes).map_err(words)
}

fn messaging() -> Result<String, String> {
    let client = Client::connect("default").map_err(words)?;
    let message = Message::new(b"something happened");
    producer::send(&client, "events", message).map_err(words)?;
    Ok("sent".to_owned())
}
