//! `realm run`: a command component, without a realm.

use std::process::ExitCode;

use bytes::Bytes;
use realm_model::grants::ClockGrant;
use realm_model::limits::Limits;
use realm_node::standalone;

use crate::alone::{Alone, failure, help};
use crate::context::Context;
use crate::failure::Failure;

/// Memory of a program by default: it is one, and its user sits before it.
const MEMORY_MAX_MB: u64 = 4_096;

/// Run a command component or a preview-1 module, without a realm
///
/// Exit code, stdin, stdout and stderr pass through. It reaches nothing that is not named here. With
/// --node it runs on that node, if `[exec] run` in its node.toml says so: directories are the node's,
/// the memory is 128 MiB unless it is named, and the clock is coarse.
#[derive(Debug, clap::Args)]
#[command(mut_arg("memory_max_mb", |arg| arg.help(help("MiB of memory", &MEMORY_MAX_MB))))]
// It is the same, and keeps its place among those that are not.
#[command(mut_arg("fuel_per_sec", |arg| arg))]
#[command(mut_arg("epoch_timeout_ms", |arg| arg.help(help("Milliseconds that it may run, waiting not counted", &"no end"))))]
#[command(mut_arg("wall_timeout_ms", |arg| arg.help(help("Milliseconds that it may take, waiting included", &"no end"))))]
pub(crate) struct Args {
    #[command(flatten)]
    alone: Alone,

    /// Arguments of the component; from the first one on all is its own, after `--` in any case
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    if context.node().is_some() {
        return on_node(context, args);
    }
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
            failure(error, "`realm serve FILE` serves an HTTP handler; `realm inspect FILE` shows what it exports")
        })?))
    })
}

/// Brings the bytes to the node, and runs them there.
fn on_node(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let (bytes, asked) = args.alone.for_node(args.args)?;
    context.on_small_runtime(async {
        let client = context.client().await?;
        let signer = client.signer(context.owner_key().await?).await?;
        if !client.has(&asked.digest).await? {
            let bytes = Bytes::from(bytes);
            let once = futures_util::stream::once(async { Ok(bytes) });
            client.upload(&asked.digest, once).await?;
        }
        let stream = client.run(&signer, &asked).await?;
        super::exec::talk(stream).await
    })
}
