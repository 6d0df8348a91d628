//! Checks the links of a page: `?page=URL` gets it, and asks for each link that is on it.
//!
//! A page of a stranger decides what is asked. So this is where a server would have to take care that
//! nobody sends it round its own network; here the operator's `allowed_outbound` does, and the guest sees
//! a refusal.

mod page;

use std::io::{Read as _, Write as _};

use page::{Target, links};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingRequest, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};

/// Of a page that is longer the rest is not looked at.
const PAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Links that are asked for, at once.
const LINKS_MAX: usize = 20;
/// Nanoseconds for a connection, and for the first byte of an answer.
const PATIENCE_NS: u64 = 5_000_000_000;

const USAGE: &str = "?page=URL of a page whose links are to be checked\n";

struct Links;

wasip2::http::proxy::export!(Links);

impl Guest for Links {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let page = target
            .split_once("page=")
            .and_then(|(_, text)| Target::parse(&page::decoded(text)));
        match page {
            None => answer(out, 400, USAGE),
            Some(page) => match report(&page) {
                Ok(report) => answer(out, 200, &report),
                Err(why) => answer(out, 502, &format!("{page}: {why}\n")),
            },
        }
    }
}

/// A line for each link.
fn report(page: &Target) -> Result<String, String> {
    let response = sent(page, &Method::Get)
        .and_then(|future| came(&future))
        .map_err(words)?;
    let mut text = Vec::new();
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    // What of it came before it broke off has links as well.
    let _ = stream.take(PAGE_BYTES_MAX).read_to_end(&mut text);
    let found = links(page, &String::from_utf8_lossy(&text));
    let more = found.len().saturating_sub(LINKS_MAX);
    // All at once: the slowest one decides how long it takes.
    let asked: Vec<_> = found
        .into_iter()
        .take(LINKS_MAX)
        .map(|link| {
            let future = sent(&link, &Method::Head);
            (link, future)
        })
        .collect();
    let mut lines = format!("{page}: {} links\n", asked.len());
    for (link, future) in asked {
        let seen = match future.and_then(|future| came(&future)) {
            Ok(response) => response.status().to_string(),
            Err(code) => words(code),
        };
        lines.push_str(&format!("{seen}\t{link}\n"));
    }
    if more > 0 {
        lines.push_str(&format!("and {more} more\n"));
    }
    Ok(lines)
}

fn sent(target: &Target, method: &Method) -> Result<FutureIncomingResponse, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    let scheme = match target.is_https {
        true => Scheme::Https,
        false => Scheme::Http,
    };
    let set = request.set_method(method).is_ok()
        && request.set_scheme(Some(&scheme)).is_ok()
        && request.set_authority(Some(&target.authority)).is_ok()
        && request.set_path_with_query(Some(&target.path)).is_ok();
    if !set {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    let options = RequestOptions::new();
    let _ = options.set_connect_timeout(Some(PATIENCE_NS));
    let _ = options.set_first_byte_timeout(Some(PATIENCE_NS));
    outgoing_handler::handle(request, Some(options))
}

fn came(future: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    future.subscribe().block();
    let answer = future.get().expect("it is ready");
    answer.expect("it is taken once")
}

fn words(code: ErrorCode) -> String {
    match code {
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => {
            "not allowed".to_owned()
        }
        ErrorCode::ConnectionTimeout | ErrorCode::HttpResponseTimeout => "no answer".to_owned(),
        other => {
            let text = format!("{other:?}");
            text.trim_start_matches("ErrorCode::").to_owned()
        }
    }
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let headers = [(
        "content-type".to_owned(),
        b"text/plain; charset=utf-8".to_vec(),
    )];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("valid headers"));
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    let _ = stream.write_all(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
