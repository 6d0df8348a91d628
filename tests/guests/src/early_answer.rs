//! Sends status and `early` before it reads the request's body, then `read N bytes`.

use std::io::Write as _;

use guests::wasip2::http::types::OutgoingBody;
use guests::{IncomingRequest, ResponseOutparam};

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 64 * 1024;

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let (outgoing, mut sink) = guests::start(out, 200, &[("content-type", "text/plain")]);
    let _ = sink.write_all(b"early\n");
    let _ = sink.blocking_flush();

    let incoming = request.consume().expect("the body is taken once");
    let source = incoming.stream().expect("the stream is taken once");
    let mut total = 0;
    while let Ok(piece) = source.blocking_read(PIECE_BYTES) {
        total += piece.len();
    }
    let _ = sink.write_all(format!("read {total} bytes\n").as_bytes());
    let _ = sink.blocking_flush();
    drop(sink);
    let _ = OutgoingBody::finish(outgoing, None);
}
