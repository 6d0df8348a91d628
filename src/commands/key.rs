//! `realm key`: the owner key, as others may see it.

use std::process::ExitCode;

use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Show the owner key of this realm folder
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, clap::Subcommand)]
enum KeyVerb {
    /// Print the owner's public key, and six words for two people to compare aloud
    ///
    /// The key goes into `[owner] pubkey` of realm.toml. The words are made from the key: if both
    /// people read the same six, they have the same key.
    Show,
}

#[derive(Serialize)]
struct Shown {
    key: String,
    words: Vec<&'static str>,
    realm: String,
    node_key: String,
    node_words: Vec<&'static str>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    match args.verb {
        KeyVerb::Show => show(context),
    }
}

fn show(context: &Context) -> Result<ExitCode, Failure> {
    let identity = context.identity()?;
    let node_key = identity.node_key.public();
    // One owner for now: the genesis that `realm init` makes names exactly one.
    let owner = identity.owners[0];
    let shown = Shown {
        key: owner.to_string(),
        words: owner.words().to_vec(),
        realm: identity.realm.to_string(),
        node_key: node_key.to_string(),
        node_words: node_key.words().to_vec(),
    };
    if context.json() {
        output::json(&shown)?;
    } else {
        output::data(&format!("{}\n{}", shown.key, shown.words.join(" ")));
    }
    Ok(ExitCode::SUCCESS)
}
