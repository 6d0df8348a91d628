//! What nodes may decide while some of them are away or do not hear each other, and soon after.
//!
//! A cut makes two *sides*, which go by views of their own until [`REUNITED_MS`] after it is healed; a node that comes
//! back is a side of its own for as long: the others count it as gone, and have its places as well.
//! Each decision is judged when it is made:
//!
//! 1. Who takes a replica down to replace it leaves no more places of its side down for that than may be
//!    missing; who starts one beside another leaves no more of them doubled than there may be in addition.
//!    While those that were apart come to one view, from 30 s after they hear each other on, not all of a side
//!    change over at one moment: then the other rule alone holds, with what is on both sides.
//! 2. Who takes away what serves, for whatever reason, leaves as many serving on the nodes that it hears as
//!    the manifest says. What a lost node takes is not charged to anybody, but nobody takes more while it is
//!    missing: only what was lost less than [`KNOWN_MS`] ago counts as if it were there.

use std::collections::BTreeSet;

use super::lists::Lists;
use super::{LOST_AFTER_MS, Sim, UNHEARD_MS};

/// How long those that were apart go by views of their own: one that is back is waited for as long as one that
/// is away (30 s), and others have to hear of it.
pub(super) const REUNITED_MS: u64 = 90_000;

/// After this long everybody knows that one is not reached, or no longer says what it said.
const KNOWN_MS: u64 = UNHEARD_MS + 10_000;

/// Who goes by another view than the others, and what was lost of late.
#[derive(Debug, Default)]
pub(super) struct Apart {
    splits: Vec<Split>,
    /// When so many that served were lost by no decision, and on which node.
    lost: Vec<(u64, usize, usize)>,
}

/// Nodes of two or more views.
#[derive(Debug)]
struct Split {
    /// By node.
    sides: Vec<usize>,
    /// `None`: they do not hear each other.
    until_ms: Option<u64>,
}

impl Apart {
    pub(super) fn cut(&mut self, nodes: usize, below: usize) {
        self.splits.push(Split {
            sides: (0..nodes).map(|node| usize::from(node >= below)).collect(),
            until_ms: None,
        });
    }

    pub(super) fn heal(&mut self, now: u64) {
        for split in &mut self.splits {
            split.until_ms.get_or_insert(now + REUNITED_MS);
        }
    }

    pub(super) fn comes_back(&mut self, nodes: usize, node: usize, now: u64) {
        self.splits.push(Split {
            sides: (0..nodes).map(|other| usize::from(other == node)).collect(),
            until_ms: Some(now + REUNITED_MS),
        });
    }

    /// So many that served on a node do not any more, by no decision.
    pub(super) fn loses(&mut self, node: usize, count: usize, now: u64) {
        self.lost.push((now, node, count));
    }

    fn is_one_side(&self, one: usize, other: usize, now: u64) -> bool {
        let splits = self.splits.iter();
        let mut splits = splits.filter(|split| split.until_ms.is_none_or(|until| now < until));
        splits.all(|split| split.sides[one] == split.sides[other])
    }

    /// Whether some go by the view of their side and others by that of all.
    fn is_changing(&self, now: u64) -> bool {
        let until = self.splits.iter().filter_map(|split| split.until_ms);
        let mut from = until.map(|until| (until - REUNITED_MS + LOST_AFTER_MS, until));
        from.any(|(from, until)| (from..until).contains(&now))
    }

    /// What nobody could know to be lost.
    fn lost_of_late(&self, now: u64) -> usize {
        let lost = self.lost.iter();
        let lost = lost.filter(|(at, ..)| now < at + KNOWN_MS);
        lost.map(|(_, _, count)| count).sum()
    }
}

impl Sim {
    /// Rule 1: how many places of the side of a node are down to be replaced, and how many doubled.
    pub(super) fn check_side(&mut self, index: usize, takes: bool, doubles: bool) {
        if self.apart.is_changing(self.now) {
            return;
        }
        let is_of_side = |of: usize| self.open(of) && self.apart.is_one_side(index, of, self.now);
        let of_side = (0..self.nodes.len()).filter(|of| is_of_side(*of));
        let missing: usize = of_side
            .map(|index| {
                let down = self.taken_down.keys().filter(|(of, _)| *of == index);
                down.count().saturating_sub(self.stand_ins[index])
            })
            .sum();
        let doubled = self
            .doubled
            .keys()
            .filter(|(of, _)| is_of_side(*of))
            .count();
        let unavailable = self.kind.unavailable as usize;
        if takes && missing > unavailable || doubles && doubled > self.kind.surge as usize {
            self.violations.push(format!(
                "at {} ms {missing} are missing and {doubled} are doubled on the side of n{index}",
                self.now
            ));
        }
    }

    /// Rule 2: how many serve on the nodes that one hears, which has just taken some of its own away.
    pub(super) fn check_heard(&mut self, index: usize) {
        // Nobody stands in for what is pinned: for that there is the first rule.
        if matches!(self.kind.lists, Lists::PerNode | Lists::Pinned) {
            return;
        }
        let realm = &self.states[self.nodes[index].version];
        let nodes = realm.ledger.authority().nodes.values();
        if nodes.into_iter().all(|node| node.drained) || self.wanted.iter().sum::<usize>() == 0 {
            return;
        }
        let heard: BTreeSet<usize> = (0..self.nodes.len())
            .filter(|of| self.nodes[*of].is_up && !self.cut.contains(&(*of, index)))
            .collect();
        let serving = heard.iter().map(|of| self.serving_slots(*of).len());
        let serving: usize = serving.sum();
        let late = self.apart.lost_of_late(self.now);
        let least = (self.kind.replicas as usize).saturating_sub(self.kind.unavailable as usize);
        if serving + late < least {
            self.violations.push(format!(
                "at {} ms n{index} takes away what serves, and {serving} of {least} serve on {heard:?}",
                self.now
            ));
        }
    }
}
