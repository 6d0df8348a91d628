//! What the network is told at its start, and every limit with its reason.

use std::time::Duration;

use zeroize::Zeroizing;

pub use crate::bucket::Rate;

/// Whether others can reach this node from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nat {
    /// Found out by asking members to dial back (AutoNAT).
    #[default]
    Ask,
    /// It is behind a NAT: it keeps reservations at relays from the start.
    Behind,
    /// It is reachable: it never uses a relay for itself.
    Open,
}

/// Configuration of the network of one process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Seed of the node key (of the caller's key, for a command line without an agent).
    pub seed: Zeroizing<[u8; 32]>,
    /// The realm's id as it stands in protocol names; none before a node has joined.
    pub realm: Option<String>,
    /// Addresses to listen on, such as `/ip4/0.0.0.0/udp/4433/quic-v1`. Without any, and without
    /// [`Nat::Behind`], this is no node but a caller: no hints, no look-ups, no relays.
    pub listen: Vec<String>,
    /// Addresses under which others reach this node, where they differ from those it listens on.
    pub announce: Vec<String>,
    /// Whether neighbours are searched for by multicast.
    pub mdns: bool,
    /// Whether this node passes on bytes between members that cannot reach each other.
    pub relay: bool,
    /// Whether others can reach this node.
    pub nat: Nat,
    /// Name and version of the program, told to members.
    pub agent: String,
    /// Every limit.
    pub limits: Limits,
}

impl Config {
    /// Everything off that a node may do without.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            seed: Zeroizing::new(seed),
            realm: None,
            listen: Vec::new(),
            announce: Vec::new(),
            mdns: false,
            relay: false,
            nat: Nat::default(),
            agent: format!("realm/{}", env!("CARGO_PKG_VERSION")),
            limits: Limits::default(),
        }
    }
}

/// Limits that an operator or a test may want otherwise. What no one needs to change is a constant
/// beside the code that keeps it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections to members. A node of a large realm holds 10 to 13; a hub, or a realm of 24, more.
    pub members_max: usize,
    /// Connections of clients: people and their scripts.
    pub clients_max: usize,
    /// Connections of strangers: as many as pending joins are kept, and no more. A hundred machines that
    /// wake up behind one address are strangers to each other until they have the authority chain.
    pub strangers_max: usize,
    /// Connections of strangers from one address (IPv4) or one /64 (IPv6), so that one machine with
    /// many keys cannot take all the places.
    pub strangers_per_source_max: usize,
    /// New connections of strangers, from all together: a handshake costs about a millisecond.
    pub strangers_rate: Rate,
    /// Handshakes with one address, whoever it is: each costs about a millisecond of a core. A rack
    /// of a hundred nodes that wakes up behind one address fits.
    pub handshakes_per_source_rate: Rate,
    /// How long a stranger's connection may live: a join request is one exchange.
    pub stranger_time_max: Duration,
    /// Connections in their handshake, not yet known by key: of those over TCP, and as many over QUIC.
    /// A quarter is for addresses where members or clients were.
    pub pending_incoming_max: usize,
    /// The same from one address (IPv4) or one /64 (IPv6): a silent one holds its place for seconds.
    pub pending_per_source_max: usize,
    /// The same from an address where members or clients were: behind it may be a rack of a hundred.
    pub pending_per_known_source_max: usize,
    /// Dials under way.
    pub pending_outgoing_max: u32,
    /// Streams that a member may have open here at once, over all its connections. Tunnels open many.
    pub streams_per_member_max: usize,
    /// The same for a client.
    pub streams_per_client_max: usize,
    /// The same for a stranger: one exchange, and its retry.
    pub streams_per_stranger_max: usize,
    /// Join streams open at once, of all strangers together.
    pub join_streams_max: usize,
    /// New streams per member.
    pub member_streams_rate: Rate,
    /// New streams per client or stranger.
    pub other_streams_rate: Rate,
    /// Requests per member. Anti-entropy asks a few times per second at most.
    pub requests_rate: Rate,
    /// Hints that one neighbour passes on to us. 100 nodes that each tell a record every five seconds
    /// make 20 per second; the burst is a realm that wakes up.
    pub hints_rate: Rate,
    /// Share of the machine's memory that this process may use before new connections are denied.
    pub memory_share_max: f64,
    /// Member connections that a node keeps up in a realm too large for a full mesh.
    pub neighbours: usize,
    /// Largest realm in which everybody holds a connection to everybody.
    pub full_mesh_max: usize,
    /// What this node does for others as a relay.
    pub relay: RelayLimits,
}

/// Limits of a node as a relay. Unlike the defaults of libp2p (128 KiB, 2 minutes, 60 circuits of one
/// address and then one in a minute), which are for punching holes alone, members that cannot be reached
/// otherwise live on it.
#[derive(Debug, Clone)]
pub struct RelayLimits {
    /// Members that have a place here, under which others reach them.
    pub reservations_max: usize,
    /// Circuits at once.
    pub circuits_max: usize,
    /// Circuits at once that one member asked for.
    pub circuits_per_member_max: usize,
    /// A circuit ends after that, and is made anew.
    pub circuit_time_max: Duration,
    /// Bytes that a circuit carries, both ways together.
    pub circuit_bytes_max: u64,
    /// Places, and circuits, that one member asks for.
    pub asked_per_member_rate: Rate,
    /// The same of one address: behind it may be a rack of a hundred, each of which wants to reach eight.
    pub asked_per_source_rate: Rate,
}

/// Largest realm in which everybody holds a connection to everybody, unless a test says otherwise.
pub const FULL_MESH_MAX: usize = 24;

impl Default for Limits {
    fn default() -> Self {
        Self {
            members_max: 512,
            clients_max: 64,
            strangers_max: 64,
            strangers_per_source_max: 8,
            strangers_rate: Rate {
                per_second: 20,
                burst: 64,
            },
            handshakes_per_source_rate: Rate {
                per_second: 50,
                burst: 500,
            },
            stranger_time_max: Duration::from_secs(60),
            pending_incoming_max: 512,
            pending_per_source_max: 32,
            pending_per_known_source_max: 256,
            pending_outgoing_max: 64,
            streams_per_member_max: 4_096,
            streams_per_client_max: 64,
            streams_per_stranger_max: 2,
            join_streams_max: 64,
            member_streams_rate: Rate {
                per_second: 5_000,
                burst: 5_000,
            },
            other_streams_rate: Rate {
                per_second: 20,
                burst: 64,
            },
            requests_rate: Rate {
                per_second: 50,
                burst: 200,
            },
            hints_rate: Rate {
                per_second: 100,
                burst: 500,
            },
            memory_share_max: 0.95,
            neighbours: 8,
            full_mesh_max: FULL_MESH_MAX,
            relay: RelayLimits::default(),
        }
    }
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            reservations_max: 128,
            circuits_max: 256,
            circuits_per_member_max: 64,
            circuit_time_max: Duration::from_secs(12 * 3600),
            circuit_bytes_max: 64 * 1024 * 1024 * 1024,
            asked_per_member_rate: Rate {
                per_second: 1,
                burst: 64,
            },
            asked_per_source_rate: Rate {
                per_second: 20,
                burst: 1_000,
            },
        }
    }
}
