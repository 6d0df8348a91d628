//! `realm node`: this machine as a node, as others may see it. The nodes of the realm are `nodes`.

use std::process::ExitCode;

use realm_model::name::NodeName;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Show this machine as a node
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: NodeVerb,
}

#[derive(Debug, clap::Subcommand)]
enum NodeVerb {
    /// Print this node's name, key, six words, and peer id; no agent has to run
    ///
    /// The owner compares the words with those that `realm nodes ls` shows, and approves.
    Show,
}

#[derive(Serialize)]
struct Shown {
    name: NodeName,
    key: String,
    words: Vec<&'static str>,
    peer_id: String,
    /// The one that it belongs to, or asks to join; null: it waits for an owner.
    realm: Option<String>,
    /// The name under which the owner approved the key, as the log here knows it.
    approved_as: Option<NodeName>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    match args.verb {
        NodeVerb::Show => show(context),
    }
}

fn show(context: &Context) -> Result<ExitCode, Failure> {
    let folder = context.folder()?;
    let bad = |error: realm_node::IdentityError| Failure::from_error("bad-realm-folder", &error);
    let key = realm_node::node_key_of(&folder).map_err(bad)?;
    // A machine that waits for its approval has no log yet.
    let heads = realm_node::offline_heads(&folder, None).ok();
    let approved_as = heads
        .as_ref()
        .filter(|heads| heads.approved)
        .map(|heads| heads.node.clone());
    let asks = realm_node::joining::realm_of(&folder);
    let config = realm_node::Config::load(folder)
        .map_err(|error| Failure::from_error("bad-node-config", &error))?;
    let name = approved_as.clone().or(config.node.name);
    let shown = Shown {
        name: name.unwrap_or_else(realm_node::found::host_name),
        key: key.to_string(),
        words: key.words().to_vec(),
        peer_id: key.peer_id(),
        realm: heads
            .map(|heads| heads.realm)
            .or(asks)
            .map(|realm| realm.to_string()),
        approved_as,
    };
    if context.json() {
        output::json(&shown)?;
    } else {
        output::data(&format!(
            "node    {}{}\nkey     {}\nwords   {}\npeer id {}\nrealm   {}",
            shown.name,
            if shown.approved_as.is_some() {
                ""
            } else {
                " (not approved yet)"
            },
            shown.key,
            shown.words.join(" "),
            shown.peer_id,
            shown.realm.as_deref().unwrap_or("(none yet)")
        ));
    }
    Ok(ExitCode::SUCCESS)
}
