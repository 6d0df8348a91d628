//! Ed25519 keys of owners and nodes: written form, short spoken form, signing and strict checking.
//!
//! Randomness is an argument (a 32-byte seed). Keeping a secret key at rest is the caller's work.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Words in the short form of a key: 6 x 11 bits are enough against somebody who searches for a
/// second key with the same words, and short enough to be read aloud.
pub const WORDS: usize = 6;

const PUBLIC_PREFIX: &str = "ed25519:";
const SECRET_PREFIX: &str = "ed25519-secret:";

/// A public Ed25519 key (32 bytes, RFC 8032), written `ed25519:` and base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// An Ed25519 signature (64 bytes, RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// A secret Ed25519 key; wiped from memory when dropped, never shown by `Debug`.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// A text or some bytes are not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The prefix is missing or another.
    #[error("a key begins with `{expected}`")]
    Prefix {
        /// The prefix that was expected.
        expected: &'static str,
    },
    /// The rest is not base58 of 32 bytes.
    #[error("the text after `{prefix}` is not base58 of 32 bytes")]
    Encoding {
        /// The prefix before the faulty text.
        prefix: &'static str,
    },
    /// The 32 bytes are not a point of the curve.
    #[error("these 32 bytes are not an Ed25519 public key")]
    NotAPoint,
}

impl PublicKey {
    /// Takes 32 bytes that are a point of the curve.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotAPoint)?;
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks `signature` over `message`; small-order keys and non-canonical forms fail (`verify_strict`).
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0))
                .is_ok()
        })
    }

    /// Six words for two people to compare aloud: the first 66 bits of
    /// SHA-256(`realm.words.v1` ‖ key), as words of the BIP-39 English list.
    pub fn words(&self) -> [&'static str; WORDS] {
        let mut hasher = Sha256::new();
        hasher.update(b"realm.words.v1");
        hasher.update(self.0);
        let hash: [u8; 32] = hasher.finalize().into();
        let list = bip39::Language::English.word_list();
        std::array::from_fn(|word| {
            let index = (word * 11..word * 11 + 11).fold(0usize, |index, bit| {
                index << 1 | usize::from(hash[bit / 8] >> (7 - bit % 8) & 1)
            });
            list[index]
        })
    }
}

/// Whether a text is one of the words that [`PublicKey::words`] chooses from.
pub fn is_word(text: &str) -> bool {
    bip39::Language::English.find_word(text).is_some()
}

impl Signature {
    /// Takes 64 bytes as they are; whether they verify is another question.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl SecretKey {
    /// Makes the key of a 32-byte seed, which must come from a cryptographic source.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` (deterministic, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }

    /// The 32-byte seed, for libraries that sign by themselves: TLS.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// 32 bytes for another purpose, which say nothing of the key: HMAC-SHA256 of the purpose under the
    /// seed.
    pub fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        let seed = self.seed();
        let mut mac = Hmac::<Sha256>::new_from_slice(seed.as_slice()).expect("any length will do");
        mac.update(purpose);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    /// The text of a key file: `ed25519-secret:` and base58 of the seed.
    pub fn to_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(self.0.to_bytes());
        let base58 = Zeroizing::new(bs58::encode(seed.as_slice()).into_string());
        Zeroizing::new(format!("{SECRET_PREFIX}{}", base58.as_str()))
    }

    /// Reads the text of a key file.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let seed = Zeroizing::new(decode(text.trim(), SECRET_PREFIX)?);
        Ok(Self::from_seed(&seed))
    }
}

fn decode(text: &str, prefix: &'static str) -> Result<[u8; 32], KeyError> {
    let base58 = text
        .strip_prefix(prefix)
        .ok_or(KeyError::Prefix { expected: prefix })?;
    let mut bytes = [0; 32];
    match bs58::decode(base58).onto(&mut bytes) {
        Ok(32) => Ok(bytes),
        Ok(_) | Err(_) => Err(KeyError::Encoding { prefix }),
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", bs58::encode(self.0).into_string())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signature({}…)",
            bs58::encode(&self.0[..6]).into_string()
        )
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(decode(text, PUBLIC_PREFIX)?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl<C> minicbor::Encode<C> for PublicKey {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for PublicKey {
    fn decode(
        decoder: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> Result<Self, minicbor::decode::Error> {
        let bytes = decoder.bytes()?.try_into();
        let bytes = bytes.map_err(|_| minicbor::decode::Error::message("a key has 32 bytes"))?;
        Self::from_bytes(bytes).map_err(|_| minicbor::decode::Error::message("not a key"))
    }
}

impl<C> minicbor::Encode<C> for Signature {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Signature {
    fn decode(
        decoder: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> Result<Self, minicbor::decode::Error> {
        let bytes = decoder.bytes()?.try_into();
        bytes
            .map(Self)
            .map_err(|_| minicbor::decode::Error::message("a signature has 64 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_key_reads_back_as_written() {
        let secret = key(1);
        assert_eq!(secret.public().to_string().parse(), Ok(secret.public()));
        let again = SecretKey::from_text(&secret.to_text()).expect("its own text");
        assert_eq!(again.public(), secret.public());
    }

    #[test]
    fn a_signature_holds_for_its_message_and_key_alone() {
        let signature = key(1).sign(b"message");
        assert!(key(1).public().verifies(b"message", &signature));
        assert!(!key(1).public().verifies(b"massage", &signature));
        assert!(!key(2).public().verifies(b"message", &signature));
    }

    #[test]
    fn a_small_order_key_verifies_nothing() {
        // The identity point: with the loose check of RFC 8032 it "signs" any message.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut forged = [0; 64];
        forged[0] = 1;
        let key = PublicKey::from_bytes(identity).expect("a point of the curve");
        assert!(!key.verifies(b"anything", &Signature::from_bytes(forged)));
    }

    #[test]
    fn words_are_pinned() {
        // The words are compared across versions of realm: they may never change.
        assert_eq!(key(1).public().words().join(" "), WORDS_OF_KEY_1);
    }

    const WORDS_OF_KEY_1: &str = "present distance bundle please popular joke";

    #[test]
    fn debug_does_not_show_the_secret() {
        assert!(!format!("{:?}", key(7)).contains("secret:"));
    }

    proptest! {
        #[test]
        fn any_key_reads_back_as_written(seed in any::<[u8; 32]>()) {
            let secret = SecretKey::from_seed(&seed);
            let public = secret.public();
            prop_assert_eq!(public.to_string().parse(), Ok(public));
            let again = SecretKey::from_text(&secret.to_text());
            prop_assert_eq!(again.map(|key| key.public()), Ok(public));
            // One for the other is an error, not another key.
            prop_assert!(secret.to_text().parse::<PublicKey>().is_err());
            prop_assert!(SecretKey::from_text(&public.to_string()).is_err());
        }

        #[test]
        fn any_text_is_a_key_or_an_error(
            text in "(ed25519:|ed25519-secret:)?([1-9A-HJ-NP-Za-km-z]{40,46}|\\PC{0,60})"
        ) {
            if let Ok(key) = text.parse::<PublicKey>() {
                prop_assert_eq!(key.to_string(), text.clone());
            }
            if let Ok(key) = SecretKey::from_text(&text) {
                prop_assert!(key.to_text().as_str() == text.trim());
            }
        }
    }
}
