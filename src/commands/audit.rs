//! `realm audit`: who changed or ran what on a node.

use std::process::ExitCode;

use realm_model::api::AuditEntry;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::time::timestamp;

/// Show who changed or ran what on the node, the newest last
///
/// The agent's log has a line for each as well, and keeps it for longer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: &Args) -> Result<ExitCode, Failure> {
    let page = context.block_on(async { Ok(context.client().await?.audit().await?) })?;
    if context.json() {
        output::json(&page)?;
    } else {
        for entry in &page.entries {
            output::data(&line(entry));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(entry: &AuditEntry) -> String {
    let AuditEntry {
        caller, role, call, ..
    } = entry;
    format!(
        "{} {caller} ({role}) {call} [{}] {}",
        timestamp(entry.began_unix_ms),
        entry.outcome.as_deref().unwrap_or("runs"),
        entry.what
    )
}
