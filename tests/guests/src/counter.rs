//! Counts its requests in a static: `1` for ever, unless the instance is used again.
//!
//! `?trap=1` counts, answers and then traps, `?keep=1` keeps the request for itself, `?stash=1` the
//! body of its answer, `?leak=` so many host resources; `?ms=` waits, `?busy_ms=` computes; with
//! `?grow=` it takes so many MiB of memory.

use std::sync::atomic::{AtomicU64, Ordering};

use guests::wasip2::clocks::monotonic_clock::{now, subscribe_duration};
use guests::{IncomingRequest, ResponseOutparam};

static REQUESTS: AtomicU64 = AtomicU64::new(0);

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    let number = |name| guests::number(&request, name, 0);
    let mut grown = vec![1_u8; number("grow") as usize * 1024 * 1024];
    std::hint::black_box(&mut grown);
    let until = now() + number("busy_ms") * 1_000_000;
    while now() < until {}
    if number("ms") > 0 {
        subscribe_duration(number("ms") * 1_000_000).block();
    }
    for _ in 0..number("leak") {
        std::mem::forget(subscribe_duration(0));
    }
    if number("stash") > 0 {
        return std::mem::forget(guests::start(out, 200, &[]));
    }
    let trap = number("trap") > 0;
    if number("keep") > 0 {
        std::mem::forget(request);
    }
    guests::text(out, 200, &format!("{count}\n"));
    if trap {
        std::process::abort();
    }
}
