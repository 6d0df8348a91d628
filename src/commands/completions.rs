//! `realm completions`: completion scripts for shells.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::output;

/// Print a completion script for a shell
///
/// For bash: `realm completions bash > ~/.local/share/bash-completion/completions/realm`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::cli::command(), "realm", &mut script);
    let script =
        String::from_utf8(script).map_err(|error| Failure::from_error("internal", &error))?;
    output::data(script.trim_end());
    Ok(ExitCode::SUCCESS)
}
