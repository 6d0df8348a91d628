//! One component without a realm: `realm run` and `realm serve`. Compiled into a temporary folder,
//! under the limits and grants of the command line. Not here: routes, rollouts, the log.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use realm_edge::{EdgeLimits, Table};
use realm_host::{Host, Input, LogSink, Meter, Output, Reach, Run, Settings};
use realm_model::api::LogStream;
use realm_model::grants::Grants;
use realm_model::limits::Limits;
use realm_model::name::ComponentName;
use realm_model::node_config::GuestPolicy;
use realm_model::route::{PathPattern, Route};

use crate::backend::LocalBackend;
use crate::error::with_causes;
use crate::traffic::Traffic;

/// Requests in flight get this long when the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// What the command line grants and bounds.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the component is called in messages.
    pub name: ComponentName,
    /// The name of its file: the first argument of a command.
    pub file: String,
    /// The variables of `grants`, in the order in which a command has them.
    pub env: Vec<(String, String)>,
    /// What it may reach.
    pub grants: Grants,
    /// What it may use.
    pub limits: Limits,
    /// Whether it uses the network as this process does, without a rule.
    pub inherit_network: bool,
    /// Whether one instance may serve many requests, one after the other.
    pub reuse: bool,
}

/// A component that did not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StandaloneError {
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
}

/// Runs a command to its end with the streams of this process; returns its exit code.
pub async fn run(
    bytes: Vec<u8>,
    options: Options,
    args: Vec<String>,
) -> Result<u8, StandaloneError> {
    let (name, env) = (Some(options.file.clone()), options.env.clone());
    let program = on_thread(move || {
        let (host, settings, folder) = prepare(&bytes, options)?;
        let loaded = host.load_program(settings, &folder.path().join(FILE));
        loaded.map_err(|error| failed(error.code(), &error))
    })
    .await?;
    let terminal = std::io::stdout().is_terminal();
    let run = Run {
        name,
        args,
        env,
        stdin: Some(Input::new(
            tokio::io::stdin(),
            std::io::stdin().is_terminal(),
        )),
        stdout: Some(Output::new(tokio::io::stdout(), terminal)),
        stderr: Some(Output::new(
            tokio::io::stderr(),
            std::io::stderr().is_terminal(),
        )),
        ..Run::default()
    };
    program.run(run).await.map_err(|error| StandaloneError {
        code: error.code.to_owned(),
        message: error.message,
    })
}

/// Serves a component over HTTP until `until` ends; `announce` is told the address.
pub async fn serve(
    bytes: Vec<u8>,
    options: Options,
    address: SocketAddr,
    announce: impl FnOnce(SocketAddr),
    until: impl Future<Output = ()>,
) -> Result<(), StandaloneError> {
    let name = options.name.clone();
    let component = on_thread(move || {
        let (host, settings, folder) = prepare(&bytes, options)?;
        let loaded = host.load(settings, &folder.path().join(FILE));
        loaded.map_err(|error| failed(error.code(), &error))
    })
    .await?;
    let config = realm_edge::Config {
        listen: vec![address],
        workers: crate::machine::serving_threads(),
        limits: EdgeLimits::default(),
        ..realm_edge::Config::default()
    };
    let edge = realm_edge::spawn(config, Arc::new(Traffic::default()))
        .await
        .map_err(|error| failed("cannot-listen", &error))?;
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: name.clone(),
        weights: [].into(),
    };
    let backend: Arc<dyn realm_edge::Backend> = Arc::new(LocalBackend(component.replica(0)));
    edge.set_table(Table::new(vec![route], [(name, vec![backend])].into()));
    if let Some(address) = edge.addresses().first() {
        announce(*address);
    }
    until.await;
    edge.shutdown(GRACE).await;
    Ok(())
}

/// The compiled form in the temporary folder.
const FILE: &str = "component.cwasm";

fn prepare(
    bytes: &[u8],
    options: Options,
) -> Result<(Host, Settings, tempfile::TempDir), StandaloneError> {
    let folder = tempfile::tempdir().map_err(|error| failed("io", &error))?;
    let fuel = options.limits.fuel_per_sec.is_some();
    realm_host::compile_bytes(bytes, &folder.path().join(FILE), fuel)
        .map_err(|error| failed(error.code(), &error))?;
    let policy = GuestPolicy {
        // Who types the command is the operator: what it names is allowed.
        dirs: options
            .grants
            .dirs
            .iter()
            .map(|dir| dir.host.clone())
            .collect(),
        ..GuestPolicy::default()
    };
    let config = realm_host::Config {
        policy,
        reach: if options.inherit_network {
            Reach::Everything
        } else {
            Reach::Named
        },
        ..Default::default()
    };
    let host = Host::new(config).map_err(|error| failed("engine", &error))?;
    let settings = Settings {
        name: options.name,
        limits: options.limits,
        grants: options.grants,
        stores: realm_host::Stores::default(),
        reuse: options.reuse,
        probe: None,
        log: Arc::new(Terminal),
        meter: Arc::new(Meter::new()),
    };
    Ok((host, settings, folder))
}

/// Compiling and mapping is work of the CPU and the disk.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StandaloneError> + Send + 'static,
) -> Result<T, StandaloneError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(failed("panicked", &error)))
}

fn failed(code: &str, error: &dyn std::error::Error) -> StandaloneError {
    StandaloneError {
        code: code.to_owned(),
        message: with_causes(error),
    }
}

/// Lines of a component go to the streams of this process.
struct Terminal;

impl LogSink for Terminal {
    fn line(&self, _slot: u32, stream: LogStream, text: String) {
        // A closed stream is no reason to end a component.
        let _ = match stream {
            LogStream::Stdout => writeln!(std::io::stdout(), "{text}"),
            LogStream::Stderr => writeln!(std::io::stderr(), "{text}"),
            LogStream::Agent | LogStream::Gap => writeln!(std::io::stderr(), "realm: {text}"),
        };
    }
}
