//! The command line of the harness, and what a run is made of. Nothing here measures.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Measure realm beside its peers
///
/// `make bench` builds what this needs and starts it. Servers and load generator share exactly
/// two cores. Rounds take turns, so that a noisy machine is noisy for everybody.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100)]
pub(crate) struct Args {
    /// Short rounds, to see that everything works: its figures are not for comparing
    #[arg(long)]
    pub(crate) quick: bool,

    /// Only this case; repeatable [default: all but `nodes-growth`, which takes an hour, and `work`]
    #[arg(long = "case", value_name = "NAME")]
    pub(crate) cases: Vec<String>,

    /// Print the names of the cases, and stop
    #[arg(long)]
    pub(crate) list: bool,

    /// Exit with 1 if a target is missed
    #[arg(long)]
    pub(crate) strict: bool,

    /// Print Markdown for docs/benchmarks.md on stdout instead of plain tables
    #[arg(long)]
    pub(crate) markdown: bool,

    /// Write them into this file, between its marks
    #[arg(long, value_name = "FILE")]
    pub(crate) docs: Option<PathBuf>,

    /// Rounds per contender [default: 5; with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,

    /// Seconds per round and contender [default: 5; with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,

    /// Idle components of one digest in the case `idle` [default: 10000; with --quick 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) idle: Option<u32>,

    /// Agents in the case `nodes`; repeatable [default: 50 and 100; with --quick 10 and 25]
    #[arg(long, value_name = "N", value_parser = count_of_agents)]
    pub(crate) nodes: Vec<usize>,

    /// Minutes of the case `nodes-growth` [default: 60; with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_440))]
    pub(crate) minutes: Option<u64>,

    /// Threads of the load generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: u32,

    /// Connections of the load generator
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) connections: u32,

    /// The two cores [default: the first two that this process may use]
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1)]
    pub(crate) cores: Vec<usize>,

    /// Cores of the load generator in the case `fastcgi` [default: those of the servers]
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1)]
    pub(crate) load_cores: Vec<usize>,

    /// The realm to measure
    #[arg(long, value_name = "FILE", env = "REALM_BENCH_REALM")]
    pub(crate) realm: PathBuf,

    /// The folder of the examples, built
    #[arg(long, value_name = "DIR", env = "REALM_BENCH_EXAMPLES")]
    pub(crate) examples: PathBuf,

    /// The folder of the harness's own guests, built
    #[arg(long, value_name = "DIR", env = "REALM_BENCH_GUESTS")]
    pub(crate) guests: PathBuf,

    /// Host and edge without the agent: `bench/host`, built
    #[arg(long, value_name = "FILE", env = "REALM_BENCH_HOST")]
    pub(crate) host: PathBuf,

    /// `wasmtime`, version 48
    #[arg(
        long,
        value_name = "FILE",
        env = "REALM_BENCH_WASMTIME",
        default_value = "wasmtime"
    )]
    pub(crate) wasmtime: PathBuf,

    /// `nginx`
    #[arg(
        long,
        value_name = "FILE",
        env = "REALM_BENCH_NGINX",
        default_value = "nginx"
    )]
    pub(crate) nginx: PathBuf,

    /// `haproxy`
    #[arg(
        long,
        value_name = "FILE",
        env = "REALM_BENCH_HAPROXY",
        default_value = "haproxy"
    )]
    pub(crate) haproxy: PathBuf,

    /// `workerd`
    #[arg(
        long,
        value_name = "FILE",
        env = "REALM_BENCH_WORKERD",
        default_value = "workerd"
    )]
    pub(crate) workerd: PathBuf,

    /// Where the report, the logs and the settings of the servers go
    #[arg(long, value_name = "DIR", env = "REALM_BENCH_OUT")]
    pub(crate) out: PathBuf,

    /// The commit that is measured, for the report
    #[arg(
        long,
        value_name = "ID",
        env = "REALM_BENCH_COMMIT",
        default_value = "unknown"
    )]
    pub(crate) commit: String,
}

/// One is killed, half of them stand still; the names have three digits.
fn count_of_agents(text: &str) -> Result<usize, String> {
    let count = text.parse().ok();
    let count = count.filter(|count| (3..=1_000).contains(count));
    count.ok_or_else(|| "a number from 3 to 1000".to_owned())
}

impl Args {
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    pub(crate) fn round_time(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 1 } else { 5 }))
    }

    /// Repeats of what takes milliseconds: starts, deploys.
    pub(crate) fn repeats(&self) -> u32 {
        if self.quick { 3 } else { 11 }
    }
}
