//! What a node knows of the others when it plans: where everything shall be, and what the others say
//! of themselves. Not what this node observes of itself.

mod failed;
mod silent;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use realm_model::entry::{ChainId, NamespaceName};
use realm_model::lock::Pin;
use realm_model::manifest::{ComponentSpec, OnFail};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Artifact, ArtifactState, Millis, Observed, ReplicaState, Revision};
use realm_model::record::{ComponentSummary, NodeBody};

use crate::authority::Authority;
use crate::desired::Desired;
use crate::gates::SeatFact;
use crate::place::{Placement, place};
use crate::records::Records;
use failed::Entries;
use silent::Told;

/// How long a replica goes on after others have taken over from it: until everybody has heard of them.
const RELIEF_MS: u64 = 5_000;

/// What a node knows of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// Where everything shall be, by this node's view.
    pub placement: Arc<Placement>,
    /// The last authority entry that is in force here.
    authority: u64,
    nodes: BTreeMap<NodeName, Said>,
    /// Node → which of its records this is, and whether it is not reached; until it was looked at beside
    /// what was remembered.
    records: BTreeMap<NodeName, (Told, bool)>,
    memory: Memory,
}

/// What a node remembers of what it saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    /// Component → since when every place of it on another node has been up.
    relieved: BTreeMap<ComponentName, Millis>,
    /// Components that shall be nowhere, and whose successors are not up everywhere.
    awaiting: BTreeSet<ComponentName>,
    /// Component → the entry whose version has been healthy here for long enough.
    proven: BTreeMap<ComponentName, u64>,
    /// Component → the version that is tried here without getting healthy.
    tried: BTreeMap<ComponentName, Tried>,
    /// The entries whose rollouts failed, here or elsewhere. What one node said all repeat, so that it
    /// holds although that node forgets it.
    failed: Entries,
    /// The entries whose versions were healthy at all places at once: their rollouts do not fail any more.
    settled: Entries,
    /// Node → its last record from while it was not reached. What it said up to then holds no more when it is
    /// back: what served may be gone with it.
    silent: BTreeMap<NodeName, Told>,
}

/// A version that does not get healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tried {
    /// The entry that brought it.
    entry: u64,
    /// Since when nothing more of it got ready.
    since: Millis,
    /// Replicas here that are.
    ready: usize,
}

/// What one other node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    /// Of a node that is not reached, or has said nothing since it was not, nothing is up.
    is_reached: bool,
    /// The last authority entry that it has in force.
    authority: Option<u64>,
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

/// What goes on here of a component until others have taken over from it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lingering {
    /// How many replicas.
    pub(crate) replicas: u32,
    /// Until when they do so at least.
    pub(crate) until: Option<Millis>,
    /// Whether other versions are to take over, and have not: until then it is kept up.
    pub(crate) awaits: bool,
}

