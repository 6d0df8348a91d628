//! WASI 0.3: answers every request with 200 and `hello`.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

struct Hello;

wasip3::http::service::export!(Hello);

impl Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = [(
            "content-type".to_owned(),
            b"text/plain; charset=utf-8".to_vec(),
        )];
        let headers = Fields::from_list(&headers).expect("the guest's own headers are valid");
        let (mut body, body_reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(headers, Some(body_reader), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(b"hello\n".to_vec()).await;
        });
        Ok(response)
    }
}
