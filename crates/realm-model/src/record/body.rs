//! The body of a record: every field with its cap. What is read is as clean as what is written:
//! each text is one printable line within its cap, or the record is not taken.

use minicbor::{Decode, Encode};

use super::lease::{LeaseAsk, LeaseGrant};
use super::{BODY_BYTES_MAX, KeyBytes};
use crate::cbor::encode;
use crate::digest::Digest;
use crate::entry::{ChainId, Head};
use crate::name::NodeName;
use crate::sealing::Sealing;
use crate::text::one_line;

/// The caps of a record's lists and texts.
pub mod limits {
    /// Tags that a node proposes; as many as an approval takes.
    pub const TAGS_MAX: usize = 32;
    /// Characters of a tag, a code, a version: what a table cell shows.
    pub const WORD_CHARS_MAX: usize = 63;
    /// Addresses of a node: more than these nobody tries before giving up.
    pub const ADDRESSES_MAX: usize = 16;
    /// Characters of a multiaddr; one through a relay, with two peer ids, has some 200.
    pub const ADDRESS_CHARS_MAX: usize = 256;
    /// Chains: one per namespace.
    pub const CHAINS_MAX: usize = 256;
    /// Connections of a node: a multiple of the mesh, since an invited relay may have many.
    pub const PEERS_MAX: usize = 256;
    /// Components shown one by one; `components_more` counts the others.
    pub const COMPONENTS_MAX: usize = 1_024;
    /// Places of one component on one node: as many as a manifest may ask for.
    pub const SEATS_MAX: usize = 1_000;
    /// Rollouts of one component that failed: as many versions of it are remembered.
    pub const FAILED_MAX: usize = 8;
    /// Characters of a reason.
    pub const REASON_CHARS_MAX: usize = 200;
    /// Refusal codes: the closed list is shorter.
    pub const REFUSALS_MAX: usize = 64;
    /// Digests of blobs that others may fetch here.
    pub const BLOBS_MAX: usize = 4_096;
    /// Keys that asked to join here.
    pub const PENDING_MAX: usize = 16;
    /// Alarms that stand.
    pub const ALARMS_MAX: usize = 32;
    /// Leases that a node asks for, and that it grants: singletons are few, and each is renewed all
    /// the time.
    pub const LEASES_MAX: usize = 128;
}

use limits::{
    ADDRESS_CHARS_MAX, ADDRESSES_MAX, ALARMS_MAX, BLOBS_MAX, CHAINS_MAX, COMPONENTS_MAX,
    FAILED_MAX, LEASES_MAX, PEERS_MAX, PENDING_MAX, REASON_CHARS_MAX, REFUSALS_MAX, SEATS_MAX,
    TAGS_MAX, WORD_CHARS_MAX,
};

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NodeBody {
    /// The name it goes by; the owners' approval decides which name counts.
    #[n(0)]
    pub name: NodeName,
    /// Version of the agent.
    #[n(1)]
    pub agent: String,
    /// Version of the messages that it speaks ([`crate::sync::WIRE_VERSION`]).
    #[n(2)]
    pub wire: u32,
    /// The machine.
    #[n(3)]
    pub machine: Machine,
    /// Tags that its operator proposes.
    #[n(4)]
    pub tags: Vec<String>,
    /// Where it listens, as multiaddrs.
    #[n(5)]
    pub addresses: Vec<String>,
    /// The last entry that it accepted on each chain.
    #[n(6)]
    pub heads: Vec<ChainHead>,
    /// Forks that it holds a proof of.
    #[n(7)]
    pub forks: Vec<ChainFork>,
    /// Whom it is connected with.
    #[n(8)]
    pub peers: Vec<PeerLink>,
    /// What runs there, or why not.
    #[n(9)]
    pub components: Vec<ComponentSummary>,
    /// Components that found no room in `components`.
    #[n(10)]
    pub components_more: u32,
    /// How busy it is.
    #[n(11)]
    pub load: Load,
    /// Entries, records and requests refused since the start, by code.
    #[n(12)]
    pub refusals: Vec<RefusalCount>,
    /// Blobs that others may fetch there.
    #[n(13)]
    pub blobs: Vec<Digest>,
    /// Keys that asked to join there.
    #[n(14)]
    pub pending: Vec<PendingJoin>,
    /// Alarms that stand.
    #[n(15)]
    pub alarms: Vec<Alarm>,
    /// Leases of singletons that it asks for; `None`: none, or the node is of a version before them.
    #[n(16)]
    pub asks: Option<Vec<LeaseAsk>>,
    /// Leases that it grants to others or to itself.
    #[n(17)]
    pub grants: Option<Vec<LeaseGrant>>,
    /// To which key secrets for it are sealed; `None`: the node is of a version that opens none.
    #[n(18)]
    pub sealing: Option<Sealing>,
}

