//! `realm logs`: what a component wrote to stdout and stderr.

use std::process::ExitCode;

use futures_util::StreamExt as _;
use realm_model::api::{LogLine, LogStream};
use realm_model::name::ComponentName;
use realm_node::Client;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::time::{parse_since, timestamp};

/// Nodes that are named where a component runs on many.
const NAMED_MAX: usize = 3;

/// Print what a component wrote to stdout and stderr
///
/// Lines come from a ring in the agent's memory that outlives the component's instances. Where
/// lines were dropped (the ring is bounded), a marker says how many.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The component
    component: ComponentName,

    /// Go on with new lines until interrupted
    #[arg(short, long)]
    follow: bool,

    /// Only lines since then: a time span (`10m`) or a timestamp (`2026-01-31T12:00:00Z`)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<u64>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let json = context.json();
    let show = async {
        let client = context.client().await?;
        let lines = client
            .logs(&args.component, args.since, args.follow)
            .await?;
        if args.follow {
            tell_elsewhere(&client, &args.component).await;
        }
        let mut lines = std::pin::pin!(lines);
        let mut printed = 0;
        while let Some(line) = lines.next().await {
            print(&line?, json)?;
            printed += 1;
        }
        if printed == 0 && !args.follow {
            tell_elsewhere(&client, &args.component).await;
        }
        Ok(ExitCode::SUCCESS)
    };
    if args.follow {
        context.watch(show)
    } else {
        context.block_on(show)
    }
}

/// A ring is that of one node: where the component runs on others alone, those are named. A note: who
/// cannot be asked has none.
async fn tell_elsewhere(client: &Client, component: &ComponentName) {
    let Ok(status) = client.status().await else {
        return;
    };
    let mut components = status.components.into_iter();
    let Some(view) = components.find(|view| view.name == *component && view.wanted == 0) else {
        return;
    };
    let runs = view.nodes.iter().filter(|(_, node)| node.wanted > 0);
    let verbs: Vec<String> = runs
        .map(|(node, _)| format!("`realm --node {node} logs {component}`"))
        .take(NAMED_MAX)
        .collect();
    if !verbs.is_empty() {
        output::note(&format!(
            "`{component}` runs on other nodes than `{}`: {}",
            status.node,
            verbs.join(", ")
        ));
    }
}

fn print(line: &LogLine, json: bool) -> Result<(), Failure> {
    if json {
        return output::json_line(line);
    }
    let text = match line.stream {
        LogStream::Gap => output::yellow(&format!("--- {} ---", line.text)),
        LogStream::Stdout => line.text.clone(),
        LogStream::Stderr => output::red_plain(&line.text),
        LogStream::Agent => output::cyan(&format!("realm: {}", line.text)),
    };
    let stream = match line.stream {
        LogStream::Stdout => "out",
        LogStream::Stderr => "err",
        LogStream::Agent | LogStream::Gap => "---",
    };
    output::data(&format!(
        "{} {}/{} {stream} {text}",
        timestamp(line.unix_ms),
        line.component,
        line.slot
    ));
    Ok(())
}
