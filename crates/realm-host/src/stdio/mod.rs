//! Standard streams of a program, with back-pressure: what nobody reads yet makes the guest wait,
//! and what the guest does not ask for is not read.
//!
//! A guest may open each stream many times; all of them are one. Everything is polled by the
//! guest's own task. Not here: standard output that goes to the log (`logs`).

mod input;
mod pipe;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use input::Stdin;
pub(crate) use pipe::{Filter, Filtered, PipeOptions, PipeReader, PipeWriter, filtered, pipe};

/// What a program is told at its start, beside its grants, and its streams.
#[derive(Default)]
pub(crate) struct Process {
    /// The first argument; `None`: the component's name.
    pub(crate) name: Option<String>,
    /// In this order; each wins over a granted variable of the same name.
    pub(crate) env: Vec<(String, String)>,
    /// After the granted ones.
    pub(crate) args: Vec<String>,
    /// The port that it may listen on.
    pub(crate) listen: Option<u16>,
    pub(crate) stdin: Option<Stdin>,
    /// `None`: into the component's log.
    pub(crate) stdout: Option<PipeWriter>,
    /// `None`: into the component's log.
    pub(crate) stderr: Option<PipeWriter>,
}

/// Values that no panic leaves half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
