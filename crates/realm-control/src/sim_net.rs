//! A simulated realm: the real sync, ledger and records of many nodes over a network that is made
//! up, in virtual time, from one seed. Delay, loss, duplicates, reordering, partitions, crashes
//! with a torn log, clocks that differ by days, peers that lie. `REALM_SIM_SEED=n` runs one seed
//! and prints what happened.
//!
//! Not a simulation of libp2p: a hint reaches neighbours and is passed on as it is judged, a
//! request is answered or fails.

mod beacons;
mod byzantine;
mod large;
mod network;
mod node;
mod seeds;
mod steps;
mod template;
mod world;

pub(crate) use node::SimNode;
pub(crate) use template::Template;
pub(crate) use world::{Step, World, Worldly};
