//! What the kernel and the machine allow: read once at start.
//!
//! The parsing is pure, so that it is tested with texts of machines that are not at hand.

use std::path::Path;

/// Whether memories may be reset by `PAGEMAP_SCAN`: the kernel has it, and nothing is ever
/// swapped out. Swap that is turned on later is not noticed.
pub(crate) fn pagemap_scan_is_safe() -> Result<(), String> {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !kernel_has_pagemap_scan(&release) {
        return Err(format!("kernel `{}` is older than 6.7", release.trim()));
    }
    let swaps = read("/proc/swaps").ok_or("`/proc/swaps` cannot be read")?;
    if swaps_are_off(&swaps) || cgroup_forbids_swap() {
        return Ok(());
    }
    Err("swap is on".to_owned())
}

/// 6.7 is the first release with the `PAGEMAP_SCAN` ioctl.
fn kernel_has_pagemap_scan(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 7)
}

/// `/proc/swaps` has a head line, and then a line per area.
fn swaps_are_off(swaps: &str) -> bool {
    swaps.lines().skip(1).all(|line| line.trim().is_empty())
}

/// Whether a control group above this process sets `memory.swap.max` to 0.
fn cgroup_forbids_swap() -> bool {
    let Some(groups) = read("/proc/self/cgroup") else {
        return false;
    };
    let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return false;
    };
    let root = Path::new("/sys/fs/cgroup");
    root.join(path)
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .any(|group| {
            std::fs::read_to_string(group.join("memory.swap.max"))
                .is_ok_and(|limit| limit.trim() == "0")
        })
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        for release in ["6.7.0", "6.18.44-fc", "7.0-rc1", "10.1"] {
            assert!(kernel_has_pagemap_scan(release), "{release}");
        }
        for release in ["6.6.99", "5.15.0-1", "", "linux"] {
            assert!(!kernel_has_pagemap_scan(release), "{release}");
        }
    }

    #[test]
    fn an_area_in_use_is_seen() {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(swaps_are_off(head));
        assert!(swaps_are_off(&format!("{head}\n")));
        assert!(!swaps_are_off(&format!(
            "{head}/dev/zram0 partition 1 0 100\n"
        )));
    }
}
