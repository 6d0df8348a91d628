//! Allocates until the allocator gives up, which aborts it.
//!
//! `/grow` asks for pages until it is refused, and tells how many MiB it got; `/hold?mb=&ms=`
//! touches that many MiB, keeps them for a while and answers.

use std::arch::wasm32;

use guests::wasip2::clocks::monotonic_clock::subscribe_duration;
use guests::{IncomingRequest, ResponseOutparam};

const MIB: usize = 1024 * 1024;
const PAGES_PER_MIB: usize = 16;

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let path = guests::path(&request);
    if path.ends_with("/grow") {
        while wasm32::memory_grow::<0>(PAGES_PER_MIB) != usize::MAX {}
        let mib = wasm32::memory_size::<0>() / PAGES_PER_MIB;
        return guests::text(out, 200, &format!("refused at {mib} MiB\n"));
    }
    if path.ends_with("/hold") {
        let mib = guests::number(&request, "mb", 1);
        let held: Vec<Vec<u8>> = (0..mib).map(|_| touched()).collect();
        subscribe_duration(guests::number(&request, "ms", 0) * 1_000_000).block();
        return guests::text(out, 200, &format!("held {} MiB\n", held.len()));
    }
    let mut held = Vec::new();
    loop {
        held.push(std::hint::black_box(touched()));
    }
}

/// One MiB that is not all zeroes, so that no page of it is free.
fn touched() -> Vec<u8> {
    vec![0x5a; MIB]
}
