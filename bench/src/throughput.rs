//! Requests per second, latency and CPU time: the same requests to each contender in turn, round
//! after round, each round beginning with the next one. All servers run all the time and only one is asked: what the others use meanwhile
//! is in the raw figures of each round.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::peers::{Peer, Running, Tools};
use crate::process::{self, Memory};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;
use crate::wrk::{Figures, Request, Wrk};

const WARM_UP: Duration = Duration::from_secs(1);

/// One load for several contenders.
#[derive(Debug)]
pub(crate) struct Throughput {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) guest: PathBuf,
    pub(crate) request: Request,
    pub(crate) path: &'static str,
    pub(crate) contenders: Vec<(&'static str, Peer)>,
    pub(crate) targets: Vec<Target>,
    pub(crate) notes: Vec<String>,
    /// More rounds, and shorter ones: for a ratio of p99 that is close to its target, since the
    /// p99 of one round says little.
    pub(crate) finer: bool,
}

/// A ratio of two contenders, and where it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) metric: Metric,
    pub(crate) who: &'static str,
    pub(crate) against: &'static str,
    pub(crate) bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    RequestsPerSecond,
    CpuPerRequest,
    P99,
}

impl Metric {
    fn text(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests/s",
            Self::CpuPerRequest => "CPU per request",
            Self::P99 => "p99",
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of a round")]
    fn of(self, round: &Round) -> f64 {
        match self {
            Self::RequestsPerSecond => round.requests_per_second,
            Self::CpuPerRequest => round.cpu_us_per_request,
            Self::P99 => round.wrk.p99_us as f64,
        }
    }
}

/// One contender in one round.
#[derive(Debug, Clone, Serialize)]
struct Round {
    round: u32,
    who: &'static str,
    requests_per_second: f64,
    cpu_us_per_request: f64,
    server_cpu_s: f64,
    wrk_cpu_s: f64,
    /// CPU time on the two cores that was neither the server's nor the load generator's.
    others_cpu_s: f64,
    /// Time that the hypervisor gave to others.
    stolen_s: f64,
    memory: Memory,
    wrk: Figures,
}

impl Throughput {
    pub(crate) fn run(&self, tools: &Tools<'_>, cores: &[usize]) -> Result<CaseReport> {
        let mut running = Vec::new();
        for (who, peer) in &self.contenders {
            running.push((*who, tools.start(who, peer, &self.guest)?));
        }
        self.run_beside(running, tools, cores)
    }

