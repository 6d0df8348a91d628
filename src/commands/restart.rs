//! `realm restart`: a signed restart of a component.

use std::collections::BTreeSet;
use std::process::ExitCode;

use realm_model::entry::{Body, RestartBody};
use realm_model::name::{ComponentName, NodeName};

use crate::context::Context;
use crate::failure::Failure;
use crate::sign::Standing;
use crate::{output, progress, sign};

/// Start a component's replicas afresh
///
/// One replica follows the other, within `max_surge` and `max_unavailable` of its route, and answers
/// before the old one stops. The restart is an entry in the signed
/// chain, so that every node carries it out once, whenever it hears of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The component
    component: ComponentName,

    /// Nodes, separated by commas; absent: all
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    nodes: Vec<NodeName>,

    #[command(flatten)]
    of: sign::Of,

    #[command(flatten)]
    wait: progress::Wait,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let client = context.client().await?;
        let key = context.owner_key().await?;
        let standing = Standing::fetch(&client, args.of.namespace).await?;
        let body = Body::Restart(RestartBody {
            component: args.component.clone(),
            nodes: args.nodes,
        });
        let signed = sign::sign(&standing, &key, body)?;
        let accepted = sign::submit(&client, &signed).await?;
        output::note(&format!(
            "restart of `{}` is entry {}",
            args.component, accepted.head.seq
        ));
        let of = BTreeSet::from([args.component]);
        progress::finish(&client, &accepted, Some(&of), &args.wait, context.json()).await
    })
}
