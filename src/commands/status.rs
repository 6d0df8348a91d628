//! `realm status`: what runs, and why something does not.

use std::process::ExitCode;
use std::time::Duration;

use realm_model::view::{ComponentView, StatusView};
use realm_node::Client;

use crate::context::Context;
use crate::failure::Failure;
use crate::{output, progress};

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
        return context.watch(async { watch(context.client().await?, context.json()).await });
    }
    let status = context.block_on(async { Ok(context.client().await?.status().await?) })?;
    if context.json() {
        output::json(&status)?;
    } else {
        output::data(&text(&status));
    }
    Ok(ExitCode::SUCCESS)
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
        let header = ["COMPONENT", "STATE", "READY", "DIGEST", "ROUTES", "WHY"];
        text.push_str(&output::table(
            &header,
            status.components.iter().map(row).collect(),
        ));
        text.push('\n');
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
    for node in status.nodes.iter().filter(|node| !node.here) {
        let why = if node.key.is_some() {
            "not connected"
        } else {
            "not approved"
        };
        text.push_str(&format!("\nnode {}: {why}", node.name));
    }
    text.trim_end().to_owned()
}

fn row(component: &ComponentView) -> Vec<String> {
    vec![
        component.name.to_string(),
        progress::state(component.state),
        format!("{}/{}", component.healthy, component.wanted),
        component
            .digest
            .map_or_else(|| "-".to_owned(), |digest| digest.short()),
        component.routes.join(" "),
        component
            .waiting_on
            .first()
            .map_or_else(String::new, |waiting| waiting.message.clone()),
    ]
}
