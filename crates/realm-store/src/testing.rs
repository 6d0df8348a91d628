//! What several tests here need: a log and its marks under one script, and the check that both
//! are what was acknowledged.

use std::path::PathBuf;

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, Head};

use crate::files::Files;
use crate::log::{Log, LogError};
use crate::mark::{MarkError, Marks};

pub(crate) const CHAIN: ChainId = ChainId::DEFAULT;

pub(crate) fn log_path() -> PathBuf {
    PathBuf::from("/realm/log/default.log")
}

pub(crate) fn marks_path() -> PathBuf {
    PathBuf::from("/realm/marks")
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Mark(#[from] MarkError),
}

/// A log with its marks, as a node keeps them.
pub(crate) struct Kept<F: Files> {
    pub(crate) log: Log<F>,
    pub(crate) marks: Marks<F>,
    pub(crate) records: Vec<Vec<u8>>,
    pub(crate) torn_tail_bytes: u64,
}

impl<F: Files> Kept<F> {
    /// Opens both in the order in which a node does.
    pub(crate) fn open(files: &F) -> Result<Self, Failure> {
        files.create_dir(log_path().parent().expect("it has one"))?;
        let marks = Marks::open(files.clone(), marks_path())?;
        let (log, recovered) = Log::open(files.clone(), log_path(), marks.floor(CHAIN))?;
        if let Some(head) = marks.get(CHAIN) {
            let index = usize::try_from(head.seq).expect("small") - 1;
            assert_eq!(head, head_of(index, &recovered.records[index]));
        }
        Ok(Self {
            log,
            marks,
            records: recovered.records,
            torn_tail_bytes: recovered.torn_tail_bytes,
        })
    }

    /// Appends one record; a mark that cannot be set is the caller's affair.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<Result<(), MarkError>, LogError> {
        self.log.append_payload(payload)?;
        self.records.push(payload.to_vec());
        let head = head_of(self.records.len() - 1, payload);
        Ok(self.marks.set(CHAIN, head))
    }
}

pub(crate) fn head_of(index: usize, payload: &[u8]) -> Head {
    Head {
        seq: index as u64 + 1,
        hash: Digest::of(payload),
    }
}

/// A payload of this length that differs for each number and has no long runs.
pub(crate) fn payload(number: usize, length: usize) -> Vec<u8> {
    let block = |index: usize| *Digest::of(format!("{number} {index}").as_bytes()).as_bytes();
    let mut bytes: Vec<u8> = (0..length.div_ceil(32)).flat_map(block).collect();
    bytes.truncate(length);
    bytes
}
