//! Operations on stores: a guest that does them one after the other, beside a native program that does the
//! same with the same client, on the same server or the same disk.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::cases::built;
use crate::http;
use crate::peers::Tools;
use crate::realm::Realm;
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::server::{Server, free_address};
use crate::stats::Spread;

const NAME: &str = "stores";
const GUEST: &str = "a guest in realm";
const NATIVE: &str = "a native program";
/// A session or a setting.
const BYTES: usize = 100;

/// Engine, operation, how many of them in one measurement: a second or less.
const WORK: [(Engine, &str, usize); 4] = [
    (Engine::Embedded, "get", 100_000),
    (Engine::Embedded, "set", 200),
    (Engine::Redis, "get", 10_000),
    (Engine::Redis, "set", 10_000),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Embedded,
    Redis,
}

#[derive(Debug, Clone, Serialize)]
struct Round {
    round: u32,
    engine: Engine,
    operation: &'static str,
    who: &'static str,
    us_per_operation: f64,
}

impl Engine {
    /// In a path of the guest.
    const fn path(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Redis => "redis",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Embedded => "embedded (redb)",
            Self::Redis => "Redis",
        }
    }
}

pub(crate) fn stores(tools: &Tools<'_>, _: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let folder = tools.folder(NAME)?;
    let (redis, server) = redis(&folder)?;
    let realm = Realm::new(&tools.args.realm)?;
    realm.settings(&format!("[backends]\nallow = [\"redis://{redis}\"]\n"))?;
    let mut agent = realm.agent("realm", &folder.join("realm.log"))?;
    agent.listens()?;
    realm.apply(&manifest(tools, redis)?)?;
    let mut rounds = Vec::new();
    for round in 1..=tools.args.rounds() {
        for (engine, operation, n) in WORK {
            // In turn, each first as often as the other.
            let both = if round % 2 == 1 {
                [GUEST, NATIVE]
            } else {
                [NATIVE, GUEST]
            };
            for who in both {
                let ns = if who == GUEST {
                    guest(&agent, engine, operation, n)?
                } else {
                    native(tools, &folder, redis, (engine, operation, n))?
                };
                #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second")]
                let us_per_operation = ns as f64 / 1_000.0 / n as f64;
                eprintln!(
                    "  {NAME} round {round}: {operation} of {}, {who}: {} µs",
                    engine.text(),
                    digits(us_per_operation)
                );
                rounds.push(Round {
                    round,
                    engine,
                    operation,
                    who,
                    us_per_operation,
                });
            }
        }
    }
    drop(server);
    Ok(report(&rounds, tools, began))
}

fn manifest(tools: &Tools<'_>, redis: SocketAddr) -> Result<String> {
    let guest = built(&tools.args.guests.join("bench_stores.wasm"))?;
    let component = |engine: Engine| {
        format!(
            "[components.{0}]\nsource = \"file:{1}\"\nbind = {{ default = \"{0}\" }}\nclock = \"precise\"\n\
             epoch_timeout_ms = 60_000\nwall_timeout_ms = 120_000\n",
            engine.path(),
            guest.display()
        )
    };
    let route = |engine: Engine| {
        let name = engine.path();
        format!("{{ path = \"/{name}/...\", component = \"{name}\" }}")
    };
    Ok(format!(
        "{}{}[bindings.embedded]\ninterface = \"wasi:keyvalue\"\nbackend = \"embedded\"\n\
         [bindings.redis]\ninterface = \"wasi:keyvalue\"\nbackend = \"redis://{redis}\"\n\
         [routing]\n\"*\" = [{}, {}]\n",
        component(Engine::Embedded),
        component(Engine::Redis),
        route(Engine::Embedded),
        route(Engine::Redis)
    ))
}

/// In memory alone: what it does with a disk is not what is compared.
fn redis(folder: &Path) -> Result<(SocketAddr, Server)> {
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder);
    let mut server = Server::start("redis-server", address, command, &folder.join("redis.log"))
        .context("hint: on Debian: apt-get install redis-server")?;
    server.listens()?;
    Ok((address, server))
}

