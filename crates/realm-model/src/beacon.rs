//! A beacon: what a key of low power signs every so often, so that nodes notice when news is kept
//! from them.
//!
//! It says which heads of the chains its signer saw, and a counter. It is a statement beside the
//! chains: a node keeps the newest one alone, so nothing grows. A node that has no newer beacon for
//! long, or has one whose heads it cannot reach, is stale. The owner names the key and the time
//! between two (`SetBeacon`). Format: docs/formats.md. Not here: what is newest, and when it is
//! overdue (control).

use std::ops::RangeInclusive;

use minicbor::{Decode, Encode};

use crate::cbor::{decode, encode};
use crate::digest::Digest;
use crate::entry::RealmId;
use crate::key::{PublicKey, SecretKey, Signature};
use crate::record::{ChainHead, limits::CHAINS_MAX};
use crate::refusal::{Refusal, RefusalCode};
use crate::wire::{KeyBytes, authenticated};

/// A larger beacon is neither made nor read: the heads of [`CHAINS_MAX`] chains with names of 32
/// characters have some 20 KiB, and it still fits a hint.
pub const BEACON_BYTES_MAX: usize = 32 * 1024;

/// Seconds between two beacons: each goes to every node, and one a week is soon enough to be missed.
pub const BEACON_EVERY_S: RangeInclusive<u32> = 1..=604_800;

const FORMAT: u8 = 1;
const DOMAIN: &[u8] = b"realm.beacon.v1";

/// Which of two beacons of one key is the newer one. Of two with one counter the digest decides, so
/// that all nodes keep the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct BeaconMark {
    /// Counts the beacons of its key.
    #[n(0)]
    pub counter: u64,
    /// SHA-256 of its bytes.
    #[n(1)]
    pub digest: Digest,
}

/// A beacon whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// Its place among the beacons of its key.
    pub mark: BeaconMark,
    /// When it was signed, by its signer's clock; for people, it orders nothing.
    pub created_unix_s: u64,
    /// The last entry of each chain that its signer saw.
    pub heads: Vec<ChainHead>,
}

/// A beacon that was read: [`OpenedBeacon::mark`] is cheap, [`OpenedBeacon::verify`] is not.
pub struct OpenedBeacon {
    envelope: Envelope,
    mark: BeaconMark,
}

#[derive(Encode, Decode)]
struct Envelope {
    #[n(0)]
    format: u8,
    #[n(1)]
    realm: Digest,
    #[n(2)]
    key: KeyBytes,
    #[n(3)]
    counter: u64,
    #[n(4)]
    created_unix_s: u64,
    #[n(5)]
    heads: Vec<ChainHead>,
    #[n(6)]
    signature: Signature,
}

impl Beacon {
    /// Signs a beacon and returns its bytes.
    pub fn sign(
        realm: RealmId,
        key: &SecretKey,
        counter: u64,
        created_unix_s: u64,
        heads: Vec<ChainHead>,
    ) -> Vec<u8> {
        let mut envelope = Envelope {
            format: FORMAT,
            realm: realm.digest(),
            key: key.public().into(),
            counter,
            created_unix_s,
            heads,
            signature: Signature::from_bytes([0; 64]),
        };
        envelope.signature = key.sign(&message(&envelope));
        encode(&envelope)
    }

    /// Reads a beacon: size, form and realm. Nothing of it is believed yet.
    pub fn open(bytes: &[u8], realm: RealmId) -> Result<OpenedBeacon, Refusal> {
        if bytes.len() > BEACON_BYTES_MAX {
            let why = format!(
                "{} bytes, at most {BEACON_BYTES_MAX} are taken",
                bytes.len()
            );
            return Err(Refusal::new(RefusalCode::Oversized, why));
        }
        let envelope = read(bytes)?;
        if envelope.realm != realm.digest() {
            let why = "the beacon is for another realm";
            return Err(Refusal::new(RefusalCode::WrongRealm, why));
        }
        let mark = BeaconMark {
            counter: envelope.counter,
            digest: Digest::of(bytes),
        };
        Ok(OpenedBeacon { envelope, mark })
    }
}

impl OpenedBeacon {
    /// Its place, which anybody could have written.
    pub const fn mark(&self) -> BeaconMark {
        self.mark
    }

    /// Checks the signature of `key`, the one that the owner named.
    pub fn verify(self, key: PublicKey) -> Result<Beacon, Refusal> {
        let Self { envelope, mark } = self;
        if envelope.key != key.into() {
            let why = format!("the beacon is not of {key}, which the owner named");
            return Err(Refusal::new(RefusalCode::WrongOwner, why));
        }
        if !key.verifies(&message(&envelope), &envelope.signature) {
            let why = format!("the signature of {key} does not hold over these bytes");
            return Err(Refusal::new(RefusalCode::BadSignature, why));
        }
        Ok(Beacon {
            mark,
            created_unix_s: envelope.created_unix_s,
            heads: envelope.heads,
        })
    }
}

