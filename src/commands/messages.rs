//! `realm messages`: what became of messages that nobody could deal with.

use std::process::ExitCode;

use realm_model::api::{DeadAct, DeadLetter, DeadMessage, SettleDead};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::time::timestamp;

/// Look after the messages of a binding
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: MessagesVerb,
}

#[derive(Debug, clap::Subcommand)]
enum MessagesVerb {
    /// List dead letters, the newest first; show one, have it delivered again, or drop it
    ///
    /// A message that was delivered as often as `attempts` says is dead. A node keeps the last
    /// 1,000 of each binding (64 MiB): of an embedded queue on the node where they were sent
    /// (`--node`), with NATS on the server.
    Dead {
        /// The binding; in a namespace: `NAMESPACE/NAME`
        #[arg(value_parser = binding)]
        binding: String,

        #[command(subcommand)]
        verb: Option<DeadVerb>,
    },
}

#[derive(Debug, clap::Subcommand)]
enum DeadVerb {
    /// Print what a letter says: its metadata to stderr, its bytes to stdout
    Show {
        /// Its number in the list
        number: u64,
    },
    /// Have letters delivered again as if they were new
    ///
    /// In an embedded queue to the group in which they died, with NATS to their topic: each group
    /// that is subscribed to it gets them.
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Drop letters for good
    Drop {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Its number in the list
    number: Option<u64>,

    /// All of the binding
    #[arg(long)]
    all: bool,
}

fn binding(text: &str) -> Result<String, String> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || "-_/".contains(letter);
    match !text.is_empty() && text.chars().all(is_of_name) {
        true => Ok(text.to_owned()),
        false => Err("a binding has letters, digits, `-` and `_`".to_owned()),
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let MessagesVerb::Dead { binding, verb } = args.verb;
    match verb {
        None => list(context, &binding)?,
        Some(DeadVerb::Show { number }) => show(context, &binding, number)?,
        Some(DeadVerb::Retry { which }) => settle(context, binding, DeadAct::Retry, &which)?,
        Some(DeadVerb::Drop { which }) => settle(context, binding, DeadAct::Drop, &which)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(context: &Context, binding: &str) -> Result<(), Failure> {
    let page = context
        .block_on(async { Ok(context.client().await?.dead_letters(binding, None).await?) })?;
    if context.json() {
        return output::json(&page);
    }
    if page.letters.is_empty() {
        output::note(&format!("no message of `{binding}` is dead on this node"));
        return Ok(());
    }
    let header = [
        "number",
        "topic",
        "group",
        "died",
        "deliveries",
        "bytes",
        "why",
    ];
    output::data(&output::table(
        &header,
        page.letters.iter().map(row).collect(),
    ));
    Ok(())
}

fn row(letter: &DeadLetter) -> Vec<String> {
    let line = |text: &str| output::within_line(text).into_owned();
    vec![
        letter.number.to_string(),
        line(&letter.topic),
        line(&letter.group),
        letter
            .died_unix_ms
            .map_or_else(|| "-".to_owned(), timestamp),
        letter.deliveries.to_string(),
        letter.bytes.to_string(),
        line(&letter.why),
    ]
}

fn show(context: &Context, binding: &str, number: u64) -> Result<(), Failure> {
    let page = context.block_on(async {
        let client = context.client().await?;
        Ok(client.dead_letters(binding, Some(number)).await?)
    })?;
    if context.json() {
        return output::json(&page);
    }
    for letter in &page.letters {
        output::note(&row(letter).join("  "));
        if let Some(message) = &letter.message {
            for line in beside(message) {
                output::note(&line);
            }
            let bytes = message.bytes().unwrap_or_default();
            output::data(&String::from_utf8_lossy(&bytes));
        }
    }
    Ok(())
}

fn beside(message: &DeadMessage) -> Vec<String> {
    let kind = message.content_type.iter();
    let kind = kind.map(|kind| ("content-type", kind.as_str()));
    let pairs = message.metadata.iter();
    let pairs = pairs.map(|(key, value)| (key.as_str(), value.as_str()));
    let lines = kind
        .chain(pairs)
        .map(|(key, value)| format!("{key}: {value}"));
    lines
        .map(|line| output::within_line(&line).into_owned())
        .collect()
}

fn settle(context: &Context, binding: String, act: DeadAct, which: &Which) -> Result<(), Failure> {
    // `--all` is there where no number is.
    let number = which.number.filter(|_| !which.all);
    let asked = SettleDead {
        binding,
        act,
        number,
    };
    let settled =
        context.block_on(async { Ok(context.client().await?.settle_dead(&asked).await?) })?;
    if context.json() {
        return output::json(&settled);
    }
    let what = match act {
        DeadAct::Retry => "delivered again",
        DeadAct::Drop => "dropped",
    };
    output::data(&format!("{what}: {}", settled.done));
    if settled.left > 0 {
        let left = settled.left;
        output::note(&format!(
            "left: {left}, whose group or bytes are gone\nhint: realm messages dead {} drop --all",
            asked.binding
        ));
    }
    Ok(())
}
