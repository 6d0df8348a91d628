//! What stands behind the wasi-cloud interfaces: stores of the node's own, and clients of the engines
//! that an operator runs already.
//!
//! Each module implements one trait of [`realm_model::cloud`]. A crate of its own for its clients, which
//! are heavy. Not here: who asks, what a component may open, its quotas, wasm, the log.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod blobs;
pub mod data;
mod disk;
pub mod keys;
pub mod keyvalue;
pub mod mail;
pub mod messaging;
mod nats;
mod server;
pub mod sql;
pub mod streams;
pub mod telemetry;
mod watch;

pub use disk::OpenError;
pub use server::{Access, ServerError};
pub use watch::{Unwatched, Watch};
