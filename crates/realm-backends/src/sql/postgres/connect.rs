//! From settings to a connection that is ready, and from a connection to a request to cancel.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Statement};
use tokio_rustls::TlsConnector;

use super::framing::{Framed, Wire};
use super::{Settings, SettingsError};

/// Until a connection is ready: name, TCP, TLS, password.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);

/// For how long a connection that waits is taken for alive, and how long it has to say that it is.
const FRESH: Duration = Duration::from_millis(100);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the server has to be told that something shall end.
pub(super) const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks for TLS, before anything else is said: its length, and a number of its own.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Bytes of a file of certificates.
const CA_BYTES_MAX: u64 = 1 << 20;

/// What holds for each session. The first is the last line, for a node that went away while a statement
/// ran; sessions are held to less by the node itself.
const SETTINGS: &str = "SET statement_timeout = '70s'; \
    SET idle_in_transaction_session_timeout = '40s'; \
    SET client_min_messages = 'error'; \
    SET timezone = 'UTC'";

/// Which of the server's processes a connection has: their numbers are given again.
const PROCESS: &str = "SELECT pid, \
    CAST(EXTRACT(EPOCH FROM backend_start) * 1000000 AS BIGINT) AS since \
    FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())";

/// What `DISCARD ALL` does, but for the statements that the client has prepared by itself. A transaction
/// ends first, also one that nobody knows of: all that follows would be undone with it.
const RESET: &str = "ROLLBACK; \
    CLOSE ALL; \
    SET SESSION AUTHORIZATION DEFAULT; \
    RESET ALL; \
    UNLISTEN *; \
    SELECT pg_catalog.pg_advisory_unlock_all(); \
    DISCARD PLANS; \
    DISCARD TEMP; \
    DISCARD SEQUENCES; \
    DO $$DECLARE own text; BEGIN \
    FOR own IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP \
    EXECUTE pg_catalog.format('DEALLOCATE %I', own); END LOOP; END$$";

/// Statements that a connection keeps prepared, and bytes of the longest.
const PREPARED_MAX: usize = 32;
const PREPARED_BYTES_MAX: usize = 4 * 1024;

/// The way to a database.
pub(super) struct Door {
    settings: Settings,
    config: Config,
    tls: OnceCell<TlsConnector>,
}

/// Why there is no connection. For the operator: no password is in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{0}: no answer in time")]
    Timeout(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0}: the server has no TLS; `?sslmode=disable` would do without")]
    NoTls(String),
    #[error("{0}: {1}")]
    Refused(String, String),
    #[error("the certificates of `{0}` cannot be read: {1}")]
    Roots(String, io::Error),
}

impl Door {
    pub(super) fn new(settings: Settings) -> Result<Self, SettingsError> {
        let secret = settings.secret.as_deref();
        let (user, password) = match (settings.user.as_deref(), secret) {
            (Some(user), password) => (user, password),
            (None, Some(secret)) => match secret.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => return Err(SettingsError::NoUser),
            },
            (None, None) => return Err(SettingsError::NoUser),
        };
        let mut config = Config::new();
        config
            .user(user)
            .dbname(settings.database.as_str())
            .application_name("realm")
            // TLS is spoken here, around what the client says.
            .ssl_mode(SslMode::Disable);
        if let Some(password) = password {
            config.password(password);
        }
        Ok(Self {
            settings,
            config,
            tls: OnceCell::new(),
        })
    }

    /// A connection that is ready for a session.
    pub(super) async fn open(&self) -> Result<Link, OpenError> {
        match tokio::time::timeout(OPEN_TIMEOUT, self.connect()).await {
            Ok(link) => link,
            Err(_) => Err(OpenError::Timeout(self.place())),
        }
    }

    async fn connect(&self) -> Result<Link, OpenError> {
        let too_large = Arc::new(AtomicBool::new(false));
        let wire = Framed::new(self.dial().await?, Arc::clone(&too_large));
        let refused =
            |error: tokio_postgres::Error| OpenError::Refused(self.place(), causes(&error));
        let (client, connection) = self
            .config
            .connect_raw(wire, NoTls)
            .await
            .map_err(refused)?;
        let task = tokio::spawn(async move {
            // Whoever asks hears that it is closed.
            _ = connection.await;
        });
        let mut link = Link {
            client,
            task,
            too_large,
            process: None,
            idle_since: None,
            prepared: HashMap::new(),
        };
        // Both are on their way at once.
        let settled = link.client.batch_execute(SETTINGS);
        let process = link.client.simple_query(PROCESS);
        let (settled, process) = tokio::join!(settled, process);
        settled.map_err(refused)?;
        // What is no PostgreSQL, but speaks like it, may not say.
        link.process = process.ok().and_then(|said| Process::read(&said));
        Ok(link)
    }

    async fn dial(&self) -> Result<Wire, OpenError> {
        let failed = |error| OpenError::Io(self.place(), error);
        let to = (self.settings.host.as_str(), self.settings.port);
        let mut stream = TcpStream::connect(to).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        if !self.settings.tls {
            return Ok(Wire::Plain(stream));
        }
        stream.write_all(&TLS_REQUEST).await.map_err(failed)?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.map_err(failed)?;
        if answer != *b"S" {
            return Err(OpenError::NoTls(self.place()));
        }
        let host = self.settings.host.clone();
        let bad_name = |_| OpenError::Refused(self.place(), "not a name of a server".to_owned());
        let name = ServerName::try_from(host).map_err(bad_name)?;
        let tls = self.tls.get_or_try_init(|| self.tls()).await?;
        let stream = tls.connect(name, stream).await.map_err(failed)?;
        Ok(Wire::Tls(Box::new(stream)))
    }

    /// Asks the server, over a connection of its own, to end what runs on a connection. `false`: the wish
    /// may still be on its way, and meet whatever runs when it is there.
    pub(super) async fn cancel(&self, link: &Link, within: Duration) -> bool {
        let cancel = async {
            let token = link.client.cancel_token();
            let Ok(wire) = self.dial().await else {
                return true;
            };
            let mut wire = Framed::new(wire, Arc::default());
            if token.cancel_query_raw(&mut wire, NoTls).await.is_err() {
                return false;
            }
            // The server says nothing, and closes it when it has passed the wish on.
            !matches!(wire.read(&mut [0]).await, Ok(1))
        };
        let told = tokio::time::timeout(within, cancel).await;
        told.unwrap_or(false)
    }

    async fn tls(&self) -> Result<TlsConnector, OpenError> {
        let ca_file = self.settings.ca_file.clone();
        let made = tokio::task::spawn_blocking(move || connector(ca_file.as_deref())).await;
        made.unwrap_or_else(|error| Err(OpenError::Roots(String::new(), error.into())))
    }

    /// The server, as the operator knows it.
    fn place(&self) -> String {
        let Settings {
            host,
            port,
            database,
            ..
        } = &self.settings;
        format!("postgres://{host}:{port}/{database}")
    }
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, OpenError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca_file {
        let failed = |error| OpenError::Roots(path.display().to_string(), error);
        let (added, _) = roots.add_parsable_certificates(certificates(path).map_err(failed)?);
        if added == 0 {
            let none = io::Error::new(io::ErrorKind::InvalidData, "no certificate is in it");
            return Err(failed(none));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Roots(String::new(), io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if std::fs::metadata(path)?.len() > CA_BYTES_MAX {
        return Err(bad(format!("it has more than {CA_BYTES_MAX} bytes")));
    }
    let bytes = std::fs::read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.map_err(|error| bad(error.to_string()))
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        _ = write!(text, ": {one}");
        cause = one.source();
    }
    text
}

/// A process of the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pid: i32,
    /// Microseconds after 1970.
    since: i64,
}

