//! The disk under [`super::FaultyFiles`]: what processes see, what is durable, and every change
//! between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::parent;
use super::{Fault, Tear};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// What processes see.
    pub(super) names: BTreeMap<PathBuf, usize>,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) inodes: Vec<Inode>,
    /// Every change since the disk was made, oldest first.
    pub(super) changes: Vec<Change>,
    pub(super) durable_names: BTreeMap<PathBuf, usize>,
    pub(super) steps: usize,
    pub(super) faults: BTreeMap<usize, Fault>,
    pub(super) stopped: bool,
    pub(super) space: Option<usize>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) durable: Vec<u8>,
    pub(super) cached: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) what: What,
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A sync makes it durable.
    Pending,
    /// A sync failed on it: nobody tries again, and nobody knows.
    GivenUp,
    Durable,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Write {
        inode: usize,
        offset: usize,
        bytes: Vec<u8>,
        /// Bytes in the middle or at the end that are not written.
        lost: Range<usize>,
        shortened: bool,
    },
    Size {
        inode: usize,
        size: usize,
    },
    Link {
        path: PathBuf,
        inode: usize,
    },
    Unlink {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: usize,
    },
}

impl Disk {
    /// Counts a step and lets it go wrong.
    pub(super) fn step(&mut self) -> io::Result<()> {
        match self.next_fault() {
            None => Ok(()),
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::SyncLoses | Fault::Stop) => Err(io::Error::other("injected")),
        }
    }

    pub(super) fn next_fault(&mut self) -> Option<Fault> {
        if self.stopped {
            return Some(Fault::Stop);
        }
        let fault = self.faults.get(&self.steps).copied();
        self.steps += 1;
        self.stopped = fault == Some(Fault::Stop);
        fault
    }

    pub(super) fn uncertain(&self) -> impl Iterator<Item = &Change> {
        self.changes
            .iter()
            .filter(|change| change.state != State::Durable)
    }

    pub(super) fn change(&mut self, what: What) {
        self.apply(&what);
        self.changes.push(Change {
            what,
            state: State::Pending,
        });
    }

    pub(super) fn apply(&mut self, what: &What) {
        match what {
            What::Write {
                inode,
                offset,
                bytes,
                lost,
                shortened,
            } => {
                let content = &mut self.inodes[*inode].cached;
                let size = if *shortened { lost.start } else { bytes.len() };
                if content.len() < offset + size {
                    content.resize(offset + size, 0);
                }
                for (index, byte) in bytes[..size].iter().enumerate() {
                    if !lost.contains(&index) {
                        content[offset + index] = *byte;
                    }
                }
            }
            What::Size { inode, size } => self.inodes[*inode].cached.resize(*size, 0),
            What::Link { path, inode } => {
                self.names.insert(path.clone(), *inode);
            }
            What::Unlink { path } => {
                self.names.remove(path);
            }
            What::Rename { from, to, inode } => {
                if self.names.get(from) == Some(inode) {
                    self.names.remove(from);
                }
                self.names.insert(to.clone(), *inode);
            }
        }
    }

    /// After a crash: what is there is all there is.
    pub(super) fn settle(&mut self) {
        for inode in &mut self.inodes {
            inode.durable = inode.cached.clone();
        }
        self.durable_names = self.names.clone();
        self.changes.clear();
    }

    pub(super) fn mark(&mut self, state: State, concerned: impl Fn(&What) -> bool) {
        for change in &mut self.changes {
            if change.state == State::Pending && concerned(&change.what) {
                change.state = state;
            }
        }
    }

    pub(super) fn sync(&mut self, concerned: impl Fn(&What) -> bool) -> io::Result<()> {
        match self.next_fault() {
            None => {
                self.mark(State::Durable, concerned);
                Ok(())
            }
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Stop) => Err(io::Error::other("injected")),
            Some(Fault::SyncLoses) => {
                self.mark(State::GivenUp, concerned);
                Err(io::Error::other("injected"))
            }
        }
    }
}

impl What {
    pub(super) fn concerns_inode(&self, wanted: usize) -> bool {
        match self {
            Self::Write { inode, .. } | Self::Size { inode, .. } => *inode == wanted,
            Self::Link { .. } | Self::Unlink { .. } | Self::Rename { .. } => false,
        }
    }

    pub(super) fn concerns_directory(&self, directory: &Path) -> bool {
        match self {
            Self::Write { .. } | Self::Size { .. } => false,
            Self::Link { path, .. } | Self::Unlink { path } => parent(path) == directory,
            Self::Rename { from, to, .. } => parent(from) == directory || parent(to) == directory,
        }
    }

    pub(super) fn tear(&mut self, tear: &Tear) {
        if let Self::Write {
            lost, shortened, ..
        } = self
        {
            *lost = tear.lost.clone();
            *shortened = tear.shortened;
        }
    }

    /// Every way in which a part of this change can be missing.
    pub(super) fn tears(&self, change: usize) -> Vec<Tear> {
        let Self::Write { offset, bytes, .. } = self else {
            return Vec::new();
        };
        let tear = |lost: Range<usize>, shortened| Tear {
            change,
            lost,
            shortened,
        };
        let ends = (0..bytes.len())
            .flat_map(|from| [true, false].map(|shortened| tear(from..bytes.len(), shortened)));
        let sectors = (offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR)).map(|sector| {
            let from = (sector * SECTOR).saturating_sub(*offset);
            let to = ((sector + 1) * SECTOR - offset).min(bytes.len());
            tear(from..to, false)
        });
        ends.chain(sectors).collect()
    }
}
