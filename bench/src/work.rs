//! The work by which a compiler learns where realm spends its time (`scripts/profile.sh`): the loads of
//! the other cases and some starts, with realm alone. Nothing is compared here, and no figure of it counts.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use crate::cases::{EVERY_LIMIT, built, example};
use crate::peers::{Peer, Tools};
use crate::report::CaseReport;
use crate::start;
use crate::throughput::Throughput;
use crate::wrk::Request;

/// Like the case `echo`.
const ECHO_BYTES: usize = 64 * 1024;

pub(crate) fn work(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let hello = || example(tools, "hello.wasm");
    let json = built(&tools.args.guests.join("bench_json.wasm"))?;
    let order = Request::PostJson(include_str!("order.json"));
    let echo = Request::Post(ECHO_BYTES);
    let mut tables = Vec::new();
    for one in [
        load("work-hello", hello()?, Request::Get, ""),
        load("work-limits", hello()?, Request::Get, EVERY_LIMIT),
        load("work-reuse", hello()?, Request::Get, "reuse = true\n"),
        load(
            "work-p3",
            example(tools, "hello_p3.wasm")?,
            Request::Get,
            "reuse = true\n",
        ),
        load("work-echo", example(tools, "echo.wasm")?, echo, ""),
        load("work-json", json, order, ""),
    ] {
        tables.extend(one.run(tools, cores)?.tables);
    }
    start::alone(tools)?;
    Ok(CaseReport {
        name: "work".to_owned(),
        title: "work to learn from: realm alone".to_owned(),
        notes: vec!["Its figures are not for comparing.".to_owned()],
        tables,
        verdicts: Vec::new(),
        raw: Value::Null,
        took_s: began.elapsed().as_secs_f64(),
    })
}

fn load(name: &'static str, guest: PathBuf, request: Request, more: &str) -> Throughput {
    Throughput {
        name,
        title: "",
        guest,
        request,
        path: "/",
        contenders: vec![(name, Peer::Realm(more.to_owned()))],
        targets: Vec::new(),
        notes: Vec::new(),
        finer: false,
    }
}
