//! What a hop costs: the same component asked at the node where it runs, at another node of its realm,
//! and through reverse proxies in front of it. One connection for what is added to a request, many for
//! how much passes. Round after round, each in turn.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use super::crowd::{Crowd, Member};
use super::{WHOLE_TIME_MAX, until_whole};
use crate::cases::example;
use crate::http;
use crate::machine;
use crate::peers::Tools;
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::server::{Server, free_address};
use crate::stats::Spread;
use crate::wrk::{Figures, Request, Wrk};

const NAME: &str = "hop";
pub(super) const PATH: &str = "/hello/";
const DIRECT: &str = "directly";
const REALM: &str = "realm, another node";
/// What a hop may add to a request.
const P50_US_MAX: f64 = 150.0;
const P99_US_MAX: f64 = 1_000.0;
/// Until the other node knows who has the component.
const KNOWN_TIME_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
const WARM_UP: Duration = Duration::from_secs(1);

/// As many connections as a busy site keeps.
const NGINX: &str = "\
upstream there { TARGETS keepalive 64; keepalive_requests 1000000000; }
    server {
        listen ADDRESS;
        location / { proxy_pass http://there; proxy_http_version 1.1; proxy_set_header Connection \"\"; }
    }";
const HAPROXY: &str = "\
global
    nbthread 2
defaults
    mode MODE
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend here
    bind ADDRESS
    default_backend there
backend there
    server one TARGET
";

/// One address at which the component answers.
struct Way {
    who: &'static str,
    url: String,
}

#[derive(Debug, Serialize)]
struct Round {
    round: u32,
    who: &'static str,
    connections: u32,
    wrk: Figures,
}

pub(crate) fn hop(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    // Client, proxy and server are three machines: each finds a core of its own, where there are so many.
    machine::put_on(&tools.all_cores)?;
    let measured = measure(tools);
    machine::put_on(cores)?;
    Ok(report(&measured?, tools, began))
}

fn measure(tools: &Tools<'_>) -> Result<Vec<Round>> {
    let crowd = hello_elsewhere(tools, 2)?;
    let there = address(&crowd.members[1])?;
    let proxies = [
        ("nginx, HTTP", nginx(tools, "hop-nginx", "", &[there])?),
        ("HAProxy, HTTP", haproxy(tools, "http", there)?),
        ("HAProxy, TCP", haproxy(tools, "tcp", there)?),
    ];
    let mut ways = vec![
        Way {
            who: DIRECT,
            url: format!("http://{there}{PATH}"),
        },
        Way {
            who: REALM,
            url: format!("http://{}{PATH}", address(&crowd.members[0])?),
        },
    ];
    ways.extend(proxies.iter().map(|(who, server)| Way {
        who,
        url: server.url(PATH),
    }));
    let folder = tools.folder(NAME)?;
    let wrk = |connections| Wrk::new(&folder, 1, connections, Request::Get);
    let (one, many) = (wrk(1)?, wrk(tools.args.connections)?);
    for way in &ways {
        many.run(&way.url, WARM_UP)?;
    }
    let mut rounds = Vec::new();
    for round in 1..=tools.args.rounds() {
        ways.rotate_left(usize::from(round > 1));
        for load in [&one, &many] {
            for way in &ways {
                let figures = load.run(&way.url, tools.args.round_time())?;
                eprintln!(
                    "  {NAME} round {round}: {}: {} connections, p50 {} p99 {} µs",
                    way.who, load.connections, figures.p50_us, figures.p99_us
                );
                if figures.errors() > 0 {
                    anyhow::bail!("{} failed requests through {}", figures.errors(), way.who);
                }
                rounds.push(Round {
                    round,
                    who: way.who,
                    connections: load.connections,
                    wrk: figures,
                });
            }
        }
    }
    Ok(rounds)
}

/// A realm of so many nodes; the component runs on all but the first one, and all answer for it.
pub(super) fn hello_elsewhere(tools: &Tools<'_>, nodes: usize) -> Result<Crowd> {
    let mut crowd = Crowd::found(&tools.args.realm, nodes)?;
    crowd.start_others()?;
    until_whole(&mut crowd, &[], WHOLE_TIME_MAX)?;
    let source = example(tools, "hello.wasm")?;
    let mut manifest = format!(
        "[components.hello]\nsource = \"file:{}\"\n\n[routing]\n",
        source.display()
    );
    for member in &crowd.members[1..] {
        let name = &member.name;
        let _ = writeln!(
            manifest,
            "{name} = [{{ path = \"{PATH}...\", component = \"hello\" }}]"
        );
    }
    crowd.write("realm.toml", &manifest)?;
    crowd.say(0, &["apply", "--yes", "--timeout", "2m"])?;
    let began = Instant::now();
    for member in &crowd.members {
        let address = address(member)?;
        while !http::ask(address, "GET", PATH, b"").is_ok_and(|answer| answer.status == 200) {
            if began.elapsed() > KNOWN_TIME_MAX {
                anyhow::bail!("{} does not answer for the component", member.name);
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(crowd)
}

/// Where an agent answers HTTP, by its own word.
pub(super) fn address(member: &Member) -> Result<SocketAddr> {
    told(member, "answering on http://")
}

/// Where an agent tells its metrics.
pub(super) fn metrics_address(member: &Member) -> Result<SocketAddr> {
    told(member, "metrics on http://")
}

fn told(member: &Member, what: &str) -> Result<SocketAddr> {
    let log = member.log_text()?;
    let told = log.lines().find_map(|line| line.strip_prefix(what));
    let told = told.with_context(|| format!("{} does not say `{what}`", member.name))?;
    let address = told.trim().trim_end_matches("/metrics");
    Ok(address.trim_end_matches('/').parse()?)
}

/// nginx in front of `targets`, in a folder of this name; `how` it balances, or nothing for its default.
pub(super) fn nginx(
    tools: &Tools<'_>,
    name: &str,
    how: &str,
    targets: &[SocketAddr],
) -> Result<Server> {
    let folder = tools.folder(name)?;
    let address = free_address()?;
    let servers = targets.iter().map(|target| format!("server {target}; "));
    let server = NGINX
        .replace("ADDRESS", &address.to_string())
        .replace("TARGETS", &format!("{how} {}", servers.collect::<String>()));
    let command = tools.nginx(&folder, &server)?;
    started("nginx", address, command, &folder)
}

fn haproxy(tools: &Tools<'_>, mode: &str, target: SocketAddr) -> Result<Server> {
    let folder = tools.folder(&format!("hop-haproxy-{mode}"))?;
    let address = free_address()?;
    let settings = HAPROXY
        .replace("ADDRESS", &address.to_string())
        .replace("TARGET", &target.to_string())
        .replace("MODE", mode);
    fs::write(folder.join("haproxy.cfg"), settings)?;
    let mut command = Command::new(&tools.args.haproxy);
    command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
    started("haproxy", address, command, &folder)
}

fn started(name: &str, address: SocketAddr, command: Command, folder: &Path) -> Result<Server> {
    let mut server = Server::start(name, address, command, &folder.join("log"))
        .with_context(|| format!("`{name}` is missing\nhint: on Debian: apt-get install {name}"))?;
    server.answers("GET", PATH, b"")?;
    Ok(server)
}

/// What all rounds of a way gave.
fn spread(
    rounds: &[Round],
    who: &str,
    connections: u32,
    value: impl Fn(&Figures) -> f64,
) -> Option<Spread> {
    let meant = rounds
        .iter()
        .filter(|round| round.who == who && round.connections == connections);
    Spread::of(meant.map(|round| value(&round.wrk)))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds and requests of a round"
)]
fn report(rounds: &[Round], tools: &Tools<'_>, began: Instant) -> CaseReport {
    let many = tools.args.connections;
    let per_second =
        |figures: &Figures| 1e6 * figures.requests as f64 / figures.microseconds as f64;
    let median = |who, connections, value: &dyn Fn(&Figures) -> f64| {
        let found = spread(rounds, who, connections, value);
        found.map_or_else(String::new, |found| digits(found.median))
    };
    let mut who: Vec<&'static str> = Vec::new();
    for round in rounds {
        if !who.contains(&round.who) {
            who.push(round.who);
        }
    }
    who.sort_by_key(|who| (*who != DIRECT, *who != REALM, *who));
    let rows = who.iter().map(|who| {
        vec![
            (*who).to_owned(),
            median(who, 1, &|wrk| wrk.p50_us as f64),
            median(who, 1, &|wrk| wrk.p99_us as f64),
            median(who, many, &per_second),
            median(who, many, &|wrk| wrk.p99_us as f64),
        ]
    });
    let added = |value: fn(&Figures) -> f64| {
        let own = |who: &str, round: u32| {
            let mut rounds = rounds.iter();
            rounds.find(|one| one.who == who && one.connections == 1 && one.round == round)
        };
        let each = (1..=tools.args.rounds()).filter_map(|round| {
            Some(value(&own(REALM, round)?.wrk) - value(&own(DIRECT, round)?.wrk))
        });
        Spread::of(each)
    };
    let verdict = |what: &str, measured: Option<Spread>, max| {
        measured.map(|measured| Verdict::new(NAME, what, measured, "µs", Bound::AtMost(max)))
    };
    CaseReport {
        name: NAME.to_owned(),
        title: "A request that another node answers".to_owned(),
        notes: vec![
            "hello, WASI 0.2, on the second of two nodes; all on loopback of one machine, on all of its cores. Between nodes: QUIC with TLS 1.3; the proxies speak cleartext.".to_owned(),
        ],
        tables: vec![Table {
            head: vec![
                "through",
                "1 connection, p50 µs",
                "p99 µs",
                "many connections, requests/s",
                "p99 µs",
            ],
            rows: rows.collect(),
        }],
        verdicts: [
            verdict("added to a request, p50", added(|wrk| wrk.p50_us as f64), P50_US_MAX),
            verdict("added to a request, p99", added(|wrk| wrk.p99_us as f64), P99_US_MAX),
        ]
        .into_iter()
        .flatten()
        .collect(),
        raw: json!(rounds),
        took_s: began.elapsed().as_secs_f64(),
    }
}
