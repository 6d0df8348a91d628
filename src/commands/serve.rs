//! `realm serve`: one HTTP component or command, without a realm.

use std::net::SocketAddr;
use std::process::ExitCode;

use realm_model::grants::ClockGrant;
use realm_model::limits::Limits;
use realm_node::standalone;

use crate::alone::{Alone, failure};
use crate::failure::Failure;
use crate::output;
use crate::signals::Signals;

/// Serve an HTTP component or a command over HTTP, without a realm
///
/// The first line on stderr says where: `Serving HTTP on http://127.0.0.1:PORT/`. SIGINT ends it
/// after the requests in flight.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    addr: SocketAddr,

    /// Let one instance serve many requests, one after the other: faster, and what one request
    /// leaves in its memory is there for the next
    #[arg(long)]
    reuse: bool,

    /// Give a command an argument; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    arg: Vec<String>,

    #[command(flatten)]
    alone: Alone,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let (bytes, mut options) = args.alone.options(Limits::default(), ClockGrant::Coarse)?;
    options.reuse = args.reuse;
    options.grants.args = args.arg;
    super::agent::on_runtime(async {
        let mut signals = Signals::catch()?;
        let announce = |address| output::note(&format!("Serving HTTP on http://{address}/"));
        let until = async {
            signals.next().await;
        };
        standalone::serve(bytes, options, args.addr, announce, until)
            .await
            .map_err(|error| failure(error, "`realm inspect FILE` shows what it exports"))?;
        Ok(ExitCode::SUCCESS)
    })
}
