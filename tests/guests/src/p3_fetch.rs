//! WASI 0.3: a command that gets the URL which is its first argument over `wasi:http`, and prints the status
//! and the body, or the error.

use wasip3::cli::environment::get_arguments;
use wasip3::cli::stdout;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_future, wit_stream};

struct Fetch;

wasip3::cli::command::export!(Fetch);

impl wasip3::exports::cli::run::Guest for Fetch {
    async fn run() -> Result<(), ()> {
        let url = get_arguments().into_iter().nth(1).unwrap_or_default();
        let told = match get(&url).await {
            Ok(told) => told,
            Err(code) => format!("error: {code:?}"),
        };
        let (mut sink, output) = wit_stream::new();
        let written = stdout::write_via_stream(output);
        sink.write_all(told.into_bytes()).await;
        drop(sink);
        written.await.map_err(|_| ())
    }
}

async fn get(url: &str) -> Result<String, ErrorCode> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(ErrorCode::HttpRequestUriInvalid);
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers, None);
    let set = request.set_scheme(Some(&Scheme::Http)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(path)).is_ok();
    if !set {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    let response = client::send(request).await?;
    let status = response.get_status_code();
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (body, ended) = Response::consume_body(response, no_error);
    let body = body.collect().await;
    ended.await?;
    Ok(format!("{status} {}", String::from_utf8_lossy(&body)))
}
