//! Objects of any size, in containers.

use super::{Answer, CloudError};

/// Containers of objects.
///
/// An object is seen whole or not at all, by everybody: one that is written over shows its old bytes
/// until the new ones are complete. Names of objects are any text of 1 to
/// [`super::limits::KEY_BYTES_MAX`] bytes; `/` in them means nothing.
pub trait Blobs: Send + Sync {
    /// Makes a container; one that is there already stays as it is.
    fn create<'a>(&'a self, container: &'a str) -> Answer<'a, ()>;

    /// Deletes a container with all that is in it; one that is not there is deleted as well.
    fn delete<'a>(&'a self, container: &'a str) -> Answer<'a, ()>;

    /// What is known of a container; `None`: it is not there.
    fn info<'a>(&'a self, container: &'a str) -> Answer<'a, Option<ContainerInfo>>;

    /// Writes an object from its bytes, piece by piece. An error of the source means that nothing is
    /// written, and is what is returned.
    fn write<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        bytes: Box<dyn BlobSource>,
    ) -> Answer<'a, ()>;

    /// The bytes `start..=end` of an object, cut off at its end. [`CloudError::Invalid`] where `start` is
    /// behind `end`, or at the end of an object that has any bytes, or behind it.
    fn read<'a>(
        &'a self,
        container: &'a str,
        object: &'a str,
        start: u64,
        end: u64,
    ) -> Answer<'a, Blob>;

    /// What is known of an object; `None`: it is not there.
    fn object<'a>(&'a self, container: &'a str, object: &'a str) -> Answer<'a, Option<ObjectInfo>>;

    /// The next names after one, in the order of their bytes; at most `n_max`. Fewer: these were the last.
    fn list<'a>(
        &'a self,
        container: &'a str,
        after: Option<&'a str>,
        n_max: usize,
    ) -> Answer<'a, Vec<String>>;

    /// Deletes objects; those that are not there are deleted as well.
    fn remove<'a>(&'a self, container: &'a str, objects: &'a [String]) -> Answer<'a, ()>;

    /// Copies an object, over another one if it must. Container and object of each.
    fn copy<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()>;

    /// Moves an object, over another one if it must. Between two servers or containers it is a copy, and
    /// then a deletion.
    fn rename<'a>(&'a self, from: (&'a str, &'a str), to: (&'a str, &'a str)) -> Answer<'a, ()>;

    /// Bytes of all objects of a container; `None` where the backend cannot say.
    fn bytes<'a>(&'a self, container: &'a str) -> Answer<'a, Option<u64>>;
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
