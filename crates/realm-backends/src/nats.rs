//! The connection to a server of NATS: made when it is needed, and made anew where it does not come back.
//!
//! Not here: what is on the server.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectOptions};
use realm_model::cloud::CloudError;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::server::{Access, tls_config};
use crate::watch::Health;
use crate::{ServerError, Watch};

/// How long a connection may take to be made, to come back, and an answer of the server to come.
const CONNECT: Duration = Duration::from_secs(4);
const COMES_BACK: Duration = Duration::from_secs(2);
pub(crate) const ANSWER: Duration = Duration::from_secs(4);
/// After a try to connect that failed, callers hear so for this long without another one.
const PAUSE: Duration = Duration::from_millis(500);

/// The way to a server.
pub(crate) struct Link {
    url: String,
    options: ConnectOptions,
    health: Health,
    runtime: Handle,
    state: Mutex<Connecting>,
}

#[derive(Default)]
struct Connecting {
    there: Option<Arc<Connected>>,
    failed_at: Option<Instant>,
}

/// A connection that stands, or did a moment ago.
pub(crate) struct Connected {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
}

impl Link {
    pub(crate) fn new(
        host: &str,
        is_tls: bool,
        access: &Access,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        let mut options = ConnectOptions::new()
            .name("realm")
            // Where it may go is what node.toml names, whatever a server says of others.
            .ignore_discovered_servers()
            .connection_timeout(CONNECT)
            .request_timeout(Some(ANSWER))
            .ping_interval(Duration::from_secs(10));
        if let Some(password) = &access.password {
            let password = password.as_str().to_owned();
            options = match &access.user {
                Some(user) => options.user_and_password(user.clone(), password),
                None => options.token(password),
            };
        }
        let scheme = if is_tls { "tls" } else { "nats" };
        if is_tls {
            let config = tls_config(access)?;
            options = options.require_tls(true).tls_client_config(config);
        }
        Ok(Self {
            url: format!("{scheme}://{host}"),
            options,
            health: Health::new(watch),
            runtime: Handle::current(),
            state: Mutex::default(),
        })
    }

    /// A connection; `prepare` has what has to be there on the server for each one that is made. Waits as
    /// long as it takes to know that there is none.
    pub(crate) async fn get<F>(
        &self,
        prepare: impl FnOnce(Arc<Connected>) -> F,
    ) -> Result<Arc<Connected>, CloudError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let mut state = self.state.lock().await;
        if let Some(there) = &state.there {
            if is_back(&there.client).await {
                return Ok(Arc::clone(there));
            }
            // Its tasks end with its last handle.
            state.there = None;
        }
        if state.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(CloudError::Unavailable);
        }
        let connected = async {
            let connected = Arc::new(self.connect().await?);
            prepare(Arc::clone(&connected)).await?;
            Ok::<_, String>(connected)
        };
        match connected.await {
            Ok(connected) => {
                state.there = Some(Arc::clone(&connected));
                state.failed_at = None;
                self.health.answered();
                Ok(connected)
            }
            Err(why) => {
                state.failed_at = Some(Instant::now());
                self.health.failed(&why);
                Err(CloudError::Unavailable)
            }
        }
    }

    async fn connect(&self) -> Result<Connected, String> {
        // What reads and writes the connection lives where this backend was made, and not with the guest
        // that happens to be the first to ask.
        let connecting = self.options.clone().connect(self.url.clone());
        let connecting = self.runtime.spawn(timeout(CONNECT, connecting));
        let client = connecting
            .await
            .map_err(|error| error.to_string())?
            .map_err(|_| format!("{} does not answer", self.url))?
            .map_err(|error| format!("{}: {}", self.url, words(&error)))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(ANSWER)
            .ack_timeout(ANSWER)
            .build(client.clone());
        Ok(Connected { client, jetstream })
    }

    /// What is on the server may have been deleted: it is looked for with the next connection.
    pub(crate) async fn lose(&self) {
        self.state.lock().await.there = None;
    }

    /// What a guest hears of an error that the operator has to look at.
    pub(crate) fn failed(&self, error: &dyn std::error::Error) -> CloudError {
        self.health.failed(&words(error));
        CloudError::Unavailable
    }
}

/// A text as a part of a name on a server: letters, digits, `-`, `_`, `~` and, where they are kept, dots stand
/// for themselves, and everything else as its bytes, `=2F`, in capitals. (A `%` in the name of a stream breaks
/// what the server makes of it.)
pub(crate) fn spelled(text: &str, keeps_dots: bool) -> String {
    let mut all = String::new();
    for byte in text.bytes() {
        let is_dot = keeps_dots && byte == b'.';
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || is_dot {
            all.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(all, "={byte:02X}");
        }
    }
    all
}

/// Whether a connection stands, or stands again in a moment.
async fn is_back(client: &Client) -> bool {
    let until = Instant::now() + COMES_BACK;
    while client.connection_state() != State::Connected {
        if Instant::now() >= until {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Whether the server refuses a message because its stream has no room.
pub(crate) fn is_full(error: &PublishError) -> bool {
    let source = std::error::Error::source(error);
    let Some(error) = source.and_then(|one| one.downcast_ref::<jetstream::Error>()) else {
        return false;
    };
    let codes = [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
    ];
    codes.contains(&error.error_code())
}

/// An error with its causes, for the operator.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // The client's errors often say their cause themselves.
        if !words.contains(&said) {
            words.push_str(": ");
            words.push_str(&said);
        }
        cause = error.source();
    }
    words
}
