//! Messages by topic: a queue of the node's own.

mod embedded;
mod requests;

pub use embedded::{Embedded, Room};
