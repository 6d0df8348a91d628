//! The identity of a realm and the names of its chains, with their written forms.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Head;
use crate::digest::Digest;

/// The identity of a realm: the SHA-256 of its genesis payload, written `realm:` and base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmId(Digest);

/// A chain of a realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainId {
    /// Who may sign what: owners, nodes.
    Authority,
    /// What shall run: manifests, pushes, restarts.
    Default,
}

impl RealmId {
    /// The id of the realm whose genesis payload has this digest.
    pub const fn new(genesis: Digest) -> Self {
        Self(genesis)
    }

    /// The digest of the genesis payload.
    pub const fn digest(&self) -> Digest {
        self.0
    }

    /// The place before the first entry of a namespace chain, and the authority chain's head
    /// right after genesis.
    pub const fn origin(&self) -> Head {
        Head {
            seq: 0,
            hash: self.0,
        }
    }
}

impl ChainId {
    /// Every chain, in the order in which they are read at start.
    pub const ALL: [Self; 2] = [Self::Authority, Self::Default];

    /// The name in signatures and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Default => "default",
        }
    }

    /// The chain of a name.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chain| chain.as_str() == text)
    }
}

impl fmt::Display for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "realm:{}", bs58::encode(self.0.as_bytes()).into_string())
    }
}

impl fmt::Debug for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a realm id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a realm id is `realm:` and base58 of 32 bytes")]
pub struct RealmIdError;

impl FromStr for RealmId {
    type Err = RealmIdError;

    fn from_str(text: &str) -> Result<Self, RealmIdError> {
        let base58 = text.strip_prefix("realm:").ok_or(RealmIdError)?;
        let mut bytes = [0; 32];
        match bs58::decode(base58).onto(&mut bytes) {
            Ok(32) => Ok(Self(Digest::from_bytes(bytes))),
            Ok(_) | Err(_) => Err(RealmIdError),
        }
    }
}

impl Serialize for RealmId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RealmId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_realm_id_reads_back_as_written(bytes in any::<[u8; 32]>()) {
            let id = RealmId::new(Digest::from_bytes(bytes));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_text_is_a_realm_id_or_an_error(
            text in "(realm:)?([1-9A-HJ-NP-Za-km-z]{40,46}|\\PC{0,60})"
        ) {
            if let Ok(id) = text.parse::<RealmId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
