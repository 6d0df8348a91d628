//! Streams the request's body back as it comes, then its trailers; with `?whole=1` not before it has
//! all of it, and without trailers.

use guests::wasip2::http::types::{IncomingBody, OutgoingBody};
use guests::wasip2::io::streams::StreamError;
use guests::{IncomingRequest, ResponseOutparam};

/// Bytes that are moved at a time.
const PIECE_BYTES: u64 = 64 * 1024;
/// Headers that come back. HTTP/1 sends only those trailers that `trailer` names.
const KEPT: [&str; 2] = ["content-type", "trailer"];

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if guests::parameter(&request, "whole").is_some() {
        return guests::text(out, 200, &whole(&request));
    }
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

/// Takes it for granted that it comes, as most programs do.
fn whole(request: &IncomingRequest) -> String {
    let body = request.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut whole = Vec::new();
    loop {
        match stream.blocking_read(PIECE_BYTES) {
            Ok(piece) => whole.extend(piece),
            Err(StreamError::Closed) => return String::from_utf8_lossy(&whole).into_owned(),
            Err(StreamError::LastOperationFailed(_)) => panic!("the body is not whole"),
        }
    }
}
