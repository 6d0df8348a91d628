//! `realm peer`: calls on a machine at an address, so that nodes meet that never met before.

use std::process::ExitCode;

use realm_model::address;
use realm_model::api::{PeerAdded, PeerOutcome};

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::output;

/// Introduce the agent to another machine
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: PeerVerb,
}

#[derive(Debug, clap::Subcommand)]
enum PeerVerb {
    /// Call on a machine at an address, and keep the address
    ///
    /// A node of this realm is connected to. A machine that waits for an owner is offered this
    /// realm: it then asks to join, and `realm nodes ls` shows it. Nothing is trusted before an
    /// owner approves it.
    Add {
        /// `/dns4/bm-01/udp/4747/quic-v1`, `/ip4/192.0.2.1/tcp/4747`, or `bm-01:4747`
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<String>,
    },
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let PeerVerb::Add { addresses } = &args.verb;
    let mut read = Vec::new();
    for text in addresses {
        let written = address::read(text).map_err(|error| {
            Failure::from_error(error.code(), &error)
                .hint(error.hint())
                .exit(exit::USAGE)
        })?;
        if let Some(warning) = &written.warning {
            output::note(&format!("{} {warning}", output::yellow("warning:")));
        }
        read.push(written.address);
    }
    let added = context.block_on(async {
        let client = context.client().await?;
        let mut added = Vec::new();
        for address in &read {
            added.push(client.add_peer(&address.to_string()).await?);
        }
        Ok(added)
    })?;
    if context.json() {
        output::json(&added)?;
    } else {
        for peer in &added {
            output::data(&told(peer));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(peer: &PeerAdded) -> String {
    let words = peer
        .key
        .map(|key| key.words().join(" "))
        .unwrap_or_default();
    let address = &peer.address;
    match peer.outcome {
        PeerOutcome::Member => {
            let name = peer
                .name
                .as_ref()
                .map_or("a node of this realm", |name| name.as_str());
            format!("{address}  connected: {name}")
        }
        PeerOutcome::Offered => format!(
            "{address}  a machine without a realm; it asks to join\n  words: {words}\nhint: `realm nodes ls`, compare the words, then `realm nodes approve NAME`"
        ),
        PeerOutcome::Declined => format!(
            "{address}  belongs to another realm, or does not take this one: {}\n  words: {words}",
            peer.why.as_deref().unwrap_or("no reason given")
        ),
        PeerOutcome::Unreached => format!(
            "{address}  not reached: {}\nhint: the address is kept, and tried again when the agent starts; once the machine answers, run this again",
            peer.why.as_deref().unwrap_or("no answer")
        ),
    }
}
