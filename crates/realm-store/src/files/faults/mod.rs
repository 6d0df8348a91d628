//! Files in memory on a disk that can lose power, fill up and fail, deterministically.
//!
//! What was not synced may be lost in any combination, and each write torn at any byte or with any
//! sector missing. After a failed sync the bytes stay readable, may or may not have reached the disk, and are never tried
//! again. For tests only: this crate's, and others' through the feature `faults`.

mod disk;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Files, Handle, parent};
use disk::{Disk, Inode, State, What};

/// Subsets of more changes than this are not enumerated: code that leaves so many unsynced has
/// no use for a crash test.
const CHANGES_MAX: usize = 12;

/// A disk in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FaultyFiles {
    disk: Arc<Mutex<Disk>>,
}

/// An open file of [`FaultyFiles`].
#[derive(Debug)]
pub struct FaultyHandle {
    disk: Arc<Mutex<Disk>>,
    inode: usize,
}

/// What goes wrong at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails and does nothing.
    Error(io::ErrorKind),
    /// A sync fails: what it was to keep stays readable, and no later sync tries again. On an
    /// operation that is no sync, it fails with an I/O error and does nothing.
    SyncLoses,
    /// The process is gone: this operation and all later ones fail and do nothing.
    Stop,
}

/// What a loss of power leaves of the changes that were not durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survival {
    /// Which of [`FaultyFiles::unsynced`] changes reach the disk.
    pub kept: BTreeSet<usize>,
    /// A kept write of which only a part reaches the disk.
    pub torn: Option<Tear>,
}

/// A write that reaches the disk in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tear {
    /// Which change.
    pub change: usize,
    /// Bytes of it that do not reach the disk: there is what was there before, or zeros.
    pub lost: Range<usize>,
    /// Whether the file ends where the lost bytes begin, if it ended before.
    pub shortened: bool,
}

impl FaultyFiles {
    /// An empty disk with room for everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations so far.
    pub fn steps(&self) -> usize {
        self.disk().steps
    }

    /// Lets the operation with this number (from 0) go wrong.
    pub fn fail_at(&self, step: usize, fault: Fault) {
        self.disk().faults.insert(step, fault);
    }

    /// Leaves room for this many bytes; `None` is room for everything.
    pub fn set_space(&self, bytes: Option<usize>) {
        self.disk().space = bytes;
    }

    /// What a process sees under a name.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        let inode = *disk.names.get(path)?;
        Some(disk.inodes[inode].cached.clone())
    }

    /// Puts a durable file on the disk: to arrange a test.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut disk = self.disk();
        let inode = disk.inodes.len();
        disk.inodes.push(Inode {
            durable: bytes.to_vec(),
            cached: bytes.to_vec(),
        });
        disk.names.insert(path.to_owned(), inode);
        disk.durable_names.insert(path.to_owned(), inode);
    }

    /// Every name of a file that a process sees.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }

    /// The disk after kill -9: what was written is there, synced or not; faults are forgotten.
    pub fn kill(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.faults.clear();
        disk.stopped = false;
        disk.steps = 0;
        disk.into()
    }

    /// How many changes a loss of power may take.
    pub fn unsynced(&self) -> usize {
        self.disk().uncertain().count()
    }

    /// Everything that a loss of power can leave: every subset of the changes that are not
    /// durable, and every one of the kept writes torn at every byte (the file shorter, or with zeros
    /// at its end) or without any one of its sectors.
    pub fn survivals(&self) -> Vec<Survival> {
        let disk = self.disk();
        let tears: Vec<_> = disk
            .uncertain()
            .enumerate()
            .map(|(number, change)| change.what.tears(number))
            .collect();
        assert!(tears.len() <= CHANGES_MAX, "{} changes", tears.len());
        let mut survivals = Vec::new();
        for subset in 0..1_usize << tears.len() {
            let kept: BTreeSet<_> = (0..tears.len())
                .filter(|change| subset >> change & 1 == 1)
                .collect();
            let torn = kept
                .iter()
                .flat_map(|change| tears[*change].iter().cloned());
            survivals.extend(
                std::iter::once(None)
                    .chain(torn.map(Some))
                    .map(|torn| Survival {
                        kept: kept.clone(),
                        torn,
                    }),
            );
        }
        survivals
    }

    /// The disk after a loss of power that left this.
    pub fn crash(&self, survival: &Survival) -> Self {
        let before = self.disk();
        let mut disk = Disk {
            names: before.durable_names.clone(),
            directories: before.directories.clone(),
            inodes: before.inodes.clone(),
            ..Disk::default()
        };
        for inode in &mut disk.inodes {
            inode.cached = inode.durable.clone();
        }
        let mut uncertain = 0;
        for change in &before.changes {
            let mut what = change.what.clone();
            if change.state != State::Durable {
                let number = uncertain;
                uncertain += 1;
                if !survival.kept.contains(&number) {
                    continue;
                }
                if let Some(tear) = &survival.torn
                    && tear.change == number
                {
                    what.tear(tear);
                }
            }
            disk.apply(&what);
        }
        drop(before);
        disk.settle();
        disk.into()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }
}

