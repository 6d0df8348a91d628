//! What moves, and how much: at each step by the simulator's own word of who hears whom, and not by that of
//! the code that is tried.
//!
//! In one view of what is signed a place changes its node only
//!
//! 1. if the node that has it by what is signed is away, or was of late: others move nothing;
//! 2. after it was away for as long as is waited for a node: what flaps moves nothing;
//! 3. while no more nodes than one, or a tenth of all, lose their places within a minute.
//!
//! And of what it starts a node starts nothing twice: as many replicas at most begin in a run as it got places, and
//! for the places that it had new versions, or turns by something else that was signed. Starts again after a
//! failure are no moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use realm_model::action::{Action, Plan};
use realm_model::name::NodeName;
use realm_model::observed::Revision;

use super::check::is_drained;
use super::{LOST_AFTER_MS, Sim, UNHEARD_MS};
use crate::place::{Placement, place};
use crate::testing::{component_name, node_name};

/// How soon after that a node acts at the latest: it looks at everything every three seconds.
const LATE_MS: u64 = 5_000;
/// Nodes that may lose their places within a minute, of at most ten.
const AT_ONCE: usize = 1;
const MINUTE_MS: u64 = 60_000;

/// What one node knows, and what moved in its view.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Other node → since when it has been away, and when it was last.
    absences: BTreeMap<usize, (u64, u64)>,
    /// What was signed, and who had which place by it.
    view: Option<(usize, Arc<Placement>)>,
    /// When places were taken from which node.
    taken: Vec<(u64, NodeName)>,
    /// Replicas that began, and that might.
    begun: usize,
    may_begin: usize,
    share: u32,
    /// The version that is carried out, and what was signed.
    version: Option<(Option<Revision>, usize)>,
}

impl Moves {
    pub(super) const fn begun(&self) -> usize {
        self.begun
    }

    /// Notes who is not heard.
    fn hears(&mut self, heard: &BTreeMap<usize, u64>, own: usize, now: u64) {
        let away = heard
            .iter()
            .filter(|(of, at)| **of != own && *at + UNHEARD_MS < now);
        for (of, _) in away {
            let absence = self.absences.entry(*of).or_insert((now, now));
            if absence.1 + LOST_AFTER_MS < now {
                absence.0 = now;
            }
            absence.1 = now;
        }
    }
}

/// Who has the places of the component.
fn holders(placement: &Placement) -> Vec<Option<NodeName>> {
    let seats = placement.seats(&component_name("app"));
    seats
        .map(|seat| seat.map(|(node, _)| node.clone()))
        .collect()
}

impl Sim {
    /// A node that starts knows nothing of what was.
    pub(super) fn forget_moves(&mut self, index: usize) {
        let moves = &mut self.nodes[index].moves;
        moves.absences.clear();
        moves.view = None;
        moves.share = 0;
        moves.version = None;
    }

    /// What changed in the view of a node.
    pub(super) fn check_view(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let realm = &self.states[node.version];
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        node.moves.hears(&node.heard, index, now);
        let after = Arc::clone(&node.around.placement);
        let before = node.moves.view.replace((node.version, Arc::clone(&after)));
        let Some((version, before)) = before else {
            return;
        };
        if version != node.version || Arc::ptr_eq(&before, &after) {
            return;
        }
        let (before, after) = (holders(&before), holders(&after));
        let bases = holders(&place(desired, authority, &|_, _| false));
        let mut wrong = None;
        let places = bases.iter().zip(before.iter().zip(&after));
        for (base, (before, after)) in places.filter(|(_, (before, after))| before != after) {
            let Some(base) = base else { continue };
            let of = (0..self.kind.nodes).find(|of| node_name(&format!("n{of}")) == *base);
            let absence = of.and_then(|of| node.moves.absences.get(&of));
            let is_taken = before.as_ref() == Some(base);
            let is_right = absence.is_some_and(|(since, last)| {
                let is_recent = now <= last + LOST_AFTER_MS + LATE_MS;
                is_recent && (!is_taken || now >= since + LOST_AFTER_MS)
            });
            if !is_right {
                wrong = Some(format!(
                    "a place of {base} goes from {before:?} to {after:?}, {absence:?}"
                ));
            }
            if is_taken && !node.moves.taken.contains(&(now, base.clone())) {
                node.moves.taken.push((now, base.clone()));
            }
        }
        node.moves.taken.retain(|(at, _)| now < at + MINUTE_MS);
        if node.moves.taken.len() > AT_ONCE {
            let taken = &node.moves.taken;
            wrong = Some(format!("within a minute the places of {taken:?} are taken"));
        }
        if let Some(wrong) = wrong {
            self.violations
                .push(format!("at {now} ms, by n{index}: {wrong}"));
        }
    }

    /// What begins by a plan that is about to be carried out.
    pub(super) fn check_starts(&mut self, index: usize, plan: &Plan) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let app = component_name("app");
        let desired = self.states[node.version].ledger.desired();
        // What is drained has no place, and gets it anew.
        let share = match is_drained(&self.states[node.version], index) {
            true => 0,
            false => node.around.placement.share(&app, &node.name),
        };
        let aim = node.around.aim(desired, &app, &node.name);
        let version = Some((aim.map(|aim| aim.revision), node.version));
        node.moves.may_begin += match version == node.moves.version {
            true => share.saturating_sub(node.moves.share),
            false => share,
        } as usize;
        node.moves.version = version;
        node.moves.share = share;
        let replicas = &node.world.observed.replicas;
        let begins = |action: &&Action| match action {
            Action::Start(id) => !replicas.contains_key(id),
            Action::Stop(_)
            | Action::Drain { .. }
            | Action::Fetch { .. }
            | Action::Compile(_)
            | Action::Route(_)
            | Action::Handle { .. } => false,
        };
        let moves = &mut node.moves;
        moves.begun += plan.actions.iter().filter(begins).count();
        if moves.begun > moves.may_begin && !self.kind.singleton {
            let (begun, may_begin) = (moves.begun, moves.may_begin);
            self.violations.push(format!(
                "at {now} ms n{index} has begun {begun} replicas where it got places and versions for {may_begin}"
            ));
        }
    }
}
