//! `realm agent`: the node itself, in the foreground.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use realm_model::key::PublicKey;
use realm_model::name::NodeName;
use realm_node::joining::{Joiner, Joining, is_joining, prepare};
use realm_node::{Config, Node, NodeError, Prepared};
use tracing_subscriber::EnvFilter;

use crate::context::Context;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::{output, owner};

/// What libraries say of their own doings is for those who ask for it.
const LOG_FILTER: &str = "info,h2=error,libp2p=error,libp2p_swarm=error,libp2p_kad=error,libp2p_gossipsub=error,libp2p_mdns=error,quinn=error,quinn_proto=error,netlink_proto=error";

/// The same, where the agent runs under what a person watches.
pub(crate) const LOG_FILTER_QUIET: &str = "warn,h2=error,libp2p=error,libp2p_swarm=error,libp2p_kad=error,libp2p_gossipsub=error,libp2p_mdns=error,quinn=error,quinn_proto=error,netlink_proto=error";

/// After the drain, nothing is left that matters.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Run the agent of this realm folder until interrupted
///
/// It goes on with what was in force when it last ran. SIGINT and SIGTERM end it: it finishes
/// requests in flight first. A second one ends it at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    listen: Listen,

    /// If there is no realm here, make a node key and wait for an owner who takes this machine
    ///
    /// The owner calls on it with `realm peer add ADDRESS`, and approves it. Compare the six words
    /// on both sides: whoever approves this machine first decides what runs on it.
    #[arg(long)]
    wait_for_owner: bool,

    /// With `--wait-for-owner`: the key of the owner whose realm alone is joined
    #[arg(long, value_name = "KEY", requires = "wait_for_owner")]
    owner: Option<PublicKey>,

    /// With `--wait-for-owner`: the name that this node proposes; absent: the host name
    #[arg(long, value_name = "NODE", requires = "wait_for_owner")]
    name: Option<NodeName>,
}

