//! Adding a component to an agent that runs: from the word that the entry is accepted (it is on
//! the disk then) to the first 200. The digest is known: nothing is fetched or compiled.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::cases::example;
use crate::http::{self, Connection};
use crate::peers::{Running, Tools};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;
use crate::variants;

/// What falls short of this is said in the last table of the report.
const TIME_MAX_MS: f64 = 5.0;
/// Between two questions.
const PAUSE: Duration = Duration::from_micros(100);
/// A component that takes longer than this does not come.
const DEPLOY_TIME_MAX: Duration = Duration::from_secs(30);

/// One deployment.
#[derive(Debug, Clone, Copy, Serialize)]
struct Deployment {
    /// From sending the entry to the answer: signatures, the log, fsync.
    accepted_ms: f64,
    /// From that answer to the first 200.
    answers_ms: f64,
}

pub(crate) fn deploy(tools: &Tools<'_>, _: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let guest = example(tools, "hello.wasm")?;
    let repeats = tools.args.repeats();

    let app = format!("[components.app]\nsource = \"file:{}\"\n", guest.display());
    let agent = tools.realm("deploy same", &manifest(&app, &[], &["app".to_owned()]))?;
    let same = added(&agent, &app, &vec![guest.as_path(); repeats as usize])?;
    drop(agent);

    let folder = tools.folder("deploy")?;
    let files = variants::write(&folder, &guest, repeats)?;
    let files: Vec<&Path> = files.iter().map(AsRef::as_ref).collect();
    // Once in force, so that all are compiled; then only the first stays.
    let agent = tools.realm("deploy other", &all_of(&app, &files))?;
    let one = agent.realm.as_ref().context("a realm")?;
    one.apply(&manifest(&app, &[], &["app".to_owned()]))?;
    let other = added(&agent, &app, &files)?;

    report(&same, &other, began)
}

/// Adds one component after the other.
fn added(agent: &Running, app: &str, files: &[&Path]) -> Result<Vec<Deployment>> {
    let realm = agent.realm.as_ref().context("a realm")?;
    let mut found = Vec::new();
    for count in 1..=files.len() {
        let entry = realm.sign(&all_of(app, &files[..count]))?;
        let began = Instant::now();
        let answer =
            Connection::open_socket(&realm.socket())?.ask("POST", "/v1/entries/default", &entry)?;
        let accepted = Instant::now();
        if answer.status != 200 {
            bail!(
                "the entry was refused: {}",
                String::from_utf8_lossy(&answer.body)
            );
        }
        until_it_answers(agent.server.address, &format!("/b{}", count - 1), accepted)?;
        found.push(Deployment {
            accepted_ms: (accepted - began).as_secs_f64() * 1e3,
            answers_ms: accepted.elapsed().as_secs_f64() * 1e3,
        });
    }
    Ok(found)
}

fn until_it_answers(address: SocketAddr, path: &str, since: Instant) -> Result<()> {
    loop {
        let answer = http::ask(address, "GET", path, b"")?;
        // Until then another component has the path, or none.
        if answer.status == 200 && answer.body.starts_with(b"Hello") {
            return Ok(());
        }
        if since.elapsed() > DEPLOY_TIME_MAX {
            bail!("`{path}` does not answer: status {}", answer.status);
        }
        std::thread::sleep(PAUSE);
    }
}

fn all_of(app: &str, files: &[&Path]) -> String {
    let mut names: Vec<String> = (0..files.len()).map(|at| format!("b{at}")).collect();
    let tables: Vec<String> = names
        .iter()
        .zip(files)
        .map(|(name, file)| {
            format!(
                "[components.{name}]\nsource = \"file:{}\"\n",
                file.display()
            )
        })
        .collect();
    names.push("app".to_owned());
    manifest(app, &tables, &names)
}

fn manifest(app: &str, tables: &[String], routed: &[String]) -> String {
    let mut text = app.to_owned() + &tables.concat() + "[routing]\n\"*\" = [\n";
    for name in routed {
        let _ = writeln!(text, "  {{ path = \"/{name}\", component = \"{name}\" }},");
    }
    text + "]\n"
}

fn report(same: &[Deployment], other: &[Deployment], began: Instant) -> Result<CaseReport> {
    let spread = |of: &[Deployment], value: fn(&Deployment) -> f64| {
        Spread::of(of.iter().map(value)).context("nothing was measured")
    };
    let mut rows = Vec::new();
    let mut verdicts = Vec::new();
    for (what, of) in [
        ("the digest of a component that runs", same),
        ("a digest that was compiled before", other),
    ] {
        let (accepted, answers) = (
            spread(of, |one| one.accepted_ms)?,
            spread(of, |one| one.answers_ms)?,
        );
        rows.push(vec![
            what.to_owned(),
            digits(answers.median),
            format!("{}–{}", digits(answers.min), digits(answers.max)),
            digits(accepted.median),
        ]);
        let target = format!("accepted to first 200: {what}");
        verdicts.push(Verdict::new(
            "deploy",
            target,
            answers,
            "ms",
            Bound::AtMost(TIME_MAX_MS),
        ));
    }
    Ok(CaseReport {
        name: "deploy".to_owned(),
        title: "adding a component to a running agent".to_owned(),
        notes: vec![
            "From the answer of the control API (the entry is on the disk then) to the first 200, asked every 100 µs.".to_owned(),
        ],
        tables: vec![Table {
            head: vec!["what", "ms to the first 200", "min–max", "ms until accepted"],
            rows,
        }],
        verdicts,
        raw: serde_json::json!({ "same_digest": same, "compiled_before": other }),
        took_s: began.elapsed().as_secs_f64(),
    })
}
