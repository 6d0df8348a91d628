//! Keys of realm and peer ids of libp2p are two spellings of the same 32 bytes.

use libp2p::PeerId;
use libp2p::identity::{Keypair, ed25519};
use realm_model::key::PublicKey;
use zeroize::Zeroizing;

use crate::Error;

/// The peer id of a key: an identity multihash over the protobuf form of the key.
pub(crate) fn peer_id(key: &PublicKey) -> PeerId {
    let key = ed25519::PublicKey::try_from_bytes(key.as_bytes())
        .expect("a `PublicKey` is a point of the curve");
    libp2p::identity::PublicKey::from(key).to_peer_id()
}

/// The key inside a peer id; none for other kinds of keys and for hashed ids.
pub(crate) fn key_of(peer: &PeerId) -> Option<PublicKey> {
    // Identity multihash (0x00), 36 bytes, protobuf: field 1 = Ed25519, field 2 = 32 bytes.
    const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    let bytes = peer.to_bytes();
    let key: [u8; 32] = bytes.strip_prefix(&PREFIX)?.try_into().ok()?;
    PublicKey::from_bytes(key).ok()
}

pub(crate) fn keypair(seed: &[u8; 32]) -> Result<Keypair, Error> {
    let mut seed = Zeroizing::new(*seed);
    Keypair::ed25519_from_bytes(seed.as_mut_slice())
        .map_err(|error| Error::Setup(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realm_model::key::SecretKey;

    use super::*;

    proptest! {
        #[test]
        fn a_key_and_its_peer_id_are_the_same(seed in any::<[u8; 32]>()) {
            let public = SecretKey::from_seed(&seed).public();
            prop_assert_eq!(key_of(&peer_id(&public)), Some(public));
            let pair = keypair(&seed).expect("any seed");
            prop_assert_eq!(pair.public().to_peer_id(), peer_id(&public));
        }

        #[test]
        fn any_peer_id_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(peer) = PeerId::from_bytes(&bytes)
                && let Some(key) = key_of(&peer)
            {
                prop_assert_eq!(peer_id(&key), peer);
            }
        }
    }

    #[test]
    fn a_hashed_id_is_no_key() {
        assert_eq!(
            key_of(&PeerId::from_bytes(&[&[0x12, 0x20][..], &[7; 32]].concat()).unwrap()),
            None
        );
    }
}
