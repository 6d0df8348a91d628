//! The other nodes, as the one that answers sees them: whether they have what was applied, and run it.
//! Whoever is not reached is not waited for: it takes everything up when it is back. Whoever was never heard
//! of, and shall have something, may be about to be.

use realm_model::name::NodeName;
use realm_model::record::UPGRADE_NEEDED;
use realm_model::view::{NodeView, ReachState, StatusView};

use super::{Progress, progress_of};
use crate::failure::Failure;

/// Alarms of a node that takes nothing new until somebody mends it.
const STANDS_STILL: [&str; 5] = [
    "forked",
    UPGRADE_NEEDED,
    "log-damaged",
    "revoked",
    "approval-expired",
];
/// Nodes and components that an error names: the status has them all.
const NAMED_MAX: usize = 20;
/// The code of a component whose bytes are not on its node, and nowhere that it knows.
const NOT_UPLOADED: &str = "not-uploaded";

/// What is to be said of the other nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Others {
    /// On its way: a line each.
    pub(super) underway: Vec<String>,
    /// Failed for good: a line each.
    pub(super) failed: Vec<String>,
    /// Nodes that shall have some of it and were not heard of yet.
    pub(super) unheard: Vec<NodeName>,
    /// Nodes that nobody waits for, each with the reason.
    away: Vec<String>,
}

impl Others {
    pub(super) fn of(status: &StatusView) -> Self {
        let mut others = Self::default();
        for node in &status.nodes {
            if node.here || node.key.is_none() {
                continue;
            }
            others.look_at(node, status);
        }
        others
    }

    fn look_at(&mut self, node: &NodeView, status: &StatusView) {
        let alarm = status
            .alarms
            .iter()
            .find(|alarm| alarm.node == node.name && STANDS_STILL.contains(&alarm.code.as_str()));
        if let Some(alarm) = alarm {
            self.away.push(format!(
                "{} takes nothing new ({}): `realm status` says what to do",
                node.name, alarm.code
            ));
            return;
        }
        match node.reach.state {
            ReachState::Here => return,
            ReachState::Lost => {
                self.away.push(format!(
                    "{} is not reached: it takes this up when it is back",
                    node.name
                ));
                return;
            }
            ReachState::Unknown => {
                let mut components = status.components.iter();
                if components.any(|one| one.nodes.contains_key(&node.name)) {
                    self.unheard.push(node.name.clone());
                }
                return;
            }
            ReachState::Direct | ReachState::Indirect => {}
        }
        match &node.said {
            Some(said) if said.in_step => self.components_of(&node.name, status),
            Some(_) => self
                .underway
                .push(format!("{} does not have the change yet", node.name)),
            // An agent says something of itself at once: who says nothing runs nothing.
            None => self
                .away
                .push(format!("{} says nothing of itself", node.name)),
        }
    }

    fn components_of(&mut self, node: &NodeName, status: &StatusView) {
        for component in &status.components {
            let Some(there) = component.nodes.get(node) else {
                continue;
            };
            let Some(state) = there.state else { continue };
            let why = there.why.as_deref().unwrap_or("no reason given");
            let line = format!("{} on {node}: {why}", component.name);
            // It has not heard yet who has the bytes that were just uploaded elsewhere.
            let is_coming = why.starts_with(NOT_UPLOADED);
            match progress_of(state) {
                Progress::Done => {}
                Progress::Failed if !is_coming => self.failed.push(line),
                Progress::Failed | Progress::Underway => self.underway.push(line),
            }
        }
    }

    pub(super) fn add_failed(&self, failure: Failure) -> Failure {
        add(failure, &self.failed)
    }

    pub(super) fn add_underway(&self, failure: Failure) -> Failure {
        add(failure, &self.underway)
    }

    /// Of each node that was not waited for, or in vain, what to say.
    pub(super) fn away(&self) -> Vec<String> {
        let unheard = self.unheard.iter().map(|node| {
            format!(
                "{node} was not heard of yet: it takes this up when its agent runs and is reached"
            )
        });
        self.away.iter().cloned().chain(unheard).collect()
    }
}

fn add(failure: Failure, lines: &[String]) -> Failure {
    let named = lines.iter().take(NAMED_MAX);
    named.fold(failure, |failure, line| failure.cause(line.clone()))
}
