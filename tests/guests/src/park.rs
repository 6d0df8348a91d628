//! Sleeps for `?ms=` milliseconds (1,000 when absent) in a host call, then says hello.

use guests::wasip2::clocks::monotonic_clock::subscribe_duration;
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let milliseconds = guests::number(&request, "ms", 1_000);
    subscribe_duration(milliseconds * 1_000_000).block();
    guests::text(out, 200, "hello\n");
}
