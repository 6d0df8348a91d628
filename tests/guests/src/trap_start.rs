//! Traps while it starts: before the first call of an export, so that it never sees a request.

use guests::{IncomingRequest, ResponseOutparam};

/// A constructor runs before the first call of any export.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = trap;

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::text(out, 200, "started\n");
}

extern "C" fn trap() {
    std::arch::wasm32::unreachable();
}
