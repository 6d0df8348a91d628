//! A client of one bucket: its settings, the time that a request has, and what its errors mean.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use realm_model::cloud::CloudError;
use tokio::runtime::Handle;

use super::here::Here;
use crate::Watch;
use crate::watch::Health;

/// Where nothing else is said, as Amazon has it.
const REGION: &str = "us-east-1";
/// A connection that is not there by then does not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Tries of one request that the server did not get or did not do: over the second in which one restarts.
const RETRIES_MAX: usize = 5;
/// No further try after it: the answer of the last one comes in the time of a call.
const RETRY_FOR: Duration = Duration::from_secs(5);
/// For so long a container that was there is taken to be: each writing would ask first otherwise.
const SEEN_FOR: Duration = Duration::from_secs(5);
/// Containers that are remembered so.
const SEEN_MAX: usize = 1_000;

/// What it takes to reach a bucket.
#[derive(Clone, Default)]
pub struct S3Settings {
    /// Its name. It has to be there.
    pub bucket: String,
    /// What stands before every key: others may have the rest of the bucket.
    pub prefix: String,
    /// The region; `None`: `us-east-1`.
    pub region: Option<String>,
    /// `https://HOST[:PORT]`, or `http://…`, with the bucket in the path; `None`: Amazon's.
    pub endpoint: Option<String>,
    /// `ACCESS_KEY_ID:SECRET`, where the secret is what stands behind the last `:`; `None`: anonymous.
    pub credentials: Option<String>,
    /// Certificates of authorities beside those of the machine, as PEM.
    pub roots: Option<Vec<u8>>,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The credentials have no `:`.
    #[error("the credentials are not `ACCESS_KEY_ID:SECRET`")]
    Credentials,
    /// The certificates are none.
    #[error("the certificates of authorities are not PEM")]
    Roots,
    /// What else the client does not take.
    #[error("the settings of S3 do not make a client")]
    Client(#[source] object_store::Error),
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

struct Inner {
    store: AmazonS3,
    runtime: Handle,
    bucket: String,
    /// `https://HOST: `; of Amazon's nothing.
    place: String,
    health: Health,
    seen: Mutex<BTreeMap<String, Instant>>,
}

impl Client {
    pub(super) fn new(settings: &S3Settings, watch: Arc<dyn Watch>) -> Result<Self, SettingError> {
        // Times are kept by `call`: one for a whole request would end every long object.
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIMEOUT);
        if let Some(roots) = &settings.roots {
            let roots = Certificate::from_pem_bundle(roots).map_err(|_| SettingError::Roots)?;
            if roots.is_empty() {
                return Err(SettingError::Roots);
            }
            for root in roots {
                options = options.with_root_certificate(root);
            }
        }
        let endpoint = settings.endpoint.as_deref();
        let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let runtime = Handle::current();
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(Here(runtime.clone()))
            .with_bucket_name(&settings.bucket)
            .with_region(settings.region.as_deref().unwrap_or(REGION))
            // A name with a point has no certificate below Amazon's.
            .with_virtual_hosted_style_request(endpoint.is_none() && !settings.bucket.contains('.'))
            // Without TLS nothing else would notice that bytes of a body were changed.
            .with_unsigned_payload(!is_plain)
            .with_client_options(options.with_allow_http(is_plain))
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(100),
                    max_backoff: Duration::from_secs(2),
                    base: 2.0,
                },
                max_retries: RETRIES_MAX,
                retry_timeout: RETRY_FOR,
            });
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        builder = match &settings.credentials {
            Some(credentials) => {
                let (id, secret) = credentials
                    .trim()
                    .rsplit_once(':')
                    .ok_or(SettingError::Credentials)?;
                builder
                    .with_access_key_id(id)
                    .with_secret_access_key(secret)
            }
            // Or it would ask the cloud that the machine is in, and time out where it is in none.
            None => builder.with_skip_signature(true),
        };
        Ok(Self(Arc::new(Inner {
            store: builder.build().map_err(SettingError::Client)?,
            runtime,
            bucket: settings.bucket.clone(),
            place: endpoint.map_or(String::new(), |endpoint| format!("{endpoint}: ")),
            health: Health::new(watch),
            seen: Mutex::default(),
        })))
    }

    pub(super) fn store(&self) -> &AmazonS3 {
        &self.0.store
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Waits for a request as long as it has, and says what its error means.
    pub(super) async fn call<T>(
        &self,
        time: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, CloudError> {
        match tokio::time::timeout(time, request).await {
            Ok(Ok(value)) => {
                self.0.health.answered();
                Ok(value)
            }
            Ok(Err(error)) => Err(self.judged(error)),
            Err(_) => Err(self.late(time)),
        }
    }

    /// All requests of a call, which a server may not draw out by giving more and more.
    pub(super) async fn whole<T>(
        &self,
        requests: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        match tokio::time::timeout(super::CALL_TIMEOUT, requests).await {
            Ok(result) => result,
            Err(_) => Err(self.late(super::CALL_TIMEOUT)),
        }
    }

    fn late(&self, time: Duration) -> CloudError {
        let bucket = &self.0.bucket;
        let why = format!("bucket `{bucket}`: no answer in {time:?}");
        self.0.health.failed(&why);
        CloudError::Timeout
    }

    fn judged(&self, error: object_store::Error) -> CloudError {
        let words = words(&error);
        let status = status(&words);
        let code = code(&words);
        let kind = kind(&error);
        // HEAD has no words, and a listing no kind of its own: status and code say what the error's kind
        // does not.
        let no_bucket = code == Some("NoSuchBucket");
        if matches!(error, object_store::Error::NotFound { .. }) && !no_bucket {
            self.0.health.answered();
            return CloudError::NotFound("the object");
        }
        let is_refused = matches!(
            error,
            object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
        ) || matches!(status, Some(401 | 403));
        let is_busy = status.is_some_and(|status| status >= 500 || status == 429);
        if no_bucket || is_refused || is_busy || kind.is_some() {
            let bucket = &self.0.bucket;
            let why = match (code, status) {
                (Some(code), _) => code.to_owned(),
                (None, Some(status)) => format!("it answers {status}"),
                (None, None) => format!("{}{}", self.0.place, innermost(&error)),
            };
            self.0.health.failed(&format!("bucket `{bucket}`: {why}"));
            return match kind {
                Some(HttpErrorKind::Timeout) => CloudError::Timeout,
                Some(_) | None => CloudError::Unavailable,
            };
        }
        self.0.health.answered();
        CloudError::Failed(match (status, code) {
            (_, Some(code)) => format!("S3 says {code}"),
            (Some(status), None) => format!("S3 answered {status}"),
            (None, None) => "S3 gave no answer that can be read".to_owned(),
        })
    }

    /// Remembers that a container is there.
    pub(super) fn saw(&self, container: &str) {
        let mut seen = self.seen();
        if seen.len() >= SEEN_MAX {
            seen.retain(|_, at| at.elapsed() < SEEN_FOR);
        }
        if seen.len() < SEEN_MAX {
            seen.insert(container.to_owned(), Instant::now());
        }
    }

    pub(super) fn has_seen(&self, container: &str) -> bool {
        let seen = self.seen();
        seen.get(container)
            .is_some_and(|at| at.elapsed() < SEEN_FOR)
    }

    pub(super) fn forget(&self, container: &str) {
        self.seen().remove(container);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error and its causes. Requests are signed in their headers: an address has nothing secret in it.
fn words(error: &object_store::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !words.contains(&text) {
            let _ = write!(words, ": {text}");
        }
        source = cause.source();
    }
    words
}

/// Why a server was not reached. What is around the innermost cause is the request and how often it was tried:
/// long, other words each time, and an operator reads the beginning alone.
fn innermost(error: &object_store::Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// Of an error of the connection, not of the server.
fn kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<HttpError>() {
            return Some(error.kind());
        }
        source = cause.source();
    }
    None
}

/// The client has it in words alone.
fn status(words: &str) -> Option<u16> {
    let (_, rest) = words.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// What S3 calls the error: `<Code>NoSuchKey</Code>`.
fn code(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_word = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_word && !code.is_empty()).then_some(code)
}
