//! Who owns a path: one component, or several versions between which its requests are divided.

use std::sync::Arc;

use realm_model::front::Rule;

use super::{Group, random_below};
use crate::backend::Backend;
use crate::gate::Gate;

/// Who owns a path.
#[derive(Clone)]
pub(crate) enum Owner {
    /// One component.
    Alone(Arc<Group>),
    /// Versions of an app.
    Divided(Arc<Divided>),
}

/// Versions of one app, each with its weight.
pub(crate) struct Divided {
    /// Those with weight 0 answer when no other can.
    pub(super) members: Vec<(u32, Arc<Group>)>,
}

/// Who answers one request.
pub(crate) struct Target {
    pub(crate) group: Arc<Group>,
    /// Whose other versions could.
    divided: Option<Arc<Divided>>,
}

impl Owner {
    /// Chooses who answers.
    pub(crate) fn choose(&self) -> Target {
        match self {
            Self::Alone(group) => Target {
                group: Arc::clone(group),
                divided: None,
            },
            Self::Divided(divided) => Target {
                group: Arc::clone(divided.choose()),
                divided: Some(Arc::clone(divided)),
            },
        }
    }

    /// Whether both are the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Alone(one), Self::Alone(other)) => Arc::ptr_eq(one, other),
            (Self::Divided(one), Self::Divided(other)) => one.is(other),
            (Self::Alone(_), Self::Divided(_)) | (Self::Divided(_), Self::Alone(_)) => false,
        }
    }
}

impl Target {
    /// Whether a request that one replica never took could go to another.
    pub(crate) fn has_several(&self) -> bool {
        self.group.has_several() || self.beside().next().is_some()
    }

    /// Another replica than those that were `tried`, and whose it is: of the same version, if there is one.
    pub(crate) fn pick_other(
        &self,
        tried: &[&Arc<dyn Backend>],
    ) -> Option<(&Arc<Group>, &Arc<dyn Backend>)> {
        let same = self.group.pick_other(tried);
        same.map(|replica| (&self.group, replica)).or_else(|| {
            let mut beside = self.beside();
            beside.find_map(|group| Some((group, group.pick_other(tried)?)))
        })
    }

    /// Other versions that have replicas, the heaviest first; not those with other rules, which this request
    /// was not held against.
    fn beside(&self) -> impl Iterator<Item = &Arc<Group>> {
        let members = self.divided.iter().flat_map(|divided| &divided.members);
        members
            .map(|(_, group)| group)
            .filter(|group| !Arc::ptr_eq(group, &self.group) && group.has_any())
            .filter(|group| rules(group) == rules(&self.group))
    }
}

fn rules(group: &Group) -> &[Rule] {
    group.gate.as_ref().map_or(&[], Gate::rules)
}

impl Divided {
    /// The heaviest first.
    pub(super) fn new(mut members: Vec<(u32, Arc<Group>)>) -> Self {
        members.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        Self { members }
    }

    /// Whether both lead to the same versions in the same measure.
    fn is(&self, other: &Self) -> bool {
        let pairs = self.members.iter().zip(&other.members);
        let mut same = pairs.map(|((weight, group), (of_other, other))| {
            weight == of_other && Arc::ptr_eq(group, other)
        });
        self.members.len() == other.members.len() && same.all(|same| same)
    }

    /// A version by weight, of those that have replicas; the heaviest if none has.
    fn choose(&self) -> &Arc<Group> {
        let able = || self.members.iter().filter(|(_, group)| group.has_any());
        let all: usize = able().map(|(weight, _)| *weight as usize).sum();
        let mut left = random_below(all.max(1));
        let chosen = able().find(|(weight, _)| {
            let is_chosen = left < *weight as usize;
            left = left.saturating_sub(*weight as usize);
            is_chosen
        });
        let any = || able().next().or(self.members.first());
        let (_, group) = chosen.or_else(any).expect("a division has members");
        group
    }
}
