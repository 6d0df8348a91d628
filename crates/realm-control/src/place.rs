//! Which node has which replica: a pure function of what the owners signed and of who is gone.
//!
//! Rendezvous hashing: every node ranks every replica, and each replica goes to the node that ranks it
//! highest among those that have the fewest so far, zone by zone. What is signed gives each replica a
//! *base*; while that node is gone the next one stands in, so that nothing else moves when a node
//! dies, and all is as before when it comes back. The ranks are part of the wire format: two agents
//! that disagree would both run a replica, or neither. Not here: who is gone (`losses`), and how one
//! replica takes over from another (`plan`).

mod lists;
mod may;
#[cfg(test)]
mod tests;
mod why;

pub(crate) use why::written;
pub use why::{Asked, Explained, Place, Reason, Why};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::manifest::{Manifest, NodeSelector, Upkeep};
use realm_model::name::{ComponentName, NodeName};

use crate::authority::{ApprovedNode, Authority};
use crate::desired::Desired;
use lists::Lists;
pub(crate) use lists::in_precedence;
pub use may::may_run;

/// Which ranks these are. Another function of hashing is another version, and all nodes of a realm
/// have to change at once.
const RANKS: &[u8] = b"realm.place.v1";

/// A tag with this prefix names the zone of a node: `zone-fra`.
pub const ZONE_PREFIX: &str = "zone-";

/// Where the replicas of all components that answer requests shall be, and the singletons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Approved nodes, in order of their names.
    nodes: Vec<NodeName>,
    components: BTreeMap<ComponentName, Placed>,
    /// Singletons that answer no requests: each has one seat, and takes no turns.
    lone: BTreeMap<ComponentName, Placed>,
    /// Former version → those that take over from it.
    successors: BTreeMap<ComponentName, BTreeSet<ComponentName>>,
    /// Node → components of which another node has all replicas, and whose bytes it keeps as well: it
    /// would be the next to have them, and the other one may be gone by then.
    standbys: BTreeMap<usize, BTreeSet<ComponentName>>,
}

/// Where the replicas of one component shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// One for each replica. Their order is the same in every view.
    pub seats: Vec<Seat>,
    /// How they are kept: as the most particular list says that wants them.
    pub upkeep: Upkeep,
    /// Milliseconds after which the lists give up on a node.
    lost_after_ms: BTreeSet<u64>,
    /// Node → replicas there.
    shares: BTreeMap<usize, u32>,
    /// Node → replicas there that might be elsewhere, and are to be awaited.
    movable: BTreeMap<usize, u32>,
    /// Replicas that might be on any node, and are on none: those that could have them are gone.
    homeless: u32,
    /// Of a singleton: the nodes that may have it, the one first that should, whoever is gone.
    order: Vec<usize>,
    /// The node that would have all replicas if the one that has them were gone.
    standby: Option<usize>,
}

/// The place of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Where it is by what is signed.
    base: usize,
    /// Where it is while the base is gone; the base itself otherwise. `None`: nobody can have it.
    holder: Option<usize>,
    /// Whether no other node may have it.
    pinned: bool,
    /// Whether its node is drained, or cordoned from before: nothing can be awaited of it.
    closed: bool,
}

/// A node as placement looks at it.
struct Candidate<'a> {
    approved: &'a ApprovedNode,
    seed: u64,
    zone: Option<&'a str>,
}

/// Routes of one component in one list, and the nodes on which at least one of them counts.
struct Group<'a> {
    selector: &'a NodeSelector,
    upkeep: Upkeep,
    nodes: BTreeSet<usize>,
}

impl Group<'_> {
    /// Of what no list names: all nodes may have it.
    fn everywhere(nodes: usize) -> Self {
        Self {
            selector: &NodeSelector::All,
            upkeep: Upkeep::default(),
            nodes: (0..nodes).collect(),
        }
    }

    /// Of a singleton: any node that some list wants it on.
    fn of_one(groups: &[Self]) -> Self {
        let first = groups.first().map(|group| group.upkeep);
        let nodes = groups.iter().flat_map(|group| &group.nodes);
        Self {
            selector: &NodeSelector::All,
            upkeep: Upkeep {
                replicas: 1,
                per_node: false,
                ..first.unwrap_or_default()
            },
            nodes: nodes.copied().collect(),
        }
    }

    /// Whether each of its nodes has replicas of its own.
    const fn is_pinned(&self) -> bool {
        self.upkeep.per_node || matches!(self.selector, NodeSelector::Node(_))
    }
}

