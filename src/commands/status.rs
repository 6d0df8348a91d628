//! `realm status`: what runs, and why something does not.

use std::process::ExitCode;
use std::time::Duration;

use realm_model::view::{ComponentView, StatusView};

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::{output, progress};

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
    let client = context.client()?;
    context.block_on(async {
        loop {
            let status = client.status().await?;
            if args.watch && !context.json() {
                // Clear the screen and go to its top.
                output::data(&format!("\u{1b}[2J\u{1b}[H{}", text(&status)));
            } else if args.watch {
                output::json_line(&status)?;
            } else if context.json() {
                output::json(&status)?;
            } else {
                output::data(&text(&status));
            }
            if !args.watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(exit::INTERRUPTED)),
            }
        }
    })?
}

fn text(status: &StatusView) -> String {
    let mut text = format!(
        "{}  version {}  node {}  {}\n\n",
        status.realm,
        status.version,
        status.node,
        status.urls.join(" ")
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
