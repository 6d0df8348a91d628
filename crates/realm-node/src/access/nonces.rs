//! Nonces of signed requests that were answered: none is answered twice.
//!
//! Bounded per key, and no key crowds out another; what is past its deadline is forgotten. A restart
//! forgets all, so that the gate asks for later deadlines then.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::key::PublicKey;
use realm_model::request::{DEADLINE_MS_MAX, NONCE_BYTES, SignedRequest};

/// Requests of one key that are remembered at once: 68 a second, for as long as a deadline lies ahead.
pub(crate) const NONCES_PER_KEY_MAX: usize = 4_096;

/// What was answered lately.
#[derive(Default)]
pub(crate) struct Nonces {
    keys: BTreeMap<PublicKey, BTreeSet<(u64, [u8; NONCE_BYTES])>>,
    tidied_unix_ms: u64,
}

/// A request was not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// It was answered already.
    Known,
    /// This key asks too often.
    Full,
}

impl Nonces {
    /// Remembers a request whose deadline was checked. Keys must be of the realm: each has its own room.
    pub(crate) fn take(
        &mut self,
        request: &SignedRequest,
        now_unix_ms: u64,
    ) -> Result<(), Repeated> {
        self.tidy(now_unix_ms);
        let seen = self.keys.entry(request.key).or_default();
        // What is past its deadline is refused for that.
        *seen = seen.split_off(&(now_unix_ms, [0; NONCE_BYTES]));
        let nonce = (request.deadline_unix_ms, request.nonce());
        if seen.contains(&nonce) {
            return Err(Repeated::Known);
        }
        if seen.len() >= NONCES_PER_KEY_MAX {
            return Err(Repeated::Full);
        }
        seen.insert(nonce);
        Ok(())
    }

    /// Keys that ask no more leave nothing behind.
    fn tidy(&mut self, now_unix_ms: u64) {
        // A clock that was set back tidies as well.
        if now_unix_ms.abs_diff(self.tidied_unix_ms) < DEADLINE_MS_MAX {
            return;
        }
        self.tidied_unix_ms = now_unix_ms;
        self.keys.retain(|_, seen| {
            seen.last()
                .is_some_and(|(deadline, _)| *deadline >= now_unix_ms)
        });
    }
}

#[cfg(test)]
mod tests {
    use realm_model::digest::Digest;
    use realm_model::entry::RealmId;
    use realm_model::key::SecretKey;
    use realm_model::request::Asked;

    use super::*;

    fn request(key: u8, number: u32, deadline: u64) -> SignedRequest {
        let secret = SecretKey::from_seed(&[key; 32]);
        let asked = Asked {
            realm: RealmId::new(Digest::of(b"realm")),
            target: secret.public(),
            method: "GET",
            path: "/",
        };
        let mut nonce = [0; NONCE_BYTES];
        nonce[..4].copy_from_slice(&number.to_le_bytes());
        SignedRequest::sign(&asked, Digest::of(b""), nonce, deadline, &secret)
    }

    #[test]
    fn a_nonce_is_good_once_and_forgotten_after_its_deadline() {
        let mut nonces = Nonces::default();
        assert_eq!(nonces.take(&request(1, 1, 100), 50), Ok(()));
        assert_eq!(nonces.take(&request(1, 1, 100), 100), Err(Repeated::Known));
        assert_eq!(nonces.take(&request(1, 2, 100), 50), Ok(()));
        assert_eq!(nonces.take(&request(2, 1, 100), 50), Ok(()));
        let later = DEADLINE_MS_MAX + 1_000;
        assert_eq!(nonces.take(&request(2, 1, later + 1), later), Ok(()));
        assert_eq!(nonces.keys.len(), 1, "the silent key is gone");
    }

    #[test]
    fn a_busy_key_has_its_own_room_alone() {
        let mut nonces = Nonces::default();
        for number in 0..NONCES_PER_KEY_MAX {
            let number = u32::try_from(number).unwrap();
            assert_eq!(nonces.take(&request(1, number, 100), 50), Ok(()));
        }
        assert_eq!(
            nonces.take(&request(1, u32::MAX, 100), 50),
            Err(Repeated::Full)
        );
        assert_eq!(nonces.take(&request(2, 0, 100), 50), Ok(()));
        assert_eq!(nonces.take(&request(1, u32::MAX, 200), 101), Ok(()));
    }
}
