//! What a node knows of the others when it plans: where everything shall be, and what the others say
//! of themselves. Not what this node observes of itself.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::entry::{ChainId, NamespaceName};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::Millis;
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
    /// Component → since when every place of it on another node has been up.
    relieved: BTreeMap<ComponentName, Millis>,
}

/// What one other node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    /// Of a node that is not reached, nothing is up.
    is_reached: bool,
    /// Namespace → the last entry that it has in force.
    heads: BTreeMap<NamespaceName, u64>,
    components: BTreeMap<ComponentName, OfComponent>,
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
            relieved: BTreeMap::new(),
        }
    }

    /// The same, with a memory of what it was `before`: since when the others have what they shall of
    /// each component that runs here.
    #[must_use]
    pub fn after<'a>(
        mut self,
        before: &Self,
        own: &NodeName,
        running: impl Iterator<Item = &'a ComponentName>,
        now: Millis,
    ) -> Self {
        let relieved = running
            .filter(|component| {
                let mut others = self.placement.movable(component);
                others.any(|(node, _)| node != own) && self.missing_elsewhere(component, own) == 0
            })
            .map(|component| {
                let since = before.relieved.get(component).copied();
                (component.clone(), since.unwrap_or(now))
            })
            .collect();
        self.relieved = relieved;
        self
    }

    /// Replicas of a component that go on here although they shall be elsewhere, and until when at
    /// least.
    pub(crate) fn lingering(
        &self,
        component: &ComponentName,
        own: &NodeName,
        now: Millis,
    ) -> (u32, Option<Millis>) {
        let until = self.relieved.get(component);
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
        let said = said.and_then(|said| said.components.get(component));
        said.map_or(0, |said| said.serving)
    }

    /// What another node says of one of its places, where `edition` is the entry that is to be carried
    /// out.
    pub(crate) fn fact(
        &self,
        component: &ComponentName,
        (namespace, edition): (NamespaceName, u64),
        node: &NodeName,
        seat: u32,
    ) -> SeatFact {
        let Some(said) = self.nodes.get(node) else {
            return SeatFact::default();
        };
        let head = said.heads.get(&namespace).copied().unwrap_or_default();
        let heard = head >= edition;
        let (up, ready) = match said.components.get(component) {
            None => (false, false),
            Some(OfComponent {
                seats: Some(seats), ..
            }) => {
                let (up, ready) = seats.get(&seat).copied().unwrap_or_default();
                (up, up && ready >= edition)
            }
            Some(older) => (older.serving > 0, heard && older.whole),
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
        }
    }
}
