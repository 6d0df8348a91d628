//! The asks of all nodes as this one sees them: which are alive, and which comes first.

use realm_model::name::ComponentName;
use realm_model::observed::Millis;
use realm_model::record::{KeyBytes, LeaseAsk, LeaseState, Version};

use super::{Input, LIVE_MS, Leases, PATIENCE_MS};

/// A node's ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) nonce: Version,
    pub(super) state: LeaseState,
    pub(super) members: u64,
    /// When this nonce was seen for the first time.
    pub(super) news_at: Millis,
    /// Since when the node asks and holds nothing.
    pub(super) waits_since: Option<Millis>,
}

/// The order of asks, the first one first: who holds it, who has not asked for long in vain, and what
/// the owners signed. The key decides between equals.
pub(super) type Place = (bool, bool, u32, KeyBytes);

impl Seen {
    fn new(ask: &LeaseAsk, before: Option<&Self>, now: Millis) -> Self {
        let known = before.filter(|before| before.nonce == ask.nonce);
        let waits = before.and_then(|before| before.waits_since);
        Self {
            nonce: ask.nonce,
            state: ask.state,
            members: ask.members,
            news_at: known.map_or(now, |known| known.news_at),
            waits_since: (ask.state == LeaseState::Asks).then(|| waits.unwrap_or(now)),
        }
    }

    /// Whether its node is there and asks, and counts the same nodes as this one.
    pub(super) fn is_live(&self, members: u64, now: Millis) -> bool {
        let asks = match self.state {
            LeaseState::Asks | LeaseState::Holds => true,
            LeaseState::Released | LeaseState::Other => false,
        };
        asks && self.members == members && self.news_at.plus(LIVE_MS) > now
    }

    /// When what is said of it here changes by the time alone.
    pub(super) fn times(&self) -> impl Iterator<Item = Millis> {
        let patience = self.waits_since.map(|since| since.plus(PATIENCE_MS));
        [self.news_at.plus(LIVE_MS)].into_iter().chain(patience)
    }
}

impl Leases {
    /// Takes in what the other nodes ask for.
    pub(super) fn see(&mut self, input: &Input<'_>, now: Millis) {
        let before = std::mem::take(&mut self.seen);
        for (node, said) in input.said {
            if *node == input.own || !input.electorate.nodes.contains(node) {
                continue;
            }
            for ask in said.asks {
                let key = (ask.component.clone(), *node);
                let seen = Seen::new(ask, before.get(&key), now);
                self.seen.insert(key, seen);
            }
        }
    }

    /// The ask of a node for a singleton, if it is alive.
    pub(super) fn live(
        &self,
        input: &Input<'_>,
        component: &ComponentName,
        node: KeyBytes,
        now: Millis,
    ) -> Option<Seen> {
        let seen = match self.own.get(component).filter(|_| node == input.own) {
            Some(own) => own.as_seen(now)?,
            None => *self.seen.get(&(component.clone(), node))?,
        };
        let changes = input.electorate.changes;
        #[cfg(test)]
        let changes = match self.planted {
            Some(super::Planted::AnyMembers) => seen.members,
            Some(_) | None => changes,
        };
        let member = input.electorate.nodes.contains(&node);
        (member && seen.is_live(changes, now)).then_some(seen)
    }

    /// Which nodes ask for a singleton, in order.
    pub(super) fn line(
        &self,
        input: &Input<'_>,
        component: &ComponentName,
        now: Millis,
    ) -> Vec<(Place, Seen)> {
        let nodes = input.electorate.nodes.iter();
        let mut line: Vec<_> = nodes
            .filter_map(|node| {
                let seen = self.live(input, component, *node, now)?;
                Some((place(input, component, *node, &seen, now)?, seen))
            })
            .collect();
        line.sort_by_key(|(place, _)| *place);
        line
    }
}

/// The place of an ask in the order; `None`: it gets nothing.
pub(super) fn place(
    input: &Input<'_>,
    component: &ComponentName,
    node: KeyBytes,
    seen: &Seen,
    now: Millis,
) -> Option<Place> {
    let rank = (input.rank)(component, node)?;
    let in_vain = seen
        .waits_since
        .is_some_and(|since| since.plus(PATIENCE_MS) <= now);
    Some((seen.state != LeaseState::Holds, in_vain, rank, node))
}
