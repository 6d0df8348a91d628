//! Many agents of one realm in one box: how fast a signed entry is in force everywhere, how soon a
//! death is noticed and a return is whole, what half a realm that stood still has missed, and what
//! an idle agent costs. Real processes on loopback; what other machines would share is shared here:
//! the cores, the disk.

mod crowd;
mod growth;
mod hop;
mod look;
mod moves;
mod push;
mod slow;
mod spread;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cases::example;
use crate::machine;
use crate::peers::Tools;
use crate::process::{self, Memory};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;
use crowd::{Crowd, Member};
pub(crate) use growth::growth;
pub(crate) use hop::hop;
use look::Sees;
pub(crate) use moves::moves;
pub(crate) use push::push;
pub(crate) use slow::slow;
use spread::Sorted;

/// What the largest realm is held to; smaller ones are shown beside it.
const ACCEPTED_MS_MAX: f64 = 250.0;
const DEATH_S_MAX: f64 = 10.0;
const RETURN_S_MAX: f64 = 20.0;
const HEALED_S_MAX: f64 = 10.0;
const IDLE_RSS_MB_MAX: f64 = 40.0;

/// Between two applies: what one leaves behind is done.
const APPLY_PAUSE: Duration = Duration::from_secs(1);
/// Until an entry that is accepted anywhere is accepted everywhere, or something is wrong.
const ACCEPT_TIME_MAX: Duration = Duration::from_secs(30);
/// Until all agents of a realm that starts at once know each other.
const WHOLE_TIME_MAX: Duration = Duration::from_secs(240);
/// Nobody can know of a death before: pings go every two seconds.
const UNNOTICED: Duration = Duration::from_secs(2);
/// Between two looks at an agent's status: each costs it a millisecond or two.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Until an idle realm is idle, and how long it is watched.
const SETTLE: Duration = Duration::from_secs(20);
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Entries that half of the realm misses while it stands still.
const MISSED: usize = 5;

/// How much is done in a run.
struct Plan {
    counts: Vec<usize>,
    applies: usize,
    stopped: Duration,
}

impl Plan {
    fn of(tools: &Tools<'_>) -> Self {
        let quick = tools.args.quick;
        let given = &tools.args.nodes;
        Self {
            counts: match given.is_empty() {
                false => given.clone(),
                true if quick => vec![10, 25],
                true => vec![50, 100],
            },
            applies: if quick { 10 } else { 50 },
            stopped: Duration::from_secs(if quick { 15 } else { 60 }),
        }
    }
}

/// What was seen of a realm of one size.
#[derive(Debug, Serialize)]
struct Found {
    count: usize,
    whole_s: f64,
    /// From sending the entry to the acceptance by the node that it was sent to.
    first_ms: Sorted,
    /// By each node.
    each_ms: Sorted,
    /// By the last node.
    last_ms: Sorted,
    death_s: Sorted,
    return_s: Sorted,
    caught_up_s: Sorted,
    healed_s: f64,
    idle: Vec<Idle>,
}

/// An agent that has nothing to do.
#[derive(Debug, Serialize)]
struct Idle {
    memory: Memory,
    cpu_percent: f64,
    threads: u64,
    connections: usize,
}

pub(crate) fn nodes(tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let plan = Plan::of(tools);
    // As many agents as a data centre has machines: two cores would measure the cores.
    machine::put_on(&tools.all_cores)?;
    let found: Result<Vec<Found>> = plan
        .counts
        .iter()
        .map(|count| measure(tools, &plan, *count))
        .collect();
    machine::put_on(cores)?;
    Ok(report(&plan, &found?, tools, began))
}

fn measure(tools: &Tools<'_>, plan: &Plan, count: usize) -> Result<Found> {
    let mut crowd = Crowd::found(&tools.args.realm, count)?;
    let began = Instant::now();
    crowd.start_others()?;
    until_whole(&mut crowd, &[], WHOLE_TIME_MAX)?;
    let whole_s = began.elapsed().as_secs_f64();
    eprintln!("  {count} nodes are one realm after {whole_s:.1} s");
    let mut state = Applies::begin(tools, &crowd)?;
    let idle = idle(&crowd)?;
    let sent: Vec<Sent> = (0..plan.applies)
        .map(|_| state.apply(&crowd, 0))
        .collect::<Result<_>>()?;
    let (first_ms, each_ms, last_ms) = acceptance(&crowd, &sent)?;
    eprintln!("  accepted everywhere after {:?} ms", last_ms.cells());
    // All have said what they have: what follows measures a death, and not that.
    until_whole(&mut crowd, &[], WHOLE_TIME_MAX)?;
    let (death_s, return_s) = death_and_return(&mut crowd)?;
    let (caught_up_s, healed_s) = standstill(&mut crowd, &mut state, plan.stopped)?;
    Ok(Found {
        count,
        whole_s,
        first_ms,
        each_ms,
        last_ms,
        death_s,
        return_s,
        caught_up_s,
        healed_s,
        idle,
    })
}

