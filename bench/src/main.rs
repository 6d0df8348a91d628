//! `make bench`: realm beside its peers, in one run, on two cores.
//!
//! Servers and load generator are other people's programs and realm's own binary, started as a
//! user would start them: nothing of realm is linked in here. A missing peer is a failure, never
//! a shorter table; a missed target is reported, and with `--strict` it is a failure too.

#![forbid(unsafe_code)]

mod cases;
mod cli;
mod deploy;
mod fastcgi;
mod http;
mod idle;
mod kernels;
mod machine;
mod nodes;
mod parked;
mod peers;
mod process;
mod realm;
mod report;
mod server;
mod start;
mod stats;
mod stores;
mod throughput;
mod tls;
mod uplink;
mod variants;
mod work;
mod wrk;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;

use crate::cases::{CASES, Case};
use crate::cli::Args;
use crate::peers::Tools;
use crate::report::Report;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        for case in CASES {
            println!("{}", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let cases = wanted(&args.cases)?;
    let tools = Tools {
        args,
        all_cores: machine::allowed()?,
    };
    let versions = tools.versions(cases.iter().any(|case| case.has_peers))?;
    let cores = machine::pin(&args.cores)?;
    let machine = machine::look(cores.clone());
    if machine.cores_of_machine > cores.len() {
        let all = machine.cores_of_machine;
        eprintln!(
            "note: of {all} cores only {cores:?} are used, by servers and load generator alike"
        );
    }
    let began = Instant::now();
    let mut report = Report {
        format: Report::FORMAT,
        date: jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        commit: args.commit.clone(),
        quick: args.quick,
        rounds: args.rounds(),
        seconds_per_round: args.round_time().as_secs(),
        wrk: format!("wrk -t{} -c{}", args.threads, args.connections),
        machine,
        versions,
        cases: Vec::new(),
        failed: Vec::new(),
        took_s: 0.0,
    };
    for case in cases {
        eprintln!("{}", case.name);
        match case.run(&tools, &cores) {
            Ok(found) => {
                eprintln!("{}", found.text(false));
                report.cases.push(found);
            }
            Err(error) => {
                eprintln!("error: {}: {error:#}", case.name);
                report
                    .failed
                    .push((case.name.to_owned(), format!("{error:#}")));
            }
        }
    }
    report.took_s = began.elapsed().as_secs_f64();
    finish(args, &report)
}

/// Those that were asked for, in their own order.
fn wanted(names: &[String]) -> Result<Vec<&'static Case>> {
    if let Some(name) = names
        .iter()
        .find(|name| !CASES.iter().any(|case| case.name == **name))
    {
        let all: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        bail!("there is no case `{name}`: {}", all.join(", "));
    }
    let asked = |case: &&Case| match names.is_empty() {
        true => case.by_default,
        false => names.iter().any(|name| name == case.name),
    };
    Ok(CASES.iter().filter(asked).collect())
}

fn finish(args: &Args, report: &Report) -> Result<ExitCode> {
    fs::create_dir_all(&args.out).with_context(|| format!("`{}`", args.out.display()))?;
    let file = args.out.join("report.json");
    let json = serde_json::to_string_pretty(report)?;
    // One that stays, beside the latest.
    let dated = format!("report-{}.json", report.date.replace(':', ""));
    for file in [&file, &args.out.join(dated)] {
        fs::write(file, &json)
            .with_context(|| format!("`{}` cannot be written", file.display()))?;
    }
    print!("{}", report.text(args.markdown));
    if let Some(page) = &args.docs {
        let text = fs::read_to_string(page).with_context(|| format!("`{}`", page.display()))?;
        let text = report::replaced(&text, &report.text(true))?;
        fs::write(page, text).with_context(|| format!("`{}`", page.display()))?;
    }
    let missed = report.missed();
    eprintln!(
        "\ntook {:.0} s; every figure is in {}",
        report.took_s,
        file.display()
    );
    if !report.failed.is_empty() {
        bail!("{} of the cases could not be measured", report.failed.len());
    }
    if missed > 0 {
        eprintln!("{missed} targets are missed");
    }
    Ok(if missed > 0 && args.strict {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
