//! Objects of any size, in containers.

use std::time::Duration;

use super::{Answer, CloudError};

/// Containers of objects.
///
/// An object is seen whole or not at all, by everybody: one that is written over shows its old bytes
/// until the new ones are complete. Names of objects are any text without NUL of 1 to
/// [`super::limits::KEY_BYTES_MAX`] bytes; `/` in them means nothing. In a container that is not there
/// nothing is found, nothing is written and nothing is listed: the last two are
/// [`CloudError::NotFound`].
pub trait Blobs: Send + Sync {
    /// Makes a container; one that is there already stays as it is.
    fn create<'a>(&'a self, container: &'a str) -> Answer<'a, ()>;

    /// Deletes a container with all that is in it; one that is not there is deleted as well.
    fn delete<'a>(&'a self, container: &'a str) -> Answer<'a, ()>;

    /// What is known of a container; `None`: it is not there.
    fn info<'a>(&'a self, container: &'a str) -> Answer<'a, Option<ContainerInfo>>;

    /// Writes an object from its bytes, piece by piece. An error of the source means that nothing is
    /// written, and is what is returned. It takes as long as the source does; what the backend does with
    /// one piece ends in time.
    fn write<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        bytes: Box<dyn BlobSource>,
    ) -> Answer<'a, ()>;

    /// The bytes `start..=end` of an object, cut off at its end. [`CloudError::Invalid`] where `start` is
    /// behind `end`, or at the end of an object that has any bytes, or behind it. What was begun to be
    /// read stays as it was, or ends with an error, whatever is written meanwhile.
    fn read<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        start: u64,
        end: u64,
    ) -> Answer<'a, Blob>;

    /// What is known of an object; `None`: it is not there.
    fn object<'a>(&'a self, container: &'a str, object: &'a str) -> Answer<'a, Option<ObjectInfo>>;

    /// The next names after one; at most `n_max`, which is at most [`super::limits::PAGE_KEYS`]. Fewer:
    /// these were the last. In the order of their bytes; a backend that has to spell some of them in
    /// another way has those where their spelling stands. A name that is there all the time comes once.
    fn list<'a>(
        &'a self,
        container: &'a str,
        after: Option<&'a str>,
        n_max: usize,
    ) -> Answer<'a, Vec<String>>;

    /// Deletes objects; those that are not there are deleted as well.
    fn remove<'a>(&'a self, container: &'a str, objects: &'a [String]) -> Answer<'a, ()>;

    /// Copies an object, over another one if it must. Container and object of each. It takes the time of
    /// a call, and what [`super::limits::COPY_BYTES_PER_SEC_MIN`] gives to its bytes.
    fn copy<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()>;

    /// Moves an object, over another one if it must. Between two servers or containers it is a copy, and
    /// then a deletion.
    fn rename<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()>;

    /// Whether somebody is told of each change: then each object of a deletion is an operation.
    fn is_told(&self) -> bool {
        false
    }

    /// Bytes of all objects of a container, 0 for one that is not there; `None` where the backend cannot
    /// say.
    fn bytes<'a>(&'a self, container: &'a str) -> Answer<'a, Option<u64>>;

    /// What everything in the store takes, for a quota: bytes of all objects and of those that are being
    /// written, with [`super::limits::OBJECT_OVERHEAD_BYTES`] for each object and
    /// [`super::limits::CONTAINER_OVERHEAD_BYTES`] for each container, which would be free otherwise.
    /// `None` where the backend does not count.
    fn used(&self) -> Answer<'_, Option<u64>>;
}

/// Bytes, piece by piece.
pub trait BlobSource: Send {
    /// The next piece, not empty; `None` at the end.
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>, CloudError>;
}

/// A part of an object that is being read.
pub struct Blob {
    /// How many bytes come.
    pub n_bytes: u64,
    /// They.
    pub bytes: Box<dyn BlobSource>,
}

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Seconds since 1970, UTC; 0 where the backend does not say.
    pub created_at_s: u64,
}

/// What is known of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Seconds since 1970, UTC, of when these bytes were written.
    pub created_at_s: u64,
    /// Bytes of it.
    pub n_bytes: u64,
}

/// Checks the name of a container before it goes anywhere.
pub fn check_container(container: &str) -> Result<(), CloudError> {
    check_name(
        "the name of the container",
        container,
        super::limits::NAME_BYTES_MAX,
    )
}

/// Checks the name of an object before it goes anywhere.
pub fn check_object(object: &str) -> Result<(), CloudError> {
    check_name(
        "the name of the object",
        object,
        super::limits::KEY_BYTES_MAX,
    )
}

fn check_name(what: &'static str, name: &str, bytes_max: usize) -> Result<(), CloudError> {
    if name.is_empty() {
        return Err(CloudError::Invalid(format!("{what} is empty")));
    }
    if name.contains('\0') {
        return Err(CloudError::Invalid(format!("{what} has a NUL in it")));
    }
    super::within(what, name.len(), bytes_max)
}

/// The bytes of an object of `size` that a range means: the first one, and how many. An error where the
/// range means none.
pub fn range_of(start: u64, end: u64, size: u64) -> Result<(u64, u64), CloudError> {
    if start > end {
        return Err(CloudError::Invalid(format!(
            "the range begins at {start}, behind its end at {end}"
        )));
    }
    if start == 0 && size == 0 {
        return Ok((0, 0));
    }
    if start >= size {
        return Err(CloudError::Invalid(format!(
            "the object has {size} bytes, and the range begins at {start}"
        )));
    }
    Ok((start, end.min(size - 1) - start + 1))
}

/// The time that the copy of an object may take.
pub const fn copy_time(n_bytes: u64) -> Duration {
    let own_ms = n_bytes / (super::limits::COPY_BYTES_PER_SEC_MIN / 1_000);
    Duration::from_millis(super::limits::CALL_TIMEOUT_MS + own_ms)
}
