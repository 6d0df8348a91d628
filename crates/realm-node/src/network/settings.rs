//! From node.toml to what the network is told at its start.

use std::net::{IpAddr, SocketAddr};

use realm_model::entry::RealmId;
use realm_model::key::SecretKey;
use realm_model::node_config::Peering;

/// The network of a node of `realm`, or of a machine that has none yet.
pub(crate) fn settings(
    peering: &Peering,
    key: &SecretKey,
    realm: Option<RealmId>,
) -> realm_net::Config {
    let alone = peering
        .listen
        .iter()
        .all(|address| address.ip().is_loopback());
    realm_net::Config {
        realm: realm.map(|realm| bare(&realm)),
        listen: peering.listen.iter().flat_map(listeners).collect(),
        announce: peering.announce.clone(),
        // Nobody on the local network could follow the answer to an address of loopback.
        mdns: peering.mdns && realm.is_some() && !alone,
        relay: peering.relay,
        agent: format!("realm/{}", env!("CARGO_PKG_VERSION")),
        ..realm_net::Config::new(*key.seed())
    }
}

/// The network of a caller, who listens nowhere.
pub(crate) fn caller(key: &SecretKey, realm: RealmId) -> realm_net::Config {
    realm_net::Config {
        realm: Some(bare(&realm)),
        nat: realm_net::Nat::Open,
        ..realm_net::Config::new(*key.seed())
    }
}

/// The realm id as it stands in names of protocols: base58 alone.
fn bare(realm: &RealmId) -> String {
    realm.to_string().trim_start_matches("realm:").to_owned()
}

/// QUIC and TCP on one number; with port 0 each takes a free one.
fn listeners(address: &SocketAddr) -> [String; 2] {
    let host = match address.ip() {
        IpAddr::V4(ip) => format!("/ip4/{ip}"),
        IpAddr::V6(ip) => format!("/ip6/{ip}"),
    };
    let port = address.port();
    [
        format!("{host}/udp/{port}/quic-v1"),
        format!("{host}/tcp/{port}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_listened_on_by_both_transports() {
        let key = SecretKey::from_seed(&[7; 32]);
        let peering = Peering {
            listen: vec![
                "127.0.0.1:4747".parse().unwrap(),
                "[::1]:0".parse().unwrap(),
            ],
            ..Peering::default()
        };
        let made = settings(&peering, &key, None);
        assert_eq!(
            made.listen,
            [
                "/ip4/127.0.0.1/udp/4747/quic-v1",
                "/ip4/127.0.0.1/tcp/4747",
                "/ip6/::1/udp/0/quic-v1",
                "/ip6/::1/tcp/0",
            ]
        );
        assert!(!made.mdns && made.realm.is_none());
        assert_eq!(*made.seed, [7; 32]);
    }
}
