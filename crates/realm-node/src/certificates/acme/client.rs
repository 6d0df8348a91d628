//! Asks an authority, over HTTPS: a connection for each question, of which an order has about ten.
//!
//! Bounded in time and in bytes. What is asked is the library's; here is how.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Uri};
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
    if uri.scheme_str() != Some("https") {
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
    let authority = uri.authority().ok_or("its address has no host")?;
    let host = HeaderValue::from_str(authority.as_str())?;
    request.headers_mut().insert(HOST, host);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse()?;
    let answer = sender.send_request(request).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
    let whole = http::Response::from_parts(parts, Full::new(body.to_bytes()));
    Ok(BytesResponse::from(whole))
}
