//! What becomes of replicas in places that a node no longer has, while a version does not get healthy.

use realm_model::action::Action;
use realm_model::observed::{
    Artifact, ArtifactState, Millis, Observed, ReplicaId, ReplicaState, Revision,
};

use crate::testing::{Realm, approval, component_name, node_name, pin, plan_alone};

fn manifest(replicas: u32) -> String {
    format!(
        "[components.app]\nsource = 'file:a'\n[routing]\n'*' = [{{ path = '/', component = 'app', \
         replicas = {replicas} }}]\n"
    )
}

/// A replica is `h`ealthy, waits to be `s`tarted again, or is not there (`-`).
fn state(letter: char) -> Option<ReplicaState> {
    match letter {
        'h' => Some(ReplicaState::Healthy { since: Millis(0) }),
        's' => Some(ReplicaState::Backoff {
            until: Millis(0),
            attempts: 3,
            code: "start-failed".to_owned(),
            reason: "the dice say so".to_owned(),
        }),
        _ => None,
    }
}

/// The old version in two places, of which one is left, where the new one is tried: what happens to the
/// old replica in the other one.
#[track_caller]
fn check(old: &str, expected: &str) {
    let mut realm = Realm::of_one_node();
    let revision = |realm: &Realm| -> Revision {
        let desired = realm.ledger.desired();
        let revision = desired.revision_of(&component_name("app"), &node_name("here"));
        revision.expect("it is wanted")
    };
    realm.apply(&manifest(2), &[("app", "old")]);
    let before = revision(&realm);
    realm.apply(&manifest(1), &[("app", "new")]);
    let replica = |revision, slot| ReplicaId {
        component: component_name("app"),
        revision,
        slot,
    };
    let mut observed = Observed::default();
    let artifact = Artifact {
        digest: pin("new").digest,
        fuel: false,
    };
    observed.artifacts.insert(artifact, ArtifactState::Ready);
    let trying = ReplicaState::Backoff {
        until: Millis(9_000),
        attempts: 3,
        code: "start-failed".to_owned(),
        reason: "it is broken".to_owned(),
    };
    observed
        .replicas
        .insert(replica(revision(&realm), 0), trying);
    for (slot, letter) in (0u32..).zip(old.chars()) {
        if let Some(state) = state(letter) {
            observed.replicas.insert(replica(before, slot), state);
        }
    }
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let here = node_name("here");
    let mut seen = "stays";
    // First the table, then what follows from it.
    for _ in 0..2 {
        let plan = plan_alone(desired, authority, &here, &observed, Millis(1_000));
        let surplus = replica(before, 1);
        for action in plan.actions {
            match action {
                Action::Start(id) if id == surplus => seen = "starts",
                Action::Stop(id) if id == surplus => seen = "stops",
                Action::Drain { replica: id, .. } if id == surplus => seen = "drains",
                Action::Route(table) => observed.routes = table,
                Action::Start(_)
                | Action::Stop(_)
                | Action::Drain { .. }
                | Action::Fetch { .. }
                | Action::Compile(_)
                | Action::Handle { .. } => {}
            }
        }
    }
    assert_eq!(seen, expected, "{old}");
}

#[test]
fn what_serves_nobody_in_a_place_that_is_no_more_is_not_started_again() {
    check("hs", "stops");
    check("hh", "stays");
    // It may be healthy sooner than the one in the place that is left.
    check("ss", "starts");
    check("-s", "starts");
    check("-h", "stays");
}

/// Four replicas, of which two shall be `there` from now on, which says nothing yet; the new version is
/// healthy in all places but one.
#[test]
fn who_stands_in_here_is_not_who_goes_on_for_others() {
    let mut realm = Realm::of_one_node();
    realm.submit(approval("there", &[])).expect("an approval");
    let (app, here) = (component_name("app"), node_name("here"));
    let mut observed = Observed::default();
    let mut run = |realm: &Realm, slots: &[u32]| {
        let revision = realm.ledger.desired().revision_of(&app, &here);
        for slot in slots {
            let id = ReplicaId {
                component: app.clone(),
                revision: revision.expect("it is wanted"),
                slot: *slot,
            };
            let state = state('h').expect("a state");
            observed.replicas.insert(id, state);
        }
    };
    realm.apply(&manifest(4), &[("app", "old")]);
    run(&realm, &[1]);
    realm.apply(&manifest(4), &[("app", "new")]);
    run(&realm, &[0, 2, 3]);
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    let plan = plan_alone(desired, authority, &here, &observed, Millis(60_000));
    let backends = plan.actions.iter().find_map(|action| match action {
        Action::Route(table) => table.backends.get(&app),
        Action::Start(_)
        | Action::Stop(_)
        | Action::Drain { .. }
        | Action::Fetch { .. }
        | Action::Compile(_)
        | Action::Handle { .. } => None,
    });
    let backends = backends.expect("they take requests");
    assert_eq!(backends.len(), 4, "{backends:?}");
}
