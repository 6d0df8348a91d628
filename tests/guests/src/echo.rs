//! Streams the request's body back as it comes, then its trailers.

use guests::wasip2::http::types::{IncomingBody, OutgoingBody};
use guests::wasip2::io::streams::StreamError;
use guests::{IncomingRequest, ResponseOutparam};

/// Bytes that are moved at a time.
const PIECE_BYTES: u64 = 64 * 1024;
/// Headers that come back. HTTP/1 sends only those trailers that `trailer` names.
const KEPT: [&str; 2] = ["content-type", "trailer"];

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let headers = request.headers();
    let kept = KEPT.into_iter().filter_map(|name| {
        let value = headers.get(name).into_iter().next()?;
        Some((name, String::from_utf8(value).ok()?))
    });
    let kept: Vec<(&str, String)> = kept.collect();
    let kept: Vec<(&str, &str)> = kept.iter().map(|(name, value)| (*name, &**value)).collect();

    let incoming = request.consume().expect("the body is taken once");
    let (outgoing, sink) = guests::start(out, 200, &kept);

    let source = incoming.stream().expect("the stream is taken once");
    loop {
        match sink.blocking_splice(&source, PIECE_BYTES) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            // The answer ends short: the caller sees a body that was cut off.
            Err(StreamError::LastOperationFailed(_)) => return,
        }
    }
    drop(source);
    let _ = sink.blocking_flush();
    drop(sink);

    let future = IncomingBody::finish(incoming);
    future.subscribe().block();
    let trailers = match future.get() {
        Some(Ok(Ok(trailers))) => trailers,
        _ => None,
    };
    // Trailers that came in are immutable; those that go out must be the guest's own.
    let _ = OutgoingBody::finish(outgoing, trailers.map(|fields| fields.clone()));
}
