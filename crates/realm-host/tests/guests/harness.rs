//! Loads a guest with settings, calls it, and keeps what came back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use realm_host::{
    Body, CallError, Component, Config, Host, LoadError, LogSink, Meter, MeterSnapshot, Program,
    Replica, Settings, Store, Stores, compile_bytes, fingerprint,
};
use realm_model::api::LogStream;
use realm_model::cloud::Secrets;
use realm_model::digest::Digest;
use realm_model::grants::Grants;
use realm_model::limits::Limits;
use realm_model::manifest::Probe;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest that is about to be loaded.
pub(crate) struct Guest {
    path: &'static str,
    config: Config,
    limits: Limits,
    grants: Grants,
    stores: Stores,
    probe: Option<Probe>,
    reuse: bool,
}

pub(crate) fn guest(path: &'static str) -> Guest {
    let mut config = Config::default();
    // Each test has a host of its own: small pools.
    config.policy.instances_max = 100;
    Guest {
        path,
        config,
        limits: Limits::default(),
        grants: Grants::default(),
        stores: Stores::default(),
        probe: None,
        reuse: false,
    }
}

impl Guest {
    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    pub(crate) fn grants(mut self, change: impl FnOnce(&mut Grants)) -> Self {
        change(&mut self.grants);
        self
    }

    /// The secrets that the guest may read.
    pub(crate) fn secrets(mut self, secrets: &[(&str, &[u8])]) -> Self {
        let secrets = secrets
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_vec().into()));
        self.stores.reveal(Secrets::new(secrets.collect()));
        self
    }

    /// What the guest opens under a name.
    pub(crate) fn bind(mut self, identifier: &str, store: Store) -> Self {
        self.stores.bind(identifier, store);
        self
    }

    pub(crate) fn probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    pub(crate) fn configuration(&self) -> Config {
        self.config.clone()
    }

    pub(crate) fn reuse(mut self) -> Self {
        self.reuse = true;
        self
    }

    pub(crate) fn load(self) -> Loaded {
        self.try_load()
            .map_err(|error| format!("{error:?}"))
            .unwrap()
    }

    pub(crate) fn try_load(self) -> Result<Loaded, LoadError> {
        let host = Host::new(self.config.clone()).unwrap();
        self.load_into(&host)
    }

    /// Loads it to be called by events alone.
    pub(crate) fn worker(self) -> Result<Loaded, LoadError> {
        let host = Host::new(self.config.clone()).unwrap();
        let compiled = compiled(self.path, self.limits.fuel_per_sec.is_some());
        let (log, meter, settings) = self.settings();
        let component = host.load_worker(settings, &compiled)?;
        Ok(Loaded {
            replica: component.replica(7),
            component,
            log,
            meter,
        })
    }

    /// Loads it to run by itself.
    pub(crate) fn program(self) -> Result<Started, LoadError> {
        let compiled = compiled(self.path, self.limits.fuel_per_sec.is_some());
        self.program_at(&compiled)
    }

    pub(crate) fn program_at(self, compiled: &Path) -> Result<Started, LoadError> {
        let host = Host::new(self.config.clone()).unwrap();
        self.program_from(compiled, &host)
    }

    pub(crate) fn program_from(self, compiled: &Path, host: &Host) -> Result<Started, LoadError> {
        let (log, meter, settings) = self.settings();
        let program = host.load_program(settings, compiled)?.replica(7);
        Ok(Started {
            program,
            log,
            meter,
        })
    }

    fn settings(self) -> (Arc<Log>, Arc<Meter>, Settings) {
        let log = Arc::new(Log::default());
        let meter = Arc::new(Meter::new());
        let settings = Settings {
            name: "guest".parse().unwrap(),
            limits: self.limits,
            grants: self.grants,
            stores: self.stores,
            reuse: self.reuse,
            probe: self.probe,
            log: log.clone(),
            meter: meter.clone(),
        };
        (log, meter, settings)
    }

    pub(crate) fn load_into(self, host: &Host) -> Result<Loaded, LoadError> {
        let compiled = compiled(self.path, self.limits.fuel_per_sec.is_some());
        self.load_from(&compiled, host)
    }

    /// Loads it to be called by what happens.
    pub(crate) fn load_worker(self) -> Loaded {
        let host = Host::new(self.config.clone()).unwrap();
        let compiled = compiled(self.path, self.limits.fuel_per_sec.is_some());
        let (log, meter, settings) = self.settings();
        let component = host.load_worker(settings, &compiled).unwrap();
        Loaded {
            replica: component.replica(7),
            component,
            log,
            meter,
        }
    }

    pub(crate) fn load_from(self, compiled: &Path, host: &Host) -> Result<Loaded, LoadError> {
        let (log, meter, settings) = self.settings();
        let component = host.load(settings, compiled)?;
        Ok(Loaded {
            replica: component.replica(7),
            component,
            log,
            meter,
        })
    }
}

