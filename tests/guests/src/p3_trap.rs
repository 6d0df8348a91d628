//! WASI 0.3: traps before it answers.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Request, Response};

struct Trap;

wasip3::http::service::export!(Trap);

impl Guest for Trap {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        std::arch::wasm32::unreachable();
    }
}
