//! What happens to a world: entries, crashes, partitions, an owner who signs twice.

use realm_model::entry::{
    Body, ChainId, Fence, ForkProof, Head, NamespaceName, Payload, Recover, Resolve, TwoEntries,
};

use super::world::Event;
use super::{SimNode, Step, World};
use crate::sync::{Input, Verdict};
use crate::testing::{approval, restart};

/// After this a dead connection is noticed.
pub(super) const NOTICED_MS: u64 = 7_000;

impl World {
    pub(super) fn step(&mut self, step: Step) {
        self.print(|| format!("step {step:?}"));
        match step {
            Step::Apply => self.apply(),
            Step::Crash { node, down_ms } => self.kill(node, down_ms),
            Step::Torn { node } => self.nodes[node].torn = self.runs(node),
            Step::Cut {
                below,
                one_way,
                for_ms,
            } => {
                self.cut = Some((below, one_way));
                let at_ms = self.now_ms + for_ms;
                self.at(at_ms, Event::Heal);
                for a in 0..self.nodes.len() {
                    for b in self.nodes[a].links.clone() {
                        if self.blocked(a, b) || self.blocked(b, a) {
                            let at_ms = self.now_ms + NOTICED_MS;
                            self.at(at_ms, Event::Down(a, b));
                        }
                    }
                }
            }
            Step::Equivocate {
                one,
                other,
                authority,
            } => self.equivocate(one, other, authority),
            Step::Beacon => self.beacon(),
            Step::Resolve => self.resolve(),
            Step::Calm => {
                for node in &mut self.nodes {
                    node.torn = false;
                }
                self.kind.loss_percent = 0;
                self.kind.delay_ms_max = self.kind.delay_ms_max.min(200);
            }
        }
    }

    pub(super) fn kill(&mut self, i: usize, down_ms: u64) {
        if self.nodes[i].running.is_none() {
            return;
        }
        self.nodes[i].crash();
        let noticed = self.now_ms + NOTICED_MS;
        for b in self.neighbours[i].clone() {
            self.at(noticed, Event::Down(b, i));
        }
        let at_ms = self.now_ms + down_ms;
        self.at(at_ms, Event::Start(i));
    }

    fn apply(&mut self) {
        let payload = self.realm.payload(restart("orders", &[]));
        let (chain, bytes) = self.realm.sign(&payload);
        // The owner's tool reads the heads before it signs.
        let ready: Vec<usize> = (0..self.nodes.len())
            .filter(|i| !self.nodes[*i].byzantine && !self.nodes[*i].torn)
            .filter(|i| {
                let running = self.nodes[*i].running.as_ref();
                running.is_some_and(|r| r.ledger.heads() == self.realm.ledger.heads())
            })
            .collect();
        if let Some(i) = self.pick(&ready) {
            self.realm
                .take(chain, bytes.clone())
                .expect("it was signed for this place");
            self.submit_at(i, chain, bytes);
        }
    }

    fn beacon(&mut self) {
        self.beacons += 1;
        let bytes = self.realm.beacon(self.beacons);
        // Its signer reads the heads before, and hands it in where it read them.
        let heads = self.realm.ledger.heads();
        let takes = |node: &SimNode| {
            let running = node.running.as_ref().filter(|_| !node.byzantine);
            running.is_some_and(|r| {
                r.ledger.heads() == heads && r.sync.judge_beacon(&bytes, &r.ledger).is_ok()
            })
        };
        let ready = (0..self.nodes.len()).filter(|i| takes(&self.nodes[*i]));
        let ready: Vec<usize> = ready.collect();
        if let Some(i) = self.pick(&ready) {
            self.feed(i, Input::Beacon(bytes));
        }
    }

    fn submit_at(&mut self, i: usize, chain: ChainId, bytes: Vec<u8>) -> bool {
        match self.nodes[i].submit(chain, &bytes) {
            Some(Verdict::Applied) => {
                self.record_due(i);
                self.feed(i, Input::Accepted { chain, bytes });
                true
            }
            Some(Verdict::Refused(_) | Verdict::Forked) => false,
            None => {
                self.kill(i, 2_000);
                false
            }
        }
    }

    fn equivocate(&mut self, one: usize, other: usize, authority: bool) {
        for i in [one, other] {
            let running = self.nodes[i].running.as_ref();
            let ready = running.filter(|r| r.ledger.heads() == self.realm.ledger.heads());
            if ready.is_none() {
                return;
            }
        }
        let bodies = if authority {
            [approval("here", &[]), approval("there", &[])]
        } else {
            [restart("orders", &[]), restart("orders", &["node-0"])]
        };
        let sign = |body: Body| self.realm.sign(&self.realm.payload(body));
        let [(chain, a), (_, b)] = bodies.map(sign);
        self.submit_at(one, chain, a);
        self.submit_at(other, chain, b);
    }

    /// The owner ends the forks of one chain, at the first honest node that holds a proof and has
    /// one of the two entries.
    fn resolve(&mut self) {
        let frozen = self.nodes.iter().enumerate().find_map(|(i, node)| {
            let running = node.running.as_ref().filter(|_| !node.byzantine)?;
            let ledger = &running.ledger;
            let mut frozen = ledger.frozen();
            let here = frozen.find(|(chain, frozen)| ledger.head(*chain).seq >= frozen.seq)?;
            Some((i, here.0, here.1.seq))
        });
        let Some((i, chain, seq)) = frozen else {
            return;
        };
        let node = &self.nodes[i];
        let ledger = &node.running.as_ref().expect("it runs").ledger;
        let at = |chain, seq| Head {
            seq,
            hash: ledger.hash_at(chain, seq).expect("it is there"),
        };
        let last = ledger.head(ChainId::DEFAULT);
        let fence = |base, head| Fence {
            namespace: NamespaceName::DEFAULT,
            base,
            head,
        };
        let (parent, body) = if chain == ChainId::Authority {
            let proof = ForkProof::from_bytes(ledger.realm(), &node.disk.proofs[&chain]);
            let proof = proof.expect("as it was kept");
            let [first, second] = proof.entries().map(|entry| entry.to_vec().into());
            let recover = Recover {
                owners: vec![self.realm.owner.public()],
                threshold: 1,
                recovery: Vec::new(),
                fences: vec![fence(last, last)],
                fork: Some(TwoEntries { first, second }),
            };
            (at(chain, seq - 1), Body::Recover(recover))
        } else {
            let fence = fence(at(chain, seq - 1), at(chain, seq));
            let resolve = Body::Resolve(Resolve { fence });
            (ledger.head(ChainId::Authority), resolve)
        };
        let payload = Payload {
            seq: parent.seq + 1,
            prev: parent.hash,
            authority: parent,
            ..self.realm.payload(body)
        };
        let (_, bytes) = self.realm.sign(&payload);
        let done = self.submit_at(i, ChainId::Authority, bytes);
        self.print(|| format!("resolved {chain}: {done}"));
    }
}
