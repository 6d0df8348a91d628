//! Messages: sent by a guest one after the other, and dealt with by the instances of a worker.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use super::servers::Store;
use super::{GUEST, NATIVE, ask, component, native, start};
use crate::cases::built;
use crate::http::Connection;
use crate::peers::Tools;
use crate::realm::Realm;
use crate::report::{CaseReport, Table, digits};
use crate::server::Server;
use crate::stats::Spread;

const NAME: &str = "messages";
const BYTES: usize = 100;
/// Who send at once, and messages that a worker has at once.
const AT_ONCE: usize = 16;
/// Of each who sends, in one measurement.
const N_EACH: usize = 250;
/// No measurement takes so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the metrics.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Serialize)]
struct Round {
    round: u32,
    store: &'static str,
    who: &'static str,
    /// Alone, without an answer from who takes them.
    sent_per_second: f64,
    /// From the first that was sent to the last that was dealt with.
    done_per_second: f64,
}

pub(crate) fn messages(tools: &Tools<'_>, _: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let folder = tools.folder(NAME)?;
    let stores = [
        Store::start("queue", &folder)?,
        Store::start("nats", &folder)?,
    ];
    let realm = Realm::new(&tools.args.realm)?;
    let agent = start(&realm, &folder, &stores, &manifest(tools, &stores)?)?;
    let metrics = realm.socket();
    let mut rounds = Vec::new();
    for round in 1..=tools.args.rounds() {
        for store in &stores {
            rounds.push(by_guests(&agent, &metrics, store, round)?);
            if store.name == "nats" {
                rounds.push(by_program(tools, store, round)?);
            }
        }
        for one in rounds.iter().filter(|one| one.round == round) {
            eprintln!(
                "  {NAME} round {round}: {}, {}: {} sent/s, {} done/s",
                one.store,
                one.who,
                digits(one.sent_per_second),
                digits(one.done_per_second)
            );
        }
    }
    Ok(report(&rounds, &stores, began))
}

fn manifest(tools: &Tools<'_>, stores: &[Store]) -> Result<String> {
    let sender = built(&tools.args.guests.join("bench_stores.wasm"))?;
    let worker = built(&tools.args.guests.join("bench_worker.wasm"))?;
    let mut text = String::new();
    let mut routes = Vec::new();
    for store in stores {
        let name = store.name;
        text += &component(store, &sender);
        text += &format!(
            "[components.{name}-worker]\nsource = \"file:{}\"\nbind = {{ default = \"{name}\" }}\n\
             [components.{name}-worker.subscribe.\"bench\"]\nconcurrency = {AT_ONCE}\n",
            worker.display()
        );
        text += &store.binding("wasi:messaging");
        routes.push(format!(
            "{{ path = \"/{name}/...\", component = \"{name}\" }}"
        ));
    }
    Ok(text + &format!("[routing]\n\"*\" = [{}]\n", routes.join(", ")))
}

fn by_guests(agent: &Server, metrics: &Path, store: &Store, round: u32) -> Result<Round> {
    let worker = format!("{}-worker", store.name);
    let before = done(metrics, &worker)?;
    let n = AT_ONCE * N_EACH;
    let path = format!("/{}/send/{N_EACH}/{BYTES}", store.name);
    let began = Instant::now();
    let sent = thread::scope(|scope| {
        let senders: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| ask(agent, &path)))
            .collect();
        for sender in senders {
            let ended = sender.join().ok().context("a sender panicked")?;
            ended?;
        }
        anyhow::Ok(began.elapsed())
    })?;
    while done(metrics, &worker)? - before < n as u64 {
        if began.elapsed() > PATIENCE {
            bail!(
                "{worker} has dealt with {} of {n}",
                done(metrics, &worker)? - before
            );
        }
        thread::sleep(PAUSE);
    }
    Ok(per_second(
        round,
        store.name,
        GUEST,
        n,
        sent,
        began.elapsed(),
    ))
}

fn by_program(tools: &Tools<'_>, store: &Store, round: u32) -> Result<Round> {
    let (n, bytes) = (N_EACH.to_string(), BYTES.to_string());
    let at_once = AT_ONCE.to_string();
    // Sent alone, and then with one who takes them.
    let run = |operation| {
        native(
            tools,
            &["nats", &store.place, operation, &n, &bytes, &at_once],
        )
    };
    let (sent, all) = (run("send")?, run("work")?);
    let n = AT_ONCE * N_EACH;
    let time = Duration::from_nanos;
    Ok(per_second(
        round,
        store.name,
        NATIVE,
        n,
        time(sent),
        time(all),
    ))
}

fn per_second(
    round: u32,
    store: &'static str,
    who: &'static str,
    n: usize,
    sent: Duration,
    all: Duration,
) -> Round {
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let n = n as f64;
    Round {
        round,
        store,
        who,
        sent_per_second: n / sent.as_secs_f64(),
        done_per_second: n / all.as_secs_f64(),
    }
}

/// Messages that a worker has dealt with, as the agent counts them.
fn done(metrics: &Path, component: &str) -> Result<u64> {
    let page = Connection::open_socket(metrics)?.ask("GET", "/metrics", b"")?;
    let page = String::from_utf8(page.body).context("metrics that are no text")?;
    let lines = page.lines().filter(|line| {
        line.starts_with("messages_total{")
            && line.contains(&format!("component=\"{component}\""))
            && line.contains("result=\"done\"")
    });
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let count = counts.sum::<f64>() as u64;
    Ok(count)
}

fn report(rounds: &[Round], stores: &[Store], began: Instant) -> CaseReport {
    let rows = stores.iter().flat_map(|store| {
        [GUEST, NATIVE].into_iter().filter_map(|who| {
            let of = |figure: fn(&Round) -> f64| {
                let found = rounds
                    .iter()
                    .filter(|one| one.store == store.name && one.who == who);
                Spread::of(found.map(figure))
            };
            let sent = of(|one| one.sent_per_second)?;
            let done = of(|one| one.done_per_second)?;
            Some(vec![
                store.title.to_owned(),
                who.to_owned(),
                digits(sent.median),
                digits(done.median),
                format!("{}–{}", digits(done.min), digits(done.max)),
            ])
        })
    });
    CaseReport {
        name: NAME.to_owned(),
        title: "messages that are sent, and dealt with by a worker".to_owned(),
        notes: vec![format!(
            "{AT_ONCE} guests send {N_EACH} messages of {BYTES} bytes each, one after the other, each of them durable before the next; a worker component takes up to {AT_ONCE} at once, each with a fresh instance, and every one is acknowledged. The native program does both with the crate `async-nats` and one durable pull consumer. Embedded messages are on the disk when `send` returns; NATS syncs its files every two minutes."
        )],
        tables: vec![Table {
            head: vec!["queue", "who", "sent/s", "dealt with/s", "min–max"],
            rows: rows.collect(),
        }],
        verdicts: Vec::new(),
        raw: json!(rounds),
        took_s: began.elapsed().as_secs_f64(),
    }
}
