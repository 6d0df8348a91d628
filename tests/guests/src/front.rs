//! What a web server in front of realm can get wrong, by the last segment of the path.
//!
//! `echo` streams the body back, `length` counts it, `text` is a whole answer with a length, `status`
//! has `?code=` and an etag, `redirect` a `?to=`, `stream` pauses for `?ms=` between its two lines, `wait`
//! before it answers, `endless` answers until nobody takes it, `request` is the request as it came here,
//! `sizes` the bytes of its headers, `stderr` writes two lines there, `trap` traps and `late` does so behind
//! its first line. Below `private`, and as the host `gate.…`, it says who may pass: whoever has the header
//! `x-pass: yes`.

use std::io::Write as _;

use guests::wasip2::clocks::monotonic_clock::subscribe_duration;
use guests::wasip2::http::types::{IncomingBody, OutgoingBody};
use guests::wasip2::io::streams::StreamError;
use guests::{IncomingRequest, ResponseOutparam, quoted};

/// Bytes that are moved at a time.
const PIECE_BYTES: u64 = 64 * 1024;

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let path = guests::path(&request);
    let host = request.authority().unwrap_or_default();
    if path.contains("/private/") || host.starts_with("gate.") {
        return pass(&request, out);
    }
    match path.rsplit('/').next().unwrap_or_default() {
        "echo" => echo(request, out),
        "length" => length(request, out),
        "status" => {
            let code = guests::number(&request, "code", 200) as u16;
            whole(out, code, &[("etag", "\"one\"")], b"");
        }
        "redirect" => {
            let to = guests::parameter(&request, "to").unwrap_or_default();
            whole(out, 302, &[("location", &to)], b"elsewhere\n");
        }
        "stream" => stream(guests::number(&request, "ms", 1_000), out),
        "wait" => {
            pause(guests::number(&request, "ms", 1_000));
            whole(out, 200, &[], b"waited\n");
        }
        "endless" => endless(out),
        "request" => view(&request, out),
        "sizes" => {
            let all = request.headers().entries();
            let ours = all.iter().filter(|(name, _)| name.starts_with("x-big-"));
            let bytes: usize = ours.map(|(_, value)| value.len()).sum();
            guests::text(out, 200, &format!("{bytes}\n"));
        }
        "stderr" => {
            eprintln!("said by the guest");
            eprintln!("red \u{1b}[31m and \u{7} bell");
            guests::text(out, 200, "written\n");
        }
        "trap" => std::arch::wasm32::unreachable(),
        "late" => {
            let (_body, mut stream) = guests::start(out, 200, &[("content-type", "text/plain")]);
            let _ = stream.write_all(b"first\n");
            let _ = stream.blocking_flush();
            std::arch::wasm32::unreachable();
        }
        _ => whole(out, 200, &[("x-own", "kept")], b"a text\n"),
    }
}

/// An answer with a length.
fn whole(out: ResponseOutparam, status: u16, more: &[(&str, &str)], bytes: &[u8]) {
    let length = bytes.len().to_string();
    let mut headers = vec![("content-type", "text/plain")];
    // What has no body has no length (RFC 9110 §8.6).
    if status != 304 && status != 204 {
        headers.push(("content-length", &length));
    }
    headers.extend(more);
    let (body, mut stream) = guests::start(out, status, &headers);
    let _ = stream.write_all(bytes);
    let _ = stream.blocking_flush();
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the body is taken once");
    let (body, sink) = guests::start(out, 200, &[("content-type", "application/octet-stream")]);
    let source = incoming.stream().expect("the stream is taken once");
    loop {
        match sink.blocking_splice(&source, PIECE_BYTES) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            // The answer ends short.
            Err(StreamError::LastOperationFailed(_)) => return,
        }
    }
    drop(source);
    let _ = sink.blocking_flush();
    drop(sink);
    let _ = IncomingBody::finish(incoming);
    let _ = OutgoingBody::finish(body, None);
}

/// Bytes, and a sum that another order of them does not have.
fn length(request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the body is taken once");
    let source = incoming.stream().expect("the stream is taken once");
    let (mut bytes, mut sum) = (0_u64, 0_u64);
    loop {
        match source.blocking_read(PIECE_BYTES) {
            Ok(piece) => {
                bytes += piece.len() as u64;
                let more =
                    |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
                sum = piece.iter().fold(sum, more);
            }
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(_)) => {
                return guests::text(out, 400, "cut short\n");
            }
        }
    }
    guests::text(out, 200, &format!("{bytes} {sum}\n"));
}

fn stream(milliseconds: u64, out: ResponseOutparam) {
    let (body, mut stream) = guests::start(out, 200, &[("content-type", "text/plain")]);
    let _ = stream.write_all(b"first\n");
    let _ = stream.blocking_flush();
    pause(milliseconds);
    let _ = stream.write_all(b"last\n");
    let _ = stream.blocking_flush();
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn pause(milliseconds: u64) {
    subscribe_duration(milliseconds * 1_000_000).block();
}

/// A line every 10 ms.
fn endless(out: ResponseOutparam) {
    let (_body, stream) = guests::start(out, 200, &[("content-type", "text/plain")]);
    let line = [[b'x'; 1_023].as_slice(), b"\n"].concat();
    while stream.blocking_write_and_flush(&line).is_ok() {
        pause(10);
    }
}

fn view(request: &IncomingRequest, out: ResponseOutparam) {
    let headers = request.headers().entries();
    let headers = guests::object(
        headers
            .iter()
            .map(|(name, value)| (name, String::from_utf8_lossy(value).into_owned())),
    );
    let text = |text: Option<String>| text.map_or_else(|| "null".to_owned(), |text| quoted(&text));
    let json = format!(
        r#"{{"scheme":{},"authority":{},"target":{},"headers":{headers}}}"#,
        text(request.scheme().map(|scheme| format!("{scheme:?}"))),
        text(request.authority()),
        text(request.path_with_query()),
    );
    guests::json(out, 200, &json);
}

fn pass(request: &IncomingRequest, out: ResponseOutparam) {
    let said = request.headers().get("x-pass");
    match said.first().is_some_and(|value| value == b"yes") {
        true => whole(out, 200, &[("variable-who", "ann")], b""),
        false => whole(out, 403, &[], b"not you\n"),
    }
}
