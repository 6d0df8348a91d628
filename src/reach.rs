//! The way to a node that was named: the local agent, a TCP port with mutual TLS, or a peer.

use std::collections::BTreeMap;
use std::sync::Arc;

use realm_model::address::{self, NodeAddress};
use realm_model::entry::RealmId;
use realm_model::key::{PublicKey, SecretKey};
use realm_model::name::NodeName;
use realm_model::ticket::Ticket;
use realm_model::view::StatusView;
use realm_node::{Client, ClientError, Peer, Place, Signer, Tls};
use realm_store::folder::RealmFolder;

use crate::context::Context;
use crate::failure::{Failure, exit};

/// A client of the node that `node` names: `HOST:PORT#KEY`, or the name of a node.
pub(crate) async fn client(context: &Context, node: &str) -> Result<Client, Failure> {
    if let Some(port) = Port::parse(node)? {
        let key = context.owner_key().await?;
        let way = Tls::new(&port.address, port.key, &key);
        let way = way.map_err(|error| Failure::from_error("bad-key-file", &error))?;
        return Ok(Client::over(Arc::new(way)));
    }
    if let Some(local) = local(context, node).await {
        return Ok(local);
    }
    peer(context, node).await
}

/// A client of the node `name`, found through the one that `--node` names, if it names one.
pub(crate) async fn client_of(context: &Context, name: &str) -> Result<Client, Failure> {
    let through = match context.node() {
        Some(through) if through != name && Port::parse(name)?.is_none() => through,
        Some(_) | None => return client(context, name).await,
    };
    let first = client(context, through).await?;
    let status = first.status().await?;
    if status.node.as_str() == name {
        return Ok(first);
    }
    let mut known = Known::of(&status);
    let target = name.parse().ok().and_then(|name| known.nodes.remove(&name));
    let target = target.ok_or_else(|| not_approved(name))?;
    if let Ok(ticket) = through.parse::<Ticket>() {
        known.places.extend(ticket.addresses.iter().map(place));
    }
    let meant = Meant {
        realm: known.realm,
        places: known.places,
        target: Some(target),
    };
    over_peers(context, context.owner_key().await?, meant).await
}

fn not_approved(node: &str) -> Failure {
    Failure::new("unknown-name", format!("no node `{node}` is approved"))
        .hint("`realm nodes ls` lists the nodes")
}

/// The agent of the realm folder, if it is the node of this name.
async fn local(context: &Context, node: &str) -> Option<Client> {
    let client = context.local_client().ok()?;
    let heads = client.heads().await.ok()?;
    (heads.node.as_str() == node).then_some(client)
}

/// A client over the network of nodes: for a ticket, a multiaddr, or the name of a node.
async fn peer(context: &Context, node: &str) -> Result<Client, Failure> {
    let key = context.owner_key().await?;
    let meant = meant(context, node).await?;
    over_peers(context, key, meant).await
}

async fn over_peers(context: &Context, key: SecretKey, meant: Meant) -> Result<Client, Failure> {
    let way = Peer::reach(&key, meant.realm, &meant.places, meant.target).await;
    let way = way.map_err(|error| {
        Failure::from_error("not-reached", &error).hint(
            "`realm nodes ls` says where nodes are; `--node TICKET` reaches a realm from anywhere",
        )
    })?;
    context.calls(way.goodbye());
    match way.relayed() {
        None => Ok(Client::over(Arc::new(way))),
        Some(node) => {
            let signer = Signer::new(key, meant.realm, node);
            Ok(Client::signed(Arc::new(way), Arc::new(signer)))
        }
    }
}

/// Which realm is meant, which node of it, and where its nodes may be.
struct Meant {
    realm: RealmId,
    places: Vec<Place>,
    /// `None`: any node does.
    target: Option<PublicKey>,
}

async fn meant(context: &Context, node: &str) -> Result<Meant, Failure> {
    if let Ok(ticket) = node.parse::<Ticket>() {
        let places = ticket.addresses.iter().map(place).collect();
        return Ok(Meant {
            realm: ticket.realm,
            places,
            target: None,
        });
    }
    if node.starts_with('/') {
        let written = address::read(node).map_err(|error| {
            let hint = error.hint();
            Failure::from_error(error.code(), &error)
                .hint(&hint)
                .exit(exit::USAGE)
        })?;
        let realm = context.identity()?.realm;
        let places = vec![place(&written.address)];
        return Ok(Meant {
            realm,
            places,
            target: written.address.peer,
        });
    }
    by_name(context, node).await
}

