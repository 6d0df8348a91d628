//! WASI 0.3: gets `?url=` and tells how it went: the status and the body, or the error. With
//! `&follow=1` it follows one redirect. With `&send=TEXT` it posts that, as `&length=` bytes, and
//! tells first how the sending ended. With `&unread=N` it leaves so many answers of `?of=` unread
//! before that, with `&fields=N` it sends so many. With `?answer=N` it asks nobody, and answers with so many,
//! and `&trailers=N`.

use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::{wit_future, wit_stream};

struct Outbound;

wasip3::http::service::export!(Outbound);

impl Guest for Outbound {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let number = |name| -> u64 {
            let number = guests::query(&target, name);
            number.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        if guests::query(&target, "answer").is_some() {
            return Ok(answer_with(number("answer"), number("trailers")));
        }
        let url = guests::query(&target, "url").unwrap_or_default();
        if let Some(text) = guests::query(&target, "send") {
            let length = guests::query(&target, "length").unwrap_or_default();
            return Ok(answer(post(&url, text, &length).await));
        }
        let mut unread = Vec::new();
        for _ in 0..number("unread") {
            unread.push(send(&guests::query(&target, "of").unwrap_or_default(), 0).await?);
        }
        let follow = guests::query(&target, "follow").is_some();
        let text = match get(&url, follow, number("fields")).await {
            Ok(text) => text,
            Err(code) => format!("error: {code:?}"),
        };
        Ok(answer(text))
    }
}

fn answer(text: String) -> Response {
    let (mut body, reader) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers);
    wit_bindgen::spawn_local(async move {
        body.write_all(text.into_bytes()).await;
    });
    response
}

async fn post(url: &str, text: String, length: &str) -> String {
    let headers = Fields::new();
    if !length.is_empty() {
        headers
            .append("content-length", length.as_bytes())
            .expect("a number is a length");
    }
    let (mut sink, body) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, sent) = Request::new(headers, Some(body), trailers, None);
    if request.set_method(&Method::Post).is_err() {
        return "no method".to_owned();
    }
    wit_bindgen::spawn_local(async move {
        sink.write_all(text.into_bytes()).await;
    });
    let told = match send_to(url, request).await {
        Ok(response) => told(response)
            .await
            .unwrap_or_else(|code| format!("error: {code:?}")),
        Err(code) => format!("error: {code:?}"),
    };
    format!("{:?} {told}", sent.await)
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

fn answer_with(heads: u64, trailers: u64) -> Response {
    let (ended, end) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields(heads), None, end);
    wit_bindgen::spawn_local(async move {
        let _ = ended.write(Ok(Some(fields(trailers)))).await;
    });
    response
}

async fn get(url: &str, follow: bool, n_fields: u64) -> Result<String, ErrorCode> {
    let response = send(url, n_fields).await?;
    let location = response.get_headers().get("location");
    if let (true, Some(location)) = (follow, location.first()) {
        let location = String::from_utf8_lossy(location).into_owned();
        return Box::pin(get(&location, false, 0)).await;
    }
    told(response).await
}

async fn told(response: Response) -> Result<String, ErrorCode> {
    let status = response.get_status_code();
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (body, ended) = Response::consume_body(response, no_error);
    let body = body.collect().await;
    ended.await?;
    Ok(format!("{status} {}", String::from_utf8_lossy(&body)))
}

async fn send(url: &str, n_fields: u64) -> Result<Response, ErrorCode> {
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(fields(n_fields), None, trailers, None);
    send_to(url, request).await
}

async fn send_to(url: &str, request: Request) -> Result<Response, ErrorCode> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
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
    client::send(request).await
}
