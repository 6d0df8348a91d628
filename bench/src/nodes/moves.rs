//! How long a component is away when the node with its only replica dies: from `kill -9` until another
//! node of the realm answers for it, by default and where the manifest waits less. Real processes on
//! loopback; a client asks a node that has never had the replica, every few milliseconds.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use super::crowd::Crowd;
use super::hop::address;
use super::{WHOLE_TIME_MAX, until_whole};
use crate::cases::example;
use crate::http;
use crate::machine;
use crate::peers::Tools;
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;

const NAME: &str = "moves";
const PATH: &str = "/hello/";
/// Nodes of the realm.
const NODES: usize = 3;
/// What a death may cost by default.
const AWAY_S_MAX: f64 = 45.0;
/// Until the component answers again, or something is wrong.
const BACK_TIME_MAX: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
/// One node of three may begin to count as lost within a minute: the next death waits for that.
const BETWEEN_DEATHS: Duration = Duration::from_secs(61);
/// What a manifest may say, and says nothing of by default.
const SETTINGS: [(&str, &str); 3] = [
    ("by default (30s)", ""),
    ("lost_after = \"10s\"", ", lost_after = \"10s\""),
    ("lost_after = \"1s\"", ", lost_after = \"1s\""),
];

/// One death.
#[derive(Debug, Serialize)]
struct Death {
    settings: &'static str,
    round: u32,
    /// From the kill until a request is answered again.
    away_s: f64,
}

pub(crate) fn moves(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    // Each node is a machine: it finds a core of its own, where there are so many.
    machine::put_on(&tools.all_cores)?;
    let measured = measure(tools);
    machine::put_on(cores)?;
    Ok(report(&measured?, began))
}

fn measure(tools: &Tools<'_>) -> Result<Vec<Death>> {
    let mut crowd = Crowd::found(&tools.args.realm, NODES)?;
    crowd.start_others()?;
    until_whole(&mut crowd, &[], WHOLE_TIME_MAX)?;
    let source = example(tools, "hello.wasm")?;
    let mut deaths = Vec::new();
    for (settings, keys) in SETTINGS {
        let manifest = format!(
            "[components.hello]\nsource = \"file:{}\"\n\n[routing]\n\
             \"*\" = [{{ path = \"{PATH}...\", component = \"hello\"{keys} }}]\n",
            source.display()
        );
        crowd.write("realm.toml", &manifest)?;
        crowd.say(0, &["apply", "--yes", "--timeout", "2m"])?;
        for round in 1..=tools.args.rounds() {
            let away_s = death(&mut crowd)?;
            eprintln!("  {NAME} round {round}, {settings}: away for {away_s:.2} s");
            deaths.push(Death {
                settings,
                round,
                away_s,
            });
        }
    }
    Ok(deaths)
}

/// Kills the node with the replica and brings it back; the seconds without an answer.
fn death(crowd: &mut Crowd) -> Result<f64> {
    let holder = holder(crowd)?;
    let asked = (0..NODES)
        .find(|at| *at != holder)
        .context("another node")?;
    let asks = address(&crowd.members[asked])?;
    let answers = || http::ask(asks, "GET", PATH, b"").is_ok_and(|answer| answer.status == 200);
    until("the component answers", answers)?;
    crowd.members[holder].kill()?;
    let died = Instant::now();
    // What was asked just before may still have come.
    std::thread::sleep(PAUSE);
    until("it answers again", answers)?;
    let away_s = died.elapsed().as_secs_f64();
    crowd.start(holder)?;
    until_whole(crowd, &[], WHOLE_TIME_MAX)?;
    until("its node has it again", || {
        self::holder(crowd).is_ok_and(|at| at == holder)
    })?;
    std::thread::sleep(BETWEEN_DEATHS.saturating_sub(died.elapsed()));
    Ok(away_s)
}

/// The only node that says that it has a healthy replica.
fn holder(crowd: &Crowd) -> Result<usize> {
    let mut holders = Vec::new();
    for at in 0..NODES {
        let said = crowd.say(at, &["--json", "status"])?;
        let status: Value = serde_json::from_slice(&said).context("what `status` says")?;
        let component = &status["components"][0];
        let number = |key: &str| component[key].as_u64().unwrap_or_default();
        if number("healthy") + number("old") > 0 {
            holders.push(at);
        }
    }
    match holders[..] {
        [at] => Ok(at),
        _ => bail!("{} nodes have the replica", holders.len()),
    }
}

fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > BACK_TIME_MAX {
            bail!("{what}: not within {} s", BACK_TIME_MAX.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn report(deaths: &[Death], began: Instant) -> CaseReport {
    let of = |settings: &str| {
        let meant = deaths.iter().filter(|death| death.settings == settings);
        Spread::of(meant.map(|death| death.away_s))
    };
    let rows = SETTINGS.iter().filter_map(|(settings, _)| {
        let found = of(settings)?;
        let cells = [found.median, found.min, found.max];
        Some(
            std::iter::once((*settings).to_owned())
                .chain(cells.map(digits))
                .collect(),
        )
    });
    let default = of(SETTINGS[0].0);
    let verdict = default.map(|measured| {
        let what = "death of a node until its replica answers elsewhere, by default";
        Verdict::new(NAME, what, measured, "s", Bound::AtMost(AWAY_S_MAX))
    });
    CaseReport {
        name: NAME.to_owned(),
        title: "A replica whose node dies".to_owned(),
        notes: vec![
            "hello, WASI 0.2, one replica in a realm of three nodes, on loopback of one machine; asked at a node that does not have it. The other node has to notice the death, wait, fetch, compile and start. More than a minute between two deaths.".to_owned(),
        ],
        tables: vec![Table {
            head: vec!["settings", "seconds, median", "min", "max"],
            rows: rows.collect(),
        }],
        verdicts: verdict.into_iter().collect(),
        raw: json!(deaths),
        took_s: began.elapsed().as_secs_f64(),
    }
}
