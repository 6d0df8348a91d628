//! Reveals the secret `?key=` by `wasmcloud:secrets@0.1.0-draft`; with `&twice=1` by one handle twice.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/deps/wasmcloud-secrets-0.1.0-draft",
        world: "imports",
    });
}

use bindings::wasmcloud::secrets::reveal::reveal;
use bindings::wasmcloud::secrets::store::{self, SecretValue, SecretsError};

guests::serve!(handle);

fn handle(request: guests::IncomingRequest, out: guests::ResponseOutparam) {
    let key = guests::parameter(&request, "key").unwrap_or_default();
    match store::get(&key) {
        Ok(secret) => {
            if guests::parameter(&request, "twice").is_some() {
                reveal(&secret);
            }
            let text = match reveal(&secret) {
                SecretValue::String(text) => format!("text {text}"),
                SecretValue::Bytes(bytes) => format!("bytes {bytes:?}"),
            };
            guests::text(out, 200, &text);
        }
        Err(SecretsError::NotFound) => guests::text(out, 200, "not found"),
        Err(error) => guests::text(out, 500, &format!("{error:?}")),
    }
}
