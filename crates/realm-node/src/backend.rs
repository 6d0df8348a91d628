//! Introduces the host's replicas to the edge.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use realm_edge::BoxFuture;

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A replica on this node, as the edge sees it.
pub(crate) struct LocalBackend(pub(crate) realm_host::Replica);

impl realm_edge::Backend for LocalBackend {
    fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, realm_edge::CallError>> {
        let replica = self.0.clone();
        Box::pin(async move { replica.call(request).await.map_err(translate) })
    }

    fn load(&self) -> u32 {
        self.0.in_flight()
    }
}

fn translate(error: realm_host::CallError) -> realm_edge::CallError {
    realm_edge::CallError {
        status: StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        code: error.code,
        message: error.message,
        hint: None,
        retry_after_s: error.retry_after_s,
        // Refused before an instance existed: another replica may have room.
        retryable: error.code == realm_host::Outcome::Overloaded.code(),
    }
}
