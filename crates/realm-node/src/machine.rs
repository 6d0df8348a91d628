//! What the machine under the node is doing: CPU, memory, disk. Sampled when the metrics are asked.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sysinfo::System;

/// Samples the machine; the CPU figure is the mean since the sample before.
pub(crate) struct Machine {
    folder: PathBuf,
    // `None` where the system does not say: the figures are 0 then. Made at the first look: it reads
    // files of the kernel that a start does not wait for.
    system: Mutex<Option<Option<System>>>,
}

/// The machine at one moment.
pub(crate) struct MachineFigures {
    /// 0 to 100 over all cores.
    pub(crate) cpu_percent: f64,
    pub(crate) memory_total_bytes: u64,
    pub(crate) memory_used_bytes: u64,
    /// Of the file system that holds the realm folder.
    pub(crate) disk_total_bytes: u64,
    pub(crate) disk_available_bytes: u64,
}

/// Threads that serve requests: one per core that the process may use.
pub(crate) fn serving_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Machine {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            system: Mutex::new(None),
        }
    }

    /// Reads the machine; some system calls.
    pub(crate) fn figures(&self) -> MachineFigures {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let system = system.get_or_insert_with(|| System::new().ok());
        if let Some(system) = system {
            // The first sample has nothing to be compared with, and is 0.
            system.refresh_cpu_usage();
            system.refresh_memory();
        }
        let system = system.as_ref();
        // One call about one file system: asking for all would wait for one that hangs.
        let disk = rustix::fs::statvfs(&self.folder).ok();
        let disk = disk.as_ref();
        MachineFigures {
            cpu_percent: system.map_or(0.0, |system| f64::from(system.global_cpu_usage())),
            memory_total_bytes: system.map_or(0, System::total_memory),
            memory_used_bytes: system.map_or(0, System::used_memory),
            disk_total_bytes: disk.map_or(0, |disk| disk.f_blocks * disk.f_frsize),
            disk_available_bytes: disk.map_or(0, |disk| disk.f_bavail * disk.f_frsize),
        }
    }
}
