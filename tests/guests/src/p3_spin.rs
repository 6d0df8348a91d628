//! WASI 0.3: computes for ever on `/spin`; answers 200 without a body elsewhere.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_future;

struct Spin;

wasip3::http::service::export!(Spin);

impl Guest for Spin {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        if request
            .get_path_with_query()
            .is_some_and(|path| path.ends_with("/spin"))
        {
            let mut number = 1_u64;
            loop {
                number = std::hint::black_box(
                    number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1),
                );
            }
        }
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), None, trailers);
        Ok(response)
    }
}
