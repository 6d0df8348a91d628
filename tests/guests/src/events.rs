//! Server-sent events: `?n=` of them (3 when absent), `?ms=` milliseconds (10 when absent) between two.

use std::io::Write as _;

use guests::wasip2::clocks::monotonic_clock::subscribe_duration;
use guests::wasip2::http::types::OutgoingBody;
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let n = guests::number(&request, "n", 3);
    let milliseconds = guests::number(&request, "ms", 10);
    let (outgoing, mut sink) = guests::start(out, 200, &[("content-type", "text/event-stream")]);
    for number in 0..n {
        if number > 0 {
            subscribe_duration(milliseconds * 1_000_000).block();
        }
        let _ = sink.write_all(format!("data: {number}\n\n").as_bytes());
        // Who listened has gone.
        if sink.blocking_flush().is_err() {
            return;
        }
    }
    drop(sink);
    let _ = OutgoingBody::finish(outgoing, None);
}
