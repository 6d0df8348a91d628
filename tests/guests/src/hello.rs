//! Answers every request with 200 and `hello`.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::text(out, 200, "hello\n");
}
