//! `realm serve`: one HTTP component or command, without a realm.

use std::net::SocketAddr;
use std::process::ExitCode;

use realm_model::grants::ClockGrant;
use realm_model::limits::{self, Limits};
use realm_node::standalone;

use crate::alone::{Alone, failure, help};
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

    #[arg(long, help = help("Requests at once; as many may wait for a moment", &limits::MAX_CONCURRENCY))]
    #[arg(value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_concurrency: Option<u32>,

    #[arg(long, help = help("Bytes of one request body", &limits::MAX_REQUEST_BYTES))]
    #[arg(value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1024 * 1024 * 1024))]
    max_request_bytes: Option<u64>,

    #[arg(long, help = help("Bytes of the body of one answer", &"as long as it likes"))]
    #[arg(value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    max_response_bytes: Option<u64>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let absent = Limits::default();
    let defaults = Limits {
        max_concurrency: args.max_concurrency.unwrap_or(absent.max_concurrency),
        max_request_bytes: args.max_request_bytes.unwrap_or(absent.max_request_bytes),
        max_response_bytes: args.max_response_bytes,
        ..absent
    };
    let (bytes, mut options) = args.alone.options(defaults, ClockGrant::Coarse)?;
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
