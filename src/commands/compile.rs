//! The hidden verb that the agent starts as a child process to compile a component.
//!
//! A child of low priority: two cores keep their latency during a deploy, and the compiler's
//! memory goes back to the system. Not a way to bring compiled code in: it reads the original bytes
//! and checks their digest itself.

use std::path::PathBuf;
use std::process::ExitCode;

use realm_model::digest::Digest;

use crate::failure::Failure;

/// Compile a component into the cache (the agent calls this)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The component's bytes
    #[arg(long)]
    source: PathBuf,
    /// SHA-256 that they must have
    #[arg(long)]
    digest: Digest,
    /// Where the compiled form goes
    #[arg(long)]
    destination: PathBuf,
    /// Count fuel
    #[arg(long)]
    fuel: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    realm_node::compile_child(&args.source, &args.digest, &args.destination, args.fuel)
        .map_err(|error| Failure::new(error.code, error.message))?;
    Ok(ExitCode::SUCCESS)
}
