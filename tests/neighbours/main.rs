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

use neighbours::load::{Measured, steady};
use neighbours::{bad, beside, figures, hundredths, p99_ratio, surprises, target};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

/// What the p99 of a good neighbour may become beside 64 bad ones, of all kinds or of any one.
const P99_RATIO_MAX: f64 = 2.0;
const SECONDS: u64 = 60;
/// For each kind by itself.
const KIND_SECONDS: u64 = 10;

fn main() -> ExitCode {
    let seconds = number("NEIGHBOURS_SECONDS", SECONDS);
    let pace = Duration::from_millis(number("NEIGHBOURS_PACE_MS", 0));
    // Who is started inherits the cores.
    let cores = stay_on("CORES");
    let (_realm, agent) = neighbours::realm();
    let load_cores = stay_on("LOAD_CORES").or_else(|| cores.clone());
    let bad_cores = cores_of("BAD_CORES");
    let bad_places = bad_cores.as_deref().map(parsed);
    let report = neighbours::measure(
        &agent,
        &neighbours::Times {
            capacity: Duration::from_secs(8),
            alone: Duration::from_secs(seconds / 2),
            beside: Duration::from_secs(seconds),
            pace,
        },
        bad_places.as_ref(),
    );
    let kinds = by_kind(
        report.capacity_per_s / 2.0,
        pace,
        &agent,
        bad_places.as_ref(),
    );
    let metrics = agent.metrics_url.trim_end_matches("/metrics");
    let page = support::raw(
        metrics,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    let mut short = Vec::new();
    let all = (&report.beside, report.p99_ratio(), report.surprises());
    let each = kinds
        .iter()
        .map(|kind| (kind.name, &kind.beside, kind.ratio(), &kind.surprises));
    for (name, beside, ratio, surprises) in
        std::iter::once(("all kinds", all.0, all.1, &all.2)).chain(each)
    {
        if beside.failures > 0 {
            short.push(format!("{name}: {} requests failed", beside.failures));
        }
        if ratio > P99_RATIO_MAX {
            short.push(format!("{name}: p99 is {ratio:.2}x of what it is alone"));
        }
        short.extend(surprises.iter().cloned());
    }
    if report.alone.failures > 0 {
        short.push(format!("alone: {} requests failed", report.alone.failures));
    }
    let uncounted = neighbours::uncounted(&page);
    short.extend(
        uncounted
            .iter()
            .map(|series| format!("no metric: {series}")),
    );
    let mut told = report.json();
    told["cores"] = json!(cores);
    told["load_cores"] = json!(load_cores);
    told["bad_cores"] = json!(bad_cores.or(load_cores));
    told["pace_ms"] = json!(pace.as_millis());
    let kinds = kinds.iter().map(|kind| (kind.name.to_owned(), kind.json()));
    told["by_kind"] = kinds.collect::<serde_json::Map<_, _>>().into();
    told["falls_short"] = json!(short);
    println!("{told:#}");
    match short.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The good neighbour beside as many of one kind as of all together.
struct OfKind {
    name: &'static str,
    /// Before and after.
    alone: Measured,
    beside: Measured,
    bad: bad::Done,
    surprises: Vec<String>,
    /// Whoever has no core left is who delays: the agent, and the clients.
    cores_used: [f64; 2],
}

impl OfKind {
    fn ratio(&self) -> f64 {
        p99_ratio(&self.beside, &self.alone)
    }

    fn json(&self) -> Value {
        let mut told = figures(&self.beside);
        told["alone_p99_us"] = json!(self.alone.percentile_us(0.99));
        told["p99_ratio"] = json!(hundredths(self.ratio()));
        told["cores_used_by_agent_and_clients"] = json!(self.cores_used.map(hundredths));
        told["bad_in_flight"] = json!(hundredths(self.bad.in_flight()));
        told["bad_ends"] = json!(self.bad.endings.get(self.name));
        told["surprises"] = json!(self.surprises);
        told
    }
}

/// Kind by kind, each between two looks at what the good one does alone: what it is compared with
/// was measured in the same seconds.
fn by_kind(
    rate: f64,
    pace: Duration,
    agent: &support::Agent,
    cores: Option<&CpuSet>,
) -> Vec<OfKind> {
    let time = Duration::from_secs(number("NEIGHBOURS_KIND_SECONDS", KIND_SECONDS));
    let only = std::env::var("NEIGHBOURS_KIND").ok();
    let is_meant = |kind: &&bad::Bad| match &only {
        None => true,
        Some(names) => names.split(',').any(|name| name == kind.name),
    };
    if time.is_zero() {
        return Vec::new();
    }
    let mut before = steady(target(agent), rate, time / 2);
    let kinds = bad::ALL.iter().filter(is_meant).map(|kind| {
        let cpu_s = || [agent.id(), std::process::id()].map(support::cpu_seconds);
        let (used, began) = (cpu_s(), Instant::now());
        let kinds = std::slice::from_ref(kind);
        let (beside, bad) = beside(target(agent), (kinds, cores), rate, pace, time);
        let took_s = began.elapsed().as_secs_f64();
        let now = cpu_s();
        let cores_used = [0, 1].map(|who| (now[who] - used[who]) / took_s);
        let after = steady(target(agent), rate, time / 2);
        let mut alone = std::mem::replace(&mut before, after.clone());
        alone.add(after);
        OfKind {
            name: kind.name,
            alone,
            surprises: surprises(kinds, &bad.endings),
            beside,
            bad,
            cores_used,
        }
    });
    kinds.collect()
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Holds this thread, and what it starts, to the cores that the variable names.
fn stay_on(variable: &str) -> Option<String> {
    let text = cores_of(variable)?;
    sched_setaffinity(None, &parsed(&text)).unwrap();
    Some(text)
}

fn cores_of(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

/// `2,3`
fn parsed(text: &str) -> CpuSet {
    let mut cores = CpuSet::new();
    for core in text.split(',') {
        cores.set(core.parse().unwrap());
    }
    cores
}
