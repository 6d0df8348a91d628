//! Who a peer is to us, and what each class may reach.
//!
//! The class of a connection is the class of its key when the connection is made. It never changes
//! while the connection lives: when a key changes its class, its connections are closed.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use libp2p::{PeerId, StreamProtocol};
use realm_model::key::PublicKey;

use crate::{Error, identity};

/// Longest realm id in a protocol name: multistream-select takes lines of up to 16 KiB, but a long
/// name is sent with each stream.
const REALM_BYTES_MAX: usize = 128;

/// What a key is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// An approved node: everything.
    Member,
    /// A key that may use the API: owner, delegate, reader.
    Client,
    /// Anybody else: the join protocol alone.
    Stranger,
}

/// Protocols that carry a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Asking to join; open to everybody, and the only name without the realm in it.
    Join,
    /// Bytes by their digest.
    Blob,
    /// The control API.
    Api,
    /// The control API of another node, through this one.
    Via,
    /// Requests to components on another node.
    Tunnel,
    /// Certificates of HTTPS with their keys, and the proofs that authorities look for.
    Cert,
    /// Messages of a queue, for a node where somebody takes them.
    Lend,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Join,
        Self::Blob,
        Self::Api,
        Self::Via,
        Self::Tunnel,
        Self::Cert,
        Self::Lend,
    ];

    /// Whether a peer of `class` may open it.
    pub const fn is_open_to(self, class: Class) -> bool {
        match (self, class) {
            (Self::Join, _) | (_, Class::Member) | (Self::Api | Self::Via, Class::Client) => true,
            (
                Self::Blob | Self::Api | Self::Via | Self::Tunnel | Self::Cert | Self::Lend,
                Class::Stranger,
            )
            | (Self::Blob | Self::Tunnel | Self::Cert | Self::Lend, Class::Client) => false,
        }
    }
}

/// What a hint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Newest entries of chains.
    Heads,
    /// Observed records of nodes.
    Records,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Heads, Self::Records];
}

/// The keys that are more than strangers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// Approved nodes.
    pub members: BTreeSet<PublicKey>,
    /// Keys that may use the API. A key that is both is a member.
    pub clients: BTreeSet<PublicKey>,
}

impl Admission {
    /// What `key` is.
    pub fn class_of(&self, key: &PublicKey) -> Class {
        if self.members.contains(key) {
            Class::Member
        } else if self.clients.contains(key) {
            Class::Client
        } else {
            Class::Stranger
        }
    }
}

/// The admission in force, shared by all that decide about connections.
#[derive(Clone, Default)]
pub(crate) struct Classes(Arc<RwLock<Admission>>);

impl Classes {
    pub(crate) fn of(&self, peer: &PeerId) -> Class {
        identity::key_of(peer).map_or(Class::Stranger, |key| self.read().class_of(&key))
    }

    pub(crate) fn of_key(&self, key: &PublicKey) -> Class {
        self.read().class_of(key)
    }

    pub(crate) fn set(&self, admission: Admission) -> Admission {
        let mut held = self.0.write().unwrap_or_else(|poison| poison.into_inner());
        std::mem::replace(&mut held, admission)
    }

    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, Admission> {
        // Readers and the one writer only copy: a panic cannot leave it half changed.
        self.0.read().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// Protocol names of one realm; without a realm there is the join protocol alone.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    realm: Option<String>,
}

impl Names {
    pub(crate) fn new(realm: Option<&str>) -> Result<Self, Error> {
        if let Some(realm) = realm {
            let fits = (1..=REALM_BYTES_MAX).contains(&realm.len())
                && realm
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
            if !fits {
                return Err(Error::Realm(realm.chars().take(REALM_BYTES_MAX).collect()));
            }
        }
        Ok(Self {
            realm: realm.map(str::to_owned),
        })
    }

    pub(crate) fn realm(&self) -> Option<&str> {
        self.realm.as_deref()
    }

    /// The name of a part of the realm's own protocols.
    pub(crate) fn of(&self, part: &str) -> Option<StreamProtocol> {
        let realm = self.realm.as_deref()?;
        StreamProtocol::try_from_owned(format!("/realm/{realm}/{part}/1")).ok()
    }

    pub(crate) fn stream(&self, protocol: Protocol) -> Option<StreamProtocol> {
        match protocol {
            Protocol::Join => Some(StreamProtocol::new("/realm/join/1")),
            Protocol::Blob => self.of("blob"),
            Protocol::Api => self.of("api"),
            Protocol::Via => self.of("via"),
            Protocol::Tunnel => self.of("tunnel"),
            Protocol::Cert => self.of("cert"),
            Protocol::Lend => self.of("lend"),
        }
    }

    pub(crate) fn topic(&self, topic: Topic) -> String {
        let name = match topic {
            Topic::Heads => "heads",
            Topic::Records => "records",
        };
        format!(
            "/realm/{}/{name}/1",
            self.realm.as_deref().unwrap_or_default()
        )
    }

    /// The protocols that a connection of `class` may open here.
    pub(crate) fn open_to(&self, class: Class) -> Vec<(StreamProtocol, Protocol)> {
        Protocol::ALL
            .into_iter()
            .filter(|protocol| protocol.is_open_to(class))
            .filter_map(|protocol| Some((self.stream(protocol)?, protocol)))
            .collect()
    }
}
