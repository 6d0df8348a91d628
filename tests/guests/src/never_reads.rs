//! Answers in full and returns, without a look at the request's body.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::text(out, 200, "not read\n");
}
