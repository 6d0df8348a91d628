//! A program that speaks the real network of a realm, with a key that a test chooses: strangers,
//! revoked nodes, and approved ones that mean harm.

use realm_model::join::{Answer, Request};
use realm_model::key::{PublicKey, SecretKey};
use realm_net::{Config, Event, Handle, Protocol, Transport as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::realms::{Node, Realms};
use crate::support::lasting_port;

/// One end of the network.
pub(crate) struct Caller {
    pub(crate) net: Handle,
    pub(crate) events: mpsc::Receiver<Event>,
    /// Where the first node is.
    pub(crate) address: String,
}

impl Caller {
    /// A node, as far as the network sees.
    pub(crate) async fn node(key: &SecretKey, realms: &Realms) -> Self {
        let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
        let address = realms.first().quic_address().await;
        let caller = Self::with(key, &realms.realm_id(), &address, listen);
        let members = realms.running().map(|node| node.key().public());
        let admission = realm_net::Admission {
            members: members.collect(),
            clients: std::collections::BTreeSet::new(),
        };
        caller.net.admit(admission).await.unwrap();
        caller
    }

    fn with(key: &SecretKey, realm: &str, address: &str, listen: Vec<String>) -> Self {
        let (net, events) = realm_net::spawn(Config {
            realm: Some(realm.to_owned()),
            listen,
            nat: realm_net::Nat::Open,
            ..Config::new(*key.seed())
        })
        .unwrap();
        Self {
            net,
            events,
            address: address.to_owned(),
        }
    }
}

/// Says something over the join protocol, and hears the answer; a node that does not answer is busy.
pub(crate) async fn ask(caller: &Caller, node: PublicKey, request: &Request) -> Answer {
    let busy = || {
        Answer::Refused(realm_model::join::Refused::new(
            realm_model::join::JoinCode::TooMany,
            "busy",
            None,
        ))
    };
    let Ok(mut stream) = caller.net.open(node, Protocol::Join).await else {
        return busy();
    };
    let mut bytes = Vec::new();
    let exchange = async {
        stream.write_all(&request.to_bytes()).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut bytes).await
    };
    match exchange.await {
        Ok(_) => Answer::from_bytes(&bytes).unwrap_or_else(|_| busy()),
        Err(_) => busy(),
    }
}

impl Node {
    /// Where it answers over QUIC.
    pub(crate) async fn quic_address(&self) -> String {
        self.address_with("/quic").await
    }

    /// The first address with this part where it answers.
    pub(crate) async fn address_with(&self, part: &str) -> String {
        let mut addresses = self
            .realm
            .client()
            .invitation()
            .await
            .unwrap()
            .addresses
            .into_iter();
        addresses.find(|address| address.contains(part)).unwrap()
    }

    /// Starts the agent anew on a port that it keeps: so it is found by who started as well.
    pub(crate) fn stay_on_port(&mut self) -> u16 {
        self.take().terminate();
        let port = lasting_port();
        self.p2p = format!("127.0.0.1:{port}");
        self.start();
        port
    }
}

impl Realms {
    /// The realm as it stands in names of protocols.
    pub(crate) fn realm_id(&self) -> String {
        let status = self.first().run(&["--json", "status"]).ok().stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["realm"]
            .as_str()
            .unwrap()
            .trim_start_matches("realm:")
            .to_owned()
    }
}
