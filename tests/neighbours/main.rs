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
use std::time::{Duration, Instant};

use neighbours::{Report, bad, beside, figures, target};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

/// What the p99 of a good neighbour may become beside 64 bad ones.
const P99_RATIO_MAX: f64 = 2.0;
const SECONDS: u64 = 60;
/// What the kernel counts a process's time in, for whoever reads it.
const TICKS_PER_S: f64 = 100.0;
/// For each kind by itself.
const KIND_SECONDS: u64 = 10;

fn main() -> ExitCode {
    let seconds = seconds("NEIGHBOURS_SECONDS", SECONDS);
    // Who is started inherits the cores.
    let cores = stay_on("CORES");
    let (_realm, agent) = neighbours::realm();
    let load_cores = stay_on("LOAD_CORES").or_else(|| cores.clone());
    let report = neighbours::measure(
        &agent,
        &neighbours::Times {
            capacity: Duration::from_secs(8),
            alone: Duration::from_secs(seconds / 2),
            beside: Duration::from_secs(seconds),
        },
    );
    let (kinds, failures) = by_kind(&report, &agent);
    let mut told = report.json();
    told["cores"] = json!(cores);
    told["load_cores"] = json!(load_cores);
    told["by_kind"] = kinds;
    println!("{told:#}");
    let metrics = agent.metrics_url.trim_end_matches("/metrics");
    let page = support::raw(
        metrics,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    let good = report.beside.failures == 0
        && report.alone.failures == 0
        && failures == 0
        && report.surprises().is_empty()
        && neighbours::uncounted(&page).is_empty()
        && report.p99_ratio() <= P99_RATIO_MAX;
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// As many of one kind as of all together, kind by kind: who is it that costs something?
fn by_kind(report: &Report, agent: &support::Agent) -> (Value, u64) {
    let time = Duration::from_secs(seconds("NEIGHBOURS_KIND_SECONDS", KIND_SECONDS));
    let only = std::env::var("NEIGHBOURS_KIND").ok();
    let is_meant = |kind: &&bad::Bad| only.as_ref().is_none_or(|only| only == kind.name);
    let mut failures = 0;
    let kinds = bad::ALL.iter().filter(|_| !time.is_zero());
    let kinds = kinds.filter(is_meant).map(|kind| {
        let rate = report.capacity_per_s / 2.0;
        let cpu_s = || [agent.id(), std::process::id()].map(cpu_seconds);
        let (before, began) = (cpu_s(), Instant::now());
        let (measured, endings) = beside(target(agent), std::slice::from_ref(kind), rate, time);
        let took_s = began.elapsed().as_secs_f64();
        let used = std::iter::zip(cpu_s(), before).map(|(after, before)| (after - before) / took_s);
        failures += measured.failures;
        let mut told = figures(&measured);
        // Whoever has no core left is who delays.
        told["cores_used_by_agent_and_clients"] = used.collect();
        let ratio = report.p99_ratio_of(&measured);
        told["bad_ends"] = json!(endings.get(kind.name));
        told["p99_ratio"] = json!((ratio * 100.0).round() / 100.0);
        (kind.name.to_owned(), told)
    });
    let kinds = kinds.collect::<serde_json::Map<_, _>>();
    (kinds.into(), failures)
}

/// What a process used of the processors.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name, in brackets, may hold anything.
    let figures = stat.rsplit_once(") ").unwrap().1;
    let ticks = figures.split(' ').skip(11).take(2);
    let ticks: u32 = ticks.map(|one| one.parse::<u32>().unwrap()).sum();
    f64::from(ticks) / TICKS_PER_S
}

fn seconds(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Holds this thread, and what it starts, to the cores that the variable names: `2,3`.
fn stay_on(variable: &str) -> Option<String> {
    let text = std::env::var(variable)
        .ok()
        .filter(|text| !text.is_empty())?;
    let mut cores = CpuSet::new();
    for core in text.split(',') {
        cores.set(core.parse().unwrap());
    }
    sched_setaffinity(None, &cores).unwrap();
    Some(text)
}