impl Process {
    fn read(said: &[SimpleQueryMessage]) -> Option<Self> {
        let row = said.iter().find_map(|message| {
            if let SimpleQueryMessage::Row(row) = message {
                Some(row)
            } else {
                None
            }
        })?;
        Some(Self {
            pid: row.try_get("pid").ok()??.parse().ok()?,
            since: row.try_get("since").ok()??.parse().ok()?,
        })
    }
}

/// A connection.
pub(super) struct Link {
    pub(super) client: Client,
    /// Moves its bytes.
    task: JoinHandle<()>,
    /// The server sent something larger than anything may be.
    too_large: Arc<AtomicBool>,
    /// What serves it, where the server says.
    pub(super) process: Option<Process>,
    /// When it was last given back to the pool.
    pub(super) idle_since: Option<Instant>,
    prepared: HashMap<(String, Vec<u32>), Statement>,
}

impl Link {
    /// Whether it can be used: one that waited for a while is asked, since its server may have gone.
    pub(super) async fn is_alive(&self) -> bool {
        let fresh = |since: Instant| since.elapsed() < FRESH;
        if self.client.is_closed() || self.idle_since.is_none_or(fresh) {
            return !self.client.is_closed();
        }
        let asked = tokio::time::timeout(ASK_TIMEOUT, self.client.check_connection()).await;
        matches!(asked, Ok(Ok(())))
    }

    pub(super) fn got_too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    pub(super) fn known(&self, text: &str, types: &[u32]) -> Option<Statement> {
        let key = (text.to_owned(), types.to_vec());
        self.prepared.get(&key).cloned()
    }

    pub(super) fn remember(&mut self, text: &str, types: Vec<u32>, statement: Statement) {
        if text.len() > PREPARED_BYTES_MAX {
            return;
        }
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        self.prepared.insert((text.to_owned(), types), statement);
    }

    pub(super) fn forget(&mut self, text: &str, types: &[u32]) {
        self.prepared.remove(&(text.to_owned(), types.to_vec()));
    }

    /// Has the server end another one's process, whatever that is doing.
    pub(super) async fn terminate(&self, process: Process) -> Result<(), tokio_postgres::Error> {
        let Process { pid, since } = process;
        let terminate = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) \
            FROM pg_catalog.pg_stat_get_activity({pid}) \
            WHERE CAST(EXTRACT(EPOCH FROM backend_start) * 1000000 AS BIGINT) = {since}"
        );
        self.client.batch_execute(&terminate).await
    }

    /// Makes it as new.
    pub(super) async fn reset(&self) -> Result<(), tokio_postgres::Error> {
        self.client
            .batch_execute(&format!("{RESET}; {SETTINGS}"))
            .await
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
