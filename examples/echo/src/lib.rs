//! Streams the request's body back while it still comes in: a film fits through, whatever
//! `memory_max_mb` says. `GET /echo/healthz` answers the health check.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

/// Bytes that are moved at a time.
const PIECE_BYTES: u64 = 64 * 1024;

struct Echo;

wasip2::http::proxy::export!(Echo);

impl Guest for Echo {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = Fields::new();
        for value in request.headers().get("content-type") {
            let _ = headers.append("content-type", &value);
        }
        let response = OutgoingResponse::new(headers);
        let outgoing = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));

        let sink = outgoing.write().expect("the stream is taken once");
        if request
            .path_with_query()
            .is_some_and(|path| path.ends_with("/healthz"))
        {
            let _ = sink.blocking_write_and_flush(b"ok\n");
        } else {
            let incoming = request.consume().expect("the body is taken once");
            let source = incoming.stream().expect("the stream is taken once");
            // Ends when the request's body does, or when the caller goes away.
            while sink.blocking_splice(&source, PIECE_BYTES).is_ok() {}
            let _ = sink.blocking_flush();
        }
        drop(sink);
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
