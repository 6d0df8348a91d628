//! The end-to-end tests: the real binary, real processes, real sockets, on this machine only.
//!
//! One binary. A test reads like a session at a terminal: [`support`] has the machinery, and the
//! other modules a topic each. What can be tested below the process boundary is tested there.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

mod alone;
mod cli;
mod compile;
mod crash;
mod examples;
mod health;
mod languages;
mod limits;
mod logging;
mod logs;
mod manifest;
mod many;
mod metrics;
mod modules;
mod neighbourhood;
#[path = "../neighbours/mod.rs"]
mod neighbours;
mod remote;
mod serving;
mod session;
mod signals;
mod states;
mod swap;
mod terminal;
mod tidy;
mod trust;
mod up;
mod worlds;
