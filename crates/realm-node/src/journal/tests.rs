//! The journal on a disk that loses what was not synced: after a power cut at any step, the ledger
//! is what was acknowledged, or that and the one entry that was under way.

use realm_control::Ledger;
use realm_model::entry::{ApproveNode, Body, ChainId, Head, Payload, RealmId, found_realm};
use realm_model::key::SecretKey;
use realm_store::files::Files as _;
use realm_store::files::faults::{Fault, FaultyFiles};
use realm_store::folder::RealmFolder;

use super::Journal;

fn owner() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

/// A folder whose paths are used on the faulty disk; the real one only has to exist.
fn folder() -> (tempfile::TempDir, RealmFolder) {
    let real = tempfile::tempdir().unwrap();
    let folder = RealmFolder::create(real.path().join("realm")).unwrap();
    (real, folder)
}

/// A disk with a realm that has its genesis and nothing else.
fn founded(folder: &RealmFolder) -> (FaultyFiles, RealmId) {
    let files = FaultyFiles::new();
    let logs = folder.log(ChainId::Authority);
    files.create_dir(logs.parent().unwrap()).unwrap();
    let (realm, genesis) = found_realm(&owner(), [7; 32], 0);
    Journal::begin_in(files.clone(), folder, &genesis).unwrap();
    (files.kill(), realm)
}

/// The approval of another node, as the next entry of the authority chain.
fn approval(realm: RealmId, head: Head) -> Vec<u8> {
    let node = SecretKey::from_seed(&[u8::try_from(head.seq).unwrap() + 10; 32]);
    let payload = Payload {
        seq: head.seq + 1,
        prev: head.hash,
        authority: head,
        created_unix_s: 0,
        body: Body::ApproveNode(ApproveNode {
            key: node.public(),
            name: format!("node-{}", head.seq).parse().unwrap(),
            tags: Vec::new(),
        }),
    };
    payload.sign(realm, ChainId::Authority, &owner())
}

/// Submits entries as the node's loop does, until one fails; returns the acknowledged head.
fn submit(
    journal: &mut Journal<FaultyFiles>,
    ledger: &mut Ledger,
    realm: RealmId,
    entries: usize,
) -> Result<(), super::JournalError> {
    for _ in 0..entries {
        let head = ledger.head(ChainId::Authority);
        let admitted = ledger
            .check(ChainId::Authority, &approval(realm, head))
            .unwrap();
        journal.append(admitted.entry())?;
        ledger.apply(admitted);
    }
    Ok(())
}

#[test]
fn a_power_cut_at_any_step_leaves_what_was_acknowledged() {
    let (_real, folder) = folder();
    let (fresh, realm) = founded(&folder);
    let steps = {
        let files = fresh.kill();
        let (mut journal, mut ledger) = Journal::open_in(files.clone(), &folder).unwrap();
        submit(&mut journal, &mut ledger, realm, 3).unwrap();
        files.steps()
    };
    assert!(steps > 10, "{steps} steps of the disk");
    for step in 0..steps {
        let files = fresh.kill();
        files.fail_at(step, Fault::Stop);
        let mut acknowledged = realm.origin();
        if let Ok((mut journal, mut ledger)) = Journal::open_in(files.clone(), &folder) {
            // What fails is not acknowledged: the ledger stays before it.
            let _ = submit(&mut journal, &mut ledger, realm, 3);
            acknowledged = ledger.head(ChainId::Authority);
        }
        for survival in files.survivals() {
            let after = files.crash(&survival);
            let (_, ledger) = Journal::open_in(after, &folder)
                .unwrap_or_else(|error| panic!("step {step}, {survival:?}: {error:?}"));
            let head = ledger.head(ChainId::Authority);
            assert!(
                head == acknowledged || head.seq == acknowledged.seq + 1,
                "step {step}, {survival:?}: {head:?} after {acknowledged:?}"
            );
        }
    }
}

#[test]
fn an_entry_that_is_not_durable_is_not_in_force_and_the_next_one_is_taken() {
    let (_real, folder) = folder();
    let (fresh, realm) = founded(&folder);
    for fault in [
        Fault::SyncLoses,
        Fault::Error(std::io::ErrorKind::StorageFull),
    ] {
        let files = fresh.kill();
        let (mut journal, mut ledger) = Journal::open_in(files.clone(), &folder).unwrap();
        for offset in 0..2 {
            files.fail_at(files.steps() + offset, fault);
            let before = ledger.head(ChainId::Authority);
            assert!(
                submit(&mut journal, &mut ledger, realm, 1).is_err(),
                "{fault:?}"
            );
            assert_eq!(ledger.head(ChainId::Authority), before);
        }
        submit(&mut journal, &mut ledger, realm, 2).unwrap();
        let (_, again) = Journal::open_in(files.kill(), &folder).unwrap();
        assert_eq!(
            again.head(ChainId::Authority),
            ledger.head(ChainId::Authority)
        );
    }
}
