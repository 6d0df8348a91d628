//! Traps before it answers; says hello on `/hello`.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if guests::path(&request).ends_with("/hello") {
        return guests::text(out, 200, "hello\n");
    }
    std::arch::wasm32::unreachable();
}
