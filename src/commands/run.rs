//! `realm run`: a command component, without a realm.

use std::process::ExitCode;

use realm_model::grants::ClockGrant;
use realm_model::limits::Limits;
use realm_node::standalone;

use crate::alone::Alone;
use crate::failure::Failure;

/// Memory of a program by default: it is one, and its user sits before it.
const MEMORY_MAX_MB: u64 = 4_096;

/// Run a command component or a preview-1 module, without a realm
///
/// Exit code, stdin, stdout and stderr pass through. It reaches nothing that is not named here.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    alone: Alone,

    /// Arguments of the component
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let defaults = Limits {
        memory_max_mb: MEMORY_MAX_MB,
        // A program runs for as long as it runs.
        epoch_timeout_ms: u64::MAX,
        wall_timeout_ms: u64::MAX,
        ..Limits::default()
    };
    let (bytes, options) = args.alone.options(defaults, ClockGrant::Precise)?;
    super::agent::on_runtime(async {
        let code = standalone::run(bytes, options, args.args).await;
        Ok(ExitCode::from(code.map_err(|error| {
            Failure::new(error.code, error.message)
        })?))
    })
}
