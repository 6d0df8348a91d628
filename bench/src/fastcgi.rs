//! realm as a FastCGI application behind nginx, beside php-fpm, beside realm behind nginx over HTTP, and
//! realm alone: hello, over the ways that a web server has. And what kept connections hold.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::cases::example;
use crate::peers::Tools;
use crate::realm::{Realm, manifest_of_one};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::server::{Server, free_address};
use crate::stats::Spread;
use crate::wrk::{Figures, Request, Wrk};
use crate::{machine, process};

const NAME: &str = "fastcgi";
const ALONE: &str = "realm alone, HTTP";
const HTTP: &str = "nginx, realm over HTTP, kept";
const UNIX: &str = "nginx, realm over FastCGI, Unix, kept";
const UNIX_NEW: &str = "nginx, realm over FastCGI, Unix";
const TCP: &str = "nginx, realm over FastCGI, TCP, kept";
const TCP_NEW: &str = "nginx, realm over FastCGI, TCP";
const PHP: &str = "nginx, php-fpm, Unix";
const PHP_KEPT: &str = "nginx, php-fpm, Unix, kept";

const WARM_UP: Duration = Duration::from_secs(1);
/// Connections that nginx keeps to realm, as many as a busy site uses.
const KEPT: u32 = 64;
/// Processes of php-fpm, for each of both ways: more than the cores, and fewer connections are kept than there
/// are of them, by both processes of nginx together.
const PHP_CHILDREN: u32 = 8;
const PHP_KEPT_MAX: u32 = 3;
const PHP_SCRIPT: &str =
    "<?php header('Content-Type: text/plain'); echo \"Hello from a component.\\n\";\n";
const PHP_SETTINGS: &str = "\
[global]
daemonize = no
error_log = error.log
[www]
USER
listen = FOLDER/php.sock
pm = static
pm.max_children = CHILDREN
[kept]
USER
listen = FOLDER/kept.sock
pm = static
pm.max_children = CHILDREN
";
/// Connections of web servers that wait.
const IDLE: usize = 1_000;
const IDLE_QUICK: usize = 100;
/// Bytes that they may hold together: 10 kB each, as a connection of HTTP.
const IDLE_MB_MAX: f64 = 10.0;
const SETTLED: Duration = Duration::from_secs(2);
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// One way to the answer.
struct Way {
    who: &'static str,
    address: SocketAddr,
    /// The process that answers: the agent, or php-fpm with its children.
    application: u32,
}

#[derive(Debug, Clone, Serialize)]
struct Round {
    round: u32,
    who: &'static str,
    requests_per_second: f64,
    /// Of the application alone.
    cpu_us_per_request: f64,
    wrk: Figures,
}

pub(crate) fn fastcgi(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let folder = tools.folder(NAME)?;
    let realm = Realm::new(&tools.args.realm)?;
    let (socket, port) = (folder.join("realm.sock"), free_address()?);
    realm.settings(&format!(
        "[listen]\nfastcgi = [\"unix:{}\", \"{port}\"]\n",
        socket.display()
    ))?;
    let mut agent = realm.agent("realm", &folder.join("realm.log"))?;
    agent.listens()?;
    realm.apply(&manifest_of_one(&example(tools, "hello.wasm")?, ""))?;
    let php = php(&folder)?;
    let (nginx, ways) = nginx(tools, &folder, &agent, &socket, port, &php)?;
    let rounds = measure(tools, cores, &folder, ways)?;
    drop((nginx, php));
    let idle = idle(tools, &agent, &socket)?;
    Ok(report(&rounds, idle, tools, began))
}

