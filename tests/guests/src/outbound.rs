//! Gets `?url=` and tells how it went, as JSON: `{"status":..,"body":".."}` or `{"error":".."}`. With
//! `&follow=1` it follows one redirect, with `&fields=N` it sends so many. With `?answer=N` it asks nobody,
//! and answers with so many, and `&trailers=N`.

use guests::wasip2::http::outgoing_handler;
use guests::wasip2::http::types::{
    ErrorCode, Fields, IncomingResponse, OutgoingBody, OutgoingRequest, OutgoingResponse, Scheme,
    http_error_code,
};
use guests::wasip2::io::streams::StreamError;
use guests::{IncomingRequest, ResponseOutparam, quoted};

guests::serve!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if guests::parameter(&request, "answer").is_some() {
        let count = |name| guests::number(&request, name, 0);
        return answer(out, count("answer"), count("trailers"));
    }
    let url = guests::parameter(&request, "url").unwrap_or_default();
    if !url.contains("://") {
        return guests::text(out, 400, "?url=SCHEME://AUTHORITY/PATH\n");
    }
    let mut answered = get(&url, guests::number(&request, "fields", 0));
    if guests::parameter(&request, "follow").is_some()
        && let Ok(response) = &answered
        && let Some(location) = response.headers().get("location").first()
    {
        answered = get(&String::from_utf8_lossy(location), 0);
    }
    let json = match answered {
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

/// So many fields, and none that names another one.
fn fields(count: u64) -> Fields {
    let fields = Fields::new();
    for number in 0..count {
        fields
            .append(&format!("x-{number}"), b"")
            .expect("it is a name");
    }
    fields
}

fn answer(out: ResponseOutparam, heads: u64, trailers: u64) {
    let response = OutgoingResponse::new(fields(heads));
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let _ = OutgoingBody::finish(body, Some(fields(trailers)));
}

fn get(url: &str, n_fields: u64) -> Result<IncomingResponse, ErrorCode> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(fields(n_fields));
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
    let stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(piece) => bytes.extend(piece),
            Err(StreamError::Closed) => return String::from_utf8_lossy(&bytes).into_owned(),
            Err(StreamError::LastOperationFailed(error)) => {
                let code = http_error_code(&error);
                return format!("cut off after {} bytes: {code:?}", bytes.len());
            }
        }
    }
}
