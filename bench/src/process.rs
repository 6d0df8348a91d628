//! What the kernel says of a process and all below it: CPU time and resident memory. Read from
//! /proc before and after a round; never sampled in between, which would cost what is measured.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Fields behind the name in /proc/PID/stat: utime and stime, and those of waited children.
const OWN: [usize; 2] = [11, 12];
const WAITED: [usize; 2] = [13, 14];

/// Resident memory, apart by what backs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss_kb: u64,
    /// Memory of its own: heap, stacks, guests.
    pub(crate) anon_kb: u64,
    /// Pages of files: the program, compiled components.
    pub(crate) file_kb: u64,
}

/// One line of /proc/PID/stat, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// utime + stime, and those of children that were waited for.
    ticks: u64,
}

/// The process and its descendants, those that live.
pub(crate) fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc does not list")? {
        let name = entry.context("/proc does not list")?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Gone since it was listed: then it is none of ours.
        if let Some(stat) = stat(id) {
            parents.push((id, stat.parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|one| one.1 == parent)
                .map(|one| one.0),
        );
        next += 1;
    }
    Ok(found)
}

/// Seconds of CPU that the process and its descendants have used.
pub(crate) fn cpu_seconds(root: u32) -> Result<f64> {
    let ticks: u64 = tree(root)?
        .into_iter()
        .filter_map(stat)
        .map(|one| one.ticks)
        .sum();
    Ok(seconds(ticks))
}

/// Seconds of CPU of the processes that this one has waited for: after a run of the load
/// generator, that run's.
pub(crate) fn waited_cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("/proc/self/stat does not read")?;
    let fields = fields(&text).context("/proc/self/stat does not parse")?;
    Ok(seconds(WAITED.map(|at| number(&fields, at)).iter().sum()))
}

/// Resident memory of the process and its descendants.
pub(crate) fn memory(root: u32) -> Result<Memory> {
    let mut sum = Memory::default();
    for id in tree(root)? {
        let Ok(text) = fs::read_to_string(format!("/proc/{id}/status")) else {
            continue;
        };
        let one = parse_memory(&text);
        sum.rss_kb += one.rss_kb;
        sum.anon_kb += one.anon_kb;
        sum.file_kb += one.file_kb;
    }
    Ok(sum)
}

/// Threads of the process and its descendants.
pub(crate) fn threads(root: u32) -> Result<u64> {
    let count = |id| {
        let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        status_number(&text, "Threads:")
    };
    Ok(tree(root)?.into_iter().map(count).sum())
}

/// Files that the process has open.
pub(crate) fn open_files(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count)
}

/// Whether the process still runs; a zombie does not.
pub(crate) fn lives(id: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    fields(&text).is_some_and(|fields| fields[0] != "Z") && Path::new("/proc").exists()
}

/// Seconds that the cores were busy, and seconds that the hypervisor took from them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cores {
    pub(crate) busy_s: f64,
    pub(crate) stolen_s: f64,
}

pub(crate) fn cores(cores: &[usize]) -> Result<Cores> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat does not read")?;
    Ok(parse_cores(&text, cores))
}

fn parse_cores(text: &str, cores: &[usize]) -> Cores {
    let (mut busy, mut stolen) = (0, 0);
    for core in cores {
        let name = format!("cpu{core} ");
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(&name)) else {
            continue;
        };
        let fields: Vec<&str> = line.split_whitespace().collect();
        // user, nice, system, -idle, -iowait, irq, softirq
        busy += [0, 1, 2, 5, 6]
            .map(|at| number(&fields, at))
            .iter()
            .sum::<u64>();
        stolen += number(&fields, 7);
    }
    Cores {
        busy_s: seconds(busy),
        stolen_s: seconds(stolen),
    }
}

fn stat(id: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    let fields = fields(text)?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: [OWN, WAITED]
            .concat()
            .iter()
            .map(|at| number(&fields, *at))
            .sum(),
    })
}

/// The fields behind the program's name, which may hold anything, a `)` included.
fn fields(stat: &str) -> Option<Vec<&str>> {
    let (_, behind) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    (fields.len() > 16).then_some(fields)
}

fn number(fields: &[&str], at: usize) -> u64 {
    fields
        .get(at)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a run, far below 2^52")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn parse_memory(status: &str) -> Memory {
    Memory {
        rss_kb: status_number(status, "VmRSS:"),
        anon_kb: status_number(status, "RssAnon:"),
        file_kb: status_number(status, "RssFile:"),
    }
}

fn status_number(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_no_trouble() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 9 0 1 2 3";
        let expected = Stat {
            parent: 3,
            ticks: 127,
        };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("7 (a) S 3"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_is_told_apart() {
        let status = "Name:\tx\nVmRSS:\t    300 kB\nRssAnon:\t 100 kB\nRssFile:\t200 kB\n";
        let expected = Memory {
            rss_kb: 300,
            anon_kb: 100,
            file_kb: 200,
        };
        assert_eq!(parse_memory(status), expected);
    }

    #[test]
    fn only_the_two_cores_count() {
        let text = "cpu  9 9 9 9 9 9 9 9\ncpu0 1 2 3 400 5 6 7 8\ncpu1 1 0 0 0 0 0 0 0\ncpu11 50 0 0 0 0 0 0 0\n";
        let got = parse_cores(text, &[0, 1]);
        let tick = seconds(1);
        assert!((got.busy_s - 20.0 * tick).abs() < 1e-9);
        assert!((got.stolen_s - 8.0 * tick).abs() < 1e-9);
    }

    #[test]
    fn the_cpu_time_of_a_child_counts_when_it_was_waited_for() {
        let before = waited_cpu_seconds().unwrap();
        let mut spin = std::process::Command::new("sh");
        spin.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        assert!(spin.status().unwrap().success());
        assert!(waited_cpu_seconds().unwrap() > before);
    }

    #[test]
    fn this_process_is_in_its_own_tree() {
        let id = std::process::id();
        assert_eq!(tree(id).unwrap()[0], id);
        assert!(lives(id) && memory(id).unwrap().anon_kb > 0 && threads(id).unwrap() > 0);
        assert!(open_files(id) >= 3);
    }
}
