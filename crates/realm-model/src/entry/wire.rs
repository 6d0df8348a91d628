//! The bytes of an entry: envelope, payload and the signed message. Format: docs/formats.md.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::{ChainId, ENTRY_BYTES_MAX, FORMAT, Head, RealmId, SIGNATURES_MAX};
use crate::digest::Digest;
use crate::key::{PublicKey, Signature};
use crate::refusal::{Refusal, RefusalCode};
use crate::wire::authenticated;

const DOMAIN: &[u8] = b"realm.entry.v1";

#[derive(Encode, Decode)]
pub(super) struct Envelope {
    #[n(0)]
    pub(super) format: u8,
    #[n(1)]
    pub(super) realm: Digest,
    #[n(2)]
    pub(super) chain: String,
    #[n(3)]
    pub(super) payload: ByteVec,
    #[n(4)]
    pub(super) signatures: Vec<KeySignature>,
}

#[derive(Encode, Decode)]
pub(super) struct KeySignature {
    // Kept as bytes, not as a key: a key that is no point of the curve is a wrong owner, not a malformed entry.
    #[n(0)]
    pub(super) key: Digest,
    #[n(1)]
    pub(super) signature: Signature,
}

#[derive(Encode, Decode)]
pub(super) struct RawPayload {
    #[n(0)]
    pub(super) seq: u64,
    #[n(1)]
    pub(super) prev: Digest,
    #[n(2)]
    pub(super) authority: Head,
    #[n(3)]
    pub(super) created_unix_s: u64,
    #[n(4)]
    pub(super) kind: u32,
    #[n(5)]
    pub(super) body: ByteVec,
}

pub(super) fn open(bytes: &[u8]) -> Result<Envelope, Refusal> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(Refusal::new(
            RefusalCode::Oversized,
            format!("{} bytes, at most {ENTRY_BYTES_MAX} are taken", bytes.len()),
        ));
    }
    // The format stands first, so that it can be read whatever follows it.
    if let Some(format) = format_of(bytes)
        && format != FORMAT
    {
        return Err(Refusal::new(
            RefusalCode::NeedsNewerAgent,
            format!("entry format {format} is not known to this version"),
        ));
    }
    let envelope: Envelope = decode(bytes, "entry")?;
    if envelope.signatures.len() > SIGNATURES_MAX {
        return Err(Refusal::new(
            RefusalCode::Malformed,
            format!(
                "{} signatures, at most {SIGNATURES_MAX} are taken",
                envelope.signatures.len()
            ),
        ));
    }
    Ok(envelope)
}

/// Pre-authentication encoding: every part with its length, so that no two lists of parts give
/// the same bytes (after DSSE, with binary lengths).
pub(super) fn signed_message(realm: Digest, chain: &str, payload: &[u8]) -> Vec<u8> {
    let parts = [
        DOMAIN,
        realm.as_bytes().as_slice(),
        chain.as_bytes(),
        payload,
    ];
    authenticated(&parts)
}

pub(super) fn envelope(
    realm: RealmId,
    chain: ChainId,
    payload: &[u8],
    signatures: &[(PublicKey, Signature)],
) -> Vec<u8> {
    encode(&Envelope {
        format: FORMAT,
        realm: realm.digest(),
        chain: chain.as_str().to_owned(),
        payload: payload.to_vec().into(),
        signatures: signatures
            .iter()
            .map(|(key, signature)| KeySignature {
                key: Digest::from_bytes(*key.as_bytes()),
                signature: *signature,
            })
            .collect(),
    })
}

pub(super) fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into a Vec does not fail")
}

fn format_of(bytes: &[u8]) -> Option<u8> {
    let mut decoder = minicbor::Decoder::new(bytes);
    decoder.array().ok()?;
    decoder.u8().ok()
}

pub(super) fn decode<'b, T: Decode<'b, ()> + Encode<()>>(
    bytes: &'b [u8],
    what: &str,
) -> Result<T, Refusal> {
    let malformed =
        |why: String| Refusal::new(RefusalCode::Malformed, format!("this is no {what}: {why}"));
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder
        .decode()
        .map_err(|error| malformed(error.to_string()))?;
    if decoder.position() != bytes.len() {
        return Err(malformed("bytes follow it".to_owned()));
    }
    // A value has one encoding: another one (longer lengths, fields without a meaning) would let
    // anybody make other bytes of an accepted entry, and hide what this version does not read.
    if encode(&value) != bytes {
        return Err(malformed("it is not in its one encoding".to_owned()));
    }
    Ok(value)
}
