//! All protocols of a node in one behaviour, each behind the gate that its class needs.
//!
//! Before a node has joined a realm there are streams (for joining) and pings alone.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    autonat, connection_limits, dcutr, identify, kad, mdns, memory_connection_limits, ping, relay,
    request_response,
};

use crate::class::{Class, Classes, Names};
use crate::codec::Codec;
use crate::config::{Rate, RelayLimits};
use crate::door::Door;
use crate::gate::Gated;
use crate::hints::{self, Hints};
use crate::streams::Streams;
use crate::{Config, Error, Nat};

/// Two seconds to ask, six until a peer without an answer is gone (`live`).
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIME_MAX: Duration = Duration::from_secs(5);
/// A request with its answer of up to nine megabytes over a slow line.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Requests of one peer at once, both ways counted alone: each may hold 256 KiB here.
const REQUESTS_PER_PEER_MAX: usize = 32;
/// Connections per key: one that is dead and not yet known to be, the one that replaces it, and a
/// direct one beside a relayed one. A person's key calls from several programs at once, each by QUIC and
/// TCP, and one that was killed is missed only after seconds.
const PER_PEER_MAX: u32 = 8;
/// A look-up asks three at once, and ends; addresses of 1,000 members are few hops away.
pub(crate) const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(10);
/// Members kept per distance. Every one of the 256 distances has its room from the start; addresses
/// of members are in signed records anyway, look-ups are for the first contact.
const LOOK_UP_BUCKET: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");
/// Largest look-up message: 20 peers with a few addresses each.
const LOOK_UP_BYTES_MAX: usize = 16 * 1024;

/// When members are first asked to dial back: its first connections stand by then. A node behind a NAT
/// is not reached by others of its kind before it knows.
const NAT_FIRST_LOOK: Duration = Duration::from_secs(5);
/// When they are asked again while the answer is not certain: an answer is lost with its connection,
/// and a small realm has but one node that can give one.
const NAT_LOOK_AGAIN: Duration = Duration::from_secs(15);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    // The order matters: these three may deny a connection, and are asked first.
    pub(crate) door: Door,
    counts: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(crate) ping: Gated<ping::Behaviour>,
    pub(crate) streams: Streams,
    pub(crate) identify: Gated<identify::Behaviour>,
    pub(crate) requests: Gated<request_response::Behaviour<Codec>>,
    pub(crate) hints: Gated<Hints>,
    pub(crate) kad: Gated<kad::Behaviour<MemoryStore>>,
    autonat: Gated<autonat::v1::Behaviour>,
    relay: Gated<relay::Behaviour>,
    circuits: Gated<relay::client::Behaviour>,
    dcutr: Gated<dcutr::Behaviour>,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

fn members(class: Class, _: Endpoint) -> bool {
    class == Class::Member
}

/// A stranger that we dialled is somebody we want something of.
fn known_or_dialled(class: Class, role: Endpoint) -> bool {
    class != Class::Stranger || role == Endpoint::Dialer
}

pub(crate) fn behaviour(
    config: &Config,
    keys: &Keypair,
    names: &Names,
    classes: &Classes,
    circuits: relay::client::Behaviour,
) -> Result<Behaviour, Error> {
    let me = keys.public().to_peer_id();
    let limits = &config.limits;
    // What only nodes of a realm do among themselves: a command line has none of it.
    let can_be_reached = !config.listen.is_empty() || config.nat == Nat::Behind;
    let is_node = names.realm().is_some() && can_be_reached;
    let node = |wanted: bool| is_node && wanted;
    let hints = if is_node {
        hints::behaviour(keys, names)?
    } else {
        None
    };
    let mdns = if config.mdns {
        let mdns = mdns::tokio::Behaviour::new(mdns::Config::default(), me);
        Some(mdns.map_err(|error| Error::Setup(format!("multicast: {error}")))?)
    } else {
        None
    };
    let counts = connection_limits::ConnectionLimits::default()
        .with_max_pending_outgoing(Some(limits.pending_outgoing_max))
        .with_max_established_per_peer(Some(PER_PEER_MAX));
    let gated = classes.clone();
    Ok(Behaviour {
        door: Door::new(me, classes.clone(), limits),
        counts: connection_limits::Behaviour::new(counts),
        memory: memory_connection_limits::Behaviour::with_max_percentage(limits.memory_share_max),
        ping: Gated::new(Some(ping()), gated.clone(), known_or_dialled),
        streams: Streams::new(classes.clone(), names.clone()),
        identify: Gated::new(
            is_node.then(|| identify(config, keys, names)),
            gated.clone(),
            members,
        ),
        requests: Gated::new(requests(names), gated.clone(), members),
        hints: Gated::new(hints, gated.clone(), members),
        kad: Gated::new(
            is_node.then(|| look_ups(config, keys, names)).flatten(),
            gated.clone(),
            members,
        ),
        autonat: Gated::new(
            node(config.nat == Nat::Ask).then(|| autonat::v1::Behaviour::new(me, look_outside())),
            gated.clone(),
            members,
        ),
        relay: Gated::new(
            node(config.relay).then(|| relay::Behaviour::new(me, relay_limits(&limits.relay))),
            gated.clone(),
            members,
        ),
        circuits: Gated::new(Some(circuits), gated.clone(), members),
        dcutr: Gated::new(
            node(true).then(|| dcutr::Behaviour::new(me)),
            gated,
            members,
        ),
        mdns: mdns.into(),
    })
}