/// What kind of machine a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Machine {
    /// `linux`.
    #[n(0)]
    pub os: String,
    /// `x86_64`, `aarch64`.
    #[n(1)]
    pub arch: String,
    /// CPUs that the agent may use.
    #[n(2)]
    pub cpus: u32,
    /// Memory that the agent may use, in MiB.
    #[n(3)]
    pub memory_mb: u64,
}

/// How busy a node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Load {
    /// Share of the CPUs in use, 0 to 100.
    #[n(0)]
    pub cpu_percent: u32,
    /// Memory in use, in MiB.
    #[n(1)]
    pub memory_mb: u64,
    /// Live instances.
    #[n(2)]
    pub instances: u32,
}

/// A chain and its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct ChainHead {
    /// The chain.
    #[n(0)]
    pub chain: ChainId,
    /// Its last entry.
    #[n(1)]
    pub head: Head,
}

/// A chain and the digest of a proof that it forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct ChainFork {
    /// The chain.
    #[n(0)]
    pub chain: ChainId,
    /// SHA-256 of the proof.
    #[n(1)]
    pub proof: Digest,
}

/// A connection that a node has.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PeerLink {
    /// With whom.
    #[n(0)]
    pub key: KeyBytes,
    /// How.
    #[n(1)]
    pub how: ReachedBy,
    /// Round-trip time in milliseconds.
    #[n(2)]
    pub rtt_ms: u32,
    /// Why not directly, as a code; empty for a direct one.
    #[n(3)]
    pub why: String,
}

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReachedBy {
    /// By a connection of its own.
    Direct,
    /// Through a relay.
    Relay,
    /// In a way that this version does not know.
    Other,
}

/// One component on a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ComponentSummary {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its namespace.
    #[n(1)]
    pub namespace: String,
    /// Replicas wanted there.
    #[n(2)]
    pub wanted: u32,
    /// Replicas that are healthy.
    #[n(3)]
    pub healthy: u32,
    /// Its state, as a code.
    #[n(4)]
    pub state: String,
    /// What it waits on, as a code; empty if on nothing.
    #[n(5)]
    pub code: String,
    /// The same for a person.
    #[n(6)]
    pub reason: String,
    /// The build that runs, if one does.
    #[n(7)]
    pub digest: Option<Digest>,
    /// Replicas that take requests, of whatever version; `None`: the node is of a version that does
    /// not say.
    #[n(8)]
    pub serving: Option<u32>,
    /// Its places in a rollout; `None`: it has none, or its version does not say.
    #[n(9)]
    pub seats: Option<Vec<SeatSummary>>,
    /// The entries whose rollouts failed, by the word of this node or of another one.
    #[n(10)]
    pub failed: Option<Vec<u64>>,
}

/// The place of one replica in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SeatSummary {
    /// Its number among all of the component.
    #[n(0)]
    pub seat: u32,
    /// Whether a replica takes requests there, of whatever version.
    #[n(1)]
    pub up: bool,
    /// The entry whose version has been healthy there for as long as the next ones wait for it; 0:
    /// none.
    #[n(2)]
    pub ready: u64,
}

/// How often something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RefusalCount {
    /// The stable code.
    #[n(0)]
    pub code: String,
    /// How often since the start.
    #[n(1)]
    pub count: u64,
}

