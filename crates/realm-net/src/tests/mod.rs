//! Tests with real sockets on loopback.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one event of many"
)]

mod classes;
mod hostile;
mod killed;
mod large;
mod meeting;
mod relays;
mod restarts;
mod ways;
mod windows;
mod world;

use libp2p::StreamProtocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use realm_model::key::PublicKey;

use crate::streams::OpenReply;
use crate::swarm::Net;

/// A handler that is to open this panics.
pub(crate) const PANIC: libp2p::StreamProtocol = libp2p::StreamProtocol::new("/test/panic");

/// What only tests may ask of the loop.
pub(crate) enum TestCommand {
    /// Panics in the loop.
    Panic,
    /// Opens any protocol, without waiting for an acceptance.
    Raw {
        peer: PublicKey,
        name: StreamProtocol,
        reply: OpenReply,
    },
    /// Dials a second time, connected or not.
    Again { peer: PublicKey, address: String },
}

impl Net<'_> {
    pub(crate) fn test(&mut self, command: TestCommand) {
        match command {
            TestCommand::Panic => panic!("planted"),
            TestCommand::Raw { peer, name, reply } => {
                let conn = self.parts.live.best(&peer).expect("connected");
                let (id, in_use) = (conn.id, conn.wire.hold());
                let to = crate::identity::peer_id(&peer);
                self.parts
                    .swarm
                    .behaviour_mut()
                    .streams
                    .open(to, id, name, in_use, reply);
            }
            TestCommand::Again { peer, address } => {
                let options = DialOpts::peer_id(crate::identity::peer_id(&peer))
                    .addresses(vec![address.parse().expect("an address")])
                    .condition(PeerCondition::Always)
                    .build();
                self.parts
                    .swarm
                    .behaviour_mut()
                    .door
                    .let_out(options.connection_id());
                self.parts.swarm.dial(options).expect("dials");
            }
        }
    }
}
