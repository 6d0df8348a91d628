//! Says how long its answers are good, by the last segment of the path: `minute`, `private`, `swr` (stale at
//! once, and good while the next one is made), `tagged` (asked about each time), or not at all.
//!
//! Each body is a number that no other run has. With `?ms=` it waits before it answers.

use std::io::Write as _;

use guests::wasip2::clocks::monotonic_clock::subscribe_duration;
use guests::wasip2::http::types::OutgoingBody;
use guests::wasip2::random::random::get_random_u64;
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let wait = guests::number(&request, "ms", 0);
    if wait > 0 {
        subscribe_duration(wait * 1_000_000).block();
    }
    let path = guests::path(&request);
    let has_it = !request.headers().get("if-none-match").is_empty();
    let said: &[(&str, &str)] = match path.rsplit('/').next().unwrap_or_default() {
        "minute" => &[("cache-control", "max-age=60")],
        "private" => &[("cache-control", "private, max-age=60")],
        "swr" => &[("cache-control", "max-age=0, stale-while-revalidate=60")],
        "tagged" if has_it => return none(out),
        "tagged" => &[("cache-control", "no-cache"), ("etag", "\"tag\"")],
        _ => &[],
    };
    let (body, mut stream) = guests::start(out, 200, said);
    let _ = stream.write_all(format!("{:016x}\n", get_random_u64()).as_bytes());
    let _ = stream.blocking_flush();
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn none(out: ResponseOutparam) {
    let (body, stream) = guests::start(out, 304, &[("etag", "\"tag\"")]);
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
