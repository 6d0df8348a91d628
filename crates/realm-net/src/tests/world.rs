//! Nodes of a realm in one process, and waiting for what they tell.

use std::collections::BTreeSet;
use std::time::Duration;

use realm_model::key::{PublicKey, SecretKey};
use tokio::sync::mpsc;

use crate::{Admission, Config, Event, Handle, Transport as _};

pub(super) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
pub(super) const TCP: &str = "/ip4/127.0.0.1/tcp/0";

/// Longer than anything here may take: a test that waits that long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Node {
    pub(super) net: Handle,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) addresses: Vec<String>,
}

pub(super) fn seed(number: u64) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

pub(super) fn key(number: u64) -> PublicKey {
    SecretKey::from_seed(&seed(number)).public()
}

pub(super) fn config(number: u64, listen: &[&str]) -> Config {
    let mut config = Config::new(seed(number));
    config.realm = Some("test".to_owned());
    config.listen = listen.iter().map(ToString::to_string).collect();
    config
}

pub(super) fn members(numbers: impl IntoIterator<Item = u64>) -> Admission {
    Admission {
        members: numbers.into_iter().map(key).collect(),
        clients: BTreeSet::new(),
    }
}

impl Node {
    pub(super) async fn start(config: Config) -> Self {
        let expected = config.listen.len();
        let (net, mut events) = crate::spawn(config).expect("loopback can be listened on");
        let mut addresses = Vec::new();
        while addresses.len() < expected {
            if let Some(Event::Listening { address }) = next(&mut events).await {
                addresses.push(address);
            }
        }
        Self {
            net,
            events,
            addresses,
        }
    }

    pub(super) async fn node(number: u64) -> Self {
        Self::start(config(number, &[QUIC, TCP])).await
    }

    /// A node that does not listen, like a command line.
    pub(super) async fn caller(number: u64) -> Self {
        Self::start(config(number, &[])).await
    }

    pub(super) fn knows(&self, other: &Self) {
        self.net
            .addresses(other.net.me(), other.addresses.clone())
            .unwrap();
    }

    /// An address of this node with its key.
    pub(super) fn at(&self, index: usize) -> String {
        let peer = crate::identity::peer_id(&self.net.me());
        format!("{}/p2p/{peer}", self.addresses[index])
    }

    /// The first event that `pick` takes; others are dropped.
    pub(super) async fn wait<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Event) -> Option<T>,
    ) -> T {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the network lives");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(found) => found,
            Err(_) => panic!("no {what} came"),
        }
    }

    pub(super) async fn up(&mut self, peer: PublicKey) -> crate::How {
        self.wait("`Up`", |event| match event {
            Event::Up { peer: up, how, .. } if up == peer => Some(how),
            _ => None,
        })
        .await
    }

    pub(super) async fn down(&mut self, peer: PublicKey) -> crate::DownReason {
        self.wait("`Down`", |event| match event {
            Event::Down { peer: down, reason } if down == peer => Some(reason),
            _ => None,
        })
        .await
    }

    /// Waits until the views satisfy `holds`.
    pub(super) async fn sees(&self, what: &str, holds: impl Fn(&[crate::PeerView]) -> bool) {
        let mut views = self.net.watch();
        let wait = views.wait_for(|views| holds(views));
        assert!(
            tokio::time::timeout(PATIENCE, wait).await.is_ok(),
            "never: {what}: {:?}",
            self.net.peers()
        );
    }

    /// Waits until hints flow to a peer.
    pub(super) async fn hears(&self, peer: PublicKey) {
        self.sees("hints flow", |views| {
            views.iter().any(|view| view.peer == peer && view.hints)
        })
        .await;
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Option<Event> {
    tokio::time::timeout(PATIENCE, events.recv())
        .await
        .expect("an event in time")
}

/// Two members that are connected, hints flowing.
pub(super) async fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::node(1).await, Node::node(2).await);
    a.net.admit(members([1, 2])).await.unwrap();
    b.net.admit(members([1, 2])).await.unwrap();
    a.knows(&b);
    b.knows(&a);
    a.up(key(2)).await;
    b.up(key(1)).await;
    a.hears(key(2)).await;
    b.hears(key(1)).await;
    (a, b)
}
