//! What the kernel and the machine allow: read once at start.
//!
//! The parsing is pure, so that it is tested with texts of machines that are not at hand.

use std::path::Path;

/// Whether memories may be reset by `PAGEMAP_SCAN` on this machine.
pub(crate) fn pagemap_scan_is_safe() -> Result<(), String> {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let swaps = read("/proc/swaps");
    is_safe(&release, swaps.as_deref(), &swap_limits())
}

/// Whether the kernel has it, and nothing is ever swapped out: there is no swap, or one of the
/// limits of the control groups around this process forbids it. Swap that is turned on later is not
/// noticed.
fn is_safe(release: &str, swaps: Option<&str>, limits: &[String]) -> Result<(), String> {
    if !kernel_has_pagemap_scan(release) {
        return Err(format!("kernel `{}` is older than 6.7", release.trim()));
    }
    let is_forbidden = limits.iter().any(|limit| limit.trim() == "0");
    match swaps {
        _ if is_forbidden => Ok(()),
        None => Err("`/proc/swaps` cannot be read".to_owned()),
        Some(swaps) if swaps_are_off(swaps) => Ok(()),
        Some(_) => Err("swap is on".to_owned()),
    }
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

/// `memory.swap.max` of the control groups around this process, where they have one.
fn swap_limits() -> Vec<String> {
    let Some(groups) = read("/proc/self/cgroup") else {
        return Vec::new();
    };
    let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let root = Path::new("/sys/fs/cgroup");
    root.join(path)
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(|group| std::fs::read_to_string(group.join("memory.swap.max")).ok())
        .collect()
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
    fn memories_are_scanned_only_where_the_kernel_can_and_nothing_is_swapped_out() {
        const NEW: &str = "6.7.0\n";
        const OLD: &str = "6.6.99\n";
        const HEAD: &str = "Filename\tType\tSize\tUsed\tPriority\n";
        const AREA: &str = "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 1 0 100\n";
        const SWAP: &str = "swap is on";
        const UNREAD: &str = "`/proc/swaps` cannot be read";
        const KERNEL: &str = "kernel `6.6.99` is older than 6.7";
        for (release, swaps, limits, expected) in [
            (NEW, Some(HEAD), &[][..], Ok(())),
            (NEW, Some(HEAD), &["max\n"], Ok(())),
            (NEW, Some(AREA), &[], Err(SWAP)),
            (NEW, Some(AREA), &["max\n", "100\n"], Err(SWAP)),
            (NEW, Some(AREA), &["0\n"], Ok(())),
            // Of any group around it.
            (NEW, Some(AREA), &["max\n", "0\n"], Ok(())),
            (NEW, None, &[], Err(UNREAD)),
            (NEW, None, &["max\n"], Err(UNREAD)),
            (NEW, None, &["0\n"], Ok(())),
            (OLD, Some(HEAD), &[], Err(KERNEL)),
            (OLD, Some(HEAD), &["0\n"], Err(KERNEL)),
            (OLD, Some(AREA), &["0\n"], Err(KERNEL)),
            (OLD, None, &["0\n"], Err(KERNEL)),
        ] {
            let limits: Vec<String> = limits.iter().map(|&limit| limit.to_owned()).collect();
            let safe = is_safe(release, swaps, &limits);
            let safe = safe.as_ref().copied().map_err(String::as_str);
            assert_eq!(safe, expected, "{release} {swaps:?} {limits:?}");
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
