//! WASI 0.3: counts its requests in a static: `1` for ever, unless the instance is used again.

use std::sync::atomic::{AtomicU64, Ordering};

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

static REQUESTS: AtomicU64 = AtomicU64::new(0);

struct Counter;

wasip3::http::service::export!(Counter);

impl Guest for Counter {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut body, body_reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(format!("{count}\n").into_bytes()).await;
        });
        Ok(response)
    }
}
