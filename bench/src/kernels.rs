//! What each limit costs a guest that computes: the same kernels with code that checks nothing,
//! the epoch, fuel, or both. Wasmtime's own program shows what the checks cost; realm is beside
//! it, where the epoch is always on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::cases::built;
use crate::peers::Tools;
use crate::report::{CaseReport, Table, digits};

const KERNELS: &[&str] = &["sieve", "fib", "hashmap", "format"];
/// Of one run of the guest: the first warms up.
const REPEATS: &str = "3";
/// More than any kernel uses.
const FUEL: &str = "fuel=1000000000000000000";
const TIMEOUT: &str = "timeout=600s";

/// A program, and the flags that make it check.
struct Mode {
    name: &'static str,
    realm: bool,
    flags: &'static [&'static str],
}

const MODES: &[Mode] = &[
    Mode {
        name: "none",
        realm: false,
        flags: &[],
    },
    Mode {
        name: "epoch",
        realm: false,
        flags: &["-W", TIMEOUT],
    },
    Mode {
        name: "fuel",
        realm: false,
        flags: &["-W", FUEL],
    },
    Mode {
        name: "both",
        realm: false,
        flags: &["-W", TIMEOUT, "-W", FUEL],
    },
    Mode {
        name: "realm: epoch",
        realm: true,
        flags: &[],
    },
    Mode {
        name: "realm: both",
        realm: true,
        flags: &["--fuel-per-sec", "1000000000000"],
    },
];

pub(crate) fn kernels(tools: &Tools<'_>, _: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let guest = built(&tools.args.guests.join("bench-kernels.wasm"))?;
    let rounds = if tools.args.quick { 1 } else { 5 };
    let mut raw: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut results: BTreeMap<&str, String> = BTreeMap::new();
    for _ in 0..rounds {
        for kernel in KERNELS {
            for mode in MODES {
                for (time, result) in run(tools, mode, &guest, kernel)? {
                    let expected = results.entry(kernel).or_insert_with(|| result.clone());
                    if *expected != result {
                        bail!(
                            "`{kernel}` computed {result} with {}, and {expected} before",
                            mode.name
                        );
                    }
                    raw.entry((kernel, mode.name)).or_default().push(time);
                }
            }
        }
    }
    report(&raw, rounds, began)
}

/// Milliseconds by the guest's own clock, and what it computed.
fn run(
    tools: &Tools<'_>,
    mode: &Mode,
    guest: &PathBuf,
    kernel: &str,
) -> Result<Vec<(f64, String)>> {
    let program = if mode.realm {
        &tools.args.realm
    } else {
        &tools.args.wasmtime
    };
    let mut command = Command::new(program);
    command
        .env("RUST_BACKTRACE", "0")
        .arg("run")
        .args(mode.flags);
    let output = command.arg(guest).args([kernel, REPEATS]).output();
    let output = output.with_context(|| format!("`{}` does not start", program.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("`{kernel}` failed with {}: {}", mode.name, why.trim());
    }
    let said = String::from_utf8(output.stdout).context("the guest prints no text")?;
    let line = |line: &str| {
        let (time, result) = line.split_once(' ')?;
        Some((time.parse::<f64>().ok()? / 1e3, result.to_owned()))
    };
    said.lines()
        .map(|text| line(text).with_context(|| format!("`{text}`")))
        .collect()
}

fn report(
    raw: &BTreeMap<(&str, &str), Vec<f64>>,
    rounds: u32,
    began: Instant,
) -> Result<CaseReport> {
    let best = |kernel: &str, mode: &str| {
        let times = raw
            .get(&(kernel, mode))
            .context("a kernel that did not run")?;
        Ok::<f64, anyhow::Error>(times.iter().copied().fold(f64::INFINITY, f64::min))
    };
    let mut rows = Vec::new();
    for kernel in KERNELS {
        let plain = best(kernel, MODES[0].name)?;
        let mut row = vec![(*kernel).to_owned(), digits(plain)];
        for mode in &MODES[1..] {
            row.push(format!(
                "{:+.0} %",
                (best(kernel, mode.name)? / plain - 1.0) * 100.0
            ));
        }
        rows.push(row);
    }
    let raw: BTreeMap<String, &Vec<f64>> = raw
        .iter()
        .map(|((kernel, mode), times)| (format!("{kernel}, {mode}"), times))
        .collect();
    Ok(CaseReport {
        name: "kernels".to_owned(),
        title: "what each limit costs a guest that computes".to_owned(),
        notes: vec![
            format!("Best of {} runs by the guest's own clock; the first column with `wasmtime run` and no limit, the others as what they take longer.", rounds * 3),
            "The columns in the middle: `wasmtime run` with an epoch deadline, fuel, both. The last two: `realm run`, where the epoch is always on, and with `fuel_per_sec`; its clock has steps of 1 ms.".to_owned(),
        ],
        tables: vec![Table {
            head: vec!["kernel", "none, ms", "epoch", "fuel", "both", "realm: epoch", "realm: both"],
            rows,
        }],
        verdicts: Vec::new(),
        raw: json!({ "milliseconds": raw }),
        took_s: began.elapsed().as_secs_f64(),
    })
}