/// A key that asked to join.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PendingJoin {
    /// Its key.
    #[n(0)]
    pub key: KeyBytes,
    /// The name that it asks for.
    #[n(1)]
    pub name: NodeName,
    /// Where it came from.
    #[n(2)]
    pub address: String,
    /// Its proof of a voucher, if it brought one.
    #[n(3)]
    pub proof: Option<Digest>,
    /// The tags that it proposes; `None`: none, or the node is of a version that does not pass them on.
    #[n(4)]
    pub tags: Option<Vec<NodeName>>,
}

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Alarm {
    /// The stable code: `cloned-key`, `forked`, `isolated`, `stale`, ...
    #[n(0)]
    pub code: String,
    /// What it is about, in words.
    #[n(1)]
    pub about: String,
}

impl NodeBody {
    /// A body that says nothing but who it is.
    pub fn of(name: NodeName) -> Self {
        Self {
            name,
            agent: String::new(),
            wire: 0,
            machine: Machine::default(),
            tags: Vec::new(),
            addresses: Vec::new(),
            heads: Vec::new(),
            forks: Vec::new(),
            peers: Vec::new(),
            components: Vec::new(),
            components_more: 0,
            load: Load::default(),
            refusals: Vec::new(),
            blobs: Vec::new(),
            pending: Vec::new(),
            alarms: Vec::new(),
            asks: None,
            grants: None,
            sealing: None,
        }
    }

    /// Makes it fit: texts become one printable line, lists are cut at their caps (what stands
    /// first stays), and the components and blobs that leave no room for the others go.
    #[must_use]
    pub fn fit(mut self) -> Self {
        self.each_text(&mut |text, chars_max| {
            if !is_clean(text, chars_max) {
                *text = one_line(text, chars_max);
            }
        });
        self.tags.truncate(TAGS_MAX);
        self.addresses.truncate(ADDRESSES_MAX);
        self.heads.truncate(CHAINS_MAX);
        self.forks.truncate(CHAINS_MAX);
        self.peers.truncate(PEERS_MAX);
        self.refusals.truncate(REFUSALS_MAX);
        self.blobs.truncate(BLOBS_MAX);
        self.pending.truncate(PENDING_MAX);
        self.alarms.truncate(ALARMS_MAX);
        // Who is not told of a grant or of a release waits longer; nothing else comes of it.
        if let Some(asks) = &mut self.asks {
            asks.truncate(LEASES_MAX);
        }
        if let Some(grants) = &mut self.grants {
            grants.truncate(LEASES_MAX);
        }
        self.keep_components(COMPONENTS_MAX);
        for component in &mut self.components {
            if let Some(seats) = &mut component.seats {
                seats.truncate(SEATS_MAX);
            }
            if let Some(failed) = &mut component.failed {
                failed.truncate(FAILED_MAX);
            }
        }
        // Halving ends: all three lists are empty after some twenty rounds, and the rest always fits.
        if encode(&self).len() > BODY_BYTES_MAX {
            // That something runs matters more than why not.
            for component in &mut self.components {
                component.reason.clear();
            }
        }
        while encode(&self).len() > BODY_BYTES_MAX {
            if self.components.is_empty() && self.blobs.is_empty() {
                self.peers.truncate(self.peers.len() / 2);
            }
            self.keep_components(self.components.len() / 2);
            if self.components.len() < 64 {
                self.blobs.truncate(self.blobs.len() / 2);
            }
        }
        self
    }

    fn keep_components(&mut self, n: usize) {
        let dropped = self.components.len().saturating_sub(n);
        self.components.truncate(n);
        let dropped = u32::try_from(dropped).unwrap_or(u32::MAX);
        self.components_more = self.components_more.saturating_add(dropped);
    }

