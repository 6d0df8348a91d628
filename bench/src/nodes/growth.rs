//! How much agents grow while a realm lives: one apply per second, resident memory over time, and
//! the disk. The slope after a warm-up, by least squares, told per hour with the time that was
//! really watched beside it.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::crowd::Crowd;
use super::{Applies, WHOLE_TIME_MAX, megabytes, until_whole};
use crate::peers::Tools;
use crate::process::{self, Memory};
use crate::report::{Bound, CaseReport, Table, Verdict, digits};
use crate::stats::Spread;

/// What falls short of this is said in the last table of the report.
const GROWTH_PERCENT_MAX: f64 = 2.0;
/// A realm that is a full mesh, with somebody in it who is not connected by chance alone.
const AGENTS: usize = 3;
/// Between two applies.
const APPLY_INTERVAL: Duration = Duration::from_secs(1);
/// Applies between two looks at the memory.
const LOOK_EVERY: u32 = 10;
/// What part of the time is warm-up: caches fill, the allocator finds its size.
const WARM_UP: f64 = 0.25;
/// Without `--minutes`.
const MINUTES: u64 = 60;
const MINUTES_QUICK: u64 = 1;

/// All agents at one moment.
#[derive(Debug, Serialize)]
struct Look {
    at_s: f64,
    applies: u32,
    memory: Vec<Memory>,
    disk_kb: Vec<u64>,
}

pub(crate) fn growth(tools: &Tools<'_>, _: &[usize]) -> Result<CaseReport> {
    let began = Instant::now();
    let minutes = tools.args.minutes.unwrap_or(match tools.args.quick {
        true => MINUTES_QUICK,
        false => MINUTES,
    });
    let mut crowd = Crowd::found(&tools.args.realm, AGENTS)?;
    crowd.start_others()?;
    until_whole(&mut crowd, &[], WHOLE_TIME_MAX)?;
    let mut state = Applies::begin(tools, &crowd)?;
    let watched = Duration::from_secs(60 * minutes);
    let looks = watch(&crowd, &mut state, watched)?;
    Ok(report(&looks, minutes, began))
}

fn watch(crowd: &Crowd, state: &mut Applies, time: Duration) -> Result<Vec<Look>> {
    let began = Instant::now();
    let mut looks = Vec::new();
    let mut applies = 0;
    while began.elapsed() < time {
        if applies % LOOK_EVERY == 0 {
            let memory = crowd.members.iter().map(|one| process::memory(one.id()));
            looks.push(Look {
                at_s: began.elapsed().as_secs_f64(),
                applies,
                memory: memory.collect::<Result<_>>()?,
                disk_kb: crowd.members.iter().map(|one| one.disk_kb()).collect(),
            });
        }
        state.apply_now(crowd, 0)?;
        applies += 1;
        let due = APPLY_INTERVAL * applies;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    Ok(looks)
}

/// Units per second, by least squares; and the mean of the first values as what it begins with.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.iter().map(|_| 1.0).sum::<f64>();
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|one| one.0), mean(|one| one.1));
    let above: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let below: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

/// What one agent did after the warm-up.
struct Growth {
    rss_mb: (f64, f64),
    anon_mb: (f64, f64),
    percent_per_hour: f64,
    anon_kb_per_apply: f64,
    disk_kb_per_apply: f64,
}

