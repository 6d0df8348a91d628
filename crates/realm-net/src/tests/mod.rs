//! Tests with real sockets on loopback.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one event of many"
)]

mod classes;
mod meeting;
mod restarts;
mod world;

use crate::swarm::Net;

/// What only tests may ask of the loop.
pub(crate) enum TestCommand {
    /// Panics in the loop.
    Panic,
}

impl Net<'_> {
    pub(crate) fn test(&mut self, command: TestCommand) {
        match command {
            TestCommand::Panic => panic!("planted"),
        }
    }
}
