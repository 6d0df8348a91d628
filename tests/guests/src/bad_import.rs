//! Imports an interface that no host provides, and calls it.

use guests::{IncomingRequest, ResponseOutparam};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "bad-import", generate_all });
}

guests::serve!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::text(out, 200, &bindings::nobody::provides::this::ask());
}