/// One entry that was handed to a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    seq: u64,
    at_us: i64,
}

/// Manifests of which each differs a little from the one before.
pub(crate) struct Applies {
    component: String,
    version: u32,
}

impl Applies {
    /// The first one is in force when this returns, and its component runs.
    pub(crate) fn begin(tools: &Tools<'_>, crowd: &Crowd) -> Result<Self> {
        let component = example(tools, "hello.wasm")?.display().to_string();
        let applies = Self {
            component,
            version: 0,
        };
        crowd.write("realm.toml", &applies.manifest())?;
        crowd.say(0, &["apply", "realm.toml", "--yes"])?;
        Ok(applies)
    }

    /// One component, on the first node alone, as everywhere else nothing is to be done.
    fn manifest(&self) -> String {
        let mut text = format!("[components.app]\nsource = \"file:{}\"\n", self.component);
        let _ = writeln!(text, "wall_timeout_ms = {}", 30_000 + self.version);
        text + "\n[routing]\n\"n000\" = [{ path = \"/...\", component = \"app\" }]\n"
    }

    /// Signs the next one, and hands it to a node once the realm is quiet.
    pub(crate) fn apply(&mut self, crowd: &Crowd, to: usize) -> Result<Sent> {
        let entry = self.sign(crowd)?;
        std::thread::sleep(APPLY_PAUSE);
        Self::hand_over(crowd, to, &entry)
    }

    /// The same without the pause.
    pub(crate) fn apply_now(&mut self, crowd: &Crowd, to: usize) -> Result<Sent> {
        let entry = self.sign(crowd)?;
        Self::hand_over(crowd, to, &entry)
    }

    fn sign(&mut self, crowd: &Crowd) -> Result<Vec<u8>> {
        self.version += 1;
        crowd.write("realm.toml", &self.manifest())?;
        crowd.say(0, &["apply", "realm.toml", "--yes", "--sign-only", "entry"])?;
        crowd.read("entry")
    }

    fn hand_over(crowd: &Crowd, to: usize, entry: &[u8]) -> Result<Sent> {
        let at_us = now_us()?;
        let said = crowd.members[to].send("POST", "/v1/entries/default", entry)?;
        let said: Value = serde_json::from_slice(&said)?;
        let seq = said["head"]["seq"]
            .as_u64()
            .context("no number of an entry")?;
        Ok(Sent { seq, at_us })
    }
}

fn now_us() -> Result<i64> {
    Ok(i64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros(),
    )?)
}

/// Waits until every agent but the ones left out reaches all nodes, and all are in step; gives the
/// seconds after which each of them said so.
fn until_whole(crowd: &mut Crowd, without: &[usize], time_max: Duration) -> Result<Sorted> {
    let count = crowd.members.len();
    until_each(crowd, without, time_max, |sees| sees.is_whole(count))
}