/// Which rollout it is.
#[derive(Debug, Clone)]
pub(crate) struct Edition<'a> {
    pub(crate) namespace: NamespaceName,
    /// The entry that is wanted.
    pub(crate) entry: u64,
    /// The entry that is carried out: another one, if that one failed.
    pub(crate) aim: u64,
    /// The entries of the namespace with which the places are those that they are here: from the last that
    /// may have changed them to the last that is in force.
    pub(crate) places: RangeInclusive<u64>,
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
        Self::unheard(place(desired, authority, &|_, _| false).into())
    }

    /// For a node to which nobody says anything.
    pub fn unheard(placement: Arc<Placement>) -> Self {
        Self {
            placement,
            ..Self::default()
        }
    }

    /// What the records of the nodes other than `own` say, of which those in `lost` are not reached.
    pub fn new(
        placement: Arc<Placement>,
        records: &Records,
        authority: &Authority,
        own: &NodeName,
        lost: &BTreeSet<NodeName>,
        observed: &Observed,
    ) -> Self {
        let nodes = authority.nodes.iter();
        let bodies = nodes.filter_map(|(name, node)| Some((name, &records.get(node.key)?.body)));
        let around = Self::of(placement, authority.head.seq, bodies, own, lost, observed);
        let nodes = authority.nodes.iter();
        let told = nodes.filter_map(|(name, node)| {
            let version = records.get(node.key)?.version;
            Some((name, (version.epoch, version.counter)))
        });
        around.told(told, lost)
    }

    /// The same with the bodies of those records.
    pub(crate) fn of<'a>(
        placement: Arc<Placement>,
        authority: u64,
        bodies: impl Iterator<Item = (&'a NodeName, &'a NodeBody)>,
        own: &NodeName,
        lost: &BTreeSet<NodeName>,
        observed: &Observed,
    ) -> Self {
        // What has nothing to do with this node is no news to it, and no reason to plan anew.
        let here = placement.shares(own).map(|(component, _)| component);
        let running: BTreeSet<&ComponentName> =
            observed.replicas.keys().map(|id| &id.component).collect();
        let successors = running.iter().flat_map(|name| placement.successors(name));
        let relevant: BTreeMap<&str, &ComponentName> = here
            .chain(running.iter().copied())
            .chain(successors)
            // Who is the next to have a component has to know which versions of it failed.
            .chain(placement.standbys(own))
            .map(|name| (name.as_str(), name))
            .collect();
        let others = bodies.filter(|(name, _)| *name != own);
        let said = others.filter_map(|(name, body)| {
            let said = Said {
                is_reached: !lost.contains(name),
                ..Said::of(body, &relevant)
            };
            let shares = || {
                let mut shares = placement.shares(name);
                shares.any(|(one, _)| relevant.contains_key(one.as_str()))
            };
            (!said.components.is_empty() || shares()).then(|| (name.clone(), said))
        });
        let nodes = said.collect();
        Self {
            placement,
            authority,
            nodes,
            records: BTreeMap::new(),
            memory: Memory::default(),
        }
    }

    /// Notes what is to be remembered of what runs here and of what the others say.
    pub fn remember(
        &mut self,
        desired: &Desired,
        own: &NodeName,
        observed: &Observed,
        now: Millis,
    ) {
        let mut memory = Memory {
            settled: self.settled(desired),
            silent: std::mem::take(&mut self.memory.silent),
            ..Memory::default()
        };
        let mut here: BTreeMap<&ComponentName, Vec<(Revision, &ReplicaState)>> = BTreeMap::new();
        for (id, state) in &observed.replicas {
            let states = here.entry(&id.component).or_default();
            states.push((id.revision, state));
        }
        for (component, states) in here {
            let Some(placed) = self.placement.of(component) else {
                let successors = self.placement.successors(component);
                // Of a singleton there is one: it does not begin beside what was before it.
                let is_one = |name: &ComponentName| desired.is_singleton(name);
                if !successors.is_empty() && !successors.iter().any(is_one) {
                    if self.are_up(successors, own, observed) {
                        let since = self.memory.relieved.get(component).copied();
                        let since = since.unwrap_or(now);
                        memory.relieved.insert(component.clone(), since);
                    } else {
                        memory.awaiting.insert(component.clone());
                    }
                }
                continue;
            };
            if self.is_relieved(component, own) {
                let since = self.memory.relieved.get(component).copied();
                memory
                    .relieved
                    .insert(component.clone(), since.unwrap_or(now));
            }
            let Some(aim) = self.aim(desired, component, own) else {
                continue;
            };
            let upkeep = placed.upkeep;
            let proven = |(revision, state): &(Revision, &ReplicaState)| match state {
                ReplicaState::Healthy { since } => {
                    *revision == aim.revision && since.plus(upkeep.min_ready_ms) <= now
                }
                ReplicaState::Starting { .. }
                | ReplicaState::Backoff { .. }
                | ReplicaState::Failed { .. }
                | ReplicaState::Draining { .. }
                | ReplicaState::Done { .. } => false,
            };
            let was_proven = self.memory.proven.get(component) == Some(&aim.entry);
            let is_proven = was_proven || states.iter().any(proven);
            if is_proven {
                memory.proven.insert(component.clone(), aim.entry);
            }
            let ready = states.iter().filter(|state| proven(state)).count();
            let all_ready = ready >= self.placement.share(component, own) as usize;
            if all_ready && self.is_ready_elsewhere(component, own, aim.entry) {
                let settled = memory.settled.entry(component.clone()).or_default();
                settled.insert(aim.entry);
            }
            let settled = memory.settled.get(component);
            if self.begins_nothing(desired, component, own)
                || settled.is_some_and(|settled| settled.contains(&aim.entry))
                || !is_tried(&aim, &states, observed)
                || !self.is_rolling(component, &aim, &states, is_proven)
            {
                continue;
            }
            let before = self.memory.tried.get(component).copied();
            // Each place that gets ready is progress.
            let before = before.filter(|one| one.entry == aim.entry && one.ready >= ready);
            let tried = before.unwrap_or(Tried {
                entry: aim.entry,
                since: now,
                ready,
            });
            memory.tried.insert(component.clone(), tried);
            let is_over = tried.since.plus(upkeep.progress_deadline_ms) <= now;
            let failed = self.failures_of(component);
            if is_over && self.can_fail(desired, component, own, failed, aim.entry) {
                let failed = memory.failed.entry(component.clone()).or_default();
                failed.insert(aim.entry);
            }
        }
        for (component, failed) in self.failures(desired, own, &memory.settled) {
            let all = memory.failed.entry(component).or_default();
            all.extend(failed);
        }
        self.memory = memory;
    }

    /// Whether nothing of a component may begin here any more: its place is another node's, or the node is
    /// drained. Such a one tries nothing, although the bytes came before. (Who has a singleton goes by
    /// leases.)
    fn begins_nothing(&self, desired: &Desired, component: &ComponentName, own: &NodeName) -> bool {
        let mut open = self.placement.seats(component).flatten();
        !desired.is_singleton(component) && !open.any(|(holder, _)| holder == own)
    }

    /// Whether a rollout is under way, and not just a replica down that was healthy: some place still has
    /// an older version, or none has had this one.
    fn is_rolling(
        &self,
        component: &ComponentName,
        aim: &Aim<'_>,
        here: &[(Revision, &ReplicaState)],
        is_proven: bool,
    ) -> bool {
        let said = self.nodes.values();
        let of_component = said.filter_map(|said| Some((said, said.components.get(component)?)));
        let seats = of_component.flat_map(|(said, one)| {
            let seats = one.seats.iter().flat_map(BTreeMap::values);
            seats.map(|(up, ready)| (*up && said.is_reached, *ready == aim.entry))
        });
        let (mut older, mut ready_once) = (false, is_proven);
        for (is_up, is_ready) in seats {
            older |= is_up && !is_ready;
            ready_once |= is_ready;
        }
        let serves_older = |(revision, state): &(Revision, &ReplicaState)| {
            *revision != aim.revision && matches!(state, ReplicaState::Healthy { .. })
        };
        older || !ready_once || here.iter().any(serves_older)
    }

    fn is_relieved(&self, component: &ComponentName, own: &NodeName) -> bool {
        let mut others = self.placement.movable(component);
        others.any(|(node, _)| node != own) && self.missing_elsewhere(component, own) == 0
    }

    /// When there is something to remember although nothing happens.
    pub fn wake_at(&self, now: Millis) -> Option<Millis> {
        let tried = self.memory.tried.iter().filter_map(|(component, tried)| {
            let upkeep = self.placement.of(component)?.upkeep;
            Some(tried.since.plus(upkeep.progress_deadline_ms))
        });
        tried.filter(|at| *at > now).min()
    }

    /// The entries whose rollouts of a component failed.
    pub fn failures_of(&self, component: &ComponentName) -> &BTreeSet<u64> {
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
        let reverts = placed.is_some_and(|placed| placed.upkeep.on_fail == OnFail::Revert)
            // Where it stands still, who has not got the new one healthy goes on with the old one.
            || self.memory.proven.get(component) != Some(&edition);
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

    /// What goes on of a component here although it shall be elsewhere, or nowhere.
    pub(crate) fn lingering(
        &self,
        component: &ComponentName,
        own: &NodeName,
        now: Millis,
    ) -> Lingering {
        let since = self.memory.relieved.get(component);
        let until = since.map(|since| since.plus(RELIEF_MS));
        let until = until.filter(|until| *until > now);
        let awaits = since.is_none() && self.memory.awaiting.contains(component);
        Lingering {
            replicas: match until.is_some() || awaits {
                true => u32::MAX,
                false => self.missing_elsewhere(component, own),
            },
            until,
            awaits,
        }
    }

    /// Whether every place of these components that can be awaited takes requests.
    fn are_up(
        &self,
        components: &BTreeSet<ComponentName>,
        own: &NodeName,
        observed: &Observed,
    ) -> bool {
        components.iter().all(|component| {
            // Of several lists a node follows the one that wants most of it.
            let seats = self.placement.seats(component).flatten();
            let nodes: BTreeSet<&NodeName> = seats.map(|(node, _)| node).collect();
            let shares = nodes.into_iter();
            let shares: BTreeMap<&NodeName, u32> = shares
                .map(|node| (node, self.placement.share(component, node)))
                .collect();
            let here = || {
                let here = observed.replicas.iter().filter(|(id, state)| {
                    id.component == *component && matches!(state, ReplicaState::Healthy { .. })
                });
                u32::try_from(here.count()).unwrap_or(u32::MAX)
            };
            !shares.is_empty()
                && shares.into_iter().all(|(node, share)| match node == own {
                    true => here() >= share,
                    false => self.serving(component, node) >= share,
                })
        })
    }

    /// Places of a component that shall be on other nodes than `own` and do not take requests there yet, or
    /// that nobody has:
    /// so many replicas have to go on where they are.
    pub(crate) fn missing_elsewhere(&self, component: &ComponentName, own: &NodeName) -> u32 {
        let others = self.placement.movable(component);
        let missing: u32 = others
            .filter(|(node, _)| *node != own)
            .map(|(node, share)| share.saturating_sub(self.serving(component, node)))
            .sum();
        missing.saturating_add(self.placement.homeless(component))
    }

    fn serving(&self, component: &ComponentName, node: &NodeName) -> u32 {
        // Who has not heard yet who is drained may give up in a moment what it says it has.
        let is_behind = |said: &Said| said.authority.is_some_and(|seq| seq < self.authority);
        let said = self.nodes.get(node);
        let said = said.filter(|said| said.is_reached && !is_behind(said));
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
        // Who is drained or cordoned, and another routing, changes the places of others, and with them the
        // turns: who goes by other nodes or routes goes by another rule, and means another place by the same
        // number. What one has heard of, and this one not, may be such. A node of an older version does not
        // say of which nodes it knows.
        let same_places = said.authority.is_none_or(|seq| seq == self.authority)
            && head.is_some_and(|head| edition.places.contains(&head));
        let heard = same_places
            && head.is_some_and(|head| head >= edition.entry)
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
            ready: ready && said.is_reached && same_places,
        }
    }
}

