//! Answers with what `wasi:config/store` holds, as JSON; `?key=` with one value, or 404.

use guests::{IncomingRequest, ResponseOutparam};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "config", generate_all });
}

use bindings::wasi::config::store;

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let Some(key) = guests::parameter(&request, "key") else {
        return match store::get_all() {
            Ok(values) => guests::json(out, 200, &guests::object(values)),
            Err(error) => guests::text(out, 500, &format!("{error:?}\n")),
        };
    };
    match store::get(&key) {
        Ok(Some(value)) => guests::text(out, 200, &value),
        Ok(None) => guests::text(out, 404, "no such key\n"),
        Err(error) => guests::text(out, 500, &format!("{error:?}\n")),
    }
}
