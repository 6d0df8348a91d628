//! The page at `/`: what the examples are, and a command to try each.

use std::io::Write as _;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const PAGE: &str = include_str!("index.html");

struct Index;

wasip2::http::proxy::export!(Index);

impl Guest for Index {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        // It stands behind `/...`: whatever no other route answers comes here.
        let target = request.path_with_query().unwrap_or_default();
        let known = matches!(target.split('?').next(), Some("" | "/" | "/index.html"));
        let (status, content_type, text) = if known {
            let authority = request.authority().unwrap_or_default();
            (
                200,
                "text/html; charset=utf-8",
                PAGE.replace("{authority}", &escaped(&authority)),
            )
        } else {
            (404, "text/plain", "nothing here: see /\n".to_owned())
        };
        let headers = [("content-type".to_owned(), content_type.as_bytes().to_vec())];
        let response = OutgoingResponse::new(Fields::from_list(&headers).expect("valid headers"));
        response.set_status_code(status).expect("a valid status");
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = body.write().expect("the stream is taken once");
        let _ = stream.write_all(text.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

/// The authority is the caller's text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