fn read(bytes: &[u8]) -> Result<Envelope, Refusal> {
    if let Some(format) = format_of(bytes)
        && format != FORMAT
    {
        let why = format!("beacon format {format} is not known to this version");
        return Err(Refusal::new(RefusalCode::NeedsNewerAgent, why));
    }
    let malformed =
        |why: &str| Refusal::new(RefusalCode::Malformed, format!("this is no beacon: {why}"));
    let envelope: Envelope = decode(bytes).map_err(|why| malformed(&why))?;
    // One encoding: otherwise anybody could make other bytes of a good beacon.
    if encode(&envelope) != bytes {
        return Err(malformed("it is not in its one encoding"));
    }
    // In order and each once, so that it says one thing of each chain.
    let mut pairs = envelope.heads.windows(2);
    if envelope.heads.len() > CHAINS_MAX || !pairs.all(|pair| pair[0].chain < pair[1].chain) {
        return Err(malformed("its chains are too many, or out of order"));
    }
    Ok(envelope)
}

fn message(envelope: &Envelope) -> Vec<u8> {
    authenticated(&[
        DOMAIN,
        envelope.realm.as_bytes(),
        envelope.key.as_bytes(),
        &envelope.counter.to_le_bytes(),
        &envelope.created_unix_s.to_le_bytes(),
        &encode(&envelope.heads),
    ])
}

fn format_of(bytes: &[u8]) -> Option<u8> {
    let mut decoder = minicbor::Decoder::new(bytes);
    decoder.array().ok()?;
    decoder.u8().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{ChainId, Head};

    fn realm() -> RealmId {
        RealmId::new(Digest::of(b"a realm"))
    }

    fn key() -> SecretKey {
        SecretKey::from_seed(&[3; 32])
    }

    fn heads() -> Vec<ChainHead> {
        let chains = [ChainId::Authority, ChainId::DEFAULT];
        let head = |(seq, chain): (u64, ChainId)| ChainHead {
            chain,
            head: Head {
                seq,
                hash: Digest::of(&seq.to_le_bytes()),
            },
        };
        (7..).zip(chains).map(head).collect()
    }

    fn beacon() -> Vec<u8> {
        Beacon::sign(realm(), &key(), 5, 1_700_000_000, heads())
    }

    fn verify(bytes: &[u8]) -> Result<Beacon, Refusal> {
        Beacon::open(bytes, realm())?.verify(key().public())
    }

    fn check(bytes: &[u8], expected: Result<u64, RefusalCode>) {
        let read = verify(bytes);
        let read = read.map(|beacon| beacon.mark.counter);
        assert_eq!(read.map_err(|refusal| refusal.code), expected);
    }

    #[test]
    fn a_beacon_reads_back_as_it_was_signed() {
        let read = verify(&beacon()).expect("its own");
        assert_eq!(
            (read.created_unix_s, &read.heads),
            (1_700_000_000, &heads())
        );
        check(&beacon(), Ok(5));
        let many: Vec<ChainHead> = (0..CHAINS_MAX)
            .map(|n| ChainHead {
                chain: ChainId::Namespace(format!("namespace-{n:022}").parse().expect("a name")),
                ..heads()[0]
            })
            .collect();
        let largest = Beacon::sign(realm(), &key(), u64::MAX, u64::MAX, many);
        check(&largest, Ok(u64::MAX));
    }

    #[test]
    fn what_is_not_of_the_named_key_and_this_realm_is_refused() {
        let other = SecretKey::from_seed(&[4; 32]);
        let by_other = Beacon::sign(realm(), &other, 5, 0, heads());
        check(&by_other, Err(RefusalCode::WrongOwner));
        let elsewhere = RealmId::new(Digest::of(b"another"));
        let elsewhere = Beacon::sign(elsewhere, &key(), 5, 0, heads());
        check(&elsewhere, Err(RefusalCode::WrongRealm));
        check(&[0; BEACON_BYTES_MAX + 1], Err(RefusalCode::Oversized));
        check(&[0x81, 2], Err(RefusalCode::NeedsNewerAgent));
        let mut backwards = heads();
        backwards.reverse();
        let backwards = Beacon::sign(realm(), &key(), 5, 0, backwards);
        check(&backwards, Err(RefusalCode::Malformed));
    }

    /// Sent and kept formats stay readable: these bytes were written by the first format 1.
    #[test]
    fn format_1_stays_as_it_is() {
        let written: String = beacon().iter().map(|byte| format!("{byte:02x}")).collect();
        let fixture = include_str!("../tests/fixtures/beacon-format-1.txt");
        assert_eq!(written, fixture.trim_end());
    }

    #[test]
    fn no_bit_of_a_beacon_can_change() {
        for at in 0..beacon().len() {
            for bit in 0..8 {
                let mut changed = beacon();
                changed[at] ^= 1 << bit;
                let read = verify(&changed);
                assert!(read.is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_beacon_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(verify(&bytes).is_err());
        }

        #[test]
        fn a_changed_beacon_is_refused(
            at in any::<prop::sample::Index>(),
            cut in 0usize..5,
            with in proptest::collection::vec(any::<u8>(), 0..5),
        ) {
            let mut bytes = beacon();
            let start = at.index(bytes.len());
            let end = (start + cut).min(bytes.len());
            bytes.splice(start..end, with);
            let read = verify(&bytes);
            prop_assert_eq!(read.is_ok(), bytes == beacon());
        }
    }
}
