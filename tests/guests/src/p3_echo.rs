//! WASI 0.3: streams the request's body back as it comes, then its trailers.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{wit_future, wit_stream};

/// Bytes that are moved at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// Headers that come back. HTTP/1 sends only those trailers that `trailer` names.
const KEPT: [&str; 2] = ["content-type", "trailer"];

struct Echo;

wasip3::http::service::export!(Echo);

impl Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::new();
        for name in KEPT {
            for value in request.get_headers().get(name) {
                headers
                    .append(name, &value)
                    .expect("a header that came in is valid");
            }
        }

        let (_, no_error) = wit_future::new(|| Ok(()));
        let (mut source, trailers) = Request::consume_body(request, no_error);
        let (mut sink, body) = wit_stream::new();
        wit_bindgen::spawn_local(async move {
            let mut buffer = Vec::with_capacity(PIECE_BYTES);
            loop {
                let (result, piece) = source.read(buffer).await;
                let StreamResult::Complete(_) = result else {
                    break;
                };
                buffer = sink.write_all(piece).await;
                // What was not taken comes back: the caller went away.
                if !buffer.is_empty() {
                    break;
                }
            }
        });
        // The future of the request's trailers, or of what cut it short, is the response's own.
        let (response, _sent) = Response::new(headers, Some(body), trailers);
        Ok(response)
    }
}
