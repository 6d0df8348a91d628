//! Objects: in a folder of this machine, or behind the S3 protocol.
//!
//! Both keep to one suite of tests (`tests/blobs`). Not here: quotas, streams of guests.

mod announced;
mod directory;
mod names;
mod s3;

pub use announced::Announced;
pub use directory::Directory;
pub use s3::{S3, S3Settings, SettingError};
