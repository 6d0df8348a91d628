//! GET over HTTP(S), with a cap on everything a server can draw out: redirects, silence, total
//! time, bytes.
//!
//! The TLS set-up is explicit (aws-lc-rs, the certificates of this machine, else those built in),
//! so nothing depends on a process-wide crypto provider.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};

use super::{Body, FetchError};
use crate::blobs::BoxError;

/// Until a connection stands, TLS included: a slow one takes a second or two.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer: longer silence is a dead server.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// For the whole answer: 256 MiB at 3 Mbit/s take 12 minutes.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Redirects that are followed: release pages of forges use up to three.
pub const REDIRECTS_MAX: usize = 5;

/// How long a server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// For the whole answer.
    pub total: Duration,
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// A loop, or as good as one.
    #[error("more than {REDIRECTS_MAX} redirects")]
    TooMany,
    /// From https to something weaker.
    #[error("a redirect leads from https to an unprotected address")]
    Downgrade,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: CONNECT_TIMEOUT,
            idle: IDLE_TIMEOUT,
            total: TOTAL_TIMEOUT,
        }
    }
}

/// Asks for `url` from `offset` on and returns the body of a 200 or 206, and where it begins: there,
/// or at 0 if the server sends all. A declared length above `bytes_max` is refused at once; whoever
/// reads the body counts, because lengths lie.
pub(super) async fn get_from(
    url: &str,
    offset: u64,
    bytes_max: u64,
    timeouts: Timeouts,
) -> Result<(u64, Body<'static>), FetchError> {
    let request = from_offset(client(timeouts)?.get(url), offset);
    let response = request.send().await.map_err(|error| failed(url, error))?;
    body_of(url, response, offset, bytes_max)
}

/// Asks for what is after `offset` alone.
pub(super) fn from_offset(request: RequestBuilder, offset: u64) -> RequestBuilder {
    match offset {
        0 => request,
        offset => request.header(RANGE, format!("bytes={offset}-")),
    }
}

/// The body of an answer to [`from_offset`], and where it begins.
pub(super) fn body_of(
    url: &str,
    response: Response,
    offset: u64,
    bytes_max: u64,
) -> Result<(u64, Body<'static>), FetchError> {
    let begin = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if begins_at(&response, offset) => offset,
        status => {
            return Err(FetchError::Status {
                url: shown(url),
                status: status.as_u16(),
            });
        }
    };
    if response
        .content_length()
        .is_some_and(|length| length > bytes_max - begin)
    {
        return Err(FetchError::TooLarge {
            from: shown(url),
            bytes_max,
        });
    }
    let url = url.to_owned();
    let body = response.bytes_stream();
    let body = body.map(move |piece| piece.map_err(|error| failed(&url, error)));
    Ok((begin, body.boxed()))
}

/// The whole of a small answer with the status 200.
pub(super) async fn small(
    url: &str,
    response: Response,
    bytes_max: usize,
) -> Result<Bytes, FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status {
            url: shown(url),
            status: response.status().as_u16(),
        });
    }
    let (_, body) = body_of(url, response, 0, bytes_max as u64)?;
    super::collect(shown(url), body, bytes_max as u64).await
}

/// Whether a part begins where it was asked for; a server may send another one.
fn begins_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    offset > 0 && range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

pub(super) fn failed(url: &str, source: reqwest::Error) -> FetchError {
    FetchError::Http {
        url: shown(url),
        // Its own text would repeat the URL with credentials and query.
        source: source.without_url(),
    }
}

/// A URL for messages: what is before the host and after the path may be a secret.
pub(super) fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return "a URL that does not parse".to_owned();
    };
    // These fail for URLs without a host, which have no credentials either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// A client per fetch: fetches are rare, and a pool would outlive the runtime it was made in.
pub(super) fn client(timeouts: Timeouts) -> Result<Client, FetchError> {
    pooled(timeouts, 0)
}

/// A client that keeps connections for the next request of the same fetch.
pub(super) fn pooled(timeouts: Timeouts, idle_max: usize) -> Result<Client, FetchError> {
    Client::builder()
        .user_agent(concat!("realm/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls().map_err(FetchError::Setup)?)
        .redirect(Policy::custom(redirect))
        .referer(false)
        .connect_timeout(timeouts.connect)
        .read_timeout(timeouts.idle)
        .timeout(timeouts.total)
        .pool_max_idle_per_host(idle_max)
        .build()
        .map_err(|error| FetchError::Setup(error.into()))
}

fn tls() -> Result<rustls::ClientConfig, BoxError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        // A bare machine without a certificate store: better the ones built in than no https.
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    match check_redirect(attempt.previous(), attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(error) => attempt.error(error),
    }
}

/// `previous` holds every address asked so far, the first included.
fn check_redirect(previous: &[Url], next: &Url) -> Result<(), RedirectError> {
    if previous.len() > REDIRECTS_MAX {
        return Err(RedirectError::TooMany);
    }
    let was_protected = previous.iter().any(|url| url.scheme() == "https");
    if was_protected && next.scheme() != "https" {
        return Err(RedirectError::Downgrade);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts
            .iter()
            .map(|text| Url::parse(text).expect("a URL"))
            .collect()
    }

    #[test]
    fn redirects_are_few_and_never_weaker() {
        let check = |previous: &[&str], next: &str| {
            check_redirect(&urls(previous), &Url::parse(next).expect("a URL"))
        };
        assert_eq!(check(&["http://a/"], "http://b/"), Ok(()));
        assert_eq!(check(&["http://a/"], "https://b/"), Ok(()));
        assert_eq!(check(&["https://a/"], "https://b/"), Ok(()));
        let downgrade = Err(RedirectError::Downgrade);
        assert_eq!(check(&["https://a/"], "http://b/"), downgrade);
        assert_eq!(check(&["http://a/", "https://b/"], "http://c/"), downgrade);
        assert_eq!(check(&["http://a/"; 5], "http://b/"), Ok(()));
        assert_eq!(
            check(&["http://a/"; 6], "http://b/"),
            Err(RedirectError::TooMany)
        );
    }

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        assert_eq!(
            shown("https://user:password@example.com/x.wasm?token=1#part"),
            "https://example.com/x.wasm"
        );
        assert!(!shown("https://user:password@").contains("password"));
    }
}
