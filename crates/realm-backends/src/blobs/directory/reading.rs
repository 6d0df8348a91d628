//! An object that is being read: the file that it was when the reading began.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use realm_model::cloud::{Answer, BlobSource, CloudError};

use super::place::{Fault, Inner, run};
use super::{CALL_TIMEOUT, PIECE_BYTES};

/// A file, and its first piece: a small object is there with one trip to the disk.
pub(super) struct Opened {
    file: Arc<File>,
    first: Vec<u8>,
    /// Where the piece behind the first one begins.
    at: u64,
    /// What is left behind the first piece.
    n_left: u64,
}

impl Opened {
    pub(super) fn new(file: File, at: u64, n_bytes: u64) -> Result<Self, Fault> {
        let first = piece(&file, at, n_bytes)?;
        Ok(Self {
            file: Arc::new(file),
            at: at + first.len() as u64,
            n_left: n_bytes - first.len() as u64,
            first,
        })
    }

    pub(super) fn n_bytes(&self) -> u64 {
        self.first.len() as u64 + self.n_left
    }
}

pub(super) struct Reader {
    inner: Arc<Inner>,
    opened: Opened,
}

impl Reader {
    pub(super) const fn new(inner: Arc<Inner>, opened: Opened) -> Self {
        Self { inner, opened }
    }
}

impl BlobSource for Reader {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError> {
        Box::pin(async move {
            let opened = &mut self.opened;
            if !opened.first.is_empty() {
                return Ok(Some(std::mem::take(&mut opened.first)));
            }
            if opened.n_left == 0 {
                return Ok(None);
            }
            let (file, at, n_left) = (Arc::clone(&opened.file), opened.at, opened.n_left);
            let read = run(&self.inner, CALL_TIMEOUT, move |_| piece(&file, at, n_left)).await?;
            opened.at += read.len() as u64;
            opened.n_left -= read.len() as u64;
            Ok(Some(read))
        })
    }
}

/// The next bytes of `n_left`; empty only if there are none left.
fn piece(file: &File, at: u64, n_left: u64) -> Result<Vec<u8>, Fault> {
    let size = usize::try_from(n_left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
    let mut bytes = vec![0; size];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(bytes),
        // Somebody cut it from outside.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(CloudError::Failed("the object has lost bytes".to_owned()).into())
        }
        Err(error) => Err(error.into()),
    }
}
