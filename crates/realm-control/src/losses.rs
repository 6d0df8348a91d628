//! Which nodes are gone for long enough that others stand in for them, by the word of this node's own
//! clock: one that is away is gone after a while, and one that is back is there again after a while,
//! so that what flaps moves nothing. So many nodes at once count as gone in a minute, since more
//! than that is a fault of the view and not of the machines. Not a failure detector: who is not
//! reached is an argument.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use realm_model::name::NodeName;
use realm_model::observed::Millis;

/// The share of nodes that may begin to count as gone within [`PERIOD_MS`]: at least one.
const SHARE_PERCENT: usize = 10;
const PERIOD_MS: u64 = 60_000;

/// Absences of one node that are remembered.
const ABSENCES_MAX: usize = 8;
/// How long an absence is remembered after its end: as long as anything may wait for a node.
const REMEMBERED_MS: u64 = 86_400_000;

/// The absences of the other nodes.
#[derive(Debug, Clone, Default)]
pub struct Losses {
    nodes: BTreeMap<NodeName, VecDeque<Absence>>,
    /// When nodes began to count as gone, within the last period.
    counted: VecDeque<Millis>,
}

/// A time during which a node was not reached.
#[derive(Debug, Clone, Copy)]
struct Absence {
    since: Millis,
    until: Option<Millis>,
    /// Whether it was one of so many that count.
    counts: bool,
}

/// Since when a node is away, or back, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It has not been reached for so long.
    For(u64),
    /// It has been back for so long.
    Back(u64),
}

impl Losses {
    /// Notes who is not reached: `lost`, of so many approved nodes. `least_ms` is the shortest time
    /// that anything waits for a node.
    pub fn look(&mut self, lost: &BTreeSet<NodeName>, approved: usize, least_ms: u64, now: Millis) {
        for (node, absences) in &mut self.nodes {
            if let Some(last) = absences.back_mut()
                && last.until.is_none()
                && !lost.contains(node)
            {
                last.until = Some(now);
            }
            absences.retain(|absence| {
                let ended = absence.until;
                ended.is_none_or(|until| now.since(until) < REMEMBERED_MS)
            });
        }
        self.nodes.retain(|_, absences| !absences.is_empty());
        for node in lost {
            let absences = self.nodes.entry(node.clone()).or_default();
            if absences.back().is_none_or(|last| last.until.is_some()) {
                absences.push_back(Absence {
                    since: now,
                    until: None,
                    counts: false,
                });
            }
            if absences.len() > ABSENCES_MAX {
                absences.pop_front();
            }
        }
        self.count(approved, least_ms, now);
    }

    /// Lets absences count, the longest first, as many as may.
    fn count(&mut self, approved: usize, least_ms: u64, now: Millis) {
        while self
            .counted
            .front()
            .is_some_and(|at| now.since(*at) >= PERIOD_MS)
        {
            self.counted.pop_front();
        }
        let at_once = (approved * SHARE_PERCENT).div_ceil(100).max(1);
        let mut waiting: Vec<(Millis, &mut Absence)> = self
            .nodes
            .values_mut()
            .filter_map(VecDeque::back_mut)
            .filter(|absence| {
                !absence.counts && absence.until.is_none() && now.since(absence.since) >= least_ms
            })
            .map(|absence| (absence.since, absence))
            .collect();
        waiting.sort_by_key(|(since, _)| *since);
        let room = at_once.saturating_sub(self.counted.len());
        for (_, absence) in waiting.into_iter().take(room) {
            absence.counts = true;
            self.counted.push_back(now);
        }
    }

    /// The last absence of a node that is remembered.
    pub fn away(&self, node: &NodeName, now: Millis) -> Option<Away> {
        let last = self.nodes.get(node)?.back()?;
        Some(match last.until {
            None => Away::For(now.since(last.since)),
            Some(until) => Away::Back(now.since(until)),
        })
    }

    /// Whether others stand in for a node where a component waits for it for `lost_after_ms`: it has
    /// been away for that long, and is not back for that long.
    pub fn is_gone(&self, node: &NodeName, lost_after_ms: u64, now: Millis) -> bool {
        let mut gone: Option<(Millis, Option<Millis>)> = None;
        for absence in self.nodes.get(node).into_iter().flatten() {
            let goes_on = gone.is_some_and(|(_, until)| until.is_none_or(|at| at > absence.since));
            // Who is gone already moves nothing more.
            if !absence.counts && !goes_on {
                continue;
            }
            let from = match goes_on {
                true => absence.since,
                false => absence.since.plus(lost_after_ms),
            };
            if absence.until.is_none_or(|until| until >= from) {
                let until = absence.until.map(|until| until.plus(lost_after_ms));
                let from = gone.filter(|_| goes_on).map_or(from, |(from, _)| from);
                gone = Some((from, until));
            }
        }
        gone.is_some_and(|(from, until)| from <= now && until.is_none_or(|until| until > now))
    }

    /// The next time at which an answer may change by itself, where components wait for so many
    /// milliseconds each.
    pub fn wake_at(&self, waits_ms: &BTreeSet<u64>, now: Millis) -> Option<Millis> {
        let mut times = Vec::new();
        for absence in self.nodes.values().flatten() {
            for wait_ms in waits_ms {
                times.push(absence.since.plus(*wait_ms));
                times.extend(absence.until.map(|until| until.plus(*wait_ms)));
            }
        }
        // One that could not count yet counts once there is room.
        let is_open = |absence: &Absence| !absence.counts && absence.until.is_none();
        if self.nodes.values().flatten().any(is_open) {
            times.extend(self.counted.front().map(|at| at.plus(PERIOD_MS)));
        }
        times.into_iter().filter(|time| *time > now).min()
    }
}
