//! The audit on the disk: a line for each beginning and each end, in two files of bounded size for each
//! kind. A thread of its own writes and syncs, since nobody who asks for something waits for that. Not here: what is
//! worth a line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use realm_model::api::AuditEntry;
use realm_store::files::{Files as _, RealFiles};
use realm_store::folder::RealmFolder;

/// When the file has this many bytes it takes the place of the older one: either holds
/// more than the entries that are shown, at some 1,300 bytes for both lines of the longest command.
pub(super) const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Lines that wait for the disk; more are lost to the file, and are in the log.
const WAITING_MAX: usize = 1_024;
const PRIVATE_MODE: u32 = 0o600;

/// What the names of the files of commands begin with.
pub(super) const COMMANDS: &str = "commands-";
/// And those of other calls.
pub(super) const OTHERS: &str = "";

/// The way to the thread that writes.
pub(super) struct Keeper(SyncSender<Job>);

enum Job {
    Line(Vec<u8>),
    /// Says when all before it is written.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests wait for the disk"))]
    Flush(SyncSender<()>),
}

impl Keeper {
    /// Starts the thread; it ends with the last of those who may send to it.
    pub(super) fn start(folder: &RealmFolder, kind: &'static str) -> Option<Self> {
        let (sender, jobs) = sync_channel(WAITING_MAX);
        let directory = directory(folder);
        let started = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(&directory, kind, &jobs));
        match started {
            Ok(_) => Some(Self(sender)),
            Err(error) => {
                tracing::error!(%error, "the audit is not written down");
                None
            }
        }
    }

    pub(super) fn keep(&self, entry: &AuditEntry) {
        let Ok(mut line) = serde_json::to_vec(entry) else {
            return;
        };
        line.push(b'\n');
        if self.0.try_send(Job::Line(line)).is_err() {
            tracing::warn!(
                seq = entry.seq,
                "the disk is behind: a line of the audit is in the log alone"
            );
        }
    }

    #[cfg(test)]
    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(0);
        self.0.send(Job::Flush(done)).unwrap();
        wait.recv().unwrap();
    }
}

/// What was written down, the oldest first; the last line about an entry counts.
pub(super) fn read(folder: &RealmFolder, kind: &str) -> Vec<AuditEntry> {
    let directory = directory(folder);
    let mut entries = BTreeMap::new();
    for path in [older(&directory, kind), newest(&directory, kind)] {
        let bytes = match read_file(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file of the audit does not read");
                continue;
            }
        };
        for line in bytes.split(|byte| *byte == b'\n') {
            // The end of a line may be missing after a power cut.
            if let Ok(entry) = serde_json::from_slice::<AuditEntry>(line) {
                entries.insert(entry.seq, entry);
            }
        }
    }
    entries.into_values().collect()
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One line goes beyond the cap at most.
    File::open(path)?
        .take(2 * FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_all(directory: &Path, kind: &str, jobs: &Receiver<Job>) {
    let mut told = false;
    // What a power cut left of a line must not spoil the next one.
    let mut lines = vec![b'\n'];
    while let Ok(job) = jobs.recv() {
        let mut waiting: Vec<SyncSender<()>> = Vec::new();
        for job in std::iter::once(job).chain(jobs.try_iter().take(WAITING_MAX)) {
            match job {
                Job::Line(line) => lines.extend(line),
                Job::Flush(done) => waiting.push(done),
            }
        }
        let written = write(directory, kind, &lines);
        if let Err(error) = &written
            && !told
        {
            tracing::error!(%error, "the audit is not written down; its lines are in the log");
        }
        told = written.is_err();
        lines.clear();
        tell(waiting);
    }
}

/// To those who wait until all is written.
fn tell(waiting: Vec<SyncSender<()>>) {
    for done in waiting {
        let _ = done.send(());
    }
}

fn write(directory: &Path, kind: &str, lines: &[u8]) -> io::Result<()> {
    RealFiles.create_dir(directory)?;
    let path = newest(directory, kind);
    let mut file = append_to(&path)?;
    if file.metadata()?.len() >= FILE_BYTES_MAX {
        std::fs::rename(&path, older(directory, kind))?;
        file = append_to(&path)?;
        RealFiles.sync_dir(directory)?;
    }
    file.write_all(lines)?;
    file.sync_data()
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(PRIVATE_MODE)
        .open(path)
}

fn directory(folder: &RealmFolder) -> PathBuf {
    folder.root().join("audit")
}

fn newest(directory: &Path, kind: &str) -> PathBuf {
    directory.join(format!("{kind}newest.jsonl"))
}

fn older(directory: &Path, kind: &str) -> PathBuf {
    directory.join(format!("{kind}older.jsonl"))
}
