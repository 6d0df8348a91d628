//! `realm join`: a realm folder for a machine that was invited into a realm.

use std::path::PathBuf;
use std::process::ExitCode;

use realm_model::name::NodeName;
use realm_model::ticket::Ticket;
use realm_node::found::FoundError;
use realm_node::joining::{Joiner, prepare};

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::{output, owner};

/// Make this machine ask to join the realm of a ticket
///
/// Makes a node key and a realm folder (`.realm` here, or what `--realm` names). `realm agent` then
/// asks to join, and runs what it is told once an owner approved it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The ticket that `realm invite` printed; `-`: read it from stdin
    ticket: String,

    /// The name that this node proposes; absent: the host name
    #[arg(long, value_name = "NODE")]
    name: Option<NodeName>,

    /// Tags that it proposes, separated by commas
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    tags: Vec<NodeName>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let text = match args.ticket.as_str() {
        "-" => std::io::read_to_string(std::io::stdin())?,
        text => text.to_owned(),
    };
    let ticket: Ticket =
        text.trim()
            .parse()
            .map_err(|error: realm_model::ticket::TicketError| {
                Failure::from_error(error.code(), &error)
                    .hint(error.hint())
                    .exit(exit::USAGE)
            })?;
    let folder = context
        .named_folder()
        .cloned()
        .unwrap_or_else(|| PathBuf::from(".realm"));
    let name = args.name.unwrap_or_else(realm_node::found::host_name);
    let node = owner::generate()?;
    let words = node.public().words().join(" ");
    prepare(&Joiner {
        folder: folder.clone(),
        node: &node,
        name: name.clone(),
        tags: args.tags,
        ticket: Some(ticket.clone()),
        owner: None,
    })
    .map_err(|error| {
        let failure = Failure::from_error("not-made", &error).context(format!(
            "failed to make the realm folder `{}`",
            folder.display()
        ));
        if matches!(error, FoundError::Exists { .. }) {
            failure.hint(format!(
                "an agent that waits may have made it: let its owner approve it (`realm node show`), or stop it, move `{}` away, and join",
                folder.display()
            ))
        } else {
            failure
        }
    })?;
    if context.json() {
        output::json(&serde_json::json!({
            "folder": folder.display().to_string(),
            "realm": ticket.realm,
            "node": name,
            "node_key": node.public(),
            "words": words,
        }))?;
    } else {
        output::data(&format!(
            "made {} to join {}\nnode  {name}\nwords {words}",
            folder.display(),
            ticket.realm
        ));
        output::note("next: `realm agent`; the owner compares the words, and approves");
    }
    Ok(ExitCode::SUCCESS)
}
