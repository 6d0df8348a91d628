//! One simulated node: what is on its disk, what runs, and how it carries out what sync says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::entry::{ChainId, ForkProof, Head, Opened};
use realm_model::key::SecretKey;
use realm_model::name::NodeName;
use realm_model::record::{Alarm, CLONED_KEY, NodeBody, NodeRecord, PeerLink, ReachedBy, Version};
use realm_model::refusal::Refusal;

use crate::ledger::{CheckError, Held, Ledger, Logs};
use crate::sync::{Planted, ReadItems, ReadWhat, Sync, Verdict};

/// What a crash leaves.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    /// What the logs began with: shared, for worlds of a thousand nodes.
    pub(crate) begun: Arc<Logs>,
    /// What was appended since.
    pub(crate) appended: Logs,
    pub(crate) marks: BTreeMap<ChainId, Head>,
    pub(crate) proofs: BTreeMap<ChainId, Vec<u8>>,
    pub(crate) epoch: u64,
    pub(crate) beacon: Option<Vec<u8>>,
}

impl Disk {
    fn logs(&self) -> Logs {
        let mut logs = Logs::clone(&self.begun);
        for (chain, records) in &self.appended {
            logs.entry(*chain)
                .or_default()
                .extend(records.iter().cloned());
        }
        logs
    }

    fn records(&self, chain: ChainId) -> impl Iterator<Item = &Vec<u8>> {
        let parts = [self.begun.get(&chain), self.appended.get(&chain)];
        parts.into_iter().flatten().flatten()
    }
}

/// What a crash ends.
pub(crate) struct Running {
    pub(crate) ledger: Ledger,
    pub(crate) sync: Sync,
    pub(crate) version: Version,
    pub(crate) record_at_ms: Option<u64>,
    /// Hints that may be passed on: number → (from, gossip number, bytes).
    pub(crate) hints: BTreeMap<u64, (usize, u64, Arc<[u8]>)>,
}

/// A node.
pub(crate) struct SimNode {
    pub(crate) key: SecretKey,
    pub(crate) name: NodeName,
    pub(crate) disk: Disk,
    pub(crate) folded: Option<Ledger>,
    pub(crate) running: Option<Running>,
    /// What its clock shows more than that of the world.
    pub(crate) skew_ms: u64,
    pub(crate) links: BTreeSet<usize>,
    pub(crate) seen: BTreeSet<u64>,
    /// Whether it signs records.
    pub(crate) talks: bool,
    /// Whether it obeys no rule.
    pub(crate) byzantine: bool,
    /// The next entry is written in part only, and the node dies.
    pub(crate) torn: bool,
    pub(crate) planted: Option<Planted>,
    /// Rules that were broken.
    pub(crate) faults: Vec<String>,
}

impl SimNode {
    /// Reads the disk and starts. The very first time the ledger may be one that was folded before.
    pub(crate) fn start(&mut self, now_ms: u64, boot: u64) {
        self.disk.epoch += 1;
        let replay = |disk: &Disk| match Ledger::replay(&disk.logs(), &disk.marks) {
            Ok(replayed) => Ok(replayed.ledger),
            Err(error) => Err(format!("the log does not hold: {error:?}")),
        };
        let folded = self.folded.take();
        let mut ledger = match folded.map_or_else(|| replay(&self.disk), Ok) {
            Ok(ledger) => ledger,
            Err(fault) => return self.faults.push(fault),
        };
        for bytes in self.disk.proofs.values() {
            let proof = ForkProof::from_bytes(ledger.realm(), bytes).expect("as it was kept");
            let _ = ledger.hold(&proof);
        }
        let now_ms = now_ms + self.skew_ms;
        let mut sync = Sync::new(ledger.realm(), self.key.public(), boot, now_ms);
        sync.planted = self.planted;
        if let Some(bytes) = self.disk.beacon.clone() {
            sync.restore_beacon(bytes);
        }
        self.running = Some(Running {
            ledger,
            sync,
            version: Version {
                epoch: self.disk.epoch,
                boot,
                counter: 0,
            },
            record_at_ms: self.talks.then_some(now_ms + 100),
            hints: BTreeMap::new(),
        });
    }

    /// Stops at once; an entry that was not marked may be there in part, and is cut off.
    pub(crate) fn crash(&mut self) {
        self.running = None;
        self.links.clear();
        self.torn = false;
    }

    pub(crate) fn own_record(&mut self, peers: Vec<PeerLink>) -> Vec<u8> {
        let running = self.running.as_mut().expect("it runs");
        running.record_at_ms = None;
        running.version.counter += 1;
        let mut body = NodeBody::of(self.name.clone());
        let heads = running.ledger.heads().into_iter();
        body.heads = heads.map(|(chain, head)| head.of(chain)).collect();
        body.peers = peers;
        if running.sync.is_cloned() {
            body.alarms.push(Alarm {
                code: CLONED_KEY.to_owned(),
                about: String::new(),
            });
        }
        NodeRecord::sign(running.ledger.realm(), &self.key, running.version, body)
    }

