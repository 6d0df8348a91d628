//! The loop and where everything shall be: looks again when the others say something new, when what is
//! signed changes, and when somebody has been away for long enough.

use std::collections::BTreeSet;
use std::sync::Arc;

use realm_control::losses::Losses;
use realm_control::place::place;
use realm_control::reach;
use realm_control::{Around, Ledger};
use realm_model::entry::Head;
use realm_model::name::NodeName;
use realm_model::observed::Millis;

use super::Core;

/// What this node knows of the others, and since when they are away.
#[derive(Default)]
pub(crate) struct Surroundings {
    pub(super) around: Around,
    pub(super) losses: Losses,
    /// What was signed when it was looked last: the authority head, and how much is wanted.
    seen: Option<(Head, u64)>,
    /// Who counted as gone then, for each time that components wait.
    gone: Vec<(u64, NodeName)>,
    /// When to look again, although nobody says anything.
    pub(super) look_at: Option<Millis>,
}

impl Surroundings {
    fn signed(ledger: &Ledger) -> (Head, u64) {
        (ledger.authority().head, ledger.desired().generation())
    }
}

/// Whether others stand in for a node where a component waits for so long; never for this one.
pub(super) fn is_gone(
    losses: &Losses,
    own: &NodeName,
    node: &NodeName,
    wait_ms: u64,
    now: Millis,
) -> bool {
    node != own && losses.is_gone(node, wait_ms, now)
}

impl Core {
    /// Looks again if what is signed is not what it was, or somebody has been away for long enough.
    pub(super) fn look_around_if_due(&mut self) {
        let now = self.now();
        let is_due = self.surroundings.look_at.is_some_and(|at| at <= now);
        if is_due || self.surroundings.seen != Some(Surroundings::signed(&self.ledger)) {
            self.look_around();
        }
    }

    /// Notes what is to be remembered of what runs here and of what the others say.
    pub(super) fn remember(&mut self) {
        let now = self.now();
        let desired = self.ledger.desired();
        let around = &mut self.surroundings.around;
        around.remember(desired, &self.node, &self.observed, now);
        let wake_at = around.wake_at(now);
        let look_at = &mut self.surroundings.look_at;
        *look_at = look_at.iter().copied().chain(wake_at).min();
    }

    /// Looks who is away and what the others say. A plan follows if it is something new.
    pub(super) fn look_around(&mut self) {
        let now = self.now();
        let (desired, authority) = (self.ledger.desired(), self.ledger.authority());
        let lost: BTreeSet<NodeName> = match &self.network {
            None => BTreeSet::new(),
            Some(network) => {
                let lost = reach::lost(&network.reached());
                let nodes = authority.nodes.iter();
                nodes
                    .filter(|(_, node)| lost.contains(&node.key.into()))
                    .map(|(name, _)| name.clone())
                    .collect()
            }
        };
        let surroundings = &mut self.surroundings;
        // As the last look found them: another manifest asks again at once.
        let least_ms = surroundings.around.placement.lost_after_ms_least();
        let least_ms = least_ms.unwrap_or(u64::MAX);
        surroundings
            .losses
            .look(&lost, authority.nodes.len(), least_ms, now);
        let losses = &surroundings.losses;
        let is_gone =
            |node: &NodeName, wait_ms: u64| is_gone(losses, &self.node, node, wait_ms, now);
        let signed = Surroundings::signed(&self.ledger);
        let last = &surroundings.around.placement;
        let gone: Vec<(u64, NodeName)> = last
            .lost_after_ms()
            .into_iter()
            .flat_map(|wait_ms| authority.nodes.keys().map(move |node| (wait_ms, node)))
            .filter(|(wait_ms, node)| is_gone(node, *wait_ms))
            .map(|(wait_ms, node)| (wait_ms, node.clone()))
            .collect();
        // In a large realm somebody says something all the time, and seldom does it move anything.
        let placement = match surroundings.seen == Some(signed) && surroundings.gone == gone {
            true => Arc::clone(last),
            false => place(desired, authority, &is_gone).into(),
        };
        surroundings.look_at = losses.wake_at(&placement.lost_after_ms(), now);
        surroundings.seen = Some(signed);
        surroundings.gone = gone;
        let around = match &self.network {
            None => Around::unheard(placement),
            Some(network) => Around::new(
                placement,
                network.sync.records(),
                authority,
                &self.node,
                &lost,
                &self.observed,
            ),
        };
        let around = around.after(&surroundings.around);
        if around != surroundings.around {
            surroundings.around = around;
            self.stale = true;
        }
    }
}
