//! `realm schema`: the JSON schema of realm.toml.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::output;

/// Print the JSON schema of realm.toml, for editors
///
/// Most editors with TOML support check and complete a file that begins with
/// `#:schema ./realm.schema.json`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    output::json(&realm_model::manifest::schema())?;
    Ok(ExitCode::SUCCESS)
}
