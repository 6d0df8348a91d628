//! The connection to a server of NATS, and its buckets.
//!
//! Made with the first call; after that the client makes it anew by itself. Not here: what is done in a
//! bucket.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, GetStreamErrorKind, KeyValueErrorKind};
use async_nats::jetstream::stream::{self, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode, kv};
use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use realm_model::binding;
use realm_model::cloud::CloudError;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::{clock, names};
use crate::server::{self, Access, ServerError};
use crate::watch::{Health, Watch};

/// To reach a server, shake hands and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a connection that broke: a server that starts anew is back by then.
const BACK_TIMEOUT: Duration = Duration::from_millis(500);
/// After neither was so, calls fail at once for so long.
const REST: Duration = Duration::from_millis(250);
/// Between two tries of the client to come back, at most.
const RETRY_MAX: Duration = Duration::from_millis(500);
/// One answer of the server.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Buckets whose handles are kept.
const BUCKETS_MAX: usize = 1_000;
/// Buckets that are made on a server for one binding, in the life of the agent: a guest that may open any
/// name makes no more.
const MADE_MAX: usize = 1_000;
/// How long it is relied upon what time it was at the server.
const CLOCK_FOR: Duration = Duration::from_secs(60);
/// How long the server keeps that a key was deleted, where it can forget it at all.
pub(super) const MARKER_TTL: Duration = Duration::from_secs(3_600);

/// The way to a server.
pub(super) struct Link {
    server: binding::Server,
    options: ConnectOptions,
    prefix: String,
    /// Where the connection lives: not in that of a guest that is the first to ask.
    runtime: Handle,
    connected: Mutex<Option<Connected>>,
    failed: Lock<Option<Instant>>,
    buckets: Lock<BTreeMap<String, Arc<kv::Store>>>,
    /// Those that are being made.
    making: Lock<BTreeMap<String, Arc<Mutex<()>>>>,
    made: AtomicUsize,
    /// What time it was at the server when.
    clock: Lock<Option<(Duration, Instant)>>,
    pub(super) health: Arc<Health>,
}

/// A connection that stood once.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
}

impl Link {
    pub(super) fn new(
        server: &binding::Server,
        access: &Access,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, ServerError> {
        // It is the name of a bucket itself, and others have to fit behind it.
        names::bucket(&access.prefix, "").ok_or(ServerError::Prefix)?;
        names::bucket(&access.prefix, "a").ok_or(ServerError::Prefix)?;
        let health = Arc::new(Health::new(watch));
        let (heard, at) = (health.clone(), server.to_string());
        let mut options = ConnectOptions::new()
            .name("realm")
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(ANSWER_TIMEOUT))
            .reconnect_delay_callback(|tries| {
                RETRY_MAX.min(Duration::from_millis(
                    50 * u64::try_from(tries).unwrap_or(50),
                ))
            })
            .event_callback(move |event| {
                hear(&heard, &at, &event);
                std::future::ready(())
            });
        if let Some(password) = &access.password {
            let password = password.as_str().to_owned();
            options = match access.user.as_ref().or(server.user.as_ref()) {
                Some(user) => options.user_and_password(user.clone(), password),
                None => options.token(password),
            };
        }
        if server.tls {
            options = options
                .require_tls(true)
                .tls_client_config(server::tls_config(access)?);
        }
        Ok(Self {
            server: server.clone(),
            options,
            prefix: access.prefix.clone(),
            runtime: Handle::current(),
            connected: Mutex::new(None),
            failed: Lock::new(None),
            buckets: Lock::new(BTreeMap::new()),
            making: Lock::new(BTreeMap::new()),
            made: AtomicUsize::new(0),
            clock: Lock::new(None),
            health,
        })
    }

