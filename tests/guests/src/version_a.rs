//! Answers `version a`: one half of a swap of versions.

use guests::{IncomingRequest, ResponseOutparam};

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::text(out, 200, "version a\n");
}
