//! `realm submit`: hands over an entry that was signed elsewhere.

use std::path::PathBuf;
use std::process::ExitCode;

use realm_model::entry::{ChainId, ENTRY_BYTES_MAX};

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::{files, output};

/// More than an entry may have: the agent is asked, and says `oversized`.
const FILE_BYTES_MAX: u64 = 2 * ENTRY_BYTES_MAX as u64;

/// Submit an entry that was signed on another machine
///
/// `realm apply --sign-only ENTRY` writes such a file: the owner key can stay on a machine that
/// never meets the agent. The bytes of `file:` sources follow with `realm push COMPONENT FILE`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file with the entry
    #[arg(value_name = "ENTRY")]
    file: PathBuf,

    /// The chain that it extends
    #[arg(long, value_name = "CHAIN", default_value = "default")]
    chain: String,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let entry = files::read(&args.file, FILE_BYTES_MAX)?;
    let chain = ChainId::of(&args.chain).ok_or_else(|| {
        Failure::new("usage", format!("no chain `{}`", args.chain)).exit(exit::USAGE)
    })?;
    let accepted =
        context.block_on(async { Ok(context.client().await?.submit(chain, entry).await?) })?;
    if context.json() {
        output::json(&accepted)?;
    } else {
        output::data(&format!(
            "accepted as entry {} of `{}`; version {} is in force",
            accepted.head.seq,
            chain.as_str(),
            accepted.version
        ));
    }
    Ok(ExitCode::SUCCESS)
}
