//! What a node knows of the others when it plans: where everything shall be, and what the others say
//! of themselves. Not what this node observes of itself.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::entry::{ChainId, NamespaceName};
use realm_model::lock::Pin;
use realm_model::manifest::{ComponentSpec, OnFail};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Millis, Observed, ReplicaState, Revision};
use realm_model::record::{ComponentSummary, NodeBody};

use crate::authority::Authority;
use crate::desired::Desired;
use crate::gates::SeatFact;
use crate::place::{Placement, place};
use crate::records::Records;

/// How long a replica goes on after others have taken over from it: until everybody has heard of them.
const RELIEF_MS: u64 = 5_000;

/// What a node knows of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// Where everything shall be, by this node's view.
    pub placement: Placement,
    nodes: BTreeMap<NodeName, Said>,
    memory: Memory,
}

/// What a node remembers of what it saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    /// Component → since when every place of it on another node has been up.
    relieved: BTreeMap<ComponentName, Millis>,
    /// Component → the entry whose version is tried here without getting healthy, and since when.
    tried: BTreeMap<ComponentName, (u64, Millis)>,
    /// Component → the entries whose rollouts failed, here or elsewhere. What one node said all repeat, so
    /// that it holds although that node forgets it.
    failed: BTreeMap<ComponentName, BTreeSet<u64>>,
}

/// What one other node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    /// Of a node that is not reached, nothing is up.
    is_reached: bool,
    /// Namespace → the last entry that it has in force.
    heads: BTreeMap<NamespaceName, u64>,
    components: BTreeMap<ComponentName, OfComponent>,
    /// Whether more components run there than its record has room for.
    is_cut: bool,
}

/// What it says of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfComponent {
    /// Replicas that take requests.
    serving: u32,
    /// Place → whether it is up, and the entry whose version is ready there. `None`: the node is of a
    /// version that replaces all its replicas at once.
    seats: Option<BTreeMap<u32, (bool, u64)>>,
    /// Whether all that it shall have is healthy.
    whole: bool,
    /// The entries whose rollouts failed.
    failed: BTreeSet<u64>,
}

/// What a rollout carries out on a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim<'a> {
    /// The entry that brought it.
    pub(crate) entry: u64,
    pub(crate) revision: Revision,
    pub(crate) spec: &'a ComponentSpec,
    pub(crate) pin: Pin,
}

/// Which rollout it is.
#[derive(Debug, Clone)]
pub(crate) struct Edition<'a> {
    pub(crate) namespace: NamespaceName,
    /// The entry that is wanted.
    pub(crate) entry: u64,
    /// The entry that is carried out: another one, if that one failed.
    pub(crate) aim: u64,
    /// Entries whose rollouts failed.
    pub(crate) failed: &'a BTreeSet<u64>,
}

impl Edition<'_> {
    const fn reverts(&self) -> bool {
        self.aim != self.entry
    }
}

impl Around {
    /// For a node that knows nobody: nobody is gone, and nobody says anything.
    pub fn alone(desired: &Desired, authority: &Authority) -> Self {
        Self::unheard(place(desired, authority, &|_, _| false))
    }

    /// For a node to which nobody says anything.
    pub fn unheard(placement: Placement) -> Self {
        Self {
            placement,
            ..Self::default()
        }
    }

    /// What the records of the nodes other than `own` say, of which those in `lost` are not reached.
    pub fn new(
        placement: Placement,
        records: &Records,
        authority: &Authority,
        own: &NodeName,
        lost: &BTreeSet<NodeName>,
    ) -> Self {
        let nodes = authority.nodes.iter();
        let bodies = nodes.filter_map(|(name, node)| Some((name, &records.get(node.key)?.body)));
        Self::of(placement, bodies, own, lost)
    }

