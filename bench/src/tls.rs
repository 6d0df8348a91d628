//! HTTPS: realm by itself, beside nginx in front of it and nginx alone with a text of its own. Connections
//! that are kept, and a new one with a full handshake for each request.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::cases::example;
use crate::peers::Tools;
use crate::process;
use crate::realm::{Realm, manifest_of_one};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::server::{Server, free_address};
use crate::stats::Spread;
use crate::wrk::{Figures, Request, Wrk};

const NAME: &str = "tls";
const REALM: &str = "realm";
const FRONT: &str = "nginx, realm over HTTP, kept";
const ALONE: &str = "nginx alone, a text";
const KEPT: &str = "kept";
const NEW: &str = "a handshake each";
/// Connections that nginx keeps to realm.
const KEPT_MAX: u32 = 64;

/// One way to the answer.
struct Way {
    who: &'static str,
    address: SocketAddr,
    /// The processes whose work it is.
    processes: Vec<u32>,
}

#[derive(Debug, Clone, Serialize)]
struct Round {
    round: u32,
    who: &'static str,
    connections: &'static str,
    requests_per_second: f64,
    cpu_us_per_request: f64,
    wrk: Figures,
}

pub(crate) fn tls(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let folder = tools.folder(NAME)?;
    certificate(&folder)?;
    let realm = Realm::new(&tools.args.realm)?;
    let secure = free_address()?;
    let pair = format!(
        "{}::{}",
        folder.join("cert.pem").display(),
        folder.join("key.pem").display()
    );
    realm.settings(&format!(
        "[listen]\nhttps = [\"{secure}\"]\n[tls]\ncertificates = [\"{pair}\"]\n"
    ))?;
    let mut agent = realm.agent("realm", &folder.join("realm.log"))?;
    agent.listens()?;
    realm.apply(&manifest_of_one(&example(tools, "hello.wasm")?, ""))?;
    let said = agent.answers("GET", "/", b"")?;
    let (nginx, ways) = nginx(tools, &folder, &agent, secure, &said)?;
    let rounds = measure(tools, &folder, ways, cores.len())?;
    drop(nginx);
    Ok(report(&rounds, tools, began))
}