fn guest(agent: &Server, engine: Engine, operation: &str, n: usize) -> Result<u64> {
    let path = format!("/{}/{operation}/{n}/{BYTES}", engine.path());
    let answer = http::ask(agent.address, "GET", &path, b"")?;
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status != 200 {
        bail!("the guest answered {} to {path}: {text}", answer.status);
    }
    text.trim()
        .parse()
        .context("the guest answers with nanoseconds")
}

fn native(
    tools: &Tools<'_>,
    folder: &Path,
    redis: SocketAddr,
    (engine, operation, n): (Engine, &str, usize),
) -> Result<u64> {
    let program = tools.args.host.with_file_name("realm-bench-native");
    let (name, place) = match engine {
        Engine::Embedded => ("redb", folder.join("native.redb").display().to_string()),
        Engine::Redis => ("redis", redis.to_string()),
    };
    let output = Command::new(&program)
        .args([name, &place, operation, &n.to_string(), &BYTES.to_string()])
        .output()
        .with_context(|| format!("`{}`\nhint: `make bench` builds it", program.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .context("the program prints nanoseconds")
}

fn report(rounds: &[Round], tools: &Tools<'_>, began: Instant) -> CaseReport {
    let one = |(engine, operation): (Engine, &str), who: &str, number: u32| {
        let mut rounds = rounds.iter();
        let found = rounds.find(|round| {
            (round.engine, round.operation) == (engine, operation)
                && round.who == who
                && round.round == number
        });
        found.map(|round| round.us_per_operation)
    };
    let numbers = || 1..=tools.args.rounds();
    let rows = WORK.iter().flat_map(|(engine, operation, _)| {
        [GUEST, NATIVE].map(|who| {
            let all = numbers().filter_map(|number| one((*engine, operation), who, number));
            let (median, between) = Spread::of(all).map_or_else(Default::default, |found| {
                let between = format!("{}–{}", digits(found.min), digits(found.max));
                (digits(found.median), between)
            });
            vec![
                engine.text().to_owned(),
                (*operation).to_owned(),
                who.to_owned(),
                median,
                between,
            ]
        })
    });
    let verdicts = WORK.iter().filter_map(|(engine, operation, _)| {
        let pairs = numbers().filter_map(|number| {
            let work = (*engine, *operation);
            Some((one(work, GUEST, number)?, one(work, NATIVE, number)?))
        });
        match (engine, *operation) {
            // What is beside a round trip of a server counts as a share; beside nothing, as time.
            (Engine::Embedded, "get") => Some(Verdict::new(
                NAME,
                "embedded get: a guest, over the store's own",
                Spread::of(pairs.map(|(guest, native)| guest - native))?,
                " µs",
                Bound::AtMost(5.0),
            )),
            (Engine::Embedded, _) => None,
            (Engine::Redis, operation) => Some(Verdict::new(
                NAME,
                format!("Redis {operation}: a guest / a native program"),
                Spread::of(pairs.map(|(guest, native)| guest / native))?,
                "x",
                Bound::AtMost(1.15),
            )),
        }
    });
    CaseReport {
        name: NAME.to_owned(),
        title: "an operation on a store, of a guest and of a native program".to_owned(),
        notes: vec![format!(
            "One after the other, on one connection, with values of {BYTES} bytes. The guest is a component of WASI 0.2 that uses `wasi:keyvalue@0.2.0-draft2`; the native program uses redb and the `redis` crate by themselves. A `set` in the embedded store is on the disk when it returns, with both. Redis is on loopback, in memory."
        )],
        tables: vec![Table {
            head: vec!["store", "operation", "who", "µs per operation", "min–max"],
            rows: rows.collect(),
        }],
        verdicts: verdicts.collect(),
        raw: json!(rounds),
        took_s: began.elapsed().as_secs_f64(),
    }
}
