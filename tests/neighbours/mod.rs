//! A healthy component at half of what it can do alone, beside 64 bad requests at any time.
//!
//! Measured in one run: first how much it can do, then its latencies alone, then beside the
//! others. A short run is a test (tests/e2e/neighbours.rs); the long one, in a release build and
//! on two cores, is `scripts/neighbours.sh`.

pub(crate) mod bad;
pub(crate) mod load;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Agent, Realm, figure};
use bad::{Bad, Endings};
use load::{Measured, Target};

/// Bad requests in flight at any time.
const BAD_CLIENTS: usize = 64;
/// So that every kind is in flight before the first answer counts.
const RUN_UP: Duration = Duration::from_secs(1);

/// How long each part is measured.
pub(crate) struct Times {
    pub(crate) capacity: Duration,
    pub(crate) alone: Duration,
    pub(crate) beside: Duration,
}

pub(crate) struct Report {
    pub(crate) capacity_per_s: f64,
    pub(crate) alone: Measured,
    pub(crate) beside: Measured,
    pub(crate) endings: Endings,
}

/// A realm with all of them, as a person would write it: with the default limits.
pub(crate) fn realm() -> (Realm, Agent) {
    let realm = Realm::new();
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

pub(crate) fn measure(agent: &Agent, times: &Times) -> Report {
    let target = target(agent);
    // The first answers pay for what is made once.
    load::capacity(target, times.capacity / 4);
    let capacity_per_s = load::capacity(target, times.capacity);
    let rate = capacity_per_s / 2.0;
    // Before and after: what else the machine does changes while it is measured.
    let mut alone = load::steady(target, rate, times.alone / 2);
    let (beside, endings) = beside(target, &bad::ALL, rate, times.beside);
    alone.add(load::steady(target, rate, times.alone / 2));
    Report {
        capacity_per_s,
        alone,
        beside,
        endings,
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
    kinds: &[Bad],
    rate: f64,
    time: Duration,
) -> (Measured, Endings) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let bad = scope.spawn(|| bad::run(target.address, kinds, BAD_CLIENTS, &stop));
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
    })
}

impl Report {
    pub(crate) fn p99_ratio(&self) -> f64 {
        self.p99_ratio_of(&self.beside)
    }

    /// How much slower than alone.
    pub(crate) fn p99_ratio_of(&self, beside: &Measured) -> f64 {
        f64::from(beside.percentile_us(0.99)) / f64::from(self.alone.percentile_us(0.99))
    }

    /// Bad requests that ended otherwise than documented, and kinds that never came to an end.
    pub(crate) fn surprises(&self) -> Vec<String> {
        let mut surprises = Vec::new();
        for bad in &bad::ALL {
            let Some(endings) = self.endings.get(bad.name) else {
                surprises.push(format!("{}: never ended", bad.name));
                continue;
            };
            for (ending, times) in endings {
                // A replica at its own limit sheds, and says so.
                let expected = bad.endings.contains(&ending.as_str()) || ending == "503 overloaded";
                if !expected {
                    surprises.push(format!("{}: {ending}, {times} times", bad.name));
                }
            }
        }
        surprises
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "capacity_per_s": self.capacity_per_s.round(),
            "rate_per_s": (self.capacity_per_s / 2.0).round(),
            "bad_clients": BAD_CLIENTS,
            "alone": figures(&self.alone),
            "beside": figures(&self.beside),
            "p99_ratio": (self.p99_ratio() * 100.0).round() / 100.0,
            "bad": self.endings,
            "surprises": self.surprises(),
        })
    }
}
