//! Small parts that what nodes sign and send shares: the bytes of keys, the names of chains, and the
//! message that a signature covers. Not reading and writing CBOR: that is `cbor`.

use minicbor::{Decode, Encode};

use crate::digest::Digest;
use crate::key::PublicKey;

/// The 32 bytes of a key as somebody wrote them, not checked to be a point of the curve.
///
/// A record names hundreds of keys, and the check costs as much as half a signature; who needs the
/// key looks it up among those the owners approved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyBytes([u8; 32]);

impl KeyBytes {
    /// Takes any 32 bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<PublicKey> for KeyBytes {
    fn from(key: PublicKey) -> Self {
        Self(*key.as_bytes())
    }
}

impl std::fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key:{}", Digest::from_bytes(self.0).short())
    }
}

impl<C> Encode<C> for KeyBytes {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for KeyBytes {
    fn decode(
        decoder: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> Result<Self, minicbor::decode::Error> {
        let bytes = decoder.bytes()?.try_into();
        let bytes = bytes.map_err(|_| minicbor::decode::Error::message("a key has 32 bytes"))?;
        Ok(Self(bytes))
    }
}

/// Pre-authentication encoding: every part with its length before it, so that no two lists of
/// parts give the same bytes.
pub(crate) fn authenticated(parts: &[&[u8]]) -> Vec<u8> {
    let size = parts.iter().map(|part| part.len() + 8).sum();
    let mut message = Vec::with_capacity(size);
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_le_bytes());
        message.extend_from_slice(part);
    }
    message
}
