//! What stands behind the wasi-cloud interfaces: stores of the node's own, and clients of the engines
//! that an operator runs already.
//!
//! Each module implements one trait of [`realm_model::cloud`]. A crate of its own for its clients, which
//! are heavy. Not here: who asks, what a component may open, its quotas, wasm, the log.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod blobs;
mod health;

/// Who is told that a backend does not answer, and that it does again. Called from any task, often: it
/// must not wait.
pub trait Observer: Send + Sync {
    /// A call failed because the backend is not there or does not let this node in: the cause, for the
    /// operator, without a password.
    fn down(&self, cause: &str);

    /// A call succeeded.
    fn up(&self);
}