fn growth_of(looks: &[Look], agent: usize) -> Growth {
    let end_s = looks.last().map_or(0.0, |look| look.at_s);
    let warm: Vec<&Look> = looks
        .iter()
        .filter(|look| look.at_s >= end_s * WARM_UP)
        .collect();
    let series = |value: &dyn Fn(&Look) -> f64| -> Vec<(f64, f64)> {
        warm.iter().map(|look| (look.at_s, value(look))).collect()
    };
    let rss = series(&|look| megabytes(look.memory[agent].rss_kb));
    let anon = series(&|look| megabytes(look.memory[agent].anon_kb));
    let disk = series(&|look| megabytes(look.disk_kb[agent]));
    let ends = |series: &[(f64, f64)]| {
        let first = series.first().map_or(0.0, |one| one.1);
        (first, series.last().map_or(0.0, |one| one.1))
    };
    let start_mb = ends(&rss).0.max(f64::MIN_POSITIVE);
    let per_s = f64::from(looks.last().map_or(0, |look| look.applies)) / end_s.max(1.0);
    Growth {
        percent_per_hour: 100.0 * slope(&rss) * 3_600.0 / start_mb,
        anon_kb_per_apply: 1e3 * slope(&anon) / per_s.max(f64::MIN_POSITIVE),
        disk_kb_per_apply: 1e3 * slope(&disk) / per_s.max(f64::MIN_POSITIVE),
        rss_mb: ends(&rss),
        anon_mb: ends(&anon),
    }
}

fn report(looks: &[Look], minutes: u64, began: Instant) -> CaseReport {
    let all: Vec<Growth> = (0..AGENTS).map(|agent| growth_of(looks, agent)).collect();
    let from_to = |(from, to): (f64, f64)| format!("{} → {}", digits(from), digits(to));
    let rows = all.iter().enumerate().map(|(agent, one)| {
        vec![
            format!("n{agent:03}"),
            from_to(one.rss_mb),
            from_to(one.anon_mb),
            digits(one.percent_per_hour),
            digits(one.anon_kb_per_apply),
            digits(one.disk_kb_per_apply),
        ]
    });
    let percent = Spread::of(all.iter().map(|one| one.percent_per_hour));
    let applies = looks.last().map_or(0, |look| look.applies);
    CaseReport {
        name: "nodes-growth".to_owned(),
        title: format!("{AGENTS} agents, one apply per second for {minutes} minutes"),
        notes: vec![
            format!(
                "{applies} applies were looked at. The first {:.0} % of the time are warm-up, and are not in the figures: megabytes at its end and at the end, and the slope in between by least squares, per hour{}.",
                100.0 * WARM_UP,
                if minutes < 60 { " although less than an hour was watched" } else { "" }
            ),
            "The log keeps every entry: it grows with each apply, by the size of the manifest and its signature.".to_owned(),
        ],
        tables: vec![Table {
            head: vec!["agent", "RSS MB", "anonymous MB", "RSS, % per hour", "anonymous, kB per apply", "disk, kB per apply"],
            rows: rows.collect(),
        }],
        verdicts: percent
            .map(|percent| {
                let what = format!("growth of RSS per hour, by {minutes} minutes");
                Verdict::new("nodes-growth", what, percent, "%", Bound::AtMost(GROWTH_PERCENT_MAX))
            })
            .into_iter()
            .collect(),
        raw: json!(looks),
        took_s: began.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(points: &[(f64, f64)], expected: f64) {
        let got = slope(points);
        assert!((got - expected).abs() < 1e-9, "{got}");
    }

    #[test]
    fn the_slope_of_a_line_is_its_slope() {
        check(&[], 0.0);
        check(&[(1.0, 5.0)], 0.0);
        check(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)], 2.0);
        check(&[(0.0, 4.0), (10.0, 4.0), (20.0, 4.0)], 0.0);
    }

    #[test]
    fn the_warm_up_does_not_count() {
        let look = |at_s: f64, rss_kb: u64| Look {
            at_s,
            applies: 0,
            memory: vec![
                Memory {
                    rss_kb,
                    ..Memory::default()
                };
                AGENTS
            ],
            disk_kb: vec![0; AGENTS],
        };
        let looks = [
            look(0.0, 1_000),
            look(10.0, 20_000),
            look(20.0, 20_000),
            look(40.0, 20_000),
        ];
        assert!(growth_of(&looks, 0).percent_per_hour.abs() < 1e-9);
        let looks = [
            look(0.0, 1_000),
            look(10.0, 20_000),
            look(20.0, 20_000),
            look(40.0, 21_000),
        ];
        assert!(growth_of(&looks, 0).percent_per_hour > 2.0);
    }
}
