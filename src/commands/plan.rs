//! `realm plan`: what apply would change.

use std::path::PathBuf;
use std::process::ExitCode;

use realm_control::changes::Change;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::resolve::{Proposal, read_manifest};
use crate::{output, sign};

/// Show what `apply` would change (+ added, ~ changed, - removed)
///
/// Exit code 0: nothing would change; 2: something would. Nothing is signed or sent.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest
    #[arg(default_value = "realm.toml")]
    manifest: PathBuf,

    #[command(flatten)]
    of: sign::Of,
}

#[derive(Serialize)]
struct PlanJson<'a> {
    version_in_force: u64,
    version: u64,
    changes: &'a [Change],
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
        if context.json() {
            output::json(&PlanJson {
                version_in_force: standing.version,
                version: proposal.version,
                changes: &proposal.changes,
            })?;
        } else {
            output::data(&if proposal.differs(&standing) {
                proposal.text()
            } else {
                format!(
                    "plan: nothing to change, version {} is in force",
                    standing.version
                )
            });
        }
        Ok(if proposal.differs(&standing) {
            ExitCode::from(exit::CHANGES)
        } else {
            ExitCode::SUCCESS
        })
    })
}
