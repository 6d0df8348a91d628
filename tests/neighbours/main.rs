//! The long run: `scripts/neighbours.sh`. Figures as JSON on stdout, exit code 1 if they are bad.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a run that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "that is its output")]

#[path = "mod.rs"]
mod neighbours;
#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod support;

use std::process::ExitCode;
use std::time::Duration;

/// What the p99 of a good neighbour may become beside 64 bad ones.
const P99_RATIO_MAX: f64 = 2.0;
const SECONDS: u64 = 60;

fn main() -> ExitCode {
    let seconds = std::env::var("NEIGHBOURS_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let (_realm, agent) = neighbours::realm();
    let report = neighbours::measure(
        &agent,
        &neighbours::Times {
            capacity: Duration::from_secs(8),
            alone: Duration::from_secs(seconds / 2),
            beside: Duration::from_secs(seconds),
        },
    );
    println!("{:#}", report.json());
    let metrics = agent.metrics_url.trim_end_matches("/metrics");
    let page = support::raw(
        metrics,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    let good = report.beside.failures == 0
        && report.alone.failures == 0
        && report.surprises().is_empty()
        && neighbours::uncounted(&page).is_empty()
        && report.p99_ratio() <= P99_RATIO_MAX;
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