fn place(address: &NodeAddress) -> Place {
    Place {
        node: address.peer,
        addresses: vec![address.to_string()],
    }
}

/// A node by its name, as the agent of this realm folder knows it, or the folder itself.
async fn by_name(context: &Context, node: &str) -> Result<Meant, Failure> {
    let folder = context.folder()?;
    let unknown = || not_approved(node);
    let name: NodeName = node.parse().map_err(|_| unknown())?;
    let known = match context.local_client()?.status().await {
        Ok(status) => Known::of(&status),
        Err(ClientError::NotRunning { .. }) => Known::offline(&folder)?,
        Err(error) => return Err(error.into()),
    };
    let target = known.nodes.get(&name).copied().ok_or_else(unknown)?;
    Ok(Meant {
        realm: known.realm,
        places: known.places,
        target: Some(target),
    })
}

/// What is known of the nodes here.
struct Known {
    realm: RealmId,
    nodes: BTreeMap<NodeName, PublicKey>,
    places: Vec<Place>,
}

impl Known {
    fn of(status: &StatusView) -> Self {
        let approved = status
            .nodes
            .iter()
            .filter_map(|node| Some((node, node.key?)));
        Self {
            realm: status.realm,
            nodes: approved
                .clone()
                .map(|(node, key)| (node.name.clone(), key))
                .collect(),
            places: approved
                .map(|(node, key)| Place {
                    node: Some(key),
                    addresses: node
                        .said
                        .as_ref()
                        .map_or_else(Vec::new, |said| said.addresses.clone()),
                })
                .collect(),
        }
    }

    fn offline(folder: &RealmFolder) -> Result<Self, Failure> {
        let known = realm_node::offline_nodes(folder)
            .map_err(|error| Failure::from_error("bad-realm-folder", &error))?;
        Ok(Self {
            realm: known.realm,
            nodes: known.nodes,
            places: known.places,
        })
    }
}

/// A TCP port, and the key of the node behind it.
#[derive(Debug, PartialEq, Eq)]
struct Port {
    address: String,
    key: PublicKey,
}

impl Port {
    /// `None`: this is no address.
    fn parse(text: &str) -> Result<Option<Self>, Failure> {
        let rest = text.strip_prefix("https://");
        let (address, key) = match rest.unwrap_or(text).split_once('#') {
            Some((address, key)) => (address, Some(key)),
            None => (rest.unwrap_or(text), None),
        };
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port || address.contains('/') {
            return match rest {
                Some(_) => Err(usage(format!("`{text}` names no host and port"))),
                None => Ok(None),
            };
        }
        let Some(key) = key else {
            return Err(usage(format!("`{text}` does not say which node is there")));
        };
        let key = key
            .parse()
            .map_err(|error: realm_model::key::KeyError| usage(error.to_string()))?;
        Ok(Some(Self {
            address: address.to_owned(),
            key,
        }))
    }
}

fn usage(message: String) -> Failure {
    Failure::new("usage", message)
        .hint("write `HOST:PORT#KEY`; `realm key show --json` on the node prints its `node_key`")
        .exit(exit::USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ed25519:7wVEK7FwUPH26RmwY9C7y6ZoCZ15mZ3WNdJMRthbfeAZ";

    fn check(text: &str, expected: Result<Option<&str>, &str>) {
        match (Port::parse(text), expected) {
            (Ok(port), Ok(expected)) => {
                assert_eq!(port.map(|port| port.address).as_deref(), expected, "{text}");
            }
            (Err(failure), Err(code)) => assert!(failure.is(code), "{text}: {failure:?}"),
            (parsed, expected) => panic!("{text}: {parsed:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn an_address_names_its_key() {
        check(&format!("10.0.0.1:9443#{KEY}"), Ok(Some("10.0.0.1:9443")));
        check(&format!("https://bm-01:9443#{KEY}"), Ok(Some("bm-01:9443")));
        check(&format!("[::1]:9443#{KEY}"), Ok(Some("[::1]:9443")));
        check("bm-01", Ok(None));
        check("/ip4/10.0.0.1/udp/443/quic-v1", Ok(None));
        check("10.0.0.1:9443", Err("usage"));
        check("10.0.0.1:9443#ed25519:x", Err("usage"));
        check("https://bm-01", Err("usage"));
    }
}
