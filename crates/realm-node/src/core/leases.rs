//! The loop and the leases of singletons: looks when the others say something, when what runs here
//! changes and when time is up; what comes out is signed into this node's record, and what may run here
//! is observed. Decides nothing by itself (`realm_control::lease`).

use std::collections::{BTreeMap, BTreeSet};

use realm_control::lease::{Electorate, Input, Leases, Output, Said, said};
use realm_control::singletons;
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Lease, Millis, Observed, ReplicaState};
use realm_model::record::{KeyBytes, LeaseState};

use super::Core;
use crate::executor::Executor;

/// What this node asks for, grants and holds.
#[derive(Default)]
pub(crate) struct Holding {
    /// `None` until the node has its part in the network, if it is to have one.
    leases: Option<Leases>,
    pub(super) output: Output,
    /// Whether something happened since the last look.
    pub(super) due: bool,
}

impl Core {
    /// The leases of this start of the agent: nothing is held, and nothing is granted by which another
    /// node could hold what was granted before.
    pub(super) fn begin_leases(&mut self, (epoch, boot): (u64, u64)) {
        self.holding.leases = Some(Leases::new(self.now(), epoch, boot));
        self.holding.due = true;
    }

    /// Looks at the leases, if it is time.
    pub(super) fn look_at_leases_if_due(&mut self) {
        let wake_at = self.holding.output.wake_at;
        if self.holding.due || wake_at.is_some_and(|at| at <= self.now()) {
            self.look_at_leases();
        }
    }

    /// Looks at the leases: what may run here, and what is told to the others.
    pub(super) fn look_at_leases(&mut self) {
        self.holding.due = false;
        if !self.networking && self.holding.leases.is_none() {
            // Nobody hears of it.
            self.begin_leases((0, 0));
        }
        // Before anything is collected: no delay makes a lease longer.
        let now = self.now();
        let desired = self.ledger.desired();
        let manifest = desired.manifest.as_deref();
        let specs = manifest.into_iter().flat_map(|one| one.components.values());
        let any = specs.into_iter().any(|spec| spec.singleton);
        let may_act = self.may_act();
        let leases = self.holding.leases.as_mut();
        let Some(leases) = leases.filter(|one| any || !one.is_idle()) else {
            self.holding.output = Output::default();
            if any || !self.observed.leases.is_empty() {
                self.observe_leases(BTreeMap::new());
            }
            return;
        };
        let running = singletons_here(&self.observed, &self.executor);
        let authority = self.ledger.authority();
        let (around, observed) = (&self.surroundings.around, &self.observed);
        let wanted = match may_act {
            true => singletons(desired, authority, &self.node, observed, around, now),
            false => BTreeSet::new(),
        };
        let names: BTreeMap<KeyBytes, &NodeName> = authority
            .nodes
            .iter()
            .map(|(name, node)| (node.key.into(), name))
            .collect();
        let own = KeyBytes::from(self.node_key);
        let electorate = authority.electorate();
        let said = match &self.network {
            Some(network) => said(network.sync.records()),
            None => BTreeMap::new(),
        };
        let input = Input {
            own,
            electorate: &electorate,
            wanted: &wanted,
            running: &running,
            said: &said,
            rank: &|component, node| around.placement.rank(component, names.get(&node)?),
        };
        let output = leases.look(&input, now);
        let held = output.holds.iter();
        let held = held.map(|(component, until)| {
            let until = *until;
            (component.clone(), Lease::Held { until })
        });
        let others = wanted.iter().filter(|one| !output.holds.contains_key(*one));
        let others = others.map(|component| {
            let lease = awaited(component, own, &electorate, &said, &output, &names);
            (component.clone(), lease)
        });
        let observed = held.chain(others).collect();
        let before = std::mem::replace(&mut self.holding.output, output);
        let output = &self.holding.output;
        let is_news = (&before.asks, &before.grants) != (&output.asks, &output.grants);
        if let Some(network) = self.network.as_mut().filter(|_| is_news) {
            network.changed(now);
        }
        self.observe_leases(observed);
    }

    /// What may run goes on for longer, what may not is ended, and a plan follows if it is another
    /// than before.
    fn observe_leases(&mut self, leases: BTreeMap<ComponentName, Lease>) {
        let before = std::mem::replace(&mut self.observed.leases, leases);
        let ended = self.with_world(|executor, world| executor.keep_to_leases(world));
        let known = |lease: &Lease| match lease {
            // Each renewal makes it longer: no news.
            Lease::Held { .. } => None,
            Lease::Awaited { .. } => Some(lease.clone()),
        };
        let known = |leases: &BTreeMap<ComponentName, Lease>| -> Vec<_> {
            let leases = leases.iter();
            leases
                .map(|(name, lease)| (name.clone(), known(lease)))
                .collect()
        };
        self.stale |= ended || known(&before) != known(&self.observed.leases);
        self.holding.due |= ended;
    }

    /// When to look at the leases again, whatever happens.
    pub(super) const fn leases_wake_at(&self) -> Option<Millis> {
        if self.holding.due {
            return Some(Millis(0));
        }
        self.holding.output.wake_at
    }
}

/// Components of which anything is left here that may need a lease.
fn singletons_here(observed: &Observed, executor: &Executor) -> BTreeSet<ComponentName> {
    let replicas = observed.replicas.iter();
    let runs = replicas.filter_map(|(id, state)| match state {
        ReplicaState::Starting { .. }
        | ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. } => Some(&id.component),
        ReplicaState::Backoff { .. } | ReplicaState::Done { .. } | ReplicaState::Failed { .. } => {
            None
        }
    });
    runs.chain(executor.all_leaving()).cloned().collect()
}

/// What a singleton waits for that this node wants and does not hold.
fn awaited(
    component: &ComponentName,
    own: KeyBytes,
    electorate: &Electorate,
    said: &BTreeMap<KeyBytes, Said<'_>>,
    output: &Output,
    names: &BTreeMap<KeyBytes, &NodeName>,
) -> Lease {
    let others = || said.iter().filter(|(node, _)| **node != own);
    let holder = others().find(|(_, said)| {
        let mut asks = said.asks.iter();
        asks.any(|ask| ask.component == *component && ask.state == LeaseState::Holds)
    });
    let grants = others()
        .filter(|(node, _)| electorate.nodes.contains(*node))
        .map(|(_, said)| said.grants)
        .chain([output.grants.as_slice()]);
    let granted = grants.filter(|grants| {
        let mut grants = grants.iter();
        grants.any(|grant| grant.component == *component && grant.holder == own)
    });
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Lease::Awaited {
        holder: holder.and_then(|(node, _)| names.get(node).copied().cloned()),
        granted: number(granted.count()),
        needed: number(electorate.majority()),
    }
}
