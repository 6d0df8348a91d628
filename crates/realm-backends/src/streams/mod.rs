//! Streams of records: a file of the node's own, and streams of NATS JetStream.

mod embedded;
mod nats;

pub use embedded::Embedded;
pub use nats::Nats;
