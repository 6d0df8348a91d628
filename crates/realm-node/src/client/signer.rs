//! Signs requests for one node, by its clock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use realm_model::digest::Digest;
use realm_model::entry::RealmId;
use realm_model::key::{PublicKey, SecretKey};
use realm_model::request::{
    Asked, CLOCK_TOLERANCE_MS, DEADLINE_MS, DEADLINE_MS_MAX, NONCE_BYTES, SignedRequest,
};

use super::ClientError;
use crate::unix_ms;

/// A key that asks one node of one realm.
#[derive(Debug)]
pub struct Signer {
    key: SecretKey,
    realm: RealmId,
    node: PublicKey,
    /// The node's clock less the one here.
    ahead_ms: AtomicI64,
    /// How far ahead of that the deadline is set.
    deadline_ms: AtomicU64,
}

impl Signer {
    /// Signs with `key` for the node whose key is `node`.
    pub fn new(key: SecretKey, realm: RealmId, node: PublicKey) -> Self {
        Self {
            key,
            realm,
            node,
            ahead_ms: AtomicI64::new(0),
            deadline_ms: AtomicU64::new(DEADLINE_MS),
        }
    }

    /// The header of a request.
    pub(super) fn header(
        &self,
        method: &str,
        path: &str,
        body: Digest,
    ) -> Result<String, ClientError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| ClientError::Connection(Box::new(error)))?;
        let asked = Asked {
            realm: self.realm,
            target: self.node,
            method,
            path,
        };
        let now = unix_ms().saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed));
        let deadline = now.saturating_add(self.deadline_ms.load(Ordering::Relaxed));
        Ok(SignedRequest::sign(&asked, body, nonce, deadline, &self.key).to_header())
    }

    /// Goes by the node's clock, which it told with a refusal; false: it is too far from the one here.
    pub(super) fn follow(&self, node_unix_ms: u64) -> bool {
        let here = unix_ms();
        if here.abs_diff(node_unix_ms) > CLOCK_TOLERANCE_MS {
            return false;
        }
        let ahead = node_unix_ms.checked_signed_diff(here).unwrap_or_default();
        self.ahead_ms.store(ahead, Ordering::Relaxed);
        // The answer took a moment: what is counted from it is never too far ahead there.
        self.deadline_ms.store(DEADLINE_MS_MAX, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_followed_so_far_and_no_further() {
        let key = |seed| SecretKey::from_seed(&[seed; 32]);
        let realm = RealmId::new(Digest::of(b"realm"));
        let check = |off: i64, expected: bool| {
            let signer = Signer::new(key(1), realm, key(2).public());
            let there = unix_ms().saturating_add_signed(off);
            assert_eq!(signer.follow(there), expected, "{off}");
            let header = signer.header("GET", "/", Digest::of(b"")).unwrap();
            let signed = SignedRequest::from_header(&header).unwrap();
            let asked = Asked {
                realm,
                target: key(2).public(),
                method: "GET",
                path: "/",
            };
            // A moment later, there.
            assert_eq!(
                signed.check(&asked, there + 1_000).is_ok(),
                expected,
                "{off}"
            );
        };
        check(0, true);
        check(540_000, true);
        check(-540_000, true);
        check(660_000, false);
        check(-660_000, false);
    }
}
