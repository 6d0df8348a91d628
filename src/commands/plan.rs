//! `realm plan`: what apply would change, and what would run where.

mod places;

use std::path::PathBuf;
use std::process::ExitCode;

use realm_control::changes::Change;
use realm_model::api::AskPlacement;
use realm_model::entry::NamespaceName;
use realm_model::name::ComponentName;
use realm_model::why::PlacementView;
use realm_node::ClientError;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::resolve::{Proposal, read_manifest};
use crate::{output, sign};

/// Show what `apply` would change, and what would run where
///
/// Lines begin with + (added), ~ (changed) or - (removed). Exit code 0: nothing would change; 2: something would. Nothing is signed, and nothing is changed by
/// asking. Where things would run is what the node that answers would say at this moment: without an
/// agent, by the log in the realm folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest
    #[arg(default_value = "realm.toml")]
    manifest: PathBuf,

    /// Say in full why components would not be on a node
    #[arg(long)]
    why: bool,

    #[command(flatten)]
    of: sign::Of,
}

#[derive(Serialize)]
struct PlanJson<'a> {
    version_in_force: u64,
    version: u64,
    changes: &'a [Change],
    /// Components whose pushed bytes give way to those of their source.
    taken_back: &'a [ComponentName],
    /// Null: the agent is of a version that does not say.
    placement: Option<&'a PlacementView>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.block_on(async {
        let standing = match context.standing(args.of.namespace).await {
            Ok(standing) => standing,
            Err(failure) => {
                // Without a realm there is nothing to compare with, but mistakes can be told.
                read_manifest(&args.manifest, context.json())?;
                return Err(failure);
            }
        };
        let proposal = Proposal::make(&args.manifest, &standing, context.json()).await?;
        let placement = placement(context, &proposal, args.of.namespace).await?;
        let (manifest, _) = realm_model::manifest::parse(&proposal.body.manifest);
        if let (Some(placement), Some(manifest)) = (&placement, &manifest) {
            for line in places::stores_apart(placement, manifest) {
                output::note(&line);
            }
        }
        proposal.tell_taken_back();
        if context.json() {
            output::json(&PlanJson {
                version_in_force: standing.version,
                version: proposal.version,
                changes: &proposal.changes,
                taken_back: &proposal.taken_back,
                placement: placement.as_ref(),
            })?;
        } else {
            let mut text = if proposal.differs(&standing) {
                proposal.text()
            } else {
                format!(
                    "plan: nothing to change, version {} is in force",
                    standing.version
                )
            };
            if let Some(placement) = &placement {
                text += &places::text(placement, args.why);
            }
            output::data(&text);
        }
        Ok(if proposal.differs(&standing) {
            ExitCode::from(exit::CHANGES)
        } else {
            ExitCode::SUCCESS
        })
    })
}

/// What would run where; `None` where an agent of an older version answers.
async fn placement(
    context: &Context,
    proposal: &Proposal,
    namespace: NamespaceName,
) -> Result<Option<PlacementView>, Failure> {
    let asked = AskPlacement {
        namespace,
        manifest: proposal.body.manifest.clone(),
        lock: proposal.body.lock.clone(),
    };
    match context.client().await?.placement(&asked).await {
        Ok(placement) => Ok(Some(placement)),
        Err(ClientError::NotRunning { .. }) => {
            let placed = realm_node::offline_placement(&context.folder()?, &asked)
                .map_err(|error| Failure::from_error("bad-realm-folder", &error))?;
            Ok(Some(placed?))
        }
        // What is asked is no part of every role, and was no part of every version.
        Err(ClientError::Refused(error))
            if ["no-such-call", "forbidden", "busy"].contains(&error.code.as_str()) =>
        {
            output::note(&format!(
                "what would run where is not known: {}",
                output::within_line(&error.message)
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
