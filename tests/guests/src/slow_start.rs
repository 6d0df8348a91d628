//! Computes for `BURN_MS` milliseconds (50 when absent) while it is instantiated; then says hello.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guests::{IncomingRequest, ResponseOutparam};

/// Rounds that were computed at the start: the answer proves that there was one.
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// A constructor runs before the first call of any export.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = burn;

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let status = if ROUNDS.load(Ordering::Relaxed) > 0 {
        200
    } else {
        500
    };
    guests::text(out, status, "hello\n");
}

extern "C" fn burn() {
    let milliseconds = std::env::var("BURN_MS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(50);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(milliseconds) {
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    }
}
