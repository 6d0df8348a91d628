//! `realm up`: from nothing to a running realm of one node, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use realm_model::entry::NamespaceName;
use realm_model::name::NodeName;
use realm_model::view::{ComponentState, StatusView};
use realm_node::Client;

use crate::commands::{agent, apply, init};
use crate::confirm::confirm;
use crate::context::Context;
use crate::failure::Failure;
use crate::resolve::Proposal;
use crate::sign::Standing;
use crate::signals::Signals;
use crate::{output, progress};

/// Make a realm here if there is none, start its agent, and apply a manifest
///
/// Shows progress and the URLs that answer, and runs until interrupted. Run it again and it goes
/// on where it was. If an agent of this realm runs already, the manifest is applied to that one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest
    #[arg(default_value = "realm.toml")]
    manifest: PathBuf,

    /// Name of this node, if the realm is made; absent: the host name
    #[arg(long, value_name = "NODE")]
    name: Option<NodeName>,

    #[command(flatten)]
    listen: agent::Listen,

    /// Ask before applying changes to a realm that runs something already
    #[arg(long)]
    ask: bool,

    /// How long to wait until everything runs
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = crate::time::parse_duration)]
    timeout: Duration,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    agent::start_logging(&args.listen, agent::LOG_FILTER_QUIET);
    // A mistake in the manifest is told before anything is made or started.
    crate::resolve::read_manifest(&args.manifest, context.json())?;
    agent::on_runtime(live(context, &args))
}

async fn live(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let mut signals = Signals::catch()?;
    if context.find_folder()?.is_none() {
        let folder = context
            .named_folder()
            .cloned()
            .unwrap_or_else(|| PathBuf::from(".realm"));
        init::make_quietly(folder, args.name.clone()).await?;
    }
    let client = context.local_client()?;
    if client.is_running().await {
        output::note("an agent of this realm runs already: applying to it");
        let status = tokio::select! {
            up = bring_up(context, &client, args) => up?,
            () = signals.next() => return Err(Failure::interrupted()),
        };
        print(context, &status)?;
        output::note("the agent goes on; `realm status` shows it");
        return Ok(ExitCode::SUCCESS);
    }
    let node = agent::start(agent::prepare_node(context, &args.listen)?).await?;
    let up = tokio::select! {
        up = bring_up(context, &client, args) => Some(up),
        () = signals.next() => None,
    };
    match up {
        Some(Ok(status)) => {
            print(context, &status)?;
            output::note("Ctrl-C stops the agent; what was applied stays in force");
            signals.next().await;
        }
        // At a hidden prompt Ctrl-C is first a key and then a signal: that one is no second signal.
        Some(Err(failure)) if failure.is_interrupted() => signals.next().await,
        // What runs goes on running, so that `realm logs` and a second apply can mend it.
        Some(Err(failure)) => {
            failure.report();
            output::note("the agent goes on; mend it and `realm apply` from another terminal");
            signals.next().await;
        }
        None => {}
    }
    agent::stop(node, &mut signals).await;
    Ok(ExitCode::SUCCESS)
}

async fn bring_up(context: &Context, client: &Client, args: &Args) -> Result<StatusView, Failure> {
    let standing = Standing::of(client.heads().await?, NamespaceName::DEFAULT)?;
    let proposal = Proposal::make(&args.manifest, &standing, context.json()).await?;
    let in_force = if proposal.differs(&standing) {
        output::note(&proposal.shown());
        proposal.tell_taken_back();
        confirm("Sign and apply this?", !args.ask).await?;
        let key = context.owner_key().await?;
        let accepted = apply::put_in_force(client, &standing, &key, &proposal).await?;
        output::note(&format!(
            "version {} is signed and in force",
            accepted.version
        ));
        accepted
    } else {
        output::note(&format!(
            "version {} is in force; going on with it",
            standing.version
        ));
        apply::bring_bytes(client, &proposal).await?;
        progress::in_force(&standing)
    };
    progress::wait(client, &in_force, None, args.timeout, false).await
}

fn print(context: &Context, status: &StatusView) -> Result<(), Failure> {
    if context.json() {
        return output::json_line(status);
    }
    for component in &status.components {
        if component.state == ComponentState::Idle {
            continue;
        }
        for url in component.urls(&status.urls) {
            output::data(&format!("{:<16} {url}", component.name));
        }
    }
    Ok(())
}
