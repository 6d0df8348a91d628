//! What the machine under the node is doing: CPU, memory, disk. Sampled when the metrics are asked.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sysinfo::{Disks, System};

/// Samples the machine; the CPU figure is the mean since the sample before.
pub(crate) struct Machine {
    folder: PathBuf,
    // `None` where the system does not say: the figures are 0 then.
    state: Mutex<(Option<System>, Option<Disks>)>,
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

impl Machine {
    pub(crate) fn new(folder: &Path) -> Self {
        let mut system = System::new().ok();
        // The first CPU sample has nothing to be compared with.
        if let Some(system) = &mut system {
            system.refresh_cpu_usage();
        }
        Self {
            folder: folder.canonicalize().unwrap_or_else(|_| folder.to_owned()),
            state: Mutex::new((system, Disks::new().ok())),
        }
    }

    /// Reads the machine; some system calls.
    pub(crate) fn figures(&self) -> MachineFigures {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (system, disks) = &mut *state;
        if let Some(system) = system {
            system.refresh_cpu_usage();
            system.refresh_memory();
        }
        if let Some(disks) = disks {
            disks.refresh(true);
        }
        // The longest mount point above the folder is its file system.
        let disk = disks
            .iter()
            .flat_map(|disks| disks.iter())
            .filter(|disk| self.folder.starts_with(disk.mount_point()))
            .max_by_key(|disk| disk.mount_point().as_os_str().len());
        MachineFigures {
            cpu_percent: system
                .as_ref()
                .map_or(0.0, |system| f64::from(system.global_cpu_usage())),
            memory_total_bytes: system.as_ref().map_or(0, System::total_memory),
            memory_used_bytes: system.as_ref().map_or(0, System::used_memory),
            disk_total_bytes: disk.map_or(0, sysinfo::Disk::total_space),
            disk_available_bytes: disk.map_or(0, sysinfo::Disk::available_space),
        }
    }
}
