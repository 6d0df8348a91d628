//! Gets `?url=` and tells how it went, as JSON: `{"status":..,"body":".."}` or `{"error":".."}`.

use std::io::Read as _;

use guests::wasip2::http::outgoing_handler;
use guests::wasip2::http::types::{ErrorCode, Fields, IncomingResponse, OutgoingRequest, Scheme};
use guests::{IncomingRequest, ResponseOutparam, quoted};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let url = guests::parameter(&request, "url").unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return guests::text(out, 400, "?url=SCHEME://AUTHORITY/PATH\n");
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let json = match get(scheme, authority, path) {
        Ok(response) => {
            let status = response.status();
            format!(
                r#"{{"status":{status},"body":{}}}"#,
                quoted(&body(&response))
            )
        }
        // `ErrorCode::HttpRequestDenied` prints so, some with detail in brackets behind it.
        Err(code) => {
            let text = format!("{code:?}");
            format!(
                r#"{{"error":{}}}"#,
                quoted(text.trim_start_matches("ErrorCode::"))
            )
        }
    };
    guests::json(out, 200, &json);
}

fn get(scheme: &str, authority: &str, path: &str) -> Result<IncomingResponse, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let path = if path.is_empty() { "/" } else { path };
    let set = request.set_scheme(Some(&scheme)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(path)).is_ok();
    if !set {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    let future = outgoing_handler::handle(request, None)?;
    future.subscribe().block();
    future
        .get()
        .expect("it is ready")
        .expect("it is taken once")
}

fn body(response: &IncomingResponse) -> String {
    let body = response.consume().expect("the body is taken once");
    let mut stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("cut off after {} bytes: {error}", bytes.len()),
    }
}