    /// The same with the bodies of those records.
    pub(crate) fn of<'a>(
        placement: Placement,
        bodies: impl Iterator<Item = (&'a NodeName, &'a NodeBody)>,
        own: &NodeName,
        lost: &BTreeSet<NodeName>,
    ) -> Self {
        let others = bodies.filter(|(name, _)| *name != own);
        let said = others.map(|(name, body)| {
            let said = Said {
                is_reached: !lost.contains(name),
                ..Said::of(body)
            };
            (name.clone(), said)
        });
        Self {
            placement,
            nodes: said.collect(),
            memory: Memory::default(),
        }
    }

    /// The same with what was remembered `before`.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        self.memory = before.memory.clone();
        self
    }

    /// Notes what is new of what is to be remembered; whether there was anything.
    pub fn remember(
        &mut self,
        desired: &Desired,
        own: &NodeName,
        observed: &Observed,
        now: Millis,
    ) -> bool {
        let mut memory = Memory::default();
        let mut unhealthy: BTreeMap<&ComponentName, BTreeSet<Revision>> = BTreeMap::new();
        for (id, state) in &observed.replicas {
            let unhealthy = unhealthy.entry(&id.component).or_default();
            match state {
                ReplicaState::Starting { .. }
                | ReplicaState::Backoff { .. }
                | ReplicaState::Failed { .. } => {
                    unhealthy.insert(id.revision);
                }
                ReplicaState::Healthy { .. }
                | ReplicaState::Draining { .. }
                | ReplicaState::Done { .. } => {}
            }
        }
        for (component, unhealthy) in unhealthy {
            let Some(placed) = self.placement.of(component) else {
                continue;
            };
            let aim = self.aim(desired, component, own);
            let aim = aim.filter(|aim| unhealthy.contains(&aim.revision));
            if self.is_relieved(component, own) {
                let since = self.memory.relieved.get(component).copied();
                memory
                    .relieved
                    .insert(component.clone(), since.unwrap_or(now));
            }
            if let Some(edition) = aim.map(|aim| aim.entry) {
                let before = self.memory.tried.get(component).copied();
                let before = before.filter(|(of, _)| *of == edition);
                let (_, since) = before.unwrap_or((edition, now));
                memory.tried.insert(component.clone(), (edition, since));
                if since.plus(placed.upkeep.progress_deadline_ms) <= now {
                    let failed = memory.failed.entry(component.clone()).or_default();
                    failed.insert(edition);
                }
            }
        }
        for (component, edition) in self.failures(desired) {
            memory.failed.entry(component).or_default().insert(edition);
        }
        let is_new = memory != self.memory;
        self.memory = memory;
        is_new
    }

    /// Rollouts that failed by what this node remembers and what the others say, as far as the versions
    /// are remembered.
    fn failures(&self, desired: &Desired) -> BTreeSet<(ComponentName, u64)> {
        let said = self.nodes.values().flat_map(|said| &said.components);
        let said = said.map(|(name, one)| (name, &one.failed));
        let known = said.chain(&self.memory.failed);
        let each = known.flat_map(|(name, failed)| failed.iter().map(move |entry| (name, *entry)));
        each.filter(|(name, entry)| desired.brought(name, *entry))
            .map(|(name, entry)| (name.clone(), entry))
            .collect()
    }

    fn is_relieved(&self, component: &ComponentName, own: &NodeName) -> bool {
        let mut others = self.placement.movable(component);
        others.any(|(node, _)| node != own) && self.missing_elsewhere(component, own) == 0
    }

    /// When there is something to remember although nothing happens.
    pub fn wake_at(&self, now: Millis) -> Option<Millis> {
        let tried = self
            .memory
            .tried
            .iter()
            .filter_map(|(component, (_, since))| {
                let upkeep = self.placement.of(component)?.upkeep;
                Some(since.plus(upkeep.progress_deadline_ms))
            });
        tried.filter(|at| *at > now).min()
    }

    /// The entries whose rollouts of a component failed.
    pub(crate) fn failures_of(&self, component: &ComponentName) -> &BTreeSet<u64> {
        static NONE: BTreeSet<u64> = BTreeSet::new();
        self.memory.failed.get(component).unwrap_or(&NONE)
    }

    /// The entries whose rollouts failed, if that of `edition` is one of them.
    fn failed(&self, component: &ComponentName, edition: u64) -> Option<&BTreeSet<u64>> {
        let failed = self.memory.failed.get(component)?;
        failed.contains(&edition).then_some(failed)
    }

    /// What a rollout carries out: what is wanted, or, if that failed and is to be undone, what was
    /// before.
    pub(crate) fn aim<'a>(
        &self,
        desired: &'a Desired,
        component: &ComponentName,
        node: &NodeName,
    ) -> Option<Aim<'a>> {
        let (_, edition) = desired.edition(component)?;
        let placed = self.placement.of(component);
        let reverts = placed.is_some_and(|placed| placed.upkeep.on_fail == OnFail::Revert);
        let failed = self.failed(component, edition).filter(|_| reverts);
        let before = failed.and_then(|failed| desired.before(component, node, failed));
        if let Some((entry, revision, spec, pin)) = before {
            return Some(Aim {
                entry,
                revision,
                spec,
                pin,
            });
        }
        Some(Aim {
            entry: edition,
            revision: desired.revision_of(component, node)?,
            spec: desired.manifest.as_deref()?.components.get(component)?,
            pin: desired.pin(component)?,
        })
    }

    /// Replicas of a component that go on here although they shall be elsewhere, and until when at
    /// least.
    pub(crate) fn lingering(
        &self,
        component: &ComponentName,
        own: &NodeName,
        now: Millis,
    ) -> (u32, Option<Millis>) {
        let until = self.memory.relieved.get(component);
        let until = until.map(|since| since.plus(RELIEF_MS));
        match until.filter(|until| *until > now) {
            Some(until) => (u32::MAX, Some(until)),
            None => (self.missing_elsewhere(component, own), None),
        }
    }

    /// Places of a component that shall be on other nodes than `own` and do not take requests there yet:
    /// so many replicas have to go on where they are.
    pub(crate) fn missing_elsewhere(&self, component: &ComponentName, own: &NodeName) -> u32 {
        let others = self.placement.movable(component);
        others
            .filter(|(node, _)| *node != own)
            .map(|(node, share)| share.saturating_sub(self.serving(component, node)))
            .sum()
    }

    fn serving(&self, component: &ComponentName, node: &NodeName) -> u32 {
        let said = self.nodes.get(node).filter(|said| said.is_reached);
        said.map_or(0, |said| match said.components.get(component) {
            Some(component) => component.serving,
            // Of what found no room in a record nothing is heard: nobody waits for it.
            None if said.is_cut => u32::MAX,
            None => 0,
        })
    }

    /// What another node says of one of its places, where `edition` is the entry that is to be carried
    /// out.
    pub(crate) fn fact(
        &self,
        component: &ComponentName,
        edition: &Edition<'_>,
        node: &NodeName,
        seat: u32,
    ) -> SeatFact {
        let Some(said) = self.nodes.get(node) else {
            return SeatFact::default();
        };
        let head = said.heads.get(&edition.namespace).copied();
        let of_component = said.components.get(component);
        // Who is to go back to the same version has to know of the same failures.
        let knows = |failed: &BTreeSet<u64>| {
            let mut since = edition.failed.iter().filter(|entry| **entry > edition.aim);
            since.all(|entry| failed.contains(entry))
        };
        let heard = head.is_some_and(|head| head >= edition.entry)
            && (!edition.reverts() || of_component.is_some_and(|said| knows(&said.failed)));
        let (up, ready) = match of_component {
            None if said.is_cut => (true, heard && !edition.reverts()),
            None => (false, false),
            Some(OfComponent {
                seats: Some(seats), ..
            }) => {
                let (up, ready) = seats.get(&seat).copied().unwrap_or_default();
                (up, up && ready == edition.aim)
            }
            Some(older) => (
                older.serving > 0,
                heard && older.whole && !edition.reverts(),
            ),
        };
        SeatFact {
            heard,
            up: up && said.is_reached,
            ready: ready && said.is_reached,
        }
    }
}

impl Said {
    fn of(body: &NodeBody) -> Self {
        let heads = body.heads.iter().filter_map(|one| match one.chain {
            ChainId::Namespace(name) => Some((name, one.head.seq)),
            ChainId::Authority => None,
        });
        let components = body.components.iter().filter_map(|one| {
            let name = one.name.parse().ok()?;
            Some((name, OfComponent::of(one)))
        });
        Self {
            is_reached: true,
            heads: heads.collect(),
            components: components.collect(),
            is_cut: body.components_more > 0,
        }
    }
}

impl OfComponent {
    fn of(summary: &ComponentSummary) -> Self {
        let seats = summary.seats.as_ref().map(|seats| {
            let seats = seats.iter();
            seats.map(|one| (one.seat, (one.up, one.ready))).collect()
        });
        Self {
            serving: summary.serving.unwrap_or(summary.healthy),
            seats,
            whole: summary.wanted > 0 && summary.healthy >= summary.wanted,
            failed: summary.failed.iter().flatten().copied().collect(),
        }
    }
}
