//! The identity of a realm, of a namespace and of a chain, with their written forms.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Head;
use crate::digest::Digest;

/// Characters of a namespace's name: it becomes a file name, a column and a label.
pub const NAMESPACE_LENGTH_MAX: usize = 32;

const AUTHORITY: &str = "authority";
const DEFAULT: &str = "default";

/// The identity of a realm: the SHA-256 of its genesis payload, written `realm:` and base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmId(Digest);

/// The name of a namespace: 1 to 32 of `a-z`, `0-9` and `-`, a letter first, and not `authority`.
/// The owners' own comes before all others.
// Inline, padded with zeros: chains are keys of maps and travel in every message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceName([u8; NAMESPACE_LENGTH_MAX]);

/// A chain of a realm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainId {
    /// Who may sign what: owners, delegates, nodes.
    Authority,
    /// What shall run: manifests, pushes, restarts of one namespace.
    Namespace(NamespaceName),
}

/// A text is not the name of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a namespace has 1 to 32 lower-case letters, digits and `-`, begins with a letter, and is not `authority`"
)]
pub struct NamespaceNameError;

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

impl NamespaceName {
    /// The namespace of the owners.
    pub const DEFAULT: Self = {
        let mut bytes = [0; NAMESPACE_LENGTH_MAX];
        let name = DEFAULT.as_bytes();
        let mut at = 0;
        while at < name.len() {
            bytes[at] = name[at];
            at += 1;
        }
        Self(bytes)
    };

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().take_while(|byte| **byte != 0).count();
        std::str::from_utf8(&self.0[..length]).expect("made from ASCII")
    }

    /// Whether it is the owners' own.
    pub fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }
}

impl FromStr for NamespaceName {
    type Err = NamespaceNameError;

    fn from_str(text: &str) -> Result<Self, NamespaceNameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !begins || text.len() > NAMESPACE_LENGTH_MAX || !text.bytes().all(plain) {
            return Err(NamespaceNameError);
        }
        if text == AUTHORITY {
            return Err(NamespaceNameError);
        }
        let mut bytes = [0; NAMESPACE_LENGTH_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }
}

impl Ord for NamespaceName {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |name: &Self| (!name.is_default(), name.0);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for NamespaceName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl ChainId {
    /// The owners' namespace.
    pub const DEFAULT: Self = Self::Namespace(NamespaceName::DEFAULT);

    /// The name in signatures and files.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Authority => AUTHORITY,
            Self::Namespace(name) => name.as_str(),
        }
    }

    /// The chain of a name.
    pub fn of(text: &str) -> Option<Self> {
        if text == AUTHORITY {
            return Some(Self::Authority);
        }
        text.parse().ok().map(Self::Namespace)
    }

    /// The namespace, unless it is the authority chain.
    pub const fn namespace(&self) -> Option<NamespaceName> {
        match self {
            Self::Authority => None,
            Self::Namespace(name) => Some(*name),
        }
    }
}

impl fmt::Display for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.as_str())
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.as_str())
    }
}

macro_rules! as_text {
    ($type:ident, $read:expr, $what:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $read(&text).ok_or_else(|| serde::de::Error::custom(concat!("not a ", $what)))
            }
        }

        impl<C> minicbor::Encode<C> for $type {
            fn encode<W: minicbor::encode::Write>(
                &self,
                encoder: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                encoder.str(self.as_str())?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $type {
            fn decode(
                decoder: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                $read(decoder.str()?)
                    .ok_or_else(|| minicbor::decode::Error::message(concat!("not a ", $what)))
            }
        }
    };
}

as_text!(NamespaceName, |text: &str| text.parse().ok(), "namespace");
as_text!(ChainId, ChainId::of, "chain");

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

    #[test]
    fn a_chain_is_known_by_its_name() {
        for (text, expected) in [
            ("authority", Some(ChainId::Authority)),
            ("default", Some(ChainId::DEFAULT)),
        ] {
            assert_eq!(ChainId::of(text), expected);
        }
        for text in ["a", "team-a", "a1", &"x".repeat(32)] {
            let chain = ChainId::of(text).expect(text);
            assert_eq!((chain.as_str(), chain.to_string().as_str()), (text, text));
            assert_eq!(
                serde_json::to_string(&chain).expect("json"),
                format!("\"{text}\"")
            );
        }
        for text in [
            "",
            "1a",
            "-a",
            "A",
            "a_b",
            "a.b",
            "a/b",
            "ä",
            "..",
            &"x".repeat(33),
        ] {
            assert_eq!(ChainId::of(text), None, "{text}");
        }
        assert!("authority".parse::<NamespaceName>().is_err());
    }

    #[test]
    fn the_owners_namespace_comes_first() {
        let mut chains =
            ["b", "default", "authority", "a"].map(|name| ChainId::of(name).expect(name));
        chains.sort();
        assert_eq!(
            chains.map(|chain| chain.to_string()),
            ["authority", "default", "a", "b"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_chain_or_none(text in "[a-z0-9-]{0,34}|\\PC{0,40}") {
            if let Some(chain) = ChainId::of(&text) {
                prop_assert_eq!(chain.as_str(), text);
            }
        }

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