/// Whether this node tries a version and has not got it healthy: its replicas, or its bytes.
fn is_tried(aim: &Aim<'_>, here: &[(Revision, &ReplicaState)], observed: &Observed) -> bool {
    let artifact = Artifact {
        digest: aim.pin.digest,
        fuel: aim.spec.limits.fuel_per_sec.is_some(),
    };
    let replica = |(revision, state): &(Revision, &ReplicaState)| match state {
        ReplicaState::Starting { .. }
        | ReplicaState::Backoff { .. }
        | ReplicaState::Failed { .. } => *revision == aim.revision,
        ReplicaState::Healthy { .. }
        | ReplicaState::Draining { .. }
        | ReplicaState::Done { .. } => false,
    };
    let bytes = match observed.artifacts.get(&artifact) {
        Some(ArtifactState::Ready) => false,
        Some(
            ArtifactState::Fetching { .. }
            | ArtifactState::Fetched
            | ArtifactState::Compiling { .. }
            | ArtifactState::Failed { .. },
        ) => true,
        // Known under the other engine's name, or not at all: what runs already needs none.
        None => false,
    };
    bytes || here.iter().any(replica)
}

impl Said {
    fn of(body: &NodeBody, relevant: &BTreeMap<&str, &ComponentName>) -> Self {
        let heads = body.heads.iter().filter_map(|one| match one.chain {
            ChainId::Namespace(name) => Some((name, one.head.seq)),
            ChainId::Authority => None,
        });
        let mut all = body.heads.iter();
        let authority = all.find(|one| one.chain == ChainId::Authority);
        let components = body.components.iter().filter_map(|one| {
            let name = relevant.get(one.name.as_str())?;
            Some(((*name).clone(), OfComponent::of(one)))
        });
        Self {
            is_reached: true,
            authority: authority.map(|one| one.head.seq),
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
