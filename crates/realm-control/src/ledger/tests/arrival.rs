//! In whatever order entries of several chains arrive, with forks, fences and abandoned ones among them:
//! one state, and the log gives it again.

use proptest::prelude::*;
use realm_model::entry::{Body, ChainId, Fence, Payload, Resolve, Undelegate};
use realm_model::key::SecretKey;
use realm_model::refusal::RefusalCode;

use super::ORDERS;
use super::forks::check_replay;
use crate::testing::{
    Realm, approval, delegation, key, manifest_body, namespace, restart, revocation,
};

/// What happened to a realm: every entry that was ever signed, of histories that held and of others.
struct Story {
    realm: Realm,
    /// Entries of histories that the owners ended.
    beside: Vec<(ChainId, Vec<u8>)>,
}

fn team() -> (ChainId, SecretKey) {
    (ChainId::Namespace(namespace("team-a")), key("team"))
}

impl Story {
    fn begin() -> Self {
        let mut realm = Realm::of_one_node();
        let (_, signer) = team();
        let body = Body::Delegate(delegation("team-a", signer.public()));
        realm.submit(body).expect("a delegate");
        Self {
            realm,
            beside: Vec::new(),
        }
    }

    fn step(&mut self, kind: u8, which: u8) {
        let (chain, signer) = team();
        let build = ["1", "2", "3"][usize::from(which)];
        let name = namespace("team-a");
        match kind {
            0 => drop(self.realm.submit(approval(build, &[]))),
            1 => drop(self.realm.submit(revocation(build))),
            2 => self.realm.apply(ORDERS, &[("orders", build)]),
            3 => drop(self.realm.submit(restart("orders", &[]))),
            4 | 5 => drop(
                self.realm
                    .apply_in(name, &signer, ORDERS, &[("orders", build)]),
            ),
            6 => drop(
                self.realm
                    .submit_by(&[&signer], chain, restart("orders", &[])),
            ),
            7 => self.fork(which),
            _ => self.turn(),
        }
    }

    /// The delegate signs another history from some entries back on, and the owners end it.
    fn fork(&mut self, back: u8) {
        let (chain, signer) = team();
        let name = namespace("team-a");
        let head = self.realm.ledger.head(chain);
        let fences = self.realm.ledger.authority().fences_of(name);
        let floor = fences.last().map_or(0, |fence| fence.head.seq);
        let base_seq = head.seq.saturating_sub(u64::from(back) + 1).max(floor);
        if self
            .realm
            .ledger
            .authority()
            .delegate_at(name, u64::MAX)
            .is_none()
            || base_seq >= head.seq
        {
            return;
        }
        let base = realm_model::entry::Head {
            seq: base_seq,
            hash: self.realm.ledger.hash_at(chain, base_seq).expect("there"),
        };
        let mut prev = base;
        for number in 0..2 {
            let body = manifest_body(ORDERS, 1_000 + prev.seq, &[("orders", "evil")]);
            let payload = Payload {
                seq: prev.seq + 1,
                prev: prev.hash,
                created_unix_s: number,
                ..self.realm.payload_in(chain, body)
            };
            prev = realm_model::entry::Head {
                seq: payload.seq,
                hash: realm_model::digest::Digest::of(&payload.to_bytes()),
            };
            self.beside
                .push((chain, self.realm.signed(chain, &payload, &[&signer])));
        }
        let fence = Fence {
            namespace: name,
            base,
            head,
        };
        self.realm
            .submit(Body::Resolve(Resolve { fence }))
            .expect("the owners end it");
    }

    /// The namespace goes to the owners, or to the delegate again.
    fn turn(&mut self) {
        let (chain, signer) = team();
        let name = namespace("team-a");
        let fences = vec![self.realm.fence(name)];
        let held = self.realm.ledger.authority().delegates.contains_key(&name);
        if held {
            // The delegate goes on beyond the fence, with the date of before.
            let body = manifest_body(ORDERS, 2_000, &[("orders", "evil")]);
            let payload = self.realm.payload_in(chain, body);
            let bytes = self.realm.signed(chain, &payload, &[&signer]);
            self.beside.push((chain, bytes));
        }
        let body = if held {
            Body::Undelegate(Undelegate {
                namespace: name,
                fences,
            })
        } else {
            let mut body = delegation("team-a", signer.public());
            body.fences = fences;
            Body::Delegate(body)
        };
        self.realm.submit(body).expect("a turn");
    }
}

/// Hands entries to a fresh node in this order, again and again, until a round brings nothing new.
fn deliver(entries: &[(ChainId, Vec<u8>)], order: &[usize]) -> Realm {
    let mut node = Realm::found();
    for _ in 0..200 {
        let mut news = false;
        for index in order {
            let (chain, bytes) = &entries[index % entries.len()];
            let before = (node.ledger.heads(), node.ledger.in_force(*chain));
            if let Err(refusal) = node.take(*chain, bytes.clone()) {
                // A node that hears of a fork stands still; here it waits for the owners' word.
                let known = [
                    RefusalCode::Replayed,
                    RefusalCode::Gap,
                    RefusalCode::WrongParent,
                    RefusalCode::Stale,
                    RefusalCode::Forked,
                    RefusalCode::Abandoned,
                    RefusalCode::UnknownName,
                    RefusalCode::OutOfScope,
                    RefusalCode::WrongOwner,
                ];
                assert!(known.contains(&refusal.code), "{} {refusal}", refusal.code);
            }
            news |= before != (node.ledger.heads(), node.ledger.in_force(*chain));
        }
        if !news {
            break;
        }
    }
    node
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_arrival_of_forked_and_fenced_chains_ends_in_one_state(
        steps in prop::collection::vec((0..9u8, 0..3u8), 0..20),
        seeds in prop::collection::vec(any::<u32>(), 3),
    ) {
        let mut story = Story::begin();
        for (kind, which) in steps {
            story.step(kind, which);
        }
        check_replay(&story.realm);
        // The histories that hold come last, as they do from peers that have them: what was accepted
        // before is put aside by the fences.
        let mut all = story.beside.clone();
        all.extend(story.realm.entries.iter().cloned());
        for seed in seeds {
            let mut order: Vec<usize> = (0..all.len()).collect();
            order.sort_by_key(|index| (*index as u32).wrapping_mul(2_654_435_761) ^ seed);
            // At the end every node meets one that has the whole of it.
            order.extend(story.beside.len()..all.len());
            let mut node = deliver(&all, &order[..]);
            for (chain, bytes) in &story.realm.entries {
                let _ = node.take(*chain, bytes.clone());
            }
            prop_assert_eq!(node.ledger.authority(), story.realm.ledger.authority());
            prop_assert_eq!(node.ledger.heads(), story.realm.ledger.heads());
            prop_assert_eq!(node.ledger.desired(), story.realm.ledger.desired());
            check_replay(&node);
        }
    }
}