fn ping() -> ping::Behaviour {
    ping::Behaviour::new(
        ping::Config::new()
            .with_interval(PING_INTERVAL)
            .with_timeout(PING_TIME_MAX),
    )
}

fn identify(config: &Config, keys: &Keypair, names: &Names) -> identify::Behaviour {
    let protocol = names
        .of("id")
        .map(|name| name.to_string())
        .unwrap_or_default();
    identify::Behaviour::new(
        identify::Config::new(protocol, keys.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true)
            // Addresses are kept in the book, where they are bounded.
            .with_cache_size(0),
    )
}

fn requests(names: &Names) -> Option<request_response::Behaviour<Codec>> {
    let protocol = names.of("sync")?;
    let config = request_response::Config::default()
        .with_request_timeout(REQUEST_TIME_MAX)
        .with_max_concurrent_streams(REQUESTS_PER_PEER_MAX);
    let protocols = [(protocol, request_response::ProtocolSupport::Full)];
    Some(request_response::Behaviour::with_codec(
        Codec, protocols, config,
    ))
}

/// Peer routing alone: nobody may put records or providers, and buckets are filled by hand.
fn look_ups(config: &Config, keys: &Keypair, names: &Names) -> Option<kad::Behaviour<MemoryStore>> {
    let me = keys.public().to_peer_id();
    let mut settings = kad::Config::new(names.of("kad")?);
    settings
        .set_query_timeout(LOOK_UP_TIME_MAX)
        .set_max_packet_size(LOOK_UP_BYTES_MAX)
        .set_kbucket_size(LOOK_UP_BUCKET)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_parallelism(NonZeroUsize::new(3).expect("three is not zero"))
        .disjoint_query_paths(true);
    let nothing = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_provided_keys: 0,
        max_providers_per_key: 0,
    };
    let store = MemoryStore::with_config(me, nothing);
    let mut kad = kad::Behaviour::with_config(me, store, settings);
    let mode = if config.nat == Nat::Behind {
        kad::Mode::Client
    } else {
        kad::Mode::Server
    };
    kad.set_mode(Some(mode));
    Some(kad)
}

/// How a node finds out whether it is behind a NAT.
fn look_outside() -> autonat::v1::Config {
    autonat::v1::Config {
        boot_delay: NAT_FIRST_LOOK,
        retry_interval: NAT_LOOK_AGAIN,
        throttle_server_period: NAT_LOOK_AGAIN,
        ..autonat::v1::Config::default()
    }
}

fn relay_limits(limits: &RelayLimits) -> relay::Config {
    let (member, source) = (limits.asked_per_member_rate, limits.asked_per_source_rate);
    relay::Config {
        max_reservations: limits.reservations_max,
        max_circuits: limits.circuits_max,
        // libp2p takes one more than it is told.
        max_circuits_per_peer: limits.circuits_per_member_max.saturating_sub(1),
        max_circuit_duration: limits.circuit_time_max,
        max_circuit_bytes: limits.circuit_bytes_max,
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    }
    .reservation_rate_per_peer(burst(member), every(member))
    .reservation_rate_per_ip(burst(source), every(source))
    .circuit_src_per_peer(burst(member), every(member))
    .circuit_src_per_ip(burst(source), every(source))
}

/// What a rate gives at once.
fn burst(rate: Rate) -> NonZeroU32 {
    NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN)
}

/// How long a rate takes to give one more.
fn every(rate: Rate) -> Duration {
    Duration::from_secs(1) / rate.per_second.max(1)
}
