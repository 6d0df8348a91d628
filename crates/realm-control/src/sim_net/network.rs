//! How a message gets from one node to another, or does not.

use std::sync::Arc;

use super::World;
use super::world::Event;

/// After this a request has failed.
const TRANSPORT_MS: u64 = 10_000;

impl World {
    pub(super) fn gossip(&mut self, i: usize, number: u64, bytes: &Arc<[u8]>, not: Option<usize>) {
        self.nodes[i].seen.insert(number);
        for to in self.nodes[i].links.clone() {
            if Some(to) != not {
                self.hint_to(i, to, number, bytes);
            }
        }
    }

    pub(super) fn hint_to(&mut self, from: usize, to: usize, number: u64, bytes: &Arc<[u8]>) {
        for _ in 0..self.copies(from, to) {
            let at_ms = self.arrival();
            let bytes = Arc::clone(bytes);
            self.at(
                at_ms,
                Event::Hint {
                    to,
                    from,
                    number,
                    bytes,
                },
            );
        }
    }

    pub(super) fn request(&mut self, from: usize, to: usize, ask: u64, bytes: Vec<u8>) {
        let fails = self.now_ms + TRANSPORT_MS;
        self.at(fails, Event::Failed { to: from, ask });
        for _ in 0..self.copies(from, to) {
            let at_ms = self.arrival();
            let bytes = bytes.clone();
            self.at(
                at_ms,
                Event::Request {
                    to,
                    from,
                    ask,
                    bytes,
                },
            );
        }
    }

    pub(super) fn reply(&mut self, from: usize, to: usize, ask: u64, bytes: Vec<u8>) {
        if self.copies(from, to) > 0 {
            let at_ms = self.arrival();
            self.at(
                at_ms,
                Event::Answer {
                    to,
                    from,
                    ask,
                    bytes,
                },
            );
        }
    }

    /// How many copies of a message arrive.
    fn copies(&mut self, from: usize, to: usize) -> usize {
        let lost = self.random.below(100) < self.kind.loss_percent;
        let twice = self.random.below(100) < self.kind.twice_percent;
        if lost || self.blocked(from, to) || !self.runs(to) {
            return 0;
        }
        1 + usize::from(twice)
    }

    fn arrival(&mut self) -> u64 {
        self.now_ms + 1 + self.random.below(self.kind.delay_ms_max)
    }

    pub(super) fn blocked(&self, from: usize, to: usize) -> bool {
        self.cut.is_some_and(|(below, one_way)| {
            let (a, b) = (from < below, to < below);
            a != b && (!one_way || a)
        })
    }
}
