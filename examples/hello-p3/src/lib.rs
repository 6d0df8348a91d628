//! The same in WASI 0.3: `async fn`, and the types of the `http` crate that Rust programs know.

use http::{Request, Response};
use wasip3::http::types::{ErrorCode, Request as WasiRequest, Response as WasiResponse};
use wasip3::http_compat::{IncomingRequestBody, http_from_wasi_request, http_into_wasi_response};

struct Hello;

wasip3::http::service::export!(Hello);

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: WasiRequest) -> Result<WasiResponse, ErrorCode> {
        let response = answer(http_from_wasi_request(request)?).await;
        http_into_wasi_response(response)
    }
}

async fn answer(request: Request<IncomingRequestBody>) -> Response<String> {
    let path = request.uri().path();
    let mut response = Response::new(format!("Hello from WASI 0.3 at {path}\n"));
    let content_type = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, content_type);
    response
}
