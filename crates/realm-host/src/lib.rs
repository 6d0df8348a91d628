//! Runs a WebAssembly component within its limits and its grants.
//!
//! [`compile`] turns bytes into a compiled file (in a child process, at deploy), [`Host::load`]
//! maps such a file and links it (and again, where it was idle for so long that it was unloaded), [`Component::replica`] gives a slot that admits calls, and
//! [`Replica::call`] answers one HTTP request with a fresh instance: of an HTTP handler, or of a
//! command as CGI has it. [`Program`] runs a command by itself. [`inspect()`] reads what a file
//! imports and exports without running it.
//!
//! Not here: which component runs where, routes, health policy, the store of bytes. This crate
//! knows nothing of nodes, entries or manifests beyond limits and grants.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod admission;
mod body;
pub mod cgi;
mod clock;
mod cloud;
mod command;
mod compile;
mod component;
mod config;
mod deadline;
mod dirs;
mod egress;
mod engine;
mod fuel;
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod heavy;
mod inspect;
mod interfaces;
mod invocation;
mod kept;
mod limiter;
mod loaded;
mod loading;
mod logs;
mod meter;
mod outcome;
mod preview1;
mod probe;
mod program;
mod remarks;
mod replica;
mod request;
mod room;
mod running;
mod shelf;
mod state;
mod stdio;
mod system;
mod term;
mod ticker;
mod trigger;
mod watching;
mod worker;
#[cfg(test)]
mod worlds;

pub use cloud::{Store, Stores};
pub use compile::{CompileError, compile, compile_bytes, fingerprint};
pub use component::{Component, LoadError, Settings, Wanted};
pub use config::{Config, GuestTask, IsToEnd, PagemapScan, Reach};
pub use egress::Resolver;
pub use engine::{Host, HostError, HostFacts};
pub use inspect::{INSPECT_BYTES_MAX, InspectError, inspect};
pub use logs::{Ear, LogSink};
pub use meter::{HistogramSnapshot, Meter, MeterSnapshot};
pub use outcome::{CallError, Outcome};
pub use preview1::{AdaptError, adapt};
pub use probe::ProbeError;
pub use program::{Input, Output, Program, Run, RunError};
pub use replica::Replica;
pub use shelf::{CodeFigures, Keeper};
pub use term::Term;
pub use worker::Working;

/// The version of Wasmtime inside; the tidy test holds it against Cargo.lock.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// An error of any kind, as bodies carry it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request or response body: the same type as the edge's, by structure.
pub type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;
