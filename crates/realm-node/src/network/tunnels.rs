//! Ways for requests to other nodes: one line to each node that answers for something, kept as long as
//! it is a member. Who has what is decided in `realm_control::ways`, which node is asked in the edge.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use realm_control::ways::{Ring, Way};
use realm_edge::{BoxFuture, Dial, Far, Io, Line, LineFigures};
use realm_model::key::PublicKey;
use realm_model::name::{ComponentName, NodeName};
use realm_net::{Error, Handle, Protocol, Transport as _};

/// What is known of other nodes that answer.
pub(crate) struct Tunnels {
    net: Handle,
    lines: BTreeMap<PublicKey, Arc<Line>>,
    ways: BTreeMap<ComponentName, Vec<Way>>,
}

/// Opens streams to one node.
struct Node {
    net: Handle,
    key: PublicKey,
}

impl Dial for Node {
    fn home(&self) -> Option<&tokio::runtime::Handle> {
        Some(self.net.sockets())
    }

    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async {
            let stream = self.net.open(self.key, Protocol::Tunnel).await;
            let stream = stream.map_err(|error| io::Error::new(kind(&error), error.to_string()))?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// What the edge is to make of it: the node is not there, it declines, or neither is known.
const fn kind(error: &Error) -> io::ErrorKind {
    match error {
        Error::Unknown | Error::Unreachable(_) => io::ErrorKind::NotConnected,
        Error::Refused(_) => io::ErrorKind::ConnectionRefused,
        Error::Stopped
        | Error::Unsupported
        | Error::Timeout
        | Error::Broken(_)
        | Error::TooLarge { .. }
        | Error::Overloaded
        | Error::Address(_)
        | Error::Realm(_)
        | Error::Setup(_) => io::ErrorKind::Other,
    }
}

impl Tunnels {
    pub(crate) fn new(net: Handle) -> Self {
        Self {
            net,
            lines: BTreeMap::new(),
            ways: BTreeMap::new(),
        }
    }

    /// Takes what is known; gives who answers for each component, if that changed. Lines stay as they
    /// are: what is known of their failures is not forgotten with a new record.
    pub(crate) fn learn(
        &mut self,
        ways: BTreeMap<ComponentName, Vec<Way>>,
        names: &BTreeMap<PublicKey, NodeName>,
    ) -> Option<BTreeMap<ComponentName, Vec<Far>>> {
        let Self { net, lines, .. } = self;
        let mut ways = ways;
        for ways in ways.values_mut() {
            ways.retain(|way| names.contains_key(&way.node));
        }
        let before = lines.len();
        lines.retain(|key, line| names.get(key) == Some(line.node()));
        lines.values().for_each(|line| line.sweep());
        if lines.len() == before && ways == self.ways {
            return None;
        }
        // Who answers for something anew was away, or is met for the first time.
        let answers = |ways: &BTreeMap<ComponentName, Vec<Way>>| -> BTreeSet<PublicKey> {
            ways.values().flatten().map(|way| way.node).collect()
        };
        for key in answers(&ways).difference(&answers(&self.ways)) {
            if let Some(line) = lines.get(key) {
                line.may_be_back();
            }
        }
        let mut line = |key: PublicKey| {
            let name = names.get(&key)?.clone();
            let dial = || {
                let net = net.clone();
                Line::new(name, Box::new(Node { net, key }))
            };
            Some(Arc::clone(lines.entry(key).or_insert_with(dial)))
        };
        let mut others = BTreeMap::new();
        for (component, ways) in &ways {
            let far = ways.iter().filter_map(|way| {
                let line = line(way.node)?;
                Some(Far::new(line, component.clone(), rank(way.ring)))
            });
            others.insert(component.clone(), far.collect());
        }
        self.ways = ways;
        Some(others)
    }

    /// What became of requests, by node.
    pub(crate) fn figures(&self) -> Vec<(NodeName, LineFigures)> {
        let lines = self.lines.values();
        lines
            .map(|line| (line.node().clone(), line.figures()))
            .collect()
    }
}

const fn rank(ring: Ring) -> u8 {
    match ring {
        Ring::Rack => 0,
        Ring::City => 1,
        Ring::Continent => 2,
        Ring::World => 3,
    }
}