/// One for all, of the kind that authorities give by default: ECDSA over P-256.
fn certificate(folder: &Path) -> Result<()> {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .context("`openssl` is missing\nhint: on Debian: apt-get install openssl")?;
    if !output.status.success() {
        bail!("openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn nginx(
    tools: &Tools<'_>,
    folder: &Path,
    agent: &Server,
    secure: SocketAddr,
    said: &[u8],
) -> Result<(Server, Vec<Way>)> {
    let text = String::from_utf8_lossy(said).replace('\n', "\\n");
    let (front, alone, plain) = (free_address()?, free_address()?, free_address()?);
    let mut settings = format!(
        "ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n    \
         upstream realm {{ server {}; keepalive {KEPT_MAX}; keepalive_requests 1000000000; }}\n    ",
        agent.address
    );
    let _ = write!(
        settings,
        "server {{ listen {front} ssl; location / {{ proxy_pass http://realm; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host; }} }}\n    \
         server {{ listen {alone} ssl; location / {{ return 200 \"{text}\"; }} }}\n    \
         server {{ listen {plain}; location / {{ return 200 \"{text}\"; }} }}",
    );
    let command = tools.nginx(folder, &settings)?;
    let mut server = Server::start("nginx", plain, command, &folder.join("nginx.log"))?;
    server.answers("GET", "/", b"")?;
    let way = |who, address, processes| Way {
        who,
        address,
        processes,
    };
    let ways = vec![
        way(REALM, secure, vec![agent.id()]),
        way(FRONT, front, vec![agent.id(), server.id()]),
        way(ALONE, alone, vec![server.id()]),
    ];
    for way in &ways {
        let asked = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--cacert", "cert.pem"])
            .arg(format!("https://{}/", way.address))
            .current_dir(folder)
            .output()
            .context("`curl` is missing\nhint: on Debian: apt-get install curl")?;
        if asked.stdout != said {
            bail!(
                "{} answers: {}{}",
                way.who,
                String::from_utf8_lossy(&asked.stdout),
                String::from_utf8_lossy(&asked.stderr)
            );
        }
    }
    Ok((server, ways))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "requests and microseconds of a round"
)]
fn measure(
    tools: &Tools<'_>,
    folder: &Path,
    mut ways: Vec<Way>,
    n_cores: usize,
) -> Result<Vec<Round>> {
    let args = tools.args;
    let wrk = |name: &str, threads: u32, request| -> Result<Wrk> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        Wrk::new(&folder, threads, args.connections, request)
    };
    // A handshake costs its client as much as its server: with fewer threads than cores wrk itself is what is
    // measured, and whether the system leaves it a core to itself.
    let all = args.threads.max(u32::try_from(n_cores)?);
    let loads = [
        (KEPT, wrk("kept", args.threads, Request::Get)?),
        (NEW, wrk("new", all, Request::GetAndClose)?),
    ];
    let cpu = |way: &Way| -> Result<f64> {
        way.processes
            .iter()
            .map(|id| process::cpu_seconds(*id))
            .sum()
    };
    let mut rounds = Vec::new();
    for round in 1..=args.rounds() {
        ways.rotate_left(usize::from(round > 1));
        for (connections, wrk) in &loads {
            for way in &ways {
                let url = format!("https://{}/", way.address);
                let before = cpu(way)?;
                let figures = wrk.run(&url, args.round_time())?;
                let cpu_s = cpu(way)? - before;
                // wrk counts a connection that the server closes, as it asked for, as an error of reading.
                let errors = figures.errors() - figures.read_errors;
                if errors > 0 || figures.requests == 0 {
                    bail!(
                        "{}: {errors} failed requests of {}",
                        way.who,
                        figures.requests
                    );
                }
                let measured = Round {
                    round,
                    who: way.who,
                    connections,
                    requests_per_second: figures.requests as f64
                        / (figures.microseconds as f64 / 1e6),
                    cpu_us_per_request: cpu_s * 1e6 / figures.requests as f64,
                    wrk: figures,
                };
                eprintln!(
                    "  {NAME} round {round}: {}, {connections}: {} requests/s, {} µs CPU, p99 {} µs",
                    measured.who,
                    digits(measured.requests_per_second),
                    digits(measured.cpu_us_per_request),
                    measured.wrk.p99_us
                );
                rounds.push(measured);
            }
        }
    }
    Ok(rounds)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a round")]
fn report(rounds: &[Round], tools: &Tools<'_>, began: Instant) -> CaseReport {
    let of = |who: &str, connections: &str, value: &dyn Fn(&Round) -> f64| {
        let meant = rounds
            .iter()
            .filter(|round| round.who == who && round.connections == connections);
        Spread::of(meant.map(value))
    };
    let rows = [KEPT, NEW].iter().flat_map(|connections| {
        [REALM, FRONT, ALONE].map(|who| {
            let median = |value: &dyn Fn(&Round) -> f64| {
                of(who, connections, value).map_or_else(String::new, |found| digits(found.median))
            };
            vec![
                who.to_owned(),
                (*connections).to_owned(),
                median(&|round| round.requests_per_second),
                median(&|round| round.wrk.p50_us as f64),
                median(&|round| round.wrk.p99_us as f64),
                median(&|round| round.cpu_us_per_request),
            ]
        })
    });
    let ratio = |connections: &str| {
        let one = |who: &str, number: u32| {
            let mut rounds = rounds.iter();
            rounds.find(|round| {
                round.who == who && round.connections == connections && round.round == number
            })
        };
        Spread::of((1..=tools.args.rounds()).filter_map(|number| {
            let (realm, front) = (one(REALM, number)?, one(FRONT, number)?);
            Some(realm.requests_per_second / front.requests_per_second)
        }))
    };
    let verdicts = [KEPT, NEW].into_iter().filter_map(|connections| {
        let what = format!("requests/s, {connections}: {REALM} / {FRONT}");
        let measured = ratio(connections)?;
        Some(Verdict::new(
            NAME,
            &what,
            measured,
            "x",
            Bound::AtLeast(1.0),
        ))
    });
    CaseReport {
        name: NAME.to_owned(),
        title: "hello over HTTPS".to_owned(),
        notes: vec![
            "hello, WASI 0.2, a fresh instance per request. TLS 1.3 where wrk's OpenSSL has it, one certificate (ECDSA, P-256) for all; `a handshake each`: `Connection: close`, sessions are not taken up again, and wrk has a thread for each core. nginx: 2 processes, no log. CPU is that of all processes that a way needs, without wrk.".to_owned(),
        ],
        tables: vec![Table {
            head: vec!["through", "connections", "requests/s", "p50 µs", "p99 µs", "CPU µs per request"],
            rows: rows.collect(),
        }],
        verdicts: verdicts.collect(),
        raw: json!(rounds),
        took_s: began.elapsed().as_secs_f64(),
    }
}
