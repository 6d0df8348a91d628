//! The way to a node that was named: the local agent, a TCP port with mutual TLS, or a peer.

use std::sync::Arc;

use realm_model::key::PublicKey;
use realm_node::{Client, Tls};

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
    peer(node)
}

/// The agent of the realm folder, if it is the node of this name.
async fn local(context: &Context, node: &str) -> Option<Client> {
    let client = context.local_client().ok()?;
    let heads = client.heads().await.ok()?;
    (heads.node.as_str() == node).then_some(client)
}

/// A client over a stream of the peer network, for the name or the multiaddress of a node.
fn peer(node: &str) -> Result<Client, Failure> {
    let message = format!("there is no way to the node `{node}` from here");
    Err(Failure::new("no-transport", message)
        .hint("`--node HOST:PORT#KEY` reaches a node with `listen.api` in its node.toml"))
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
