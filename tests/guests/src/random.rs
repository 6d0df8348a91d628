//! Answers with `?bytes=` random bytes (16 when absent) in hex from each source, as JSON.

use guests::wasip2::random::{insecure, insecure_seed, random};
use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let count = guests::number(&request, "bytes", 16);
    let (low, high) = insecure_seed::insecure_seed();
    let json = guests::object([
        ("secure", hex(&random::get_random_bytes(count))),
        ("insecure", hex(&insecure::get_insecure_random_bytes(count))),
        ("seed", format!("{low:016x}{high:016x}")),
    ]);
    guests::json(out, 200, &json);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
