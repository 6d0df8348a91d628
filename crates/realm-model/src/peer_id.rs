//! The id under which libp2p knows a key: base58 of the identity multihash of its protobuf form.
//!
//! An Ed25519 key is short enough to *be* its own hash there, so id and key say the same, and
//! each gives the other. Not here: ids of other kinds of keys, which no node of a realm has.

use crate::key::PublicKey;

/// What stands before the 32 bytes of the key: the multihash `identity` of 36 bytes, then the
/// protobuf message: field 1 (type) is Ed25519, field 2 (data) has 32 bytes.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
const BYTES: usize = PREFIX.len() + 32;
/// Base58 of 38 bytes that begin with one zero; more is not decoded, since that takes time with
/// the square of the length.
const CHARS_MAX: usize = 64;

/// A text is not the id of an Ed25519 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdError {
    /// Not base58, or of no length that an id has.
    #[error("a peer id is base58 and begins with `12D3KooW`")]
    Encoding,
    /// The id of another kind of key, or the hash of one.
    #[error("it is the id of another kind of key: nodes of a realm have Ed25519 keys, `12D3KooW…`")]
    OtherKind,
    /// The bytes are not a point of the curve.
    #[error("it holds no Ed25519 key")]
    NotAPoint,
}

impl PublicKey {
    /// The id under which libp2p knows this key: `12D3KooW…`.
    pub fn peer_id(&self) -> String {
        let mut bytes = [0; BYTES];
        bytes[..PREFIX.len()].copy_from_slice(&PREFIX);
        bytes[PREFIX.len()..].copy_from_slice(self.as_bytes());
        bs58::encode(bytes).into_string()
    }

    /// The key of such an id.
    pub fn from_peer_id(text: &str) -> Result<Self, PeerIdError> {
        if text.is_empty() || text.len() > CHARS_MAX {
            return Err(PeerIdError::Encoding);
        }
        let bytes = bs58::decode(text)
            .into_vec()
            .map_err(|_| PeerIdError::Encoding)?;
        let key = bytes.strip_prefix(&PREFIX).ok_or(PeerIdError::OtherKind)?;
        let key = key.try_into().map_err(|_| PeerIdError::OtherKind)?;
        Self::from_bytes(key).map_err(|_| PeerIdError::NotAPoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::SecretKey;

    #[test]
    fn ids_are_those_of_libp2p() {
        // Computed with libp2p-identity 0.3.1; the last one from the test vector of its specification.
        let seeds = [
            (0, "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"),
            (1, "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"),
            (7, "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"),
            (255, "12D3KooWHoSyTgntm77sXShoeX9uNkqKNMhHxKtskaHqnA54SrSG"),
        ];
        for (seed, id) in seeds {
            let key = SecretKey::from_seed(&[seed; 32]).public();
            assert_eq!(key.peer_id(), id);
            assert_eq!(PublicKey::from_peer_id(id), Ok(key));
        }
        let id = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq";
        let key = PublicKey::from_peer_id(id).expect("the vector");
        assert_eq!(key.as_bytes()[..4], [0x1e, 0xd1, 0xe8, 0xfa]);
    }

    #[track_caller]
    fn check(text: &str, expected: PeerIdError) {
        assert_eq!(PublicKey::from_peer_id(text), Err(expected), "{text}");
    }

    #[test]
    fn other_ids_are_refused() {
        check("", PeerIdError::Encoding);
        check("0OIl", PeerIdError::Encoding);
        check(&"1".repeat(65), PeerIdError::Encoding);
        // An RSA key is known by its SHA-256.
        check(
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
            PeerIdError::OtherKind,
        );
        // secp256k1.
        check(
            "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY",
            PeerIdError::OtherKind,
        );
        check("12D3KooW", PeerIdError::OtherKind);
        let mut bytes = PREFIX.to_vec();
        // No point of the curve has y = 2.
        bytes.extend([2]);
        bytes.extend([0; 31]);
        check(&bs58::encode(&bytes).into_string(), PeerIdError::NotAPoint);
        bytes.push(0);
        check(&bs58::encode(&bytes).into_string(), PeerIdError::OtherKind);
    }

    proptest! {
        #[test]
        fn any_key_reads_back_from_its_id(seed in any::<[u8; 32]>()) {
            let key = SecretKey::from_seed(&seed).public();
            let id = key.peer_id();
            prop_assert!(id.starts_with("12D3KooW") && id.len() == 52, "{}", id);
            prop_assert_eq!(PublicKey::from_peer_id(&id), Ok(key));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in "(12D3KooW)?([1-9A-HJ-NP-Za-km-z]{44}|\\PC{0,70})") {
            if let Ok(key) = PublicKey::from_peer_id(&text) {
                prop_assert_eq!(key.peer_id(), text);
            }
        }
    }
}