impl From<Disk> for FaultyFiles {
    fn from(disk: Disk) -> Self {
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }
}

impl Files for FaultyFiles {
    type Handle = FaultyHandle;

    fn open(&self, path: &Path) -> io::Result<FaultyHandle> {
        let mut disk = self.disk();
        disk.step()?;
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(inode))
    }

    fn open_regular(&self, path: &Path) -> io::Result<Option<FaultyHandle>> {
        self.open(path).map(Some)
    }

    fn create_new(&self, path: &Path, _mode: u32) -> io::Result<FaultyHandle> {
        let mut disk = self.disk();
        disk.step()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !disk.directories.contains(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.change(What::Link {
            path: path.to_owned(),
            inode,
        });
        Ok(self.handle(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        let inode = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.change(What::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            inode,
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change(What::Unlink {
            path: path.to_owned(),
        });
        Ok(())
    }

    /// Durable at once: what a lost folder takes along is the same as a lost name.
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        disk.directories
            .extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.step()?;
        let names = disk.names.keys().filter(|path| parent(path) == directory);
        Ok(names
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.disk().sync(|what| what.concerns_directory(directory))
    }

    fn is_file(&self, path: &Path) -> bool {
        self.disk().names.contains_key(path)
    }
}

impl FaultyFiles {
    fn handle(&self, inode: usize) -> FaultyHandle {
        FaultyHandle {
            disk: Arc::clone(&self.disk),
            inode,
        }
    }
}

impl Handle for FaultyHandle {
    fn size(&self) -> io::Result<u64> {
        let mut disk = lock(&self.disk);
        disk.step()?;
        Ok(disk.inodes[self.inode].cached.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = lock(&self.disk);
        disk.step()?;
        let content = &disk.inodes[self.inode].cached;
        let from = index(offset).min(content.len());
        let read = buffer.len().min(content.len() - from);
        buffer[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.step()?;
        let (inode, offset) = (self.inode, index(offset));
        let size = disk.inodes[inode].cached.len();
        let growth = (offset + bytes.len()).saturating_sub(size);
        let room = disk.space.unwrap_or(usize::MAX);
        let missing = growth.saturating_sub(room);
        if let Some(space) = &mut disk.space {
            *space -= growth - missing;
        }
        // What fits is written before the disk says no.
        let written = bytes[..bytes.len() - missing.min(bytes.len())].to_vec();
        if !written.is_empty() {
            disk.change(What::Write {
                inode,
                offset,
                lost: written.len()..written.len(),
                bytes: written,
                shortened: false,
            });
        }
        if missing > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.step()?;
        let (inode, size) = (self.inode, index(size));
        disk.change(What::Size { inode, size });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let inode = self.inode;
        lock(&self.disk).sync(|what| what.concerns_inode(inode))
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().expect("no operation on the disk panics")
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files in memory are smaller than memory")
}