    /// The same with servers that run already, one for each contender.
    pub(crate) fn run_beside(
        &self,
        mut running: Vec<(&'static str, Running)>,
        tools: &Tools<'_>,
        cores: &[usize],
    ) -> Result<CaseReport> {
        let began = Instant::now();
        let args = tools.args;
        let folder = tools.folder(self.name)?;
        let wrk = Wrk::new(&folder, args.threads, args.connections, self.request)?;
        self.compare_answers(&mut running)?;
        for (_, one) in &running {
            // Caches, pools and branch predictors; the first compilation is long over.
            wrk.run(&one.server.url(self.path), WARM_UP)?;
        }
        let mut rounds = Vec::new();
        for round in 1..=self.rounds(tools).0 {
            // Each begins once: who comes first, or behind whom, shall make no difference.
            running.rotate_left(usize::from(round > 1));
            for (who, one) in &running {
                let measured = self.round(round, who, one, &wrk, tools, cores)?;
                eprintln!(
                    "  {} round {round}: {who}: {} requests/s, {} µs CPU, p99 {} µs",
                    self.name,
                    digits(measured.requests_per_second),
                    digits(measured.cpu_us_per_request),
                    measured.wrk.p99_us
                );
                rounds.push(measured);
            }
        }
        self.report(&rounds, began)
    }

    /// How many rounds, and how long each is.
    fn rounds(&self, tools: &Tools<'_>) -> (u32, Duration) {
        let (rounds, time) = (tools.args.rounds(), tools.args.round_time());
        if self.finer && !tools.args.quick {
            (2 * rounds + 1, time / 2)
        } else {
            (rounds, time)
        }
    }

    /// Who answers something else does other work, and a comparison with it says nothing.
    fn compare_answers(&self, running: &mut [(&'static str, Running)]) -> Result<()> {
        let body = self.request.body();
        let mut first: Option<(&str, Vec<u8>)> = None;
        for (who, one) in running {
            let said = one
                .server
                .answers(self.request.method(), self.path, &body)?;
            match &first {
                None => first = Some((who, said)),
                Some((other, expected)) if *expected != said => bail!(
                    "{who} and {other} answer differently: `{}` and `{}`",
                    String::from_utf8_lossy(&said[..said.len().min(200)]),
                    String::from_utf8_lossy(&expected[..expected.len().min(200)]),
                ),
                Some(_) => {}
            }
        }
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "requests and microseconds of a round"
    )]
    fn round(
        &self,
        round: u32,
        who: &'static str,
        one: &Running,
        wrk: &Wrk,
        tools: &Tools<'_>,
        cores: &[usize],
    ) -> Result<Round> {
        let id = one.server.id();
        let before = (
            process::cpu_seconds(id)?,
            process::waited_cpu_seconds()?,
            process::cores(cores)?,
        );
        let figures = wrk.run(&one.server.url(self.path), self.rounds(tools).1)?;
        let server_cpu_s = process::cpu_seconds(id)? - before.0;
        let wrk_cpu_s = process::waited_cpu_seconds()? - before.1;
        let after = process::cores(cores)?;
        if figures.requests == 0 {
            bail!("{who} answered nothing\n{}", one.server.last_words());
        }
        Ok(Round {
            round,
            who,
            requests_per_second: figures.requests as f64 / (figures.microseconds as f64 / 1e6),
            cpu_us_per_request: server_cpu_s * 1e6 / figures.requests as f64,
            server_cpu_s,
            wrk_cpu_s,
            others_cpu_s: (after.busy_s - before.2.busy_s - server_cpu_s - wrk_cpu_s).max(0.0),
            stolen_s: after.stolen_s - before.2.stolen_s,
            memory: process::memory(id)?,
            wrk: figures,
        })
    }

    fn report(&self, rounds: &[Round], began: Instant) -> Result<CaseReport> {
        let errors: u64 = rounds.iter().map(|round| round.wrk.errors()).sum();
        if errors > 0 {
            let of = |who| {
                rounds
                    .iter()
                    .filter(|one| one.who == who)
                    .map(|one| one.wrk.errors())
                    .sum()
            };
            let list: Vec<(&str, u64)> = self
                .contenders
                .iter()
                .map(|one| (one.0, of(one.0)))
                .collect();
            bail!("there were failed requests, so the figures say nothing: {list:?}");
        }
        let mut notes = self.notes.clone();
        notes.extend(disturbed(rounds));
        Ok(CaseReport {
            name: self.name.to_owned(),
            title: self.title.to_owned(),
            notes,
            tables: vec![self.table(rounds)?],
            verdicts: self
                .targets
                .iter()
                .map(|one| self.verdict(one, rounds))
                .collect::<Result<_>>()?,
            raw: json!({
                "path": self.path,
                "method": self.request.method(),
                "body_bytes": self.request.body().len(),
                "settings": self.contenders.iter().map(|(who, peer)| (*who, peer.settings()))
                    .collect::<std::collections::BTreeMap<_, _>>(),
                "rounds": rounds,
            }),
            took_s: began.elapsed().as_secs_f64(),
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "kilobytes and microseconds")]
    fn table(&self, rounds: &[Round]) -> Result<Table> {
        let mut table = Table {
            head: vec![
                "who",
                "requests/s",
                "min–max",
                "CPU µs/request",
                "min–max",
                "p50 ms",
                "p99 ms",
                "min–max",
                "RSS MB",
                "anon",
                "file",
            ],
            rows: Vec::new(),
        };
        for (who, _) in &self.contenders {
            let of = |value: fn(&Round) -> f64| {
                let mine = rounds.iter().filter(|round| round.who == *who);
                Spread::of(mine.map(value)).with_context(|| format!("no round of {who}"))
            };
            let rate = of(|round| round.requests_per_second)?;
            let cpu = of(|round| round.cpu_us_per_request)?;
            let p50 = of(|round| round.wrk.p50_us as f64 / 1e3)?;
            let p99 = of(|round| round.wrk.p99_us as f64 / 1e3)?;
            let rss = of(|round| round.memory.rss_kb as f64 / 1e3)?;
            let anon = of(|round| round.memory.anon_kb as f64 / 1e3)?;
            let file = of(|round| round.memory.file_kb as f64 / 1e3)?;
            let range = |one: Spread| format!("{}–{}", digits(one.min), digits(one.max));
            table.rows.push(vec![
                (*who).to_owned(),
                digits(rate.median),
                range(rate),
                digits(cpu.median),
                range(cpu),
                digits(p50.median),
                digits(p99.median),
                range(p99),
                digits(rss.median),
                digits(anon.median),
                digits(file.median),
            ]);
        }
        Ok(table)
    }

    /// The ratio of each round by itself: what disturbed a round disturbed both.
    fn verdict(&self, target: &Target, rounds: &[Round]) -> Result<Verdict> {
        let of = |who: &'static str| {
            let mine = rounds.iter().filter(move |round| round.who == who);
            mine.map(|round| target.metric.of(round))
        };
        let ratios = of(target.who).zip(of(target.against)).map(|(a, b)| a / b);
        let spread = Spread::of(ratios);
        let spread = spread
            .with_context(|| format!("no rounds of {} and {}", target.who, target.against))?;
        let text = format!(
            "{}: {} / {}",
            target.metric.text(),
            target.who,
            target.against
        );
        Ok(Verdict::new(self.name, text, spread, "x", target.bound))
    }
}

/// A word about rounds in which something else used the cores.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a round")]
fn disturbed(rounds: &[Round]) -> Option<String> {
    /// Of the time of two cores; below this it is the kernel's own work.
    const SHARE_MAX: f64 = 0.03;
    let share = |round: &Round| {
        (round.others_cpu_s + round.stolen_s) / (2.0 * round.wrk.microseconds as f64 / 1e6)
    };
    let worst = rounds.iter().map(share).fold(0.0, f64::max);
    let many = rounds
        .iter()
        .filter(|round| share(round) > SHARE_MAX)
        .count();
    (many > 0).then(|| {
        format!(
            "Disturbed: in {many} of {} rounds something else had more than 3 % of the two cores, at worst {:.0} %.",
            rounds.len(),
            worst * 100.0
        )
    })
}
