//! What a node does and why, as pure functions: chains → [`Desired`], then
//! (desired, observed, time) → [`Plan`](realm_model::action::Plan), then everything → one view.
//!
//! Nothing here does I/O, reads a clock or rolls dice; time and seeds are arguments. It does *not*
//! know files, sockets, tokio, wasm or http, and it never fails to answer: every function is total
//! and gives the same answer for the same arguments on every node.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod around;
mod authority;
mod bucket;
mod desired;
mod gates;
mod ledger;
mod namespace;
mod revision;
mod text;
mod weights;

pub mod backoff;
pub mod changes;
pub mod fetching;
pub mod lease;
pub mod lending;
pub mod losses;
pub mod pending;
pub mod place;
mod plan;
mod proposed;
pub mod reach;
pub mod records;
pub mod restart;
pub mod sync;
mod view;
pub mod ways;

pub use around::Around;
pub use authority::{
    ApprovedNode, Authority, BeaconRule, CLOCK_TOLERANCE_S, OwnerSet, PlacedFence, Role,
};
pub use changes::{Change, changes};
pub use desired::Desired;
pub use ledger::{
    Admitted, Applied, CheckError, Fork, Frozen, Held, Ledger, Logs, ReplayError, Replayed,
    check_files,
};
pub use namespace::{NamespaceState, Past, Restarts};
pub use plan::{DRAIN_GRACE_MS, plan, singletons, wake_at};
pub use proposed::{PAIRS_MAX, proposed};
pub use view::{Across, Here, Looked, across, alarm_hint, explain, failure_hint, view};
pub use weights::{Division, Weights};

#[cfg(test)]
mod sim;
#[cfg(test)]
mod sim_net;
#[cfg(test)]
mod sim_roll;
#[cfg(test)]
mod testing;