/// Places every component that has a route. `gone` says whether a node that is not reached has been so
/// for as many milliseconds as a component waits.
pub fn place(
    desired: &Desired,
    authority: &Authority,
    gone: &dyn Fn(&NodeName, u64) -> bool,
) -> Placement {
    let nodes: Vec<NodeName> = authority.nodes.keys().cloned().collect();
    let Some(manifest) = desired.manifest.as_deref() else {
        return Placement {
            nodes,
            ..Placement::default()
        };
    };
    let candidates = candidates(manifest, authority);
    let placed = |name: &ComponentName, groups: &[Group<'_>]| {
        let scene = Scene::of(name, desired, &nodes, &candidates, gone);
        match desired.is_singleton(name) {
            true => scene.placed_once(groups),
            false => scene.placed(groups),
        }
    };
    let components = Lists::of(desired, manifest, authority, &nodes).groups;
    let components = components.into_iter();
    let components = components
        .map(|(name, groups)| (name.clone(), placed(name, &groups)))
        .collect();
    let everywhere = Group::everywhere(nodes.len());
    let lone = manifest.components.iter();
    let lone = lone
        .filter(|(_, spec)| spec.singleton && !spec.mode().takes_requests())
        .map(|(name, _)| {
            (
                name.clone(),
                placed(name, std::slice::from_ref(&everywhere)),
            )
        })
        .collect();
    let lone: BTreeMap<ComponentName, Placed> = lone;
    let components: BTreeMap<ComponentName, Placed> = components;
    let mut standbys: BTreeMap<usize, BTreeSet<ComponentName>> = BTreeMap::new();
    for (name, placed) in components.iter().chain(&lone) {
        if let Some(standby) = placed.standby {
            standbys.entry(standby).or_default().insert(name.clone());
        }
    }
    Placement {
        nodes,
        components,
        lone,
        successors: desired.successors().clone(),
        standbys,
    }
}

impl Placement {
    /// Where the replicas of a component shall be that answers requests; `None`: no route of any node
    /// leads to it.
    pub fn of(&self, component: &ComponentName) -> Option<&Placed> {
        self.components.get(component)
    }

    /// Replicas of a component that a node shall have.
    pub fn share(&self, component: &ComponentName, node: &NodeName) -> u32 {
        let share = |placed: &Placed| Some(*placed.shares.get(&self.index(node)?)?);
        let placed = self.of(component).or_else(|| self.lone.get(component));
        placed.and_then(share).unwrap_or_default()
    }

    /// Whether it says where a component shall be; everything else runs where its own rules say.
    pub(crate) fn places(&self, component: &ComponentName) -> bool {
        self.components.contains_key(component) || self.lone.contains_key(component)
    }

    /// Where a node stands in the order in which a singleton should go to the nodes that ask for it, by
    /// what is signed alone; `None`: it is none, or not for this node.
    pub fn rank(&self, component: &ComponentName, node: &NodeName) -> Option<u32> {
        let placed = self.of(component).or_else(|| self.lone.get(component))?;
        let index = self.index(node)?;
        let rank = placed.order.iter().position(|one| *one == index)?;
        u32::try_from(rank).ok()
    }

