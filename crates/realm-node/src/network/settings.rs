//! From node.toml to what the network is told at its start.

use std::net::{IpAddr, SocketAddr};

use realm_model::entry::RealmId;
use realm_model::key::SecretKey;
use realm_model::node_config::Peering;
use realm_net::{Error, Event, Handle};
use tokio::sync::mpsc::Receiver;

use crate::error::with_causes;

/// The network of a node of `realm`, or of a machine that has none yet.
fn settings(peering: &Peering, key: &SecretKey, realm: Option<RealmId>) -> realm_net::Config {
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

/// Starts the network on the ports that the operator chose, or, where nobody chose, on others if the
/// usual ones are taken: another agent on this machine may have them.
pub(crate) fn spawn(
    peering: &Peering,
    key: &SecretKey,
    realm: Option<RealmId>,
) -> Result<(Handle, Receiver<Event>), Error> {
    match realm_net::spawn(settings(peering, key, realm)) {
        Err(error) if *peering == Peering::default() => {
            let reason = with_causes(&error);
            tracing::warn!(
                reason,
                "nodes meet this one on another port; `[p2p] listen` in node.toml sets it"
            );
            realm_net::spawn(settings(&Peering::anywhere(), key, realm))
        }
        spawned => spawned,
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

    /// A founded node and a machine that joins alike.
    #[tokio::test]
    async fn the_usual_port_that_is_taken_is_no_obstacle_unless_it_was_chosen() {
        let key = SecretKey::from_seed(&[7; 32]);
        // If it cannot be taken here, it is taken by somebody else.
        let any = (std::net::Ipv4Addr::UNSPECIFIED, 4747);
        let _taken = (
            std::net::TcpListener::bind(any),
            std::net::UdpSocket::bind(any),
        );
        let (net, mut events) = spawn(&Peering::default(), &key, None).unwrap();
        let Some(Event::Listening { address }) = events.recv().await else {
            panic!("it listens nowhere");
        };
        assert!(!address.contains("/4747"), "{address}");
        net.stop().await;
        let chosen = Peering {
            mdns: false,
            ..Peering::default()
        };
        assert!(spawn(&chosen, &key, None).is_err());
    }

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