    /// A connection that stands.
    pub(super) async fn connected(&self) -> Result<Connected, CloudError> {
        let connected = self.once_connected().await?;
        if connected.client.connection_state() == State::Connected {
            return Ok(connected);
        }
        if self.failed_just_now() {
            return Err(CloudError::Unavailable);
        }
        let began = Instant::now();
        while began.elapsed() < BACK_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if connected.client.connection_state() == State::Connected {
                return Ok(connected);
            }
        }
        self.fail();
        Err(CloudError::Unavailable)
    }

    async fn once_connected(&self) -> Result<Connected, CloudError> {
        let mut slot = self.connected.lock().await;
        if let Some(connected) = &*slot {
            return Ok(connected.clone());
        }
        if self.failed_just_now() {
            return Err(CloudError::Unavailable);
        }
        let scheme = if self.server.tls { "tls" } else { "nats" };
        let url = format!("{scheme}://{}", self.server);
        let connecting = self.options.clone().connect(url);
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.runtime.spawn(connecting));
        let result = match connecting.await {
            Ok(Ok(result)) => Ok(result),
            // It takes too long, or the agent ends.
            Ok(Err(_)) | Err(_) => Err(()),
        };
        let why = match result {
            Ok(Ok(client)) => {
                let jetstream = ContextBuilder::new()
                    .timeout(ANSWER_TIMEOUT)
                    .ack_timeout(ANSWER_TIMEOUT)
                    .build(client.clone());
                let connected = Connected { client, jetstream };
                *slot = Some(connected.clone());
                self.health.answered();
                return Ok(connected);
            }
            Ok(Err(error)) => words(&error),
            Err(()) => "no answer in time".to_owned(),
        };
        self.fail();
        self.down(&why);
        Err(CloudError::Unavailable)
    }

    /// A bucket of the server, if there is one.
    pub(super) async fn find(&self, bucket: &str) -> Result<Option<Arc<kv::Store>>, CloudError> {
        let name = self.name(bucket)?;
        let connected = self.connected().await?;
        if let Some(store) = self.known(&name) {
            return Ok(Some(store));
        }
        match connected.jetstream.get_key_value(&name).await {
            Ok(store) => self.remember(name, store).map(Some),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.unavailable(&words(&error))),
        }
    }

    /// A bucket of the server, made if there is none.
    pub(super) async fn make(&self, bucket: &str) -> Result<Arc<kv::Store>, CloudError> {
        if let Some(store) = self.find(bucket).await? {
            return Ok(store);
        }
        let name = self.name(bucket)?;
        // Of those who find none at the same moment one makes it.
        let making = Making::new(self, name.clone());
        let _turn = making.turn.lock().await;
        if let Some(store) = self.find(bucket).await? {
            return Ok(store);
        }
        let place = Place::take(&self.made)?;
        let connected = self.connected().await?;
        let ends = connected
            .client
            .is_server_compatible(2, 11, 0)
            .then_some(MARKER_TTL);
        let mut made = connected
            .jetstream
            .create_stream(settings(&name, ends))
            .await;
        if made.is_err() && ends.is_some() {
            // A new server in a network of old ones does not take it either.
            made = connected
                .jetstream
                .create_stream(settings(&name, None))
                .await;
        }
        if made.is_ok() {
            place.keep();
        }
        // Made by this call, or meanwhile by somebody else, with settings of his own.
        match (self.find(bucket).await?, made) {
            (Some(store), _) => Ok(store),
            (None, Err(error)) => Err(self.unavailable(&words(&error))),
            (None, Ok(_)) => Err(self.unavailable("a bucket that was made is not there")),
        }
    }

    /// What time it is by the clock of the server, since 1970; by that of this machine where the server
    /// does not say.
    pub(super) async fn now(&self, store: &kv::Store) -> Result<Duration, CloudError> {
        let known = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, at)) = known
            && at.elapsed() < CLOCK_FOR
        {
            return Ok(then + at.elapsed());
        }
        let connected = self.connected().await?;
        let at = Instant::now();
        let name = &store.stream.cached_info().config.name;
        let asked = connected
            .client
            .request(format!("$JS.API.STREAM.INFO.{name}"), Bytes::new());
        let answer = asked
            .await
            .map_err(|error| self.unavailable(&words(&error)))?;
        let Some(then) = clock::time_of(&answer.payload) else {
            return Ok(clock::here());
        };
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((then, at));
        Ok(then + at.elapsed())
    }

    /// Forgets a bucket that somebody deleted.
    pub(super) fn forget(&self, store: &kv::Store) {
        let mut all = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&store.name);
    }

    /// Whether a bucket is the one that was made or found last under its name.
    pub(super) fn is_current(&self, store: &Arc<kv::Store>) -> bool {
        let known = self.known(&store.name);
        known.is_none_or(|known| Arc::ptr_eq(&known, store))
    }

    /// Tells the operator; what a guest hears.
    pub(super) fn unavailable(&self, why: &str) -> CloudError {
        self.down(why);
        CloudError::Unavailable
    }

    fn down(&self, why: &str) {
        self.health.failed(&format!("{}: {why}", self.server));
    }

    fn name(&self, bucket: &str) -> Result<String, CloudError> {
        names::bucket(&self.prefix, bucket).ok_or_else(|| {
            CloudError::Invalid("the name of the bucket is too long here".to_owned())
        })
    }

    fn known(&self, name: &str) -> Option<Arc<kv::Store>> {
        let all = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).cloned()
    }

    fn remember(&self, name: String, store: kv::Store) -> Result<Arc<kv::Store>, CloudError> {
        if store.stream.cached_info().config.max_messages_per_subject != 1 {
            let why = format!("the bucket `{name}` keeps more than the last value of a key");
            return Err(self.unavailable(&why));
        }
        let store = Arc::new(store);
        let mut all = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= BUCKETS_MAX {
            all.clear();
        }
        all.insert(name, store.clone());
        Ok(store)
    }

    fn fail(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn failed_just_now(&self) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|at| at.elapsed() < REST)
    }
}