/// Listeners, over what node.toml says.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Listen {
    /// Answer routes here instead of where node.toml says; repeatable; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    http: Vec<SocketAddr>,

    /// Serve /metrics here instead of where node.toml says
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<SocketAddr>,

    /// Meet other nodes here instead of where node.toml says; repeatable; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    p2p: Vec<SocketAddr>,

    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    start_logging(&args.listen, LOG_FILTER);
    if args.wait_for_owner && context.find_folder()?.is_none() {
        wait_for_owner(context, &args)?;
    }
    let prepared = match is_joining(&context.folder()?) {
        true => None,
        false => Some(prepare_node(context, &args.listen)?),
    };
    on_runtime(async {
        let mut signals = Signals::catch()?;
        let prepared = match prepared {
            Some(prepared) => prepared,
            None if join(context, &args.listen, &mut signals).await? => {
                prepare_node(context, &args.listen)?
            }
            None => return Ok(ExitCode::SUCCESS),
        };
        let node = start(prepared).await?;
        for url in node.urls() {
            output::note(&format!("answering on {url}"));
        }
        for address in node.fastcgi_addresses() {
            output::note(&format!("FastCGI on {address}"));
        }
        output::note(&format!("metrics on {}/metrics", node.admin_url()));
        if let Some(address) = node.api_address() {
            output::note(&format!("control API on {address}"));
        }
        signals.next().await;
        stop(node, &mut signals).await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Makes the realm folder of a machine that waits for an owner.
fn wait_for_owner(context: &Context, args: &Args) -> Result<(), Failure> {
    let folder = context
        .named_folder()
        .cloned()
        .unwrap_or_else(|| PathBuf::from(".realm"));
    let node = owner::generate()?;
    prepare(&Joiner {
        folder: folder.clone(),
        node: &node,
        name: args
            .name
            .clone()
            .unwrap_or_else(realm_node::found::host_name),
        tags: Vec::new(),
        ticket: None,
        owner: args.owner,
    })
    .map_err(|error| {
        Failure::from_error("not-made", &error).context(format!(
            "failed to make the realm folder `{}`",
            folder.display()
        ))
    })
}

/// Joins a realm first; `false`: a signal ended it.
async fn join(context: &Context, listen: &Listen, signals: &mut Signals) -> Result<bool, Failure> {
    let config = configure(context, listen)?;
    let key = realm_node::node_key_of(&config.folder)
        .map_err(|error| Failure::from_error("bad-realm-folder", &error))?;
    output::note(&format!(
        "this machine is no node yet\nkey   {key}\nwords {}",
        key.words().join(" ")
    ));
    let mut last = None;
    let tell = |news: Joining| {
        // What is tried again every few seconds is told once.
        if last.as_ref() != Some(&news) {
            output::note(&told(&news));
            last = Some(news);
        }
    };
    tokio::select! {
        joined = realm_node::joining::join(&config, tell) => {
            joined.map_err(|error| failed(&error))?;
            Ok(true)
        }
        () = signals.next() => Ok(false),
    }
}

fn told(news: &Joining) -> String {
    match news {
        Joining::Listening(address) => format!("nodes meet it on {address}"),
        Joining::Offered(realm) => format!("{realm} offers to take it"),
        Joining::Pending(realm) => {
            format!("asked to join {realm}: its owner decides (`realm nodes approve`)")
        }
        Joining::Trouble(what) => format!("{what}; trying on"),
        Joining::Joined(realm, name) => format!("joined {realm} as `{name}`"),
    }
}

/// Runs an agent's life on all cores.
pub(crate) fn on_runtime(
    life: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(life);
    // What still blocks a thread (a guest, a slow disk) must not hold up an end that was asked for.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    ended
}

/// Begins to make the node of this realm folder: no runtime is needed for what takes longest.
pub(crate) fn prepare_node(context: &Context, listen: &Listen) -> Result<Prepared, Failure> {
    let config = configure(context, listen)?;
    Prepared::new(config).map_err(|error| failed(&error))
}

/// Starts the node of this realm folder.
pub(crate) async fn start(prepared: Prepared) -> Result<Node, Failure> {
    prepared.start().await.map_err(|error| failed(&error))
}

fn failed(error: &NodeError) -> Failure {
    let failure = Failure::from_error(error.code(), error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Shows every problem of a node.toml that is not usable.
pub(crate) fn bad_config(problem: &realm_node::ConfigError) -> Failure {
    match problem {
        realm_node::ConfigError::Invalid {
            path,
            text,
            problems,
        } => {
            let path = path.display().to_string();
            crate::diagnostics::report(&path, text, problems);
            Failure::new(
                "invalid-node-config",
                format!("`{path}` has {}", crate::diagnostics::count(problems)),
            )
            .hint("docs/manifest.md, \"node.toml\", describes every key")
        }
        realm_node::ConfigError::Read { .. } => Failure::from_error("no-file", problem),
    }
}

/// node.toml, and over it what the command line says.
fn configure(context: &Context, listen: &Listen) -> Result<Config, Failure> {
    let folder = context.folder()?;
    let mut config = Config::load(folder).map_err(|problem| bad_config(&problem))?;
    if !listen.http.is_empty() {
        config.node.listen.http.clone_from(&listen.http);
    }
    if let Some(admin) = listen.admin {
        config.node.listen.admin = admin;
    }
    if !listen.p2p.is_empty() {
        config.node.p2p.listen.clone_from(&listen.p2p);
    }
    Ok(config)
}

/// Sends log lines to stderr, as `REALM_LOG` or `default` filters them.
pub(crate) fn start_logging(listen: &Listen, default: &str) {
    let wanted = std::env::var("REALM_LOG").unwrap_or_default();
    let filter = match wanted.as_str() {
        "" => EnvFilter::new(default),
        wanted => EnvFilter::try_new(wanted).unwrap_or_else(|error| {
            output::note(&format!(
                "{} `{wanted}` in REALM_LOG is no filter ({error}); using `{default}`",
                output::yellow("warning:")
            ));
            EnvFilter::new(default)
        }),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr);
    // A second subscriber in one process is impossible; a first one cannot fail.
    if listen.log_json {
        let _ = subscriber.json().try_init();
    } else {
        let _ = subscriber.with_target(false).try_init();
    }
}

/// Drains and stops the node; another signal ends the wait.
pub(crate) async fn stop(node: Node, signals: &mut Signals) {
    output::note("stopping: finishing requests in flight (interrupt again to stop at once)");
    tokio::select! {
        () = node.stop() => output::note("stopped"),
        () = signals.next() => output::note("stopped at once"),
    }
}
