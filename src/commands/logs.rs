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

    /// Only lines of this level or a higher one, as `wasi:logging` and `wasi:otel` write them; what has no
    /// level, like ordinary output, is left out, and realm's own words stay
    #[arg(long, value_name = "LEVEL")]
    level: Option<Level>,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl Level {
    /// The level of a line that a guest logged: its first word, before `:` or ` [CONTEXT]:`.
    fn of(text: &str) -> Option<Self> {
        let end = text.find([':', ' '])?;
        let (word, rest) = text.split_at(end);
        let is_one = rest.starts_with(':') || rest.starts_with(" [") && rest.contains("]:");
        let found = <Self as clap::ValueEnum>::from_str(word, false).ok()?;
        is_one.then_some(found)
    }

    /// Whether a line is of this level or a higher one, or of realm itself.
    fn shows(self, line: &LogLine) -> bool {
        match line.stream {
            LogStream::Agent | LogStream::Gap => true,
            LogStream::Stdout => false,
            LogStream::Stderr => Self::of(&line.text).is_some_and(|level| level >= self),
        }
    }
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
            let line = line?;
            printed += 1;
            if args.level.is_none_or(|level| level.shows(&line)) {
                print(&line, json)?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<Level>) {
        assert_eq!(Level::of(text), expected, "{text}");
    }

    #[test]
    fn the_level_of_a_line_is_its_first_word() {
        check("warn: low on stock", Some(Level::Warn));
        check("critical [db]: down", Some(Level::Critical));
        check("trace:", Some(Level::Trace));
        check("error [a b]: x", Some(Level::Error));
        check("error in line 3: x", None);
        check("error [db] down", None);
        check("Error: x", None);
        check("warning: x", None);
        check("span {\"name\":\"error:\"}", None);
        check("warn", None);
        check("", None);
    }

    #[test]
    fn higher_levels_and_realms_own_words_are_shown() {
        let shown = |stream, text: &str| {
            let line = LogLine {
                seq: 0,
                unix_ms: 0,
                component: "app".parse().unwrap(),
                slot: 0,
                stream,
                text: text.to_owned(),
                dropped: 0,
            };
            Level::Warn.shows(&line)
        };
        assert!(shown(LogStream::Stderr, "warn: x"));
        assert!(shown(LogStream::Stderr, "critical [db]: x"));
        assert!(shown(LogStream::Agent, "trap: x"));
        assert!(shown(LogStream::Gap, "5 lines were dropped here"));
        assert!(!shown(LogStream::Stderr, "info: x"));
        assert!(!shown(LogStream::Stderr, "panicked at x"));
        // Who writes to standard output has no levels.
        assert!(!shown(LogStream::Stdout, "error: x"));
    }
}
