//! Asks an authority, over HTTPS: a connection for each question, of which an order has about ten.
//!
//! Bounded in time and in bytes, and what the library believes of an answer without a look is looked at: it
//! panics at addresses that are none, and at times that no clock has. What is asked is the library's; here is
//! how.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, RETRY_AFTER};
use http::response::Parts;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use realm_store::folder::{FolderError, read_small};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// One question and its answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Directories, orders and chains have a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// When to ask again: what is later than the end of any order is as good as this.
const AGAIN_S_MAX: u64 = 86_400;
const ROOT_BYTES_MAX: u64 = 1024 * 1024;
const HTTPS_PORT: u16 = 443;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Asks one authority.
pub(super) struct Client {
    tls: TlsConnector,
}

/// It cannot ask.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the certificates that it is checked with cannot be read")]
    Read(#[from] FolderError),
    #[error("`{}` has no certificate in PEM that does", path.display())]
    Root { path: PathBuf },
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl Client {
    /// `root`: a file with the certificates that it is checked with, in place of the machine's.
    pub(super) fn new(root: Option<&Path>) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        match root {
            Some(path) => {
                let text = read_small(path, ROOT_BYTES_MAX)?;
                let certificates = CertificateDer::pem_slice_iter(&text);
                let (added, _) =
                    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
                if added == 0 {
                    let path = path.to_owned();
                    return Err(ClientError::Root { path });
                }
            }
            None => {
                let native = rustls_native_certs::load_native_certs();
                let (added, _) = roots.add_parsable_certificates(native.certs);
                if added == 0 {
                    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ClientError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
        })
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = self.tls.clone();
        Box::pin(async move {
            let asked = tokio::time::timeout(ASK_TIMEOUT, ask(tls, request)).await;
            let answered = asked.unwrap_or_else(|_| Err("it does not answer in time".into()));
            answered.map_err(Error::Other)
        })
    }
}

async fn ask(
    tls: TlsConnector,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, BoxError> {
    let uri = request.uri().clone();
    // Whatever an authority sends us to: nothing is said in the clear.
    if !is_secure(&uri) {
        return Err("its address does not begin with `https://`".into());
    }
    let host = uri.host().ok_or("its address has no host")?;
    let port = uri.port_u16().unwrap_or(HTTPS_PORT);
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((plain, port)).await?;
    let name = ServerName::try_from(plain.to_owned())?;
    let stream = tls.connect(name, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let answer = exchange(&mut sender, request, &uri).await;
    driving.abort();
    answer
}

async fn exchange(
    sender: &mut hyper::client::conn::http1::SendRequest<BodyWrapper<Bytes>>,
    mut request: Request<BodyWrapper<Bytes>>,
    uri: &Uri,
) -> Result<BytesResponse, BoxError> {
    let method = request.method().clone();
    let authority = uri.authority().ok_or("its address has no host")?;
    let host = HeaderValue::from_str(authority.as_str())?;
    request.headers_mut().insert(HOST, host);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse()?;
    let answer = sender.send_request(request).await?;
    let (mut parts, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
    let body = body.to_bytes();
    check(&method, parts.status, &body)?;
    bound_pause(&mut parts);
    let whole = http::Response::from_parts(parts, Full::new(body));
    Ok(BytesResponse::from(whole))
}

/// Whether it is an answer at all. Nobody is followed elsewhere, and the one question by GET is for the
/// directory.
fn check(method: &Method, status: StatusCode, body: &[u8]) -> Result<(), BoxError> {
    let is_known = match *method {
        Method::GET | Method::HEAD => status.is_success(),
        // What is wrong is said in JSON (RFC 8555 §6.7).
        _ => status.is_success() || serde_json::from_slice::<serde_json::Value>(body).is_ok(),
    };
    if !is_known {
        return Err(format!("it answered {status}").into());
    }
    if *method == Method::GET {
        let directory: Directory = serde_json::from_slice(body)?;
        let Directory {
            new_nonce,
            new_account,
            new_order,
        } = &directory;
        for (name, address) in [
            ("newNonce", new_nonce),
            ("newAccount", new_account),
            ("newOrder", new_order),
        ] {
            if !address.parse().is_ok_and(|uri| is_secure(&uri)) {
                return Err(format!("`{name}` in its directory is no `https://` address").into());
            }
        }
    }
    Ok(())
}

/// Where orders go (RFC 8555 §7.1.1).
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
    new_order: String,
}

/// Whether what is sent there is encrypted.
pub(super) fn is_secure(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

/// Seconds beyond what a clock can count are a day.
fn bound_pause(parts: &mut Parts) {
    let said = parts.headers.get(RETRY_AFTER);
    let seconds = said.and_then(|said| said.to_str().ok()?.trim().parse::<u64>().ok());
    if seconds.is_some_and(|seconds| seconds > AGAIN_S_MAX) {
        parts.headers.insert(RETRY_AFTER, AGAIN_S_MAX.into());
    }
}
