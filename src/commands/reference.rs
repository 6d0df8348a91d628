//! The hidden verb that prints docs/cli.md: the reference is the help text, never a second text.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::output;

/// Print docs/cli.md
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    let options = clap_markdown::MarkdownOptions::new()
        .title("The command line of realm".to_owned())
        .show_footer(false);
    let text = clap_markdown::help_markdown_command_custom(&crate::cli::command(), &options);
    output::data(text.trim_end());
    Ok(ExitCode::SUCCESS)
}