/// The turn of who makes a bucket, among those who need it.
struct Making<'a> {
    link: &'a Link,
    name: String,
    turn: Arc<Mutex<()>>,
}

impl<'a> Making<'a> {
    fn new(link: &'a Link, name: String) -> Self {
        let mut all = link.making.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = all.entry(name.clone()).or_default().clone();
        drop(all);
        Self { link, name, turn }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut all = self
            .link
            .making
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // This one, and that of the map: nobody else waits.
        if Arc::strong_count(&self.turn) <= 2 {
            all.remove(&self.name);
        }
    }
}

/// One of the buckets that may be made, given back unless it was.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(made: &'a AtomicUsize) -> Result<Self, CloudError> {
        let more = |n: usize| (n < MADE_MAX).then_some(n + 1);
        match made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Self(made)),
            Err(_) => Err(CloudError::Full("the list of buckets")),
        }
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream that is a bucket. What the client makes of a bucket's settings asks an account for more than
/// older servers say.
fn settings(name: &str, marker_ttl: Option<Duration>) -> stream::Config {
    stream::Config {
        name: format!("KV_{name}"),
        description: Some("made by realm".to_owned()),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        storage: StorageType::File,
        num_replicas: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: marker_ttl.is_some(),
        subject_delete_marker_ttl: marker_ttl,
        ..stream::Config::default()
    }
}

fn hear(health: &Health, at: &str, event: &Event) {
    match event {
        Event::Connected => health.answered(),
        Event::Disconnected | Event::Closed | Event::ServerError(_) | Event::ClientError(_) => {
            health.failed(&format!("{at}: {event}"));
        }
        Event::LameDuckMode | Event::Draining | Event::SlowConsumer(_) => {}
    }
}

fn is_missing(error: &jetstream::context::KeyValueError) -> bool {
    if error.kind() != KeyValueErrorKind::GetBucket {
        return false;
    }
    let source = std::error::Error::source(error)
        .and_then(|one| one.downcast_ref::<jetstream::context::GetStreamError>());
    source.is_some_and(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        GetStreamErrorKind::EmptyName
        | GetStreamErrorKind::Request
        | GetStreamErrorKind::InvalidStreamName => false,
    })
}

/// An error with its causes, for the operator.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !all.contains(&text) {
            all.push_str(": ");
            all.push_str(&text);
        }
        next = error.source();
    }
    all
}
