//! A node whose log lost its end: when it has come back to where it stood.

use realm_model::entry::{Body, ChainId, Fence, NamespaceName, Recover, Resolve, Rotate};

use super::ORDERS;
use crate::ledger::Ledger;
use crate::testing::{Realm, approval, key};

const OWN: ChainId = ChainId::DEFAULT;

/// Whether a ledger has come as far as another one stood.
fn check(now: &Ledger, then: &Ledger, chain: ChainId, expected: bool) {
    let authority = then.head(ChainId::Authority).seq;
    let reached = now.reaches(chain, then.in_force(chain), authority);
    assert_eq!(reached, expected, "{chain}");
}

fn with(builds: &[&str]) -> Realm {
    let mut realm = Realm::of_one_node();
    for build in builds {
        realm.apply(ORDERS, &[("orders", build)]);
    }
    realm
}

#[test]
fn case_20_a_chain_is_back_when_it_has_the_entry_that_was_in_force() {
    let (then, mut now) = (with(&["1", "2"]), with(&[]));
    for build in ["1", "2", "3"] {
        now.apply(ORDERS, &[("orders", build)]);
        check(&now.ledger, &then.ledger, OWN, build != "1");
    }
    let mut more = then.clone();
    more.submit(approval("there", &[])).expect("a node");
    check(&then.ledger, &more.ledger, ChainId::Authority, false);
    check(&more.ledger, &then.ledger, ChainId::Authority, true);
    check(&with(&[]).ledger, &with(&[]).ledger, OWN, true);
}

#[test]
fn case_20_another_history_counts_only_if_the_owners_chose_it() {
    let (then, mut now) = (with(&["1", "lost"]), with(&["1", "won"]));
    check(&now.ledger, &then.ledger, OWN, false);
    now.apply(ORDERS, &[("orders", "3")]);
    check(&now.ledger, &then.ledger, OWN, false);
    let base = with(&["1"]).ledger.head(OWN);
    let head = with(&["1", "won"]).ledger.head(OWN);
    let namespace = NamespaceName::DEFAULT;
    let fence = Fence {
        namespace,
        base,
        head,
    };
    now.submit(Body::Resolve(Resolve { fence }))
        .expect("the owner");
    check(&now.ledger, &then.ledger, OWN, true);
    // The chain without the entry that was chosen is not there yet.
    let mut behind = with(&["1"]);
    behind
        .submit(Body::Resolve(Resolve { fence }))
        .expect("the owner");
    check(&behind.ledger, &then.ledger, OWN, false);
}

#[test]
fn case_20_a_recovery_sets_the_floor_of_the_authority_chain_back() {
    let mut realm = with(&[]);
    let (owner, safe, fresh) = (realm.owner.clone(), key("safe"), key("fresh"));
    let recovery = vec![safe.public()];
    let rotate = Body::Rotate(Rotate {
        owners: vec![owner.public()],
        threshold: 1,
        recovery: recovery.clone(),
        fences: Vec::new(),
    });
    realm
        .submit_by(&[&owner, &safe], ChainId::Authority, rotate)
        .expect("a recovery key");
    let mut then = realm.clone();
    for node in ["a", "b"] {
        then.submit(approval(node, &[])).expect("a node");
    }
    check(&realm.ledger, &then.ledger, ChainId::Authority, false);
    let recover = Body::Recover(Recover {
        owners: vec![fresh.public()],
        threshold: 1,
        recovery,
        fences: vec![realm.fence(NamespaceName::DEFAULT)],
        fork: None,
    });
    realm
        .submit_by(&[&safe], ChainId::Authority, recover)
        .expect("the recovery key");
    check(&realm.ledger, &then.ledger, ChainId::Authority, true);
}
