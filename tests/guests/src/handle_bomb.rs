//! Takes host resources, and gives none back, until the host refuses.

use guests::wasip2::http::types::Fields;
use guests::{IncomingRequest, ResponseOutparam};

/// More than any host should give: then the answer says that it did.
const HANDLES_MAX: u32 = 10_000_000;

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    for _ in 0..HANDLES_MAX {
        std::mem::forget(Fields::new());
    }
    guests::text(out, 200, "never refused\n");
}
