//! What happens to a world: entries, crashes, partitions, an owner who signs twice.

use realm_model::entry::{Body, ChainId, Fence, Head, NamespaceName, Payload, Resolve};

use super::world::Event;
use super::{Step, World};
use crate::sync::{Input, Verdict};
use crate::testing::{chain_of, restart};

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
            Step::Equivocate { one, other } => self.equivocate(one, other),
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

    fn equivocate(&mut self, one: usize, other: usize) {
        for i in [one, other] {
            let running = self.nodes[i].running.as_ref();
            let ready = running.filter(|r| r.ledger.heads() == self.realm.ledger.heads());
            if ready.is_none() {
                return;
            }
        }
        let (a, b) = (restart("orders", &[]), restart("orders", &["node-0"]));
        let sign = |body: Body| self.realm.sign(&self.realm.payload(body));
        let ((chain, a), (_, b)) = (sign(a), sign(b));
        self.submit_at(one, chain, a);
        self.submit_at(other, chain, b);
    }

    /// The owner decides for the entry that the first honest node has.
    fn resolve(&mut self) {
        let chain = ChainId::DEFAULT;
        let node = self.nodes.iter().position(|node| {
            let running = node.running.as_ref().filter(|_| !node.byzantine);
            running.is_some_and(|r| {
                let mut frozen = r.ledger.frozen();
                frozen.any(|(_, frozen)| r.ledger.head(chain).seq >= frozen.seq)
            })
        });
        let Some(i) = node else {
            return;
        };
        let ledger = &self.nodes[i].running.as_ref().expect("it runs").ledger;
        let (_, frozen) = ledger.frozen().next().expect("it stands still");
        let at = |seq| Head {
            seq,
            hash: ledger.hash_at(chain, seq).expect("it is there"),
        };
        let (base, head) = (at(frozen.seq - 1), at(frozen.seq));
        let fence = Fence {
            namespace: NamespaceName::DEFAULT,
            base,
            head,
        };
        let body = Body::Resolve(Resolve { fence });
        let authority = ledger.head(ChainId::Authority);
        let payload = Payload {
            seq: authority.seq + 1,
            prev: authority.hash,
            authority,
            ..self.realm.payload(body)
        };
        let bytes = payload.sign(
            self.realm.ledger.realm(),
            chain_of(&payload.body),
            &self.realm.owner,
        );
        let done = self.submit_at(i, ChainId::Authority, bytes);
        self.print(|| format!("resolved: {done}"));
    }
}
