//! Sends 200 and `?bytes=` bytes of a body (7 when absent), then traps.

use std::io::Write as _;

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let bytes = guests::number(&request, "bytes", 7);
    let (_body, mut stream) = guests::start(out, 200, &[("content-type", "text/plain")]);
    let _ = stream.write_all(&vec![b'x'; bytes as usize]);
    let _ = stream.blocking_flush();
    std::arch::wasm32::unreachable();
}
