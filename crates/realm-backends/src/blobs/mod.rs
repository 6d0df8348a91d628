//! Objects: in a folder of this machine, or behind the S3 protocol.
//!
//! Both keep to one suite of tests (`tests/blobs`). Not here: quotas, streams of guests.

mod directory;
mod names;

pub use directory::Directory;
