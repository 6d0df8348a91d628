//! `realm status`: what runs, and why something does not.

use std::process::ExitCode;
use std::time::Duration;

use realm_model::view::{ComponentView, StatusView};
use realm_node::Client;

use crate::commands::nodes;
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::{everywhere, output, progress};

/// Clears the screen and goes to its top.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";
const AWAY: &str = "no agent answers, trying again";
/// A person reads no faster.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Show what runs, and in one line per component why something does not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Refresh every second until interrupted
    #[arg(short, long)]
    watch: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    if args.watch {
        let watching = async { watch(context.client().await?, context.json()).await };
        return context
            .watch(watching)
            .map_err(|failure| waiting(context, failure));
    }
    let status = context
        .block_on(async { Ok(context.client().await?.status().await?) })
        .map_err(|failure| waiting(context, failure))?;
    if context.json() {
        output::json(&status)?;
    } else {
        output::data(&text(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// A machine that waits to be approved has an agent, and nobody answers: says so instead.
fn waiting(context: &Context, failure: Failure) -> Failure {
    if !failure.is_no_agent() || context.node().is_some() {
        return failure;
    }
    let Ok(folder) = context.folder() else {
        return failure;
    };
    let key = realm_node::node_key_of(&folder);
    let (true, Ok(key)) = (realm_node::joining::is_joining(&folder), key) else {
        return failure;
    };
    let words = key.words().join(" ");
    // Whoever asks holds the folder.
    let (what, hint) = match folder.lock() {
        Err(_) => (
            "the agent waits until an owner approves this machine",
            format!("where the owner's key is: `realm nodes approve \"{words}\"`"),
        ),
        Ok(_) => (
            "this machine waits to be approved, and no agent asks for it",
            "start one: `realm agent`".to_owned(),
        ),
    };
    Failure::new("waits-for-approval", format!("{what}; its words: {words}"))
        .hint(hint)
        .exit(exit::NO_AGENT)
}

/// Shows the status again and again. An agent that goes away may come back: only the first look
/// fails without one.
async fn watch(client: Client, json: bool) -> Result<ExitCode, Failure> {
    show(&client.status().await?, json)?;
    let mut away = false;
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        match client.status().await.map_err(Failure::from) {
            Ok(status) => {
                away = false;
                show(&status, json)?;
            }
            Err(failure) if !failure.is_no_agent() => return Err(failure),
            // Told once: whoever reads the data sees no new lines.
            Err(_) if json => {
                if !std::mem::replace(&mut away, true) {
                    output::note(AWAY);
                }
            }
            Err(_) => output::data(&format!("{CLEAR}{AWAY}")),
        }
    }
}

fn show(status: &StatusView, json: bool) -> Result<(), Failure> {
    if json {
        return output::json_line(status);
    }
    output::data(&format!("{CLEAR}{}", text(status)));
    Ok(())
}

fn text(status: &StatusView) -> String {
    let owners = status
        .owners
        .iter()
        .map(|owner| format!("owner {owner} ({})\n", owner.words().join(" ")));
    let mut text = format!(
        "{}  version {}  node {} (realm {})  {}\n{}\n",
        status.realm,
        status.version,
        status.node,
        status.agent_version,
        status.urls.join(" "),
        owners.collect::<String>(),
    );
    if status.components.is_empty() {
        text.push_str("nothing is applied yet: `realm apply realm.toml`\n");
    } else {
        let alone = status.nodes.iter().all(|node| node.here);
        let mut header = vec!["COMPONENT", "STATE", "READY", "DIGEST", "ROUTES", "WHY"];
        if !alone {
            header.insert(3, "NODES");
        }
        let rows = status
            .components
            .iter()
            .map(|component| row(component, alone));
        text.push_str(&output::table(&header, rows.collect()));
        text.push('\n');
    }
    if status.nodes.iter().any(|node| !node.here) || !status.pending.is_empty() {
        text.push('\n');
        text.push_str(&nodes::text(status));
        text.push('\n');
    }
    for alarm in &status.alarms {
        text.push_str(&format!(
            "\n{} {}: {} (says {})\n  hint: {}\n",
            output::red("alarm"),
            alarm.code,
            alarm.message,
            alarm.node,
            alarm.hint
        ));
    }
    if !status.refusals.is_empty() {
        let refusals: Vec<String> = status
            .refusals
            .iter()
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        text.push_str(&format!(
            "\nrefused since the agent started: {}\n",
            refusals.join(", ")
        ));
    }
    text.trim_end().to_owned()
}

/// A component over all nodes: what is wanted and healthy everywhere, and the first reason why it is
/// not as wanted.
fn row(component: &ComponentView, alone: bool) -> Vec<String> {
    let (healthy, wanted) = everywhere::count(component);
    let elsewhere = component
        .nodes
        .iter()
        .filter(|(_, node)| node.healthy < node.wanted);
    let why = component
        .waiting_on
        .first()
        .map(|waiting| waiting.message.clone())
        .or_else(|| {
            elsewhere
                .filter_map(|(name, node)| Some(format!("{name}: {}", node.why.as_ref()?)))
                .next()
        })
        .or_else(|| {
            everywhere::is_nowhere(component)
                .then(|| format!("no node shall run it: `realm explain {}`", component.name))
        });
    let mut row = vec![
        component.name.to_string(),
        progress::state(everywhere::state(component)),
        format!("{healthy}/{wanted}"),
        component
            .digest
            .map_or_else(|| "-".to_owned(), |digest| digest.short()),
        component.routes.join(" "),
        why.unwrap_or_default(),
    ];
    if !alone {
        let nodes: Vec<&str> = component.nodes.keys().map(|name| name.as_str()).collect();
        row.insert(3, nodes.join(","));
    }
    row
}
