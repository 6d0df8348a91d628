//! Panics as a Rust program does: a message on stderr, then a trap.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(_request: IncomingRequest, _out: ResponseOutparam) {
    panic!("the guest gives up");
}
