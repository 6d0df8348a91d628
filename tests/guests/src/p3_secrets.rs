//! WASI 0.3: reveals the secret `?key=` by the async functions of `wasmcloud:secrets@2.1.0`; with `?only=1`
//! the one that has no name.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/deps/wasmcloud-secrets-2.1.0",
        world: "imports",
    });
}

use bindings::wasmcloud::secrets::reveal::reveal;
use bindings::wasmcloud::secrets::secret;
use bindings::wasmcloud::secrets::store::{self, SecretValue, SecretsError};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

struct Secrets;

wasip3::http::service::export!(Secrets);

impl Guest for Secrets {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let key = guests::query(&target, "key").unwrap_or_default();
        let handle = match guests::query(&target, "only") {
            Some(_) => Ok(secret::get().await),
            None => store::get(key).await,
        };
        let text = match handle {
            Ok(secret) => match reveal(&secret).await {
                SecretValue::String(text) => format!("text {text}"),
                SecretValue::Bytes(bytes) => format!("bytes {bytes:?}"),
            },
            Err(SecretsError::NotFound) => "not found".to_owned(),
            Err(error) => format!("{error:?}"),
        };
        let (mut body, reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(text.into_bytes()).await;
        });
        Ok(response)
    }
}
