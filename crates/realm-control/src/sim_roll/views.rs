//! Nodes that start with an older state than the others have, or with none: what they know is empty, or
//! half of what there is. Nothing is started or stopped on such a view.

use realm_model::action::{Action, Plan};
use realm_model::observed::Millis;

use super::{Node, Sim};
use crate::plan::plan;
use crate::reach::{ALONE_MS, may_act};

/// Since when a node has been up, and what it has heard since then.
#[derive(Debug, Default)]
pub(super) struct Start {
    at_ms: u64,
    /// What it had in force.
    version: usize,
    /// Rounds of anti-entropy.
    pub(super) rounds: u64,
}

impl Start {
    pub(super) const fn new(version: usize, at_ms: u64) -> Self {
        Self {
            at_ms,
            version,
            rounds: 0,
        }
    }
}

impl Node {
    /// Whether it may carry out what it knows, by the rule that agents go by.
    pub(super) fn may_act(&self, others: usize, generation: u64, now: u64) -> bool {
        let Start {
            at_ms,
            version,
            rounds,
        } = self.start;
        self.version == version || may_act(others, rounds, now - at_ms, generation > 0)
    }
}

impl Sim {
    /// Case 18: what a node is about to carry out it knows from somebody, or it has been alone
    /// for long enough; and were it to know of nothing, it would touch nothing.
    pub(super) fn check_knows(&mut self, index: usize, next: &Plan) {
        let node = &self.nodes[index];
        let Start {
            at_ms,
            version,
            rounds,
        } = node.start;
        let changes = next.actions.iter().any(|action| match action {
            Action::Start(_) | Action::Stop(_) | Action::Drain { .. } | Action::Route(_) => true,
            Action::Fetch { .. } | Action::Compile(_) | Action::Handle { .. } => false,
        });
        let realm = &self.states[node.version];
        let is_empty = realm.ledger.desired().manifest.is_none();
        let is_alone = self.kind.nodes == 1 || self.now >= at_ms + ALONE_MS;
        let knows = node.version == version || rounds > 0 || is_alone;
        if changes && (is_empty || !knows) {
            self.violations.push(format!(
                "at {} ms n{index} acts on a view that is empty or half of it: {:?}",
                self.now, next.actions
            ));
        }
        let node = &self.nodes[index];
        let nothing = &self.states[0].ledger;
        let (desired, authority) = (nothing.desired(), nothing.authority());
        let (observed, around) = (&node.world.observed, &node.around);
        let empty = plan(
            desired,
            authority,
            &node.name,
            observed,
            around,
            Millis(self.now),
        );
        if !empty.actions.is_empty() {
            let actions = &empty.actions;
            self.violations.push(format!(
                "n{index} would do this on an empty view: {actions:?}"
            ));
        }
    }
}
