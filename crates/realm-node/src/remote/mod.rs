//! Interactive streams: a command or a component that runs here for somebody elsewhere.
//!
//! `frames` is the talk on the wire, the same at both ends; `session` the node's end, `attach` the
//! caller's; `process` runs a program of the machine, `guest` a component. Who may: `access`.

mod attach;
mod frames;
mod guest;
mod handlers;
mod process;
mod session;

pub use attach::{Terminal, attach};
pub(crate) use guest::Guests;
pub(crate) use handlers::{Sessions, exec, revoked, run};

/// What a connection becomes once both ends agreed: the value of `Upgrade`.
pub(crate) const PROTOCOL: &str = "realm-stream/1";
