//! Introduces the host's replicas to the edge.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use realm_edge::BoxFuture;
use realm_model::api::LogStream;

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A replica on this node, as the edge sees it.
pub(crate) struct LocalBackend(pub(crate) realm_host::Replica);

impl realm_edge::Backend for LocalBackend {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, realm_edge::CallError>> {
        let replica = self.0.clone();
        if replica.is_command() {
            name_script(&mut request);
        }
        if let Some(log) = request
            .extensions_mut()
            .remove::<realm_edge::fastcgi::GuestLog>()
        {
            let ear = realm_host::Ear(Arc::new(WebServersLog(log)));
            request.extensions_mut().insert(ear);
        }
        Box::pin(async move { replica.call(request).await.map_err(translate) })
    }

    fn load(&self) -> u32 {
        self.0.in_flight()
    }
}

/// The log of the web server that asks.
struct WebServersLog(realm_edge::fastcgi::GuestLog);

impl realm_host::LogSink for WebServersLog {
    fn line(&self, _: u32, _: LogStream, text: String) {
        self.0.line(&text);
    }
}

/// A command learns which part of the path named it.
fn name_script(request: &mut Request<Body>) {
    let Some(prefix) = request.extensions().get::<realm_edge::RoutePrefix>() else {
        return;
    };
    if let Some(script) = request.uri().path().get(..prefix.0) {
        let script = realm_host::cgi::ScriptName(script.to_owned());
        request.extensions_mut().insert(script);
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
        perhaps_taken: false,
    }
}