    pub(crate) fn read(&self, what: ReadWhat) -> ReadItems {
        match what {
            ReadWhat::Entries {
                chain,
                from,
                bytes_max,
                n_max,
            } => ReadItems::Entries(self.entries(chain, from, bytes_max, n_max)),
            ReadWhat::Proof { chain } => ReadItems::Proof(self.disk.proofs.get(&chain).cloned()),
        }
    }

    /// The entries that count, found in a log that may also hold abandoned ones.
    fn entries(&self, chain: ChainId, from: u64, bytes_max: usize, n_max: usize) -> Vec<Vec<u8>> {
        let ledger = &self.running.as_ref().expect("it runs").ledger;
        let mut page: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for seq in from..=ledger.head(chain).seq {
            let hash = ledger.hash_at(chain, seq).expect("up to the head");
            let is_it = |entry: &&Vec<u8>| {
                Opened::open(entry, ledger.realm(), chain).is_ok_and(|o| o.hash() == hash)
            };
            let entry = self.disk.records(chain).find(is_it).expect("in the log");
            bytes += entry.len();
            if !page.is_empty() && (bytes > bytes_max || page.len() >= n_max) {
                break;
            }
            page.push(entry.clone());
        }
        page
    }

    /// What a node does with an entry: check, make durable, mark, apply. `None`: it died.
    pub(crate) fn submit(&mut self, chain: ChainId, bytes: &[u8]) -> Option<Verdict> {
        let running = self.running.as_mut().expect("it runs");
        let ledger = &mut running.ledger;
        let opened = Opened::open(bytes, ledger.realm(), chain).ok();
        let place = opened.and_then(|opened| Some(opened.claimed().ok()?.0));
        if let Some(place) = place
            && place.seq > ledger.head(chain).seq + 1
            && place.seq < u64::MAX / 2
        {
            let why = format!("entry {} of {chain} was submitted early", place.seq);
            self.faults.push(why);
        }
        let admitted = match ledger.check(chain, bytes, None) {
            Ok(admitted) => admitted,
            Err(CheckError::Refused(refusal)) => return Some(Verdict::Refused(refusal)),
            Err(CheckError::Forked(fork)) => {
                let ours = self.entries(chain, fork.ours.seq, 1, 1).swap_remove(0);
                let realm = self.running.as_ref().expect("it runs").ledger.realm();
                let proof = ForkProof::new(realm, chain, &ours, &fork.theirs).expect("two entries");
                return Some(match self.hold(&proof) {
                    Ok(_) => Verdict::Forked,
                    Err(refusal) => Verdict::Refused(refusal),
                });
            }
        };
        let log = self.disk.appended.entry(chain).or_default();
        if std::mem::take(&mut self.torn) {
            // Half of the time the whole record is there, without its mark.
            if bytes.len().is_multiple_of(2) {
                log.push(bytes.to_vec());
            }
            return None;
        }
        log.push(bytes.to_vec());
        let before = ledger.head(chain);
        let applied = ledger.apply(admitted);
        if applied.rebuild {
            *ledger = match Ledger::replay(&self.disk.logs(), &self.disk.marks) {
                Ok(replayed) => replayed.ledger,
                Err(error) => {
                    self.faults
                        .push(format!("the log does not fold: {error:?}"));
                    return None;
                }
            };
            for bytes in self.disk.proofs.values() {
                let proof = ForkProof::from_bytes(ledger.realm(), bytes).expect("as it was kept");
                let _ = ledger.hold(&proof);
            }
        } else if ledger.head(chain).seq <= before.seq {
            self.faults.push(format!("chain {chain} went back"));
        }
        for (chain, _) in ledger.heads() {
            self.disk.marks.insert(chain, ledger.in_force(chain));
        }
        Some(Verdict::Applied)
    }

    pub(crate) fn prove(&mut self, bytes: &[u8]) -> (Digest, Result<Held, Refusal>) {
        let realm = self.running.as_ref().expect("it runs").ledger.realm();
        let held = match ForkProof::from_bytes(realm, bytes) {
            Ok(proof) => self.hold(&proof),
            Err(error) => Err(Refusal::new(
                realm_model::refusal::RefusalCode::Malformed,
                error.to_string(),
            )),
        };
        (Digest::of(bytes), held)
    }

    fn hold(&mut self, proof: &ForkProof) -> Result<Held, Refusal> {
        let running = self.running.as_mut().expect("it runs");
        let held = running.ledger.hold(proof);
        if held == Ok(Held::Frozen) {
            self.disk.proofs.insert(proof.chain(), proof.to_bytes());
        }
        held
    }

    pub(crate) fn peer_link(key: &SecretKey) -> PeerLink {
        PeerLink {
            key: key.public().into(),
            how: ReachedBy::Direct,
            rtt_ms: 1,
            why: String::new(),
        }
    }
}
