//! Keeps bytes: the logs of signed entries, their high-water marks, blobs by digest, and the realm
//! folder that holds all of them; fetches what is missing from a source.
//!
//! Acknowledged means fsynced: what a call here returned `Ok` for survives kill -9 and the loss of
//! power. Not here: who asks, what an entry means, and when anything is deleted.

#![forbid(unsafe_code)]

pub mod blobs;
pub mod fetch;
pub mod files;
pub mod folder;
pub mod log;
pub mod mark;

#[cfg(test)]
mod testing;
