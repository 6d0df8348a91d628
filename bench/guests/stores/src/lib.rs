//! What a guest pays for an operation on a store: `/ENGINE/get/N/BYTES` and `/ENGINE/set/N/BYTES` do it so many times,
//! one after the other, and answer with the nanoseconds of all together, by the guest's own clock.

use std::io::Write as _;

use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/deps/wasi-keyvalue-0.2.0-draft2",
        world: "imports",
    });
}

use bindings::wasi::keyvalue::store::{self, Bucket, Error};

const KEY: &str = "key-of-the-benchmark";

struct Stores;

wasip2::http::proxy::export!(Stores);

impl Guest for Stores {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (status, text) = match measured(&path) {
            Ok(nanoseconds) => (200, nanoseconds.to_string()),
            Err(why) => (500, why),
        };
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(status).expect("a valid status");
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = body.write().expect("the stream is taken once");
        let _ = stream.write_all(text.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

fn measured(path: &str) -> Result<u64, String> {
    let mut parts = path.trim_start_matches('/').split('/');
    let mut next = || {
        parts
            .next()
            .ok_or("/ENGINE/get/N/BYTES or /ENGINE/set/N/BYTES")
    };
    // Which one it is was decided by the route.
    let _engine = next()?;
    let operation = next()?.to_owned();
    let number = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
    let (n, bytes) = (number(next()?)?, number(next()?)?);
    let bucket = store::open("default").map_err(words)?;
    let value = vec![7; bytes];
    bucket.set(KEY, &value).map_err(words)?;
    let began = monotonic_clock::now();
    for _ in 0..n {
        step(&bucket, &operation, &value)?;
    }
    Ok(monotonic_clock::now() - began)
}

fn step(bucket: &Bucket, operation: &str, value: &[u8]) -> Result<(), String> {
    match operation {
        "set" => bucket.set(KEY, value).map_err(words),
        "get" => match bucket.get(KEY).map_err(words)? {
            Some(got) if got.len() == value.len() => Ok(()),
            Some(_) | None => Err("another value came back".to_owned()),
        },
        _ => Err("get or set".to_owned()),
    }
}

fn words(error: Error) -> String {
    format!("{error:?}")
}
