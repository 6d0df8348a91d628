//! What the guests share: answering, reading the query, writing JSON.
//!
//! Thin on purpose: each guest shows in its own file what it does to the host. Not a framework,
//! and not for WASI 0.3: those guests use `wasip3` directly.

pub use wasip2;
pub use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use std::fmt::Write as _;
use std::io::Write as _;

use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse};
use wasip2::io::streams::OutputStream;

/// Exports a `fn(IncomingRequest, ResponseOutparam)` as `wasi:http/incoming-handler`.
#[macro_export]
macro_rules! serve {
    ($handle:path) => {
        struct Guest;

        impl $crate::wasip2::exports::http::incoming_handler::Guest for Guest {
            fn handle(request: $crate::IncomingRequest, out: $crate::ResponseOutparam) {
                $handle(request, out);
            }
        }

        $crate::wasip2::http::proxy::export!(Guest);
    };
}

/// Answers with what a version of `wasi:config/store` holds, as JSON; `?key=` with one value, or 404.
#[macro_export]
macro_rules! serve_config {
    ($path:literal) => {
        mod bindings {
            wit_bindgen::generate!({ path: $path, world: "imports" });
        }

        use bindings::wasi::config::store;

        $crate::serve!(handle);

        fn handle(request: $crate::IncomingRequest, out: $crate::ResponseOutparam) {
            let Some(key) = $crate::parameter(&request, "key") else {
                return match store::get_all() {
                    Ok(values) => $crate::json(out, 200, &$crate::object(values)),
                    Err(error) => $crate::text(out, 500, &format!("{error:?}\n")),
                };
            };
            match store::get(&key) {
                Ok(Some(value)) => $crate::text(out, 200, &value),
                Ok(None) => $crate::text(out, 404, "no such key\n"),
                Err(error) => $crate::text(out, 500, &format!("{error:?}\n")),
            }
        }
    };
}

/// Exports a version of `wasi:keyvalue/watcher`, whose bindings are in `bindings`.
#[macro_export]
macro_rules! watch {
    () => {
        use bindings::wasi::keyvalue::store::Bucket;

        struct Watcher;

        bindings::export!(Watcher with_types_in bindings);

        impl bindings::exports::wasi::keyvalue::watcher::Guest for Watcher {
            fn on_set(bucket: Bucket, key: String, value: Vec<u8>) {
                if key == "trap" {
                    std::process::abort();
                }
                let value = String::from_utf8_lossy(&value);
                println!("set {key} {value}");
                if key == "ask" {
                    bucket.set("answer", value.to_uppercase().as_bytes()).expect("it is set");
                }
            }

            fn on_delete(_bucket: Bucket, key: String) {
                println!("delete {key}");
            }
        }
    };
}

/// Logs by a version of `wasi:logging/logging`: `?message=` at `?level=` with `?context=`, `&times=` times.
#[macro_export]
macro_rules! serve_logging {
    ($path:literal) => {
        mod bindings {
            wit_bindgen::generate!({ path: $path, world: "imports" });
        }

        use bindings::wasi::logging::logging::{Level, log};

        $crate::serve!(handle);

        fn handle(request: $crate::IncomingRequest, out: $crate::ResponseOutparam) {
            let word = |name| $crate::parameter(&request, name).unwrap_or_default();
            let level = match word("level").as_str() {
                "trace" => Level::Trace,
                "debug" => Level::Debug,
                "warn" => Level::Warn,
                "error" => Level::Error,
                "critical" => Level::Critical,
                _ => Level::Info,
            };
            let message = word("message").repeat($crate::number(&request, "repeat", 1) as usize);
            for _ in 0..$crate::number(&request, "times", 1) {
                log(level, &word("context"), &message);
            }
            $crate::text(out, 200, "logged");
        }
    };
}

/// A whole answer of `text/plain`.
pub fn text(out: ResponseOutparam, status: u16, body: &str) {
    answer(out, status, "text/plain; charset=utf-8", body.as_bytes());
}

/// A whole answer of `application/json`, with a line break at its end.
pub fn json(out: ResponseOutparam, status: u16, body: &str) {
    answer(
        out,
        status,
        "application/json",
        format!("{body}\n").as_bytes(),
    );
}

fn answer(out: ResponseOutparam, status: u16, content_type: &str, bytes: &[u8]) {
    let length = bytes.len().to_string();
    let (body, mut stream) = start(
        out,
        status,
        &[("content-type", content_type), ("content-length", &length)],
    );
    // A caller that went away is no failure of the guest.
    let _ = stream.write_all(bytes);
    let _ = stream.blocking_flush();
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Sends status and headers; the stream must be dropped before the body is finished.
pub fn start(
    out: ResponseOutparam,
    status: u16,
    headers: &[(&str, &str)],
) -> (OutgoingBody, OutputStream) {
    let fields = Fields::new();
    for (name, value) in headers {
        fields
            .append(name, value.as_bytes())
            .expect("the guest's own headers are valid");
    }
    let response = OutgoingResponse::new(fields);
    response
        .set_status_code(status)
        .expect("the guest's own status is valid");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    (body, stream)
}

/// The path of the request, without its query.
pub fn path(request: &IncomingRequest) -> String {
    let target = request.path_with_query().unwrap_or_default();
    target.split('?').next().unwrap_or_default().to_owned()
}

/// What a listing gave: how many, of how many names, and which is the last of them.
pub fn counted(mut keys: Vec<String>) -> String {
    let n_keys = keys.len();
    keys.sort_unstable();
    keys.dedup();
    let last = keys.last().map_or("", String::as_str);
    format!("{} names, {n_keys} keys, the last {last}", keys.len())
}

/// A parameter of the query, with `%XX` decoded.
pub fn parameter(request: &IncomingRequest, name: &str) -> Option<String> {
    query(&request.path_with_query()?, name)
}

/// A parameter of the query of a path, with `%XX` decoded.
pub fn query(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| percent_decode(value))
    })
}

/// A number from the query.
pub fn number(request: &IncomingRequest, name: &str, default: u64) -> u64 {
    parameter(request, name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| (*byte as char).to_digit(16).unwrap_or(0) as u8;
                bytes.push(digit(high) * 16 + digit(low));
                rest = after;
            }
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            c if c < ' ' => write!(json, "\\u{:04x}", c as u32).expect("a String takes any text"),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// A JSON object of strings, in the order given; a name that comes twice stays twice.
pub fn object<N: AsRef<str>, V: AsRef<str>>(members: impl IntoIterator<Item = (N, V)>) -> String {
    let members: Vec<String> = members
        .into_iter()
        .map(|(name, value)| format!("{}:{}", quoted(name.as_ref()), quoted(value.as_ref())))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// A JSON array of values that are JSON already.
pub fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}