    /// Components of which a node shall have replicas, and how many.
    pub fn shares<'a>(
        &'a self,
        node: &NodeName,
    ) -> impl Iterator<Item = (&'a ComponentName, u32)> + use<'a> {
        let index = self.index(node);
        let all = self.components.iter().chain(&self.lone);
        all.filter_map(move |(name, placed)| {
            let share = placed.shares.get(&index?)?;
            Some((name, *share))
        })
    }

    /// Components of which a node keeps the bytes although it has no replica.
    pub(crate) fn standbys<'a>(
        &'a self,
        node: &NodeName,
    ) -> impl Iterator<Item = &'a ComponentName> + use<'a> {
        let index = self.index(node);
        index
            .and_then(|index| self.standbys.get(&index))
            .into_iter()
            .flatten()
    }

    /// The versions that take over from a component which shall be nowhere; none: nobody does.
    pub(crate) fn successors(&self, component: &ComponentName) -> &BTreeSet<ComponentName> {
        static NONE: BTreeSet<ComponentName> = BTreeSet::new();
        self.successors.get(component).unwrap_or(&NONE)
    }

    /// The nodes that shall have replicas of a component, and how many.
    #[cfg(test)]
    fn holders<'a>(
        &'a self,
        component: &ComponentName,
    ) -> impl Iterator<Item = (&'a NodeName, u32)> + use<'a> {
        let shares = self.of(component).into_iter().flat_map(|one| &one.shares);
        shares.filter_map(|(index, share)| Some((self.nodes.get(*index)?, *share)))
    }

    /// The nodes that have places of a component which others might have, and how many.
    pub(crate) fn movable<'a>(
        &'a self,
        component: &ComponentName,
    ) -> impl Iterator<Item = (&'a NodeName, u32)> + use<'a> {
        let placed = self.of(component).into_iter();
        let movable = placed.flat_map(|placed| &placed.movable);
        movable.filter_map(|(index, count)| Some((self.nodes.get(*index)?, *count)))
    }

    /// Places of a component that others might have, and nobody has: all that could are gone.
    pub(crate) fn homeless(&self, component: &ComponentName) -> u32 {
        self.of(component).map_or(0, |placed| placed.homeless)
    }

    /// The seats of a component with the nodes that hold them, and whether each is the node's own and
    /// not one for which it stands in. `None`: nothing can be awaited of it.
    pub(crate) fn seats<'a>(
        &'a self,
        component: &ComponentName,
    ) -> impl Iterator<Item = Option<(&'a NodeName, bool)>> + use<'a> {
        let seats = self.of(component).into_iter().flat_map(|one| &one.seats);
        seats.map(|seat| {
            let index = seat.holder.filter(|_| !seat.closed)?;
            Some((self.nodes.get(index)?, seat.base == index))
        })
    }

    /// How long the components that are placed wait at least for a node that is not reached.
    pub fn lost_after_ms_least(&self) -> Option<u64> {
        let placed = self.components.values().chain(self.lone.values());
        let each = placed.flat_map(|placed| &placed.lost_after_ms);
        each.min().copied()
    }

    /// Times after which a component gives up on a node, each once.
    pub fn lost_after_ms(&self) -> BTreeSet<u64> {
        let placed = self.components.values().chain(self.lone.values());
        let each = placed.flat_map(|placed| &placed.lost_after_ms);
        each.copied().collect()
    }

    fn index(&self, node: &NodeName) -> Option<usize> {
        self.nodes.binary_search(node).ok()
    }
}

/// What placing one component looks at.
struct Scene<'a> {
    nodes: &'a [NodeName],
    candidates: &'a [Candidate<'a>],
    /// The component's share of every rank.
    seed: u64,
    /// The authority head that was seen when the component came.
    since: Option<u64>,
    gone: &'a dyn Fn(&NodeName, u64) -> bool,
}

/// How many replicas each node and each zone have so far.
#[derive(Default)]
struct Taken<'a> {
    nodes: BTreeMap<usize, u32>,
    zones: BTreeMap<Option<&'a str>, u32>,
}

