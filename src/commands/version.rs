//! `realm version`: what this binary is.

use std::process::ExitCode;

use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Print the version of realm and of what it runs components with
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Version {
    realm: &'static str,
    wasmtime: &'static str,
    target: String,
    entry_format: u8,
}

pub(crate) fn run(context: &Context, _args: &Args) -> Result<ExitCode, Failure> {
    let version = Version {
        realm: env!("CARGO_PKG_VERSION"),
        wasmtime: realm_host::WASMTIME_VERSION,
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        entry_format: realm_model::entry::FORMAT,
    };
    if context.json() {
        output::json(&version)?;
    } else {
        output::data(&format!(
            "realm {} ({}, wasmtime {})",
            version.realm, version.target, version.wasmtime
        ));
    }
    Ok(ExitCode::SUCCESS)
}
