//! The machine and the versions of everything that is measured: without them a figure says
//! nothing. Also which two cores are used.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// Servers and load generator share this many cores.
const CORES: usize = 2;
/// Cores that a set of Linux can name.
const CORES_MAX: usize = 1024;

/// What a report says of where it was made.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores_of_machine: usize,
    pub(crate) cores_used: Vec<usize>,
    pub(crate) memory_mb: u64,
    pub(crate) kernel: String,
    pub(crate) swap: bool,
    pub(crate) virtual_machine: bool,
    pub(crate) max_map_count: String,
    pub(crate) load_average_at_start: String,
}

/// The cores that this process may use.
pub(crate) fn allowed() -> Result<Vec<usize>> {
    let may = sched_getaffinity(None).context("the cores of this process cannot be read")?;
    Ok((0..CORES_MAX).filter(|core| may.is_set(*core)).collect())
}

/// Puts this process, and so every server and load generator that it starts, on two cores.
pub(crate) fn pin(wanted: &[usize]) -> Result<Vec<usize>> {
    let mut cores = allowed()?;
    if wanted.is_empty() {
        cores.truncate(CORES);
    } else if let Some(core) = wanted.iter().find(|core| !cores.contains(core)) {
        bail!("core {core} is not among those that this process may use: {cores:?}");
    } else {
        cores = wanted.to_vec();
        cores.dedup();
    }
    if cores.len() != CORES {
        bail!("exactly {CORES} cores are needed, there are {cores:?}");
    }
    put_on(&cores)?;
    Ok(cores)
}

/// Puts this process, and what it starts from here on, on these cores.
pub(crate) fn put_on(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set)
        .with_context(|| format!("this process cannot be put on the cores {cores:?}"))
}

pub(crate) fn look(cores_used: Vec<usize>) -> Machine {
    let cpu_info = read("/proc/cpuinfo");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    Machine {
        cpu: field(&cpu_info, "model name"),
        cores_of_machine: cpu_info
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        cores_used,
        memory_mb: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
        kernel: read("/proc/sys/kernel/osrelease"),
        swap: read("/proc/swaps").lines().count() > 1,
        virtual_machine: cpu_info.contains(" hypervisor "),
        max_map_count: read("/proc/sys/vm/max_map_count"),
        load_average_at_start: read("/proc/loadavg"),
    }
}

/// The first line of what `program args` says, be it on stdout or stderr.
pub(crate) fn version(program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("`{}` does not start", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| !line.trim().is_empty());
    // wrk goes on with a copyright.
    let line = line.and_then(|line| line.split(" Copyright").next());
    Ok(line.unwrap_or("no version").trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The value of the first `key : value`.
fn field(text: &str, key: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(name, _)| name.trim() == key).map(|one| one.1);
    value.unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files() {
        assert_eq!(field("a\t: 1\nmodel name\t: X: Y\n", "model name"), "X: Y");
        assert_eq!(field("", "model name"), "unknown");
    }

    #[test]
    fn a_core_that_is_not_ours_is_refused() {
        assert!(pin(&[0, CORES_MAX + 1]).is_err());
    }
}
