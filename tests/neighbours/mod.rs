//! A healthy component at half of what it can do alone, beside 64 bad requests.
//!
//! Measured in one run: first how much it can do, then its latencies alone, then beside the
//! others, and alone once more. 64 clients ask badly, and whoever is done begins again at once, so
//! that 64 requests are under way at any time but for the moments between two; how many there were
//! is counted and told. The run in a debug build is a test (tests/e2e/neighbourhood.rs); the one in
//! a release build and on two cores, kind by kind as well, is `scripts/neighbours.sh`.

pub(crate) mod bad;
pub(crate) mod load;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

use crate::support::{Agent, Realm, figure};
use bad::{Bad, Done, Endings};
use load::{Measured, Target};

/// Bad requests at a time.
pub(crate) const BAD_CLIENTS: usize = 64;
/// So that every kind is in flight before the first answer counts.
const RUN_UP: Duration = Duration::from_secs(1);

/// How long each part is measured.
pub(crate) struct Times {
    pub(crate) capacity: Duration,
    pub(crate) alone: Duration,
    pub(crate) beside: Duration,
    /// From one bad request of a client to its next, at least.
    pub(crate) pace: Duration,
}

pub(crate) struct Report {
    pub(crate) capacity_per_s: f64,
    pub(crate) alone: Measured,
    pub(crate) beside: Measured,
    pub(crate) bad: Done,
}

/// A realm with all of them, as a person would write it: with the default limits, but for guests
/// that wait, which are ended after 3 s, so that some come to their end.
pub(crate) fn realm() -> (Realm, Agent) {
    let mut realm = Realm::new();
    if let Some(program) = std::env::var_os("NEIGHBOURS_REALM") {
        realm.by(Path::new(&program));
    }
    realm.guest(realm_test_guests::HELLO, "healthy.wasm");
    for bad in &bad::ALL {
        realm.guest(bad.guest, &format!("{}.wasm", bad.name));
    }
    realm.write("realm.toml", &bad::manifest());
    let agent = realm.agent();
    realm.run(&["apply", "--yes", "--timeout", "2m"]).ok();
    (realm, agent)
}

/// Kinds whose ends the metrics do not show.
pub(crate) fn uncounted(page: &str) -> Vec<String> {
    let counted = bad::ALL.iter().filter(|bad| !bad.outcome.is_empty());
    let series = counted.map(|bad| {
        let (name, outcome) = (bad.name, bad.outcome);
        format!("wasm_invocations_total{{component=\"{name}\",outcome=\"{outcome}\"}}")
    });
    series.filter(|series| figure(page, series) < 1.0).collect()
}

/// The bad clients stay on `cores`; `None`: where the good ones are.
pub(crate) fn measure(agent: &Agent, times: &Times, cores: Option<&CpuSet>) -> Report {
    let target = target(agent);
    // The first answers pay for what is made once.
    load::capacity(target, times.capacity / 4);
    let capacity_per_s = load::capacity(target, times.capacity);
    let rate = capacity_per_s / 2.0;
    // Before and after: what else the machine does changes while it is measured.
    let mut alone = load::steady(target, rate, times.alone / 2);
    let (beside, bad) = beside(target, (&bad::ALL, cores), rate, times.pace, times.beside);
    alone.add(load::steady(target, rate, times.alone / 2));
    Report {
        capacity_per_s,
        alone,
        beside,
        bad,
    }
}

pub(crate) fn target(agent: &Agent) -> Target<'static> {
    Target {
        address: agent
            .url
            .trim_start_matches("http://")
            .parse()
            .expect("an address"),
        path: "/healthy/",
        text: "hello\n",
    }
}

/// What the healthy component does beside bad ones of these kinds, and what becomes of those.
pub(crate) fn beside(
    target: Target<'_>,
    (kinds, cores): (&[Bad], Option<&CpuSet>),
    rate: f64,
    pace: Duration,
    time: Duration,
) -> (Measured, Done) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let bad = scope.spawn(|| {
            if let Some(cores) = cores {
                // Its clients inherit them.
                sched_setaffinity(None, cores).expect("there are such cores");
            }
            bad::run(target.address, kinds, BAD_CLIENTS, pace, &stop)
        });
        thread::sleep(RUN_UP);
        let beside = load::steady(target, rate, time);
        stop.store(true, Relaxed);
        (beside, bad.join().expect("the bad do not panic"))
    })
}

/// What a person wants to know of a load.
pub(crate) fn figures(measured: &Measured) -> Value {
    json!({
        "answers": measured.answers(),
        "failures": measured.failures,
        "p50_us": measured.percentile_us(0.5),
        "p90_us": measured.percentile_us(0.9),
        "p99_us": measured.percentile_us(0.99),
        "p999_us": measured.percentile_us(0.999),
        "max_us": measured.percentile_us(1.0),
        "over_2_ms_by_second": measured.slow,
    })
}

/// How much slower than alone.
pub(crate) fn p99_ratio(beside: &Measured, alone: &Measured) -> f64 {
    f64::from(beside.percentile_us(0.99)) / f64::from(alone.percentile_us(0.99))
}

pub(crate) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Bad requests that ended otherwise than documented, and kinds that never came to an end.
pub(crate) fn surprises(kinds: &[Bad], endings: &Endings) -> Vec<String> {
    let mut surprises = Vec::new();
    for bad in kinds {
        let Some(endings) = endings.get(bad.name) else {
            surprises.push(format!("{}: never ended", bad.name));
            continue;
        };
        for (ending, times) in endings {
            // A replica at its own limit sheds, and says so.
            let expected = bad.endings.contains(&ending.as_str())
                || ["503 no-turn", "503 overloaded"].contains(&ending.as_str());
            if !expected {
                surprises.push(format!("{}: {ending}, {times} times", bad.name));
            }
        }
    }
    surprises
}

impl Report {
    pub(crate) fn p99_ratio(&self) -> f64 {
        p99_ratio(&self.beside, &self.alone)
    }

    pub(crate) fn surprises(&self) -> Vec<String> {
        surprises(&bad::ALL, &self.bad.endings)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "capacity_per_s": self.capacity_per_s.round(),
            "rate_per_s": (self.capacity_per_s / 2.0).round(),
            "bad_clients": BAD_CLIENTS,
            "bad_in_flight": hundredths(self.bad.in_flight()),
            "alone": figures(&self.alone),
            "beside": figures(&self.beside),
            "p99_ratio": hundredths(self.p99_ratio()),
            "bad": self.bad.endings,
            "surprises": self.surprises(),
        })
    }
}
