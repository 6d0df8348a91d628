//! What a guest pays for an operation on a store: `/STORE/OPERATION/N/BYTES` does it so many times, one after
//! the other, and answers with the nanoseconds of all together, by the guest's own clock.
//!
//! Values: `get`, `set`. Objects: `put`, `fetch`. Rows: `rows`, `row`. Messages: `send`.

use std::io::Write as _;

use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

mod bindings {
    wit_bindgen::generate!({
        path: [
            "../../../wit/deps/wasi-io-0.2.2",
            "../../../wit/deps/wasi-keyvalue-0.2.0-draft2",
            "../../../wit/deps/wasi-blobstore-0.2.0-draft",
            "../../../wit/deps/wasi-messaging-0.2.0-draft",
            "../../../wit/deps/realm-cloud",
        ],
        inline: "package bench:stores;
            world all {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:blobstore/blobstore@0.2.0-draft;
                import wasi:messaging/producer@0.2.0-draft;
                import realm:cloud/sql@0.1.0;
            }",
        world: "bench:stores/all",
        with: {
            "wasi:io/error@0.2.2": wasip2::io::error,
            "wasi:io/poll@0.2.2": wasip2::io::poll,
            "wasi:io/streams@0.2.2": wasip2::io::streams,
        },
        generate_all,
    });
}

use bindings::realm::cloud::sql::{Connection, Value};
use bindings::wasi::blobstore::blobstore::create_container;
use bindings::wasi::blobstore::container::Container;
use bindings::wasi::blobstore::types::{IncomingValue, OutgoingValue};
use bindings::wasi::keyvalue::store;
use bindings::wasi::messaging::producer::send;
use bindings::wasi::messaging::types::{Client, Message};

const KEY: &str = "key-of-the-benchmark";
/// Written and read at a time.
const PIECE: usize = 64 * 1024;

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

/// Makes ready what is needed, and then measures.
fn measured(path: &str) -> Result<u64, String> {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    // Which store it is was decided by the route.
    let &[_, operation, n, bytes] = parts.as_slice() else {
        return Err("/STORE/OPERATION/N/BYTES".to_owned());
    };
    let number = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
    let (n, bytes) = (number(n)?, number(bytes)?);
    let value = vec![7; bytes];
    match operation {
        "get" | "set" => {
            let bucket = store::open("default").map_err(words)?;
            bucket.set(KEY, &value).map_err(words)?;
            timed(n, || match operation {
                "set" => bucket.set(KEY, &value).map_err(words),
                _ => {
                    let got = bucket.get(KEY).map_err(words)?;
                    whole(got.unwrap_or_default().len(), bytes)
                }
            })
        }
        "put" | "fetch" => {
            let container = create_container("default")?;
            put(&container, &value)?;
            timed(n, || match operation {
                "put" => put(&container, &value),
                _ => fetch(&container, bytes),
            })
        }
        "rows" | "row" => {
            let connection = Connection::open("default").map_err(words)?;
            fill(&connection, n, bytes)?;
            rows(&connection, operation == "rows", n, bytes)
        }
        "send" => {
            let client = Client::connect("default").map_err(words)?;
            timed(n, || {
                send(&client, "bench", Message::new(&value)).map_err(words)
            })
        }
        _ => Err(format!("no operation `{operation}`")),
    }
}

fn timed(n: usize, mut step: impl FnMut() -> Result<(), String>) -> Result<u64, String> {
    let began = monotonic_clock::now();
    for _ in 0..n {
        step()?;
    }
    Ok(monotonic_clock::now() - began)
}

fn put(container: &Container, value: &[u8]) -> Result<(), String> {
    let outgoing = OutgoingValue::new_outgoing_value();
    let body = outgoing
        .outgoing_value_write_body()
        .map_err(|()| "no body")?;
    container.write_data(KEY, &outgoing)?;
    let mut rest = value;
    while !rest.is_empty() {
        let room = body.check_write().map_err(words)?;
        if room == 0 {
            body.subscribe().block();
            continue;
        }
        let (piece, more) = rest.split_at(rest.len().min(room as usize).min(PIECE));
        body.write(piece).map_err(words)?;
        rest = more;
    }
    drop(body);
    OutgoingValue::finish(outgoing)
}

fn fetch(container: &Container, bytes: usize) -> Result<(), String> {
    let incoming = container.get_data(KEY, 0, u64::MAX)?;
    let stream = IncomingValue::incoming_value_consume_async(incoming)?;
    let mut n = 0;
    while let Ok(piece) = stream.blocking_read(PIECE as u64) {
        n += piece.len();
    }
    whole(n, bytes)
}

/// A table with so many rows, anew.
fn fill(connection: &Connection, n: usize, bytes: usize) -> Result<(), String> {
    let statements = [
        "DROP TABLE IF EXISTS bench".to_owned(),
        "CREATE TABLE bench (id INTEGER PRIMARY KEY, share DOUBLE PRECISION, words TEXT)"
            .to_owned(),
        format!(
            "WITH RECURSIVE numbers(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < {n}) \
             INSERT INTO bench SELECT id, id * 0.5, '{}' FROM numbers",
            "x".repeat(bytes)
        ),
    ];
    for statement in statements {
        connection.execute(&statement, &[]).map_err(words)?;
    }
    Ok(())
}

fn rows(connection: &Connection, all: bool, n: usize, bytes: usize) -> Result<u64, String> {
    let began = monotonic_clock::now();
    if all {
        let found = connection.query("SELECT id, share, words FROM bench", &[]);
        let found = found.map_err(words)?;
        let mut n_found = 0;
        loop {
            let page = found.read().map_err(words)?;
            if page.is_empty() {
                break;
            }
            n_found += page.len();
        }
        whole(n_found, n)?;
    } else {
        for id in 1..=n as i64 {
            let one = "SELECT id, share, words FROM bench WHERE id = $1";
            let found = connection.query(one, &[Value::Integer(id)]);
            let row = found.map_err(words)?.next().map_err(words)?;
            let Some([_, _, Value::Text(text)]) = row.as_deref() else {
                return Err("no row".to_owned());
            };
            whole(text.len(), bytes)?;
        }
    }
    Ok(monotonic_clock::now() - began)
}

fn whole(got: usize, expected: usize) -> Result<(), String> {
    match got == expected {
        true => Ok(()),
        false => Err(format!("{got} came back, not {expected}")),
    }
}

fn words(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