    /// Whether every list and text keeps its cap.
    pub(super) fn check(&self) -> Result<(), String> {
        for (what, len, max) in [
            ("tags", self.tags.len(), TAGS_MAX),
            ("addresses", self.addresses.len(), ADDRESSES_MAX),
            ("heads", self.heads.len(), CHAINS_MAX),
            ("forks", self.forks.len(), CHAINS_MAX),
            ("peers", self.peers.len(), PEERS_MAX),
            ("components", self.components.len(), COMPONENTS_MAX),
            ("refusals", self.refusals.len(), REFUSALS_MAX),
            ("blobs", self.blobs.len(), BLOBS_MAX),
            ("pending", self.pending.len(), PENDING_MAX),
            ("alarms", self.alarms.len(), ALARMS_MAX),
            ("asks", self.asks.as_ref().map_or(0, Vec::len), LEASES_MAX),
            (
                "grants",
                self.grants.as_ref().map_or(0, Vec::len),
                LEASES_MAX,
            ),
        ] {
            if len > max {
                return Err(format!("{len} {what}, at most {max} are taken"));
            }
        }
        for pending in &self.pending {
            let tags = pending.tags.as_ref().map_or(0, Vec::len);
            if tags > TAGS_MAX {
                return Err(format!(
                    "{tags} tags of a join, at most {TAGS_MAX} are taken"
                ));
            }
        }
        for component in &self.components {
            let seats = component.seats.as_ref().map_or(0, Vec::len);
            if seats > SEATS_MAX {
                return Err(format!(
                    "{seats} places of a component, at most {SEATS_MAX} are taken"
                ));
            }
            let failed = component.failed.as_ref().map_or(0, Vec::len);
            if failed > FAILED_MAX {
                return Err(format!(
                    "{failed} failed rollouts of a component, at most {FAILED_MAX} are taken"
                ));
            }
        }
        let mut unclean = 0;
        // The walk is one for reading and for making fit; a copy is cheaper than two walks that
        // differ one day.
        self.clone().each_text(&mut |text, chars_max| {
            unclean += usize::from(!is_clean(text, chars_max));
        });
        if unclean > 0 {
            return Err(format!(
                "{unclean} texts are too long or not one printable line"
            ));
        }
        Ok(())
    }

    fn each_text(&mut self, with: &mut dyn FnMut(&mut String, usize)) {
        with(&mut self.agent, WORD_CHARS_MAX);
        with(&mut self.machine.os, WORD_CHARS_MAX);
        with(&mut self.machine.arch, WORD_CHARS_MAX);
        for tag in &mut self.tags {
            with(tag, WORD_CHARS_MAX);
        }
        for address in &mut self.addresses {
            with(address, ADDRESS_CHARS_MAX);
        }
        for peer in &mut self.peers {
            with(&mut peer.why, REASON_CHARS_MAX);
        }
        for component in &mut self.components {
            with(&mut component.name, WORD_CHARS_MAX);
            with(&mut component.namespace, WORD_CHARS_MAX);
            with(&mut component.state, WORD_CHARS_MAX);
            with(&mut component.code, WORD_CHARS_MAX);
            with(&mut component.reason, REASON_CHARS_MAX);
        }
        for refusal in &mut self.refusals {
            with(&mut refusal.code, WORD_CHARS_MAX);
        }
        for pending in &mut self.pending {
            with(&mut pending.address, ADDRESS_CHARS_MAX);
        }
        if let Some(sealing) = &mut self.sealing {
            with(&mut sealing.recipient, WORD_CHARS_MAX);
        }
        for alarm in &mut self.alarms {
            with(&mut alarm.code, WORD_CHARS_MAX);
            with(&mut alarm.about, REASON_CHARS_MAX);
        }
    }
}

fn is_clean(text: &str, chars_max: usize) -> bool {
    // Most texts are short ASCII: those need no copy.
    let plain = text.len() <= chars_max && text.bytes().all(|byte| byte.is_ascii_graphic());
    plain || one_line(text, chars_max) == text
}

impl<C> Encode<C> for ReachedBy {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let number = match self {
            Self::Direct => 0,
            Self::Relay => 1,
            Self::Other => u32::MAX,
        };
        encoder.u32(number)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for ReachedBy {
    fn decode(
        decoder: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> Result<Self, minicbor::decode::Error> {
        Ok(match decoder.u32()? {
            0 => Self::Direct,
            1 => Self::Relay,
            _ => Self::Other,
        })
    }
}
