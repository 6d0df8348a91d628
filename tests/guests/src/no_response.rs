//! Returns without an answer.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    drop(out);
}
