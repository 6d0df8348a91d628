//! Moves bytes between keys: hints to everybody, requests to one, streams to one.
//!
//! A peer is its Ed25519 key. What a peer may reach depends on its class ([`Class`]), which the
//! caller sets by [`Transport::admit`]: members reach everything, clients the API, strangers the
//! join protocol alone. All of libp2p stays inside this crate. It does *not* know what an entry, a
//! record or a request means, who is approved, or where anything is stored.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod behaviour;
mod book;
mod bucket;
mod class;
mod codec;
mod commands;
mod config;
mod dialling;
mod door;
mod error;
mod event;
mod events;
mod gate;
mod handle;
mod hints;
mod identity;
mod kept;
mod live;
mod mesh;
#[cfg(debug_assertions)]
mod planted;
mod shaking;
mod slots;
mod sockets;
mod stream;
mod streams;
mod supervisor;
mod swarm;
mod transport;
mod wire;

pub use class::{Admission, Class, Protocol, Topic};
pub use config::{Config, FULL_MESH_MAX, Limits, Nat, Rate, RelayLimits};
pub use error::{Error, Refusal};
pub use event::{DownReason, Event, Figures, Hint, HintId, How, PeerView, Reply, Verdict};
pub use handle::{Handle, Transport};
pub use stream::{Incoming, Stream};
pub use supervisor::spawn;

#[cfg(test)]
mod tests;