/// Compiles each guest once; the result stays for the next run of the same code.
pub(crate) fn compiled(source: &'static str, fuel: bool) -> PathBuf {
    type Cell = Arc<OnceLock<PathBuf>>;
    static CELLS: OnceLock<Mutex<HashMap<(&str, bool), Cell>>> = OnceLock::new();
    let cells = CELLS.get_or_init(Mutex::default);
    let cell = cells
        .lock()
        .unwrap()
        .entry((source, fuel))
        .or_default()
        .clone();
    cell.get_or_init(|| {
        let bytes = std::fs::read(source).unwrap();
        let digest = Digest::of(&bytes);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(fingerprint(fuel));
        std::fs::create_dir_all(&folder).unwrap();
        let compiled = folder.join(digest.hex());
        if !compiled.exists() {
            compile_bytes(&bytes, &compiled, fuel).unwrap();
        }
        compiled
    })
    .clone()
}

/// A loaded program.
pub(crate) struct Started {
    pub(crate) program: Program,
    pub(crate) log: Arc<Log>,
    pub(crate) meter: Arc<Meter>,
}

/// A loaded guest.
pub(crate) struct Loaded {
    pub(crate) component: Component,
    pub(crate) replica: Replica,
    pub(crate) log: Arc<Log>,
    pub(crate) meter: Arc<Meter>,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// How the body broke off, if it did.
    pub(crate) broken: Option<String>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn get(target: &str) -> Request<Body> {
    Request::builder()
        .uri(format!("http://shop.example.com{target}"))
        .body(Body::default())
        .unwrap()
}

pub(crate) fn post(target: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {});
    get(target).map(|_| Body::new(body))
}

impl Loaded {
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Answer, CallError> {
        let response = self.replica.call(request).await?;
        Ok(read(response).await)
    }

    pub(crate) async fn get(&self, target: &str) -> Result<Answer, CallError> {
        self.send(get(target)).await
    }

    /// The text of a good answer.
    #[track_caller]
    pub(crate) fn body(&self, target: &str) -> impl Future<Output = String> + use<'_> {
        let request = get(target);
        async move {
            let answer = self.send(request).await.unwrap();
            assert_eq!((answer.status, &answer.broken), (200, &None), "{answer:?}");
            answer.text().to_owned()
        }
    }

    /// The code and the status of a call that gets no answer.
    pub(crate) async fn refusal(&self, target: &str) -> (&'static str, u16) {
        match self.get(target).await {
            Ok(answer) => panic!("answered: {answer:?}"),
            Err(error) => (error.code, error.status),
        }
    }

    pub(crate) fn meter(&self) -> MeterSnapshot {
        self.meter.snapshot()
    }

    pub(crate) fn count(&self, code: &str) -> u64 {
        let outcomes = self.meter().outcomes;
        outcomes.iter().find(|(name, _)| *name == code).unwrap().1
    }

    /// Waits until a call ended with this code: what follows an answer is not for the client.
    #[track_caller]
    pub(crate) fn ended(&self, code: &'static str) -> impl Future<Output = ()> + use<'_> {
        eventually(move || self.count(code) == 1 && self.replica.in_flight() == 0)
    }
}

pub(crate) async fn read(response: Response<Body>) -> Answer {
    let (parts, mut body) = response.into_parts();
    let mut answer = Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: Bytes::new(),
        trailers: None,
        broken: None,
    };
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => answer.trailers = frame.into_trailers().ok(),
            Err(error) => {
                answer.broken = Some(error.to_string());
                break;
            }
        }
    }
    answer.body = bytes.into();
    answer
}

/// Looks every millisecond, for as long as a busy machine may take.
#[track_caller]
pub(crate) fn eventually(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "never came true: {caller}"
            );
            ticks.tick().await;
        }
    }
}

/// What a component wrote.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<(u32, LogStream, String)>>);

impl Log {
    pub(crate) fn lines(&self, of: LogStream) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        let wanted = lines
            .iter()
            .filter(|(slot, stream, _)| *slot == 7 && *stream == of);
        wanted.map(|(_, _, text)| text.clone()).collect()
    }

    /// realm's own words, in one text.
    pub(crate) fn agent(&self) -> String {
        self.lines(LogStream::Agent).join("\n")
    }
}

impl LogSink for Log {
    fn line(&self, slot: u32, stream: LogStream, text: String) {
        self.0.lock().unwrap().push((slot, stream, text));
    }
}

/// Loads a file as it is.
pub(crate) fn load_file(host: &Host, compiled: &Path) -> Result<Component, LoadError> {
    let settings = Settings {
        name: "guest".parse().unwrap(),
        limits: Limits::default(),
        grants: Grants::default(),
        stores: realm_host::Stores::default(),
        reuse: false,
        probe: None,
        log: Arc::new(Log::default()),
        meter: Arc::new(Meter::new()),
    };
    host.load(settings, compiled)
}