/// php-fpm in `folder`, with a script that says what the component says.
fn php(folder: &Path) -> Result<Server> {
    let user = match rustix::process::geteuid().is_root() {
        true => "user = root\ngroup = root",
        false => "",
    };
    let settings = PHP_SETTINGS
        .replace("USER", user)
        .replace("CHILDREN", &PHP_CHILDREN.to_string())
        .replace("FOLDER", &folder.display().to_string());
    fs::write(folder.join("php.conf"), settings)?;
    fs::write(folder.join("hello.php"), PHP_SCRIPT)?;
    let program = ["php-fpm", "php-fpm8.2", "php-fpm8.4"]
        .into_iter()
        .find(|name| {
            let said = Command::new(name).arg("-v").output();
            said.is_ok_and(|said| said.status.success())
        });
    let program =
        program.context("`php-fpm` is missing\nhint: on Debian: apt-get install php-fpm")?;
    let mut command = Command::new(program);
    command
        .arg("-R")
        .arg("-F")
        .arg("-p")
        .arg(folder)
        .arg("-y")
        .arg(folder.join("php.conf"));
    let server = Server::start("php-fpm", free_address()?, command, &folder.join("php.log"))?;
    let began = Instant::now();
    while UnixStream::connect(folder.join("php.sock")).is_err() {
        if began.elapsed() > START_TIME_MAX {
            bail!("php-fpm does not listen\n{}", server.last_words());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// nginx with a port for each way, in front of them all.
fn nginx(
    tools: &Tools<'_>,
    folder: &Path,
    agent: &Server,
    socket: &Path,
    port: SocketAddr,
    php: &Server,
) -> Result<(Server, Vec<Way>)> {
    let unix = format!("unix:{}", socket.display());
    let php_unix = |name: &str| format!("unix:{}", folder.join(name).display());
    let ways = [
        (HTTP, agent.address.to_string(), agent.id(), Some(KEPT)),
        (UNIX, unix.clone(), agent.id(), Some(KEPT)),
        (UNIX_NEW, unix, agent.id(), None),
        (TCP, port.to_string(), agent.id(), Some(KEPT)),
        (TCP_NEW, port.to_string(), agent.id(), None),
        (PHP, php_unix("php.sock"), php.id(), None),
        (
            PHP_KEPT,
            php_unix("kept.sock"),
            php.id(),
            Some(PHP_KEPT_MAX),
        ),
    ];
    let mut settings = String::new();
    let mut made = Vec::new();
    for (index, (who, target, application, kept)) in ways.into_iter().enumerate() {
        let address = free_address()?;
        let keepalive = kept.map_or_else(String::new, |kept| {
            format!("keepalive {kept}; keepalive_requests 1000000000;")
        });
        let pass = if who == HTTP {
            format!(
                "proxy_pass http://way{index}; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;"
            )
        } else {
            let keeps = if kept.is_some() {
                "fastcgi_keep_conn on;"
            } else {
                ""
            };
            let script = folder.join("hello.php");
            // The parameters that nginx brings with it.
            format!(
                "fastcgi_pass way{index}; {keeps} include {PARAMS}; fastcgi_param SCRIPT_FILENAME {};",
                script.display()
            )
        };
        let _ = write!(
            settings,
            "upstream way{index} {{ server {target}; {keepalive} }}\n    server {{ listen {address}; location / {{ {pass} }} }}\n    ",
        );
        made.push(Way {
            who,
            address,
            application,
        });
    }
    let command = tools.nginx(folder, &settings)?;
    let mut server = Server::start("nginx", made[0].address, command, &folder.join("nginx.log"))?;
    let said = server.answers("GET", "/", b"")?;
    made.insert(
        0,
        Way {
            who: ALONE,
            address: agent.address,
            application: agent.id(),
        },
    );
    for way in &made {
        let answer = crate::http::ask(way.address, "GET", "/", b"")?;
        if answer.status != 200 || answer.body != said {
            bail!(
                "{} answers {}: {}",
                way.who,
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
    }
    Ok((server, made))
}

/// What nginx sends by default, from its package.
const PARAMS: &str = "/etc/nginx/fastcgi_params";

#[expect(
    clippy::cast_precision_loss,
    reason = "requests and microseconds of a round"
)]
fn measure(
    tools: &Tools<'_>,
    cores: &[usize],
    folder: &Path,
    mut ways: Vec<Way>,
) -> Result<Vec<Round>> {
    let args = tools.args;
    let wrk = Wrk::new(folder, args.threads, args.connections, Request::Get)?;
    let url = |way: &Way| format!("http://{}/", way.address);
    // The servers are started, and stay where they are.
    let load = |url: &str, time| -> Result<Figures> {
        if args.load_cores.is_empty() {
            return wrk.run(url, time);
        }
        machine::put_on(&args.load_cores)?;
        let figures = wrk.run(url, time);
        machine::put_on(cores)?;
        figures
    };
    for way in &ways {
        load(&url(way), WARM_UP)?;
    }
    let mut rounds = Vec::new();
    for round in 1..=args.rounds() {
        ways.rotate_left(usize::from(round > 1));
        for way in &ways {
            let before = process::cpu_seconds(way.application)?;
            let figures = load(&url(way), args.round_time())?;
            let cpu_s = process::cpu_seconds(way.application)? - before;
            if figures.errors() > 0 || figures.requests == 0 {
                bail!(
                    "{}: {} failed requests of {}",
                    way.who,
                    figures.errors(),
                    figures.requests
                );
            }
            let measured = Round {
                round,
                who: way.who,
                requests_per_second: figures.requests as f64 / (figures.microseconds as f64 / 1e6),
                cpu_us_per_request: cpu_s * 1e6 / figures.requests as f64,
                wrk: figures,
            };
            eprintln!(
                "  {NAME} round {round}: {}: {} requests/s, {} µs CPU, p99 {} µs",
                measured.who,
                digits(measured.requests_per_second),
                digits(measured.cpu_us_per_request),
                measured.wrk.p99_us
            );
            rounds.push(measured);
        }
    }
    Ok(rounds)
}

/// Kept connections that wait, and what the agent holds for them.
#[derive(Debug, Clone, Copy, Serialize)]
struct Idle {
    connections: usize,
    before_kb: u64,
    with_kb: u64,
    after_kb: u64,
}

fn idle(tools: &Tools<'_>, agent: &Server, socket: &Path) -> Result<Idle> {
    let connections = match tools.args.quick {
        true => IDLE_QUICK,
        false => IDLE,
    };
    sleep(SETTLED);
    let memory = || process::memory(agent.id()).map(|memory| memory.rss_kb);
    let before_kb = memory()?;
    let mut kept = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = UnixStream::connect(socket)?;
        asked(&mut stream)?;
        kept.push(stream);
    }
    sleep(SETTLED);
    let with_kb = memory()?;
    // All of them are good still.
    for stream in &mut kept {
        asked(stream)?;
    }
    drop(kept);
    sleep(SETTLED);
    Ok(Idle {
        connections,
        before_kb,
        with_kb,
        after_kb: memory()?,
    })
}

/// One request on a connection that is kept.
fn asked(stream: &mut UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(START_TIME_MAX))?;
    let params = b"\x0e\x03REQUEST_METHODGET\x0b\x01REQUEST_URI/\x09\x05HTTP_HOSTlocal\x0b\x09REMOTE_ADDR127.0.0.1";
    let length = u8::try_from(params.len())?;
    let records: [&[u8]; 5] = [
        &[1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
        &[1, 4, 0, 1, 0, length, 0, 0],
        params,
        &[1, 4, 0, 1, 0, 0, 0, 0],
        &[1, 5, 0, 1, 0, 0, 0, 0],
    ];
    stream.write_all(&records.concat())?;
    let mut text = Vec::new();
    loop {
        let mut head = [0; 8];
        stream
            .read_exact(&mut head)
            .context("a kept connection ended")?;
        let length = usize::from(u16::from_be_bytes([head[4], head[5]])) + usize::from(head[6]);
        let mut content = vec![0; length];
        stream.read_exact(&mut content)?;
        if head[1] == 3 {
            break;
        }
        text.extend(content);
    }
    match text.starts_with(b"Status: 200 ") {
        true => Ok(()),
        false => bail!("realm answers: {}", String::from_utf8_lossy(&text)),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "kilobytes, and microseconds of a round"
)]
fn report(rounds: &[Round], idle: Idle, tools: &Tools<'_>, began: Instant) -> CaseReport {
    let all = [ALONE, HTTP, UNIX, UNIX_NEW, TCP, TCP_NEW, PHP, PHP_KEPT];
    let spread = |who: &str, value: &dyn Fn(&Round) -> f64| {
        Spread::of(rounds.iter().filter(|round| round.who == who).map(value))
    };
    let median = |who: &str, value: &dyn Fn(&Round) -> f64| {
        spread(who, value).map_or_else(String::new, |found| digits(found.median))
    };
    let rows = all.iter().map(|who| {
        vec![
            (*who).to_owned(),
            median(who, &|round| round.requests_per_second),
            median(who, &|round| round.wrk.p50_us as f64),
            median(who, &|round| round.wrk.p99_us as f64),
            median(who, &|round| round.cpu_us_per_request),
        ]
    });
    // Round by round: what one shares with the other is the noise of that moment.
    let ratio = |who: &str, against: &str, value: &dyn Fn(&Round) -> f64| {
        let of = |who: &str, number: u32| {
            let mut rounds = rounds.iter();
            rounds.find(|round| round.who == who && round.round == number)
        };
        Spread::of(
            (1..=tools.args.rounds())
                .filter_map(|number| Some(value(of(who, number)?) / value(of(against, number)?))),
        )
    };
    let cpu = |round: &Round| round.cpu_us_per_request;
    let per_second = |round: &Round| round.requests_per_second;
    let p99 = |round: &Round| round.wrk.p99_us as f64;
    let verdict = |what: String, measured: Option<Spread>, unit, bound| {
        measured.map(|measured| Verdict::new(NAME, &what, measured, unit, bound))
    };
    let mut verdicts = vec![verdict(
        format!("CPU per request: {UNIX} / {HTTP}"),
        ratio(UNIX, HTTP, &cpu),
        "x",
        Bound::AtMost(1.25),
    )];
    for (who, php) in [(UNIX, PHP), (UNIX, PHP_KEPT), (UNIX_NEW, PHP)] {
        verdicts.push(verdict(
            format!("requests/s: {who} / {php}"),
            ratio(who, php, &per_second),
            "x",
            Bound::AtLeast(2.0),
        ));
        verdicts.push(verdict(
            format!("p99: {who} / {php}"),
            ratio(who, php, &p99),
            "x",
            Bound::AtMost(1.0),
        ));
    }
    let added = (idle.with_kb as f64 - idle.before_kb as f64) / 1e3;
    verdicts.push(verdict(
        format!("memory of {} kept connections that wait", idle.connections),
        Spread::of([added]),
        "MB",
        Bound::AtMost(IDLE_MB_MAX),
    ));
    CaseReport {
        name: NAME.to_owned(),
        title: "hello behind nginx, over FastCGI and over HTTP, beside php-fpm".to_owned(),
        notes: vec![
            format!(
                "hello, WASI 0.2, a fresh instance per request; php-fpm: {PHP_CHILDREN} processes, opcache as its package has it, for the other way {PHP_CHILDREN} more, of which each process of nginx keeps {PHP_KEPT_MAX} connections (with more, requests wait for processes that others hold). nginx: 2 processes, no log, {KEPT} kept connections to realm. CPU is that of the agent or of php-fpm, without nginx."
            ),
            match tools.args.load_cores.as_slice() {
                [] => "The load generator shares the cores of the servers.".to_owned(),
                cores => format!("The load generator has the cores {cores:?} for its own."),
            },
            format!(
                "{} kept connections that wait: {} kB before, {} kB with them, {} kB after.",
                idle.connections, idle.before_kb, idle.with_kb, idle.after_kb
            ),
        ],
        tables: vec![Table {
            head: vec![
                "through",
                "requests/s",
                "p50 µs",
                "p99 µs",
                "CPU µs per request",
            ],
            rows: rows.collect(),
        }],
        verdicts: verdicts.into_iter().flatten().collect(),
        raw: json!({ "rounds": rounds, "idle": idle }),
        took_s: began.elapsed().as_secs_f64(),
    }
}