fn until_each(
    crowd: &mut Crowd,
    without: &[usize],
    time_max: Duration,
    says: impl Fn(&Sees) -> bool,
) -> Result<Sorted> {
    let began = Instant::now();
    let all = 0..crowd.members.len();
    let mut left: Vec<usize> = all.filter(|at| !without.contains(at)).collect();
    let mut took = Vec::new();
    loop {
        left.retain(|at| {
            let seen = crowd.members[*at].ask("/v1/status");
            let done = seen
                .and_then(|status| Sees::of(&status))
                .is_ok_and(|sees| says(&sees));
            if done {
                took.push(began.elapsed().as_secs_f64());
            }
            !done
        });
        if left.is_empty() {
            return Ok(Sorted::of(took));
        }
        crowd.members.iter_mut().try_for_each(Member::still_runs)?;
        if began.elapsed() > time_max {
            let first = &crowd.members[left[0]];
            let sees = first.ask("/v1/status").and_then(|status| Sees::of(&status));
            bail!(
                "{} nodes of {} do not say so; {}: {sees:?}",
                left.len(),
                crowd.members.len(),
                first.name
            );
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

fn idle(crowd: &Crowd) -> Result<Vec<Idle>> {
    std::thread::sleep(SETTLE);
    let began = Instant::now();
    let cpu = |crowd: &Crowd| -> Result<Vec<f64>> {
        crowd
            .members
            .iter()
            .map(|one| process::cpu_seconds(one.id()))
            .collect()
    };
    let before = cpu(crowd)?;
    std::thread::sleep(IDLE_TIME);
    let after = cpu(crowd)?;
    let time_s = began.elapsed().as_secs_f64();
    let used = before
        .iter()
        .zip(after)
        .map(|(before, after)| after - before);
    let idle = crowd.members.iter().zip(used).map(|(member, used_s)| {
        Ok(Idle {
            memory: process::memory(member.id())?,
            cpu_percent: 100.0 * used_s / time_s,
            threads: process::threads(member.id())?,
            connections: Sees::of(&member.ask("/v1/status")?)?.count("direct"),
        })
    });
    idle.collect()
}

/// Milliseconds until the first node, each node, and the last node has accepted each entry.
fn acceptance(crowd: &Crowd, sent: &[Sent]) -> Result<(Sorted, Sorted, Sorted)> {
    let logs = accepted_by_all(crowd, sent.last().map_or(0, |sent| sent.seq))?;
    let (mut first, mut each, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for one in sent {
        let times = logs.iter().map(|log| log.get(&one.seq).copied());
        let times: Option<Vec<i64>> = times.collect();
        let times = times.with_context(|| format!("entry {} is not in every log", one.seq))?;
        let times = Sorted::of(times.iter().map(|at_us| milliseconds(at_us - one.at_us)));
        first.push(times.at(0));
        last.push(times.at(100));
        each.extend((1..=100).map(|percent| times.at(percent)));
    }
    eprintln!("milliseconds until the last node, entry by entry: {last:.0?}");
    Ok((Sorted::of(first), Sorted::of(each), Sorted::of(last)))
}

/// What the logs of all nodes say, once they have the entry `seq`.
fn accepted_by_all(crowd: &Crowd, seq: u64) -> Result<Vec<BTreeMap<u64, i64>>> {
    let began = Instant::now();
    loop {
        let logs = crowd
            .members
            .iter()
            .map(|one| Ok(look::accepted(&one.log_text()?)));
        let logs: Vec<_> = logs.collect::<Result<_>>()?;
        let missing = logs.iter().filter(|log| !log.contains_key(&seq)).count();
        if missing == 0 {
            return Ok(logs);
        }
        if began.elapsed() > ACCEPT_TIME_MAX {
            bail!("{missing} nodes have not accepted entry {seq}");
        }
        std::thread::sleep(APPLY_PAUSE);
    }
}

/// One agent is killed, and started again with the same key: seconds until each of the others says
/// that it is lost, and from the start until everybody reaches everybody.
fn death_and_return(crowd: &mut Crowd) -> Result<(Sorted, Sorted)> {
    let at = crowd.members.len() / 2;
    let name = crowd.members[at].name.clone();
    crowd.members[at].kill()?;
    std::thread::sleep(UNNOTICED);
    let lost = until_each(crowd, &[at], ACCEPT_TIME_MAX, |sees| sees.is(&name, "lost"))?;
    let lost = lost.later(UNNOTICED.as_secs_f64());
    crowd.start(at)?;
    let whole = until_whole(crowd, &[], WHOLE_TIME_MAX)?;
    eprintln!(
        "  a death is noticed after {:?} s, a return whole after {:?} s",
        lost.cells(),
        whole.cells()
    );
    Ok((lost, whole))
}

/// Half of the agents stand still while entries are applied: seconds until each of them has the
/// last one after they go on, and until everybody reaches everybody.
fn standstill(crowd: &mut Crowd, state: &mut Applies, time: Duration) -> Result<(Sorted, f64)> {
    let half = crowd.members.len() / 2..crowd.members.len();
    let began = Instant::now();
    for at in half.clone() {
        crowd.members[at].signal(Signal::STOP)?;
    }
    let mut last = None;
    for _ in 0..MISSED {
        last = Some(state.apply(crowd, 0)?);
    }
    let seq = last.context("nothing was applied")?.seq;
    std::thread::sleep(time.saturating_sub(began.elapsed()));
    let healed_us = now_us()?;
    let healed = Instant::now();
    for at in half.clone() {
        crowd.members[at].signal(Signal::CONT)?;
    }
    let logs = accepted_by_all(crowd, seq)?;
    let caught_up = half.map(|at| milliseconds(logs[at][&seq] - healed_us) / 1e3);
    let caught_up = Sorted::of(caught_up);
    until_whole(crowd, &[], WHOLE_TIME_MAX)?;
    let healed_s = healed.elapsed().as_secs_f64();
    eprintln!(
        "  half of it caught up after {:?} s, whole after {healed_s:.1} s",
        caught_up.cells()
    );
    Ok((caught_up, healed_s))
}

#[expect(clippy::cast_precision_loss, reason = "times of a run")]
fn milliseconds(us: i64) -> f64 {
    us as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "kilobytes")]
fn megabytes(kb: u64) -> f64 {
    kb as f64 / 1e3
}

fn single(value: f64) -> Spread {
    Spread {
        median: value,
        min: value,
        max: value,
    }
}

fn report(plan: &Plan, found: &[Found], tools: &Tools<'_>, began: Instant) -> CaseReport {
    let mut timings = Table {
        head: vec!["agents", "what", "p50", "p90", "p99", "at most"],
        rows: Vec::new(),
    };
    let mut idle = Table {
        head: vec!["agents", "idle agent", "median", "min–max"],
        rows: Vec::new(),
    };
    let mut verdicts = Vec::new();
    for one in found {
        timings.rows.extend(timing_rows(one));
        idle.rows.extend(idle_rows(one));
        verdicts.extend(verdicts_of(one));
    }
    CaseReport {
        name: "nodes".to_owned(),
        title: "many agents of one realm in one box, on loopback".to_owned(),
        notes: notes(plan, tools),
        tables: vec![timings, idle],
        verdicts,
        raw: json!(found),
        took_s: began.elapsed().as_secs_f64(),
    }
}

fn notes(plan: &Plan, tools: &Tools<'_>) -> Vec<String> {
    vec![
        format!(
            "All agents share the cores {:?} and one disk. {} entries of one changed line, signed before the clock starts, one every second or two; the clock runs from handing one to the first node's socket to the line `entry accepted` in each agent's log, which is written when the entry is on that agent's disk.",
            tools.all_cores, plan.applies
        ),
        format!(
            "Death: kill -9, until the status of every other agent says `lost`; asked for from {} s on, in turn. Return: started again with the same key at once, until every agent reaches every other and all are in step. Standing still: SIGSTOP for half of the agents, {MISSED} entries, SIGCONT after {} s. A realm of more than 24 nodes is no full mesh: `connections` are an agent's own.",
            UNNOTICED.as_secs(),
            plan.stopped.as_secs()
        ),
    ]
}

fn timing_rows(one: &Found) -> Vec<Vec<String>> {
    let row = |what: &str, times: &Sorted| {
        let mut row = vec![one.count.to_string(), what.to_owned()];
        row.extend(times.cells());
        row
    };
    vec![
        row("accepted by the first node, ms", &one.first_ms),
        row("by each node, ms", &one.each_ms),
        row("by every node, ms", &one.last_ms),
        row("death noticed, s", &one.death_s),
        row("whole again after a return, s", &one.return_s),
        row("half caught up after standing still, s", &one.caught_up_s),
        row("whole again after that, s", &Sorted::of([one.healed_s])),
        row(
            "all started at once are one realm, s",
            &Sorted::of([one.whole_s]),
        ),
    ]
}

fn spread_of(one: &Found, value: impl Fn(&Idle) -> f64) -> Spread {
    Spread::of(one.idle.iter().map(value)).unwrap_or(single(0.0))
}

fn idle_rows(one: &Found) -> Vec<Vec<String>> {
    let row = |what: &str, spread: Spread| {
        vec![
            one.count.to_string(),
            what.to_owned(),
            digits(spread.median),
            format!("{}–{}", digits(spread.min), digits(spread.max)),
        ]
    };
    let count = |value: usize| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
    let threads = |idle: &Idle| count(usize::try_from(idle.threads).unwrap_or(usize::MAX));
    vec![
        row(
            "RSS MB",
            spread_of(one, |idle| megabytes(idle.memory.rss_kb)),
        ),
        row(
            "of it anonymous",
            spread_of(one, |idle| megabytes(idle.memory.anon_kb)),
        ),
        row(
            "of it files",
            spread_of(one, |idle| megabytes(idle.memory.file_kb)),
        ),
        row("CPU, % of a core", spread_of(one, |idle| idle.cpu_percent)),
        row(
            "connections",
            spread_of(one, |idle| count(idle.connections)),
        ),
        row("threads", spread_of(one, threads)),
    ]
}

fn verdicts_of(one: &Found) -> Vec<Verdict> {
    let of = |what: &str, measured: Spread, unit: &'static str, most: f64| {
        let what = format!("{} agents: {what}", one.count);
        Verdict::new("nodes", what, measured, unit, Bound::AtMost(most))
    };
    let rss = spread_of(one, |idle| megabytes(idle.memory.rss_kb));
    vec![
        of(
            "accepted everywhere, p99",
            one.last_ms.verdict(99),
            "ms",
            ACCEPTED_MS_MAX,
        ),
        of(
            "death noticed by the last",
            one.death_s.verdict(100),
            "s",
            DEATH_S_MAX,
        ),
        of(
            "whole after a restart with the same key",
            one.return_s.verdict(100),
            "s",
            RETURN_S_MAX,
        ),
        of(
            "caught up after standing still, the last",
            one.caught_up_s.verdict(100),
            "s",
            HEALED_S_MAX,
        ),
        of("RSS of an idle agent", rss, "MB", IDLE_RSS_MB_MAX),
    ]
}
