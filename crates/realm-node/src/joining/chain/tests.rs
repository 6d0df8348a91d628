//! Who knows an owner's public key may name it; only who has its secret key gets the machine.

use realm_model::digest::Digest;
use realm_model::entry::{ApproveNode, Fence, Genesis, NamespaceName, Payload, Rotate};
use realm_model::key::SecretKey;

use super::*;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// The owner that the machine waits for, somebody else, and the machine.
const PINNED: u8 = 1;
const OTHER: u8 = 2;
const MACHINE: u8 = 3;

/// An authority chain that grows.
struct Chain {
    realm: RealmId,
    head: Head,
    entries: Vec<Vec<u8>>,
}

impl Chain {
    /// A realm of these owners, whose first entry these signed.
    fn found(owners: &[u8], signers: &[u8]) -> Self {
        let zero = Digest::from_bytes([0; 32]);
        let payload = Payload {
            seq: 0,
            prev: zero,
            authority: Head { seq: 0, hash: zero },
            created_unix_s: 1_700_000_000,
            body: Body::Genesis(Genesis {
                owners: owners.iter().map(|owner| key(*owner).public()).collect(),
                threshold: 1,
                nonce: Digest::from_bytes([9; 32]),
            }),
        };
        let realm = RealmId::new(Digest::of(&payload.to_bytes()));
        let mut chain = Self {
            realm,
            head: realm.origin(),
            entries: Vec::new(),
        };
        chain.push(&payload, signers);
        chain
    }

    fn push(&mut self, payload: &Payload, signers: &[u8]) {
        let message = payload.message(self.realm, ChainId::Authority);
        let signatures: Vec<_> = signers
            .iter()
            .map(|signer| (key(*signer).public(), key(*signer).sign(&message)))
            .collect();
        let bytes = payload.with_signatures(self.realm, ChainId::Authority, &signatures);
        self.entries.push(bytes);
        self.head = Head {
            seq: payload.seq,
            hash: Digest::of(&payload.to_bytes()),
        };
    }

    fn then(mut self, body: Body, signers: &[u8]) -> Self {
        let payload = Payload {
            seq: self.head.seq + 1,
            prev: self.head.hash,
            authority: self.head,
            created_unix_s: 1_700_000_000,
            body,
        };
        self.push(&payload, signers);
        self
    }

    fn approve(self, node: u8, signers: &[u8]) -> Self {
        let body = Body::ApproveNode(ApproveNode {
            key: key(node).public(),
            name: format!("node-{node}").parse().unwrap(),
            tags: Vec::new(),
        });
        self.then(body, signers)
    }

    fn rotate(self, owner: u8, signers: &[u8]) -> Self {
        let body = Body::Rotate(Rotate {
            owners: vec![key(owner).public()],
            threshold: 1,
            recovery: Vec::new(),
            fences: vec![Fence {
                namespace: NamespaceName::DEFAULT,
                base: self.realm.origin(),
                head: self.realm.origin(),
            }],
        });
        self.then(body, signers)
    }
}

/// `Err`: the beginning of the message.
#[track_caller]
fn check(chain: &Chain, expected: Result<(), &str>) {
    let asked = Expected {
        realm: chain.realm,
        floor: None,
        owner: Some(key(PINNED).public()),
        node: key(MACHINE).public(),
    };
    match (asked.check(&chain.entries), expected) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (seen, expected) => panic!("{:?} instead of {expected:?}", seen.err()),
    }
}

#[test]
fn a_realm_that_only_names_the_owner_does_not_get_the_machine() {
    check(
        &Chain::found(&[OTHER, PINNED], &[OTHER]).approve(MACHINE, &[OTHER]),
        Err("signed neither"),
    );
    check(
        &Chain::found(&[PINNED, OTHER], &[OTHER])
            .approve(9, &[PINNED])
            .approve(MACHINE, &[OTHER]),
        Err("signed neither"),
    );
    check(
        &Chain::found(&[OTHER], &[OTHER])
            .approve(MACHINE, &[OTHER])
            .rotate(PINNED, &[OTHER, PINNED]),
        Err("signed neither"),
    );
    check(
        &Chain::found(&[OTHER], &[OTHER]).approve(MACHINE, &[OTHER]),
        Err("are not the one"),
    );
}

#[test]
fn the_owner_that_signed_the_first_entry_or_the_approval_gets_it() {
    check(
        &Chain::found(&[PINNED], &[PINNED]).approve(MACHINE, &[PINNED]),
        Ok(()),
    );
    check(
        &Chain::found(&[PINNED, OTHER], &[PINNED]).approve(MACHINE, &[OTHER]),
        Ok(()),
    );
    check(
        &Chain::found(&[OTHER, PINNED], &[OTHER]).approve(MACHINE, &[PINNED]),
        Ok(()),
    );
    check(
        &Chain::found(&[OTHER], &[OTHER])
            .rotate(PINNED, &[OTHER, PINNED])
            .approve(MACHINE, &[PINNED]),
        Ok(()),
    );
    check(
        &Chain::found(&[PINNED], &[PINNED]).approve(9, &[PINNED]),
        Err("does not approve"),
    );
}
