//! Counts its requests in a static: `1` for ever, unless the instance is used again.

use std::sync::atomic::{AtomicU64, Ordering};

use guests::{IncomingRequest, ResponseOutparam};

static REQUESTS: AtomicU64 = AtomicU64::new(0);

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    guests::text(out, 200, &format!("{count}\n"));
}