impl<'a> Scene<'a> {
    fn of(
        component: &ComponentName,
        desired: &Desired,
        nodes: &'a [NodeName],
        candidates: &'a [Candidate<'a>],
        gone: &'a dyn Fn(&NodeName, u64) -> bool,
    ) -> Self {
        Self {
            nodes,
            candidates,
            seed: seed(component.as_str().as_bytes()),
            since: desired.since(component),
            gone,
        }
    }

    /// Whether a node has places for the component. What came before the cordon has its place; a
    /// cordoned node takes no other.
    fn may_begin(&self, node: usize) -> bool {
        let node = self.candidates[node].approved;
        let came_before = |cordon| self.since.is_some_and(|since| since < cordon);
        !node.drained && node.cordoned.is_none_or(came_before)
    }

    fn placed(&self, groups: &[Group<'_>]) -> Placed {
        let seats: Vec<Vec<Seat>> = groups.iter().map(|group| self.seats(group)).collect();
        let shares = most(&seats, |_| true);
        let may_move = |seat: &Seat| !seat.pinned && !seat.closed;
        let movable = most(&seats, may_move);
        let homeless = seats.iter().map(|seats| {
            let of_list = seats.iter().filter(|seat| may_move(seat));
            of_list.filter(|seat| seat.holder.is_none()).count()
        });
        let homeless = homeless.max().and_then(|most| u32::try_from(most).ok());
        Placed {
            seats: union(seats),
            upkeep: groups.first().map(|group| group.upkeep).unwrap_or_default(),
            lost_after_ms: groups
                .iter()
                .map(|group| group.upkeep.lost_after_ms)
                .collect(),
            shares,
            movable,
            homeless: homeless.unwrap_or(0),
            order: Vec::new(),
            standby: groups.iter().find_map(|group| self.standby(group)),
        }
    }

    /// The one place of a singleton, on any node that some list wants it on.
    fn placed_once(&self, groups: &[Group<'_>]) -> Placed {
        let one = Group::of_one(groups);
        let rank = |node: &usize| {
            let candidate = &self.candidates[*node];
            let is_closed = !self.may_begin(*node);
            (is_closed, Reverse(rank(candidate.seed, self.seed, 0)))
        };
        let mut order: Vec<usize> = one.nodes.iter().copied().collect();
        order.sort_by_key(rank);
        Placed {
            order,
            ..self.placed(&[one])
        }
    }

    /// Who is next if the only node with replicas is lost.
    fn standby(&self, group: &Group<'_>) -> Option<usize> {
        let seats = self.seats(group);
        let mut holders: BTreeSet<usize> = seats.iter().filter_map(|seat| seat.holder).collect();
        let holder = holders.pop_first().filter(|_| holders.is_empty())?;
        if seats.iter().any(|seat| seat.pinned) {
            return None;
        }
        let lost_after_ms = group.upkeep.lost_after_ms;
        let others = group.nodes.iter().copied().filter(|node| {
            let approved = self.candidates[*node].approved;
            let is_there = !(self.gone)(&self.nodes[*node], lost_after_ms);
            let is_open = self.may_begin(*node) && approved.cordoned.is_none();
            *node != holder && is_open && is_there
        });
        others.max_by_key(|node| rank(self.candidates[*node].seed, self.seed, 0))
    }

    fn seats(&self, group: &Group<'_>) -> Vec<Seat> {
        let replicas = group.upkeep.replicas;
        if group.is_pinned() {
            let lost_after_ms = group.upkeep.lost_after_ms;
            let seats = |node: &usize| {
                let closed = !self.may_begin(*node);
                let is_gone = (self.gone)(&self.nodes[*node], lost_after_ms);
                let seat = Seat {
                    base: *node,
                    holder: (!is_gone).then_some(*node),
                    pinned: true,
                    closed,
                };
                std::iter::repeat_n(seat, replicas as usize)
            };
            return group.nodes.iter().flat_map(seats).collect();
        }
        let mut eligible: Vec<usize> = group.nodes.iter().copied().collect();
        let closed = !eligible.iter().any(|node| self.may_begin(*node));
        if !closed {
            eligible.retain(|node| self.may_begin(*node));
        }
        let mut taken = Taken::default();
        let bases: Vec<usize> = (0..replicas)
            .filter_map(|slot| self.take(&eligible, slot, &mut taken))
            .collect();
        let seats = self.stand_in(&bases, &eligible, group.upkeep.lost_after_ms);
        seats.map(|seat| Seat { closed, ..seat }).collect()
    }

    /// Finds others for the places of those that are gone.
    fn stand_in(
        &self,
        bases: &[usize],
        eligible: &[usize],
        lost_after_ms: u64,
    ) -> impl Iterator<Item = Seat> {
        let gone: BTreeSet<usize> = eligible
            .iter()
            .copied()
            .filter(|node| (self.gone)(&self.nodes[*node], lost_after_ms))
            .collect();
        let mut taken = Taken::default();
        for base in bases.iter().filter(|base| !gone.contains(base)) {
            taken.add(*base, self.candidates[*base].zone);
        }
        let there: Vec<usize> = eligible
            .iter()
            .copied()
            .filter(|node| {
                !gone.contains(node) && self.candidates[*node].approved.cordoned.is_none()
            })
            .collect();
        let numbered = (0u32..).zip(bases.iter().copied());
        numbered.map(move |(slot, base)| Seat {
            base,
            pinned: false,
            closed: false,
            holder: match gone.contains(&base) {
                true => self.take(&there, slot, &mut taken),
                false => Some(base),
            },
        })
    }

    /// The node for one replica: of the zones and nodes with the fewest so far the one that ranks it
    /// highest.
    fn take(&self, eligible: &[usize], slot: u32, taken: &mut Taken<'a>) -> Option<usize> {
        let order = |node: &usize| {
            let candidate = &self.candidates[*node];
            let (of_zone, of_node) = taken.of(*node, candidate.zone);
            let rank = rank(candidate.seed, self.seed, slot);
            (of_zone, of_node, Reverse(rank))
        };
        let node = eligible.iter().copied().min_by_key(order)?;
        taken.add(node, self.candidates[node].zone);
        Some(node)
    }
}

impl<'a> Taken<'a> {
    fn of(&self, node: usize, zone: Option<&'a str>) -> (u32, u32) {
        let of_zone = self.zones.get(&zone).copied().unwrap_or_default();
        (of_zone, self.nodes.get(&node).copied().unwrap_or_default())
    }

    fn add(&mut self, node: usize, zone: Option<&'a str>) {
        *self.nodes.entry(node).or_default() += 1;
        *self.zones.entry(zone).or_default() += 1;
    }
}

/// How many of those places each node has in the list that gives it most: what several lists want of one
/// node is the same replicas.
fn most(lists: &[Vec<Seat>], which: impl Fn(&Seat) -> bool) -> BTreeMap<usize, u32> {
    let mut most: BTreeMap<usize, u32> = BTreeMap::new();
    for seats in lists {
        let mut here: BTreeMap<usize, u32> = BTreeMap::new();
        for holder in seats
            .iter()
            .filter(|seat| which(seat))
            .filter_map(|seat| seat.holder)
        {
            *here.entry(holder).or_default() += 1;
        }
        for (node, count) in here {
            let share = most.entry(node).or_default();
            *share = count.max(*share);
        }
    }
    most
}

/// The seats of several lists as one list: of each base node as many as the list has that wants most of it.
/// Those that others have while it is gone come before those that are nowhere then: nobody would wait for them,
/// and who has them would go by no turn.
fn union(mut groups: Vec<Vec<Seat>>) -> Vec<Seat> {
    if groups.len() <= 1 {
        return groups.pop().unwrap_or_default();
    }
    let mut by_base: BTreeMap<usize, Vec<Seat>> = BTreeMap::new();
    for seats in groups {
        let mut of_group: BTreeMap<usize, Vec<Seat>> = BTreeMap::new();
        for seat in seats {
            of_group.entry(seat.base).or_default().push(seat);
        }
        for (base, seats) in of_group {
            let all = by_base.entry(base).or_default();
            for (index, seat) in seats.into_iter().enumerate() {
                match all.get_mut(index) {
                    Some(one) if one.pinned && !seat.pinned => *one = seat,
                    Some(_) => {}
                    None => all.push(seat),
                }
            }
        }
    }
    by_base.into_values().flatten().collect()
}

fn candidates<'a>(manifest: &'a Manifest, authority: &'a Authority) -> Vec<Candidate<'a>> {
    let nodes = authority.nodes.iter();
    nodes
        .map(|(name, approved)| Candidate {
            approved,
            seed: seed_of(&approved.key),
            zone: tags(name, Some(approved), manifest)
                .find_map(|tag| tag.strip_prefix(ZONE_PREFIX)),
        })
        .collect()
}

/// The tags of a node: those that the owners vouched for, then those of the manifest.
pub(crate) fn tags<'a>(
    name: &NodeName,
    approved: Option<&'a ApprovedNode>,
    manifest: &'a Manifest,
) -> impl Iterator<Item = &'a str> {
    let written = manifest.nodes.get(name).map(|node| &node.tags);
    let vouched = approved.map(|node| &node.tags);
    let tags = vouched.into_iter().chain(written).flatten();
    tags.map(String::as_str)
}

/// How high a node ranks a replica: the greatest has it. All weights are equal, so that the hash itself
/// decides and no logarithm, which two machines may round differently.
fn rank(node: u64, component: u64, slot: u32) -> u64 {
    mix(mix(node ^ component) ^ u64::from(slot))
}

fn seed_of(key: &PublicKey) -> u64 {
    seed(key.as_bytes())
}

/// The first 64 bits of the SHA-256 of the version and these bytes.
fn seed(bytes: &[u8]) -> u64 {
    let digest = Digest::of(&[RANKS, &[0], bytes].concat());
    let first = digest.as_bytes().first_chunk().copied();
    u64::from_le_bytes(first.unwrap_or_default())
}

/// The finalizer of splitmix64: every bit of the input changes half of those of the output.
const fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
