//! From the start of a process to its first answer, with the component known: realm's agent with
//! its state on disk, `wasmtime serve` with a compiled file. In turn; what a person waits for
//! after a restart.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::cases::example;
use crate::http;
use crate::peers::Tools;
use crate::process::{self, Memory};
use crate::realm::{Realm, manifest_of_one};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::server::{Server, free_address};
use crate::stats::Spread;

/// Between two questions: short against what is measured, and little work for the two cores.
const PAUSE: Duration = Duration::from_micros(100);
/// A start that takes longer than this is no start.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// An agent with a component in it, before anybody asks anything of it in earnest.
const IDLE_RSS_MAX_MB: f64 = 40.0;
/// Until what a start leaves behind is done.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) fn start(tools: &Tools<'_>, _: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let folder = tools.folder("start")?;
    let guest = example(tools, "hello.wasm")?;
    let realm = prepared_realm(tools, &folder, &guest)?;
    let compiled = folder.join("hello.cwasm");
    compile(tools, &guest, &compiled)?;

    let (mut mine, mut theirs, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    // The first of each fills the page cache, and is not counted.
    for repeat in 0..=tools.args.repeats() {
        let (time, memory) = first_answer(|| realm.agent("realm", &folder.join("realm.log")))?;
        let (other, _) = first_answer(|| serve_compiled(tools, &compiled, &folder))?;
        if repeat > 0 {
            mine.push(time);
            theirs.push(other);
            idle.push(memory);
        }
    }
    report(&mine, &theirs, &idle, began)
}

/// Starts of realm alone.
pub(crate) fn alone(tools: &Tools<'_>) -> Result<()> {
    let folder = tools.folder("work-start")?;
    let realm = prepared_realm(tools, &folder, &example(tools, "hello.wasm")?)?;
    for _ in 0..tools.args.repeats() {
        first_answer(|| realm.agent("realm", &folder.join("realm.log")))?;
    }
    Ok(())
}

/// A realm folder whose component is compiled and in force; its agent is stopped.
fn prepared_realm(tools: &Tools<'_>, folder: &Path, guest: &Path) -> Result<Realm> {
    let realm = Realm::new(&tools.args.realm)?;
    let mut agent = realm.agent("realm", &folder.join("realm.log"))?;
    agent.listens()?;
    realm.apply(&manifest_of_one(guest, ""))?;
    agent.answers("GET", "/", b"")?;
    Ok(realm)
}

fn compile(tools: &Tools<'_>, guest: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new(&tools.args.wasmtime);
    command.arg("compile").arg(guest).arg("-o").arg(to);
    let status = command
        .status()
        .context("`wasmtime compile` does not start")?;
    if !status.success() {
        bail!("`wasmtime compile` failed with {status}");
    }
    Ok(())
}

fn serve_compiled(tools: &Tools<'_>, compiled: &Path, folder: &Path) -> Result<Server> {
    let address = free_address()?;
    let mut command = Command::new(&tools.args.wasmtime);
    command.args(["serve", "-Scli", "--allow-precompiled", "--addr"]);
    command.arg(address.to_string()).arg(compiled);
    Server::start(
        "wasmtime serve",
        address,
        command,
        &folder.join("wasmtime.log"),
    )
}

/// Milliseconds from before the start of the process to the end of its first 200; and what it has
/// resident a moment later.
fn first_answer(start: impl FnOnce() -> Result<Server>) -> Result<(f64, Memory)> {
    let began = Instant::now();
    let server = start()?;
    loop {
        if http::ask(server.address, "GET", "/", b"").is_ok_and(|answer| answer.status == 200) {
            break;
        }
        if began.elapsed() > START_TIME_MAX {
            bail!("{} does not answer\n{}", server.name, server.last_words());
        }
        std::thread::sleep(PAUSE);
    }
    let took = began.elapsed().as_secs_f64() * 1e3;
    std::thread::sleep(SETTLE);
    let memory = process::memory(server.id())?;
    Ok((took, memory))
}

#[expect(clippy::cast_precision_loss, reason = "kilobytes")]
fn report(mine: &[f64], theirs: &[f64], idle: &[Memory], began: Instant) -> Result<CaseReport> {
    let spread =
        |values: &[f64]| Spread::of(values.iter().copied()).context("nothing was measured");
    let row = |who: &str, one: Spread| {
        vec![
            who.to_owned(),
            digits(one.median),
            format!("{}–{}", digits(one.min), digits(one.max)),
        ]
    };
    let ratios: Vec<f64> = mine.iter().zip(theirs).map(|(a, b)| a / b).collect();
    let rss: Vec<f64> = idle.iter().map(|one| one.rss_kb as f64 / 1e3).collect();
    let anon = spread(
        &idle
            .iter()
            .map(|one| one.anon_kb as f64 / 1e3)
            .collect::<Vec<_>>(),
    )?;
    let file = spread(
        &idle
            .iter()
            .map(|one| one.file_kb as f64 / 1e3)
            .collect::<Vec<_>>(),
    )?;
    Ok(CaseReport {
        name: "start".to_owned(),
        title: "process start to the first 200, with a known digest; and the idle agent".to_owned(),
        notes: vec![
            "realm reads its log and its keys, checks every signature and the compiled file; `wasmtime serve` has `--allow-precompiled`.".to_owned(),
            format!("{} starts of each, in turn; asked every 100 µs.", mine.len()),
        ],
        tables: vec![Table {
            head: vec!["who", "median", "min–max"],
            rows: vec![
                row("realm agent, ms to the first 200", spread(mine)?),
                row("wasmtime serve, compiled file, ms", spread(theirs)?),
                row("realm agent idle, RSS MB", spread(&rss)?),
                row("of it anonymous", anon),
                row("of it files", file),
            ],
        }],
        verdicts: vec![
            Verdict::new(
                "start",
                "time to the first 200: realm / wasmtime serve",
                spread(&ratios)?,
                "x",
                Bound::AtMost(1.0),
            ),
            Verdict::new(
                "start",
                "RSS of the idle agent",
                spread(&rss)?,
                "MB",
                Bound::AtMost(IDLE_RSS_MAX_MB),
            ),
        ],
        raw: json!({ "realm_ms": mine, "wasmtime_ms": theirs, "idle": idle }),
        took_s: began.elapsed().as_secs_f64(),
    })
}
