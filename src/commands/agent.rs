//! `realm agent`: the node itself, in the foreground.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use realm_node::{Config, Node};
use tracing_subscriber::EnvFilter;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::signals::Signals;

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

    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    start_logging(&args.listen, "info,h2=error");
    on_runtime(async {
        let mut signals = Signals::catch()?;
        let node = start(context, &args.listen).await?;
        for url in node.urls() {
            output::note(&format!("answering on {url}"));
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

/// Starts the node of this realm folder.
pub(crate) async fn start(context: &Context, listen: &Listen) -> Result<Node, Failure> {
    let folder = context.folder()?;
    let mut config = Config::load(folder).map_err(|problem| match problem {
        realm_node::ConfigError::Invalid {
            path,
            text,
            problems,
        } => {
            let path = path.display().to_string();
            crate::diagnostics::report(&path, &text, &problems);
            Failure::new(
                "invalid-node-config",
                format!("`{path}` has {}", crate::diagnostics::count(&problems)),
            )
            .hint("docs/manifest.md, \"node.toml\", describes every key")
        }
        realm_node::ConfigError::Read { .. } => Failure::from_error("no-file", &problem),
    })?;
    if !listen.http.is_empty() {
        config.node.listen.http.clone_from(&listen.http);
    }
    if let Some(admin) = listen.admin {
        config.node.listen.admin = admin;
    }
    Node::start(config).await.map_err(|error| {
        let hint = error.hint();
        let failure = Failure::from_error(error.code(), &error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
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
