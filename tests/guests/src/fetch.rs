//! A command that gets the URL which is its first argument over `wasi:http`, and prints the status and the
//! body, or the error.

use std::io::Read as _;

use guests::wasip2::http::outgoing_handler;
use guests::wasip2::http::types::{ErrorCode, Fields, OutgoingRequest, Scheme};

fn main() {
    let url = std::env::args().nth(1).unwrap_or_default();
    match get(&url) {
        Ok(told) => println!("{told}"),
        Err(code) => println!("error: {code:?}"),
    }
}

fn get(url: &str) -> Result<String, ErrorCode> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(ErrorCode::HttpRequestUriInvalid);
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let set = request.set_scheme(Some(&Scheme::Http)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(path)).is_ok();
    if !set {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    let future = outgoing_handler::handle(request, None)?;
    future.subscribe().block();
    let response = future
        .get()
        .expect("it is ready")
        .expect("it is taken once")?;
    let body = response.consume().expect("the body is taken once");
    let mut text = String::new();
    let mut stream = body.stream().expect("the stream is taken once");
    match stream.read_to_string(&mut text) {
        Ok(_) => Ok(format!("{} {text}", response.status())),
        Err(error) => Ok(format!("{} cut off: {error}", response.status())),
    }
}
