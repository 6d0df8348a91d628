//! The route table: from host and path to the replicas of a component, here and on other nodes, and
//! which of them to ask.
//!
//! It decides as `realm_model::route::Route::sort` orders, by hashing instead of scanning, so that
//! ten thousand routes cost as much as ten. Not which routes a node has.

mod divided;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use realm_model::name::ComponentName;
use realm_model::route::{HostPattern, PathPattern, Route};

use crate::backend::Backend;
use crate::far::Far;
use crate::gate::Gate;
use divided::Divided;
pub(crate) use divided::{Owner, Target};

/// Routes and the replicas behind them. Built whole, then swapped in.
#[derive(Default)]
pub struct Table {
    exact_hosts: HashMap<Box<str>, Paths>,
    /// Longest suffix first.
    host_suffixes: Vec<(HostPattern, Paths)>,
    any_host: Paths,
    groups: BTreeMap<ComponentName, Arc<Group>>,
}

/// The owner of a path.
#[derive(Clone, Copy)]
pub(crate) struct Found<'t> {
    pub(crate) owner: &'t Owner,
    /// Bytes of the path that the route names; the rest is below it.
    pub(crate) prefix_bytes: usize,
}

/// The replicas of one component.
pub(crate) struct Group {
    pub(crate) component: ComponentName,
    /// What is asked of requests before they are answered.
    pub(crate) gate: Option<Gate>,
    /// Here.
    replicas: Vec<Arc<dyn Backend>>,
    /// On other nodes.
    others: Vec<Other>,
}

/// One replica elsewhere, and the same as what is called.
struct Other {
    far: Arc<Far>,
    backend: Arc<dyn Backend>,
}

/// The paths of one host pattern.
#[derive(Default)]
struct Paths {
    exact: HashMap<Box<str>, Owner>,
    prefixes: HashMap<Box<str>, Owner>,
    /// The distinct lengths of `prefixes`, longest first: what bounds a look-up by the table and
    /// not by the slashes a client sends.
    prefix_lengths: Vec<usize>,
}

impl Table {
    /// Builds a table. A component without an entry in `backends` has no replica: its routes
    /// answer 503. Of two equal routes the first one counts.
    pub fn new(
        routes: Vec<Route>,
        backends: BTreeMap<ComponentName, Vec<Arc<dyn Backend>>>,
    ) -> Self {
        Self::with_others(routes, backends, BTreeMap::new(), BTreeMap::new())
    }

    /// [`Table::new`] where other nodes answer as well, and where components have gates
    /// ([`Handle::gates`](crate::Handle::gates)). Replicas here are asked first.
    pub fn with_others(
        routes: Vec<Route>,
        mut backends: BTreeMap<ComponentName, Vec<Arc<dyn Backend>>>,
        mut others: BTreeMap<ComponentName, Vec<Far>>,
        mut gates: BTreeMap<ComponentName, Gate>,
    ) -> Self {
        let mut groups: BTreeMap<ComponentName, Arc<Group>> = BTreeMap::new();
        let mut group = |component: ComponentName| {
            let group = groups.entry(component).or_insert_with_key(|component| {
                Arc::new(Group {
                    component: component.clone(),
                    gate: gates.remove(component),
                    replicas: backends.remove(component).unwrap_or_default(),
                    others: others
                        .remove(component)
                        .unwrap_or_default()
                        .into_iter()
                        .map(Other::new)
                        .collect(),
                })
            });
            Arc::clone(group)
        };
        let mut table = Self::default();
        for route in routes {
            let owner = if route.weights.is_empty() {
                Owner::Alone(group(route.component))
            } else {
                let members = route.weights.into_iter();
                let members = members.map(|(name, weight)| (weight, group(name)));
                Owner::Divided(Divided::new(members.collect()).into())
            };
            table.paths_mut(route.host).insert(route.path, owner);
        }
        table.groups = groups;
        table
            .host_suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.precedence()));
        table
    }

    /// A replica of a component on this node.
    pub(crate) fn here(&self, component: &ComponentName) -> Option<&Arc<dyn Backend>> {
        self.groups.get(component)?.pick_here()
    }

    /// The replicas of a component, wherever they are.
    pub(crate) fn group(&self, component: &ComponentName) -> Option<&Arc<Group>> {
        self.groups.get(component)
    }

    /// Who owns a path on a host. The host is normalised: lower case, no port.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Found<'_>> {
        self.exact_hosts
            .get(host)
            .and_then(|paths| paths.find(path))
            .or_else(|| {
                self.host_suffixes
                    .iter()
                    .filter(|(suffix, _)| suffix.matches(host))
                    .find_map(|(_, paths)| paths.find(path))
            })
            .or_else(|| self.any_host.find(path))
    }

    fn paths_mut(&mut self, host: Option<HostPattern>) -> &mut Paths {
        match host {
            None => &mut self.any_host,
            Some(HostPattern::Exact(host)) => {
                self.exact_hosts.entry(host.into_boxed_str()).or_default()
            }
            Some(suffix @ HostPattern::Below(_)) => {
                let found = self
                    .host_suffixes
                    .iter()
                    .position(|(known, _)| *known == suffix);
                let index = found.unwrap_or_else(|| {
                    self.host_suffixes.push((suffix, Paths::default()));
                    self.host_suffixes.len() - 1
                });
                &mut self.host_suffixes[index].1
            }
        }
    }
}

impl Paths {
    fn insert(&mut self, pattern: PathPattern, owner: Owner) {
        match pattern {
            PathPattern::Exact(path) => {
                self.exact.entry(path.into_boxed_str()).or_insert(owner);
            }
            PathPattern::Prefix(prefix) => {
                let length = prefix.len();
                self.prefixes
                    .entry(prefix.into_boxed_str())
                    .or_insert(owner);
                if let Err(at) = self
                    .prefix_lengths
                    .binary_search_by(|known| length.cmp(known))
                {
                    self.prefix_lengths.insert(at, length);
                }
            }
        }
    }

    fn find(&self, path: &str) -> Option<Found<'_>> {
        let found = |owner, prefix_bytes| Found {
            owner,
            prefix_bytes,
        };
        let exact = self.exact.get(path).map(|owner| found(owner, path.len()));
        exact.or_else(|| {
            self.prefix_lengths
                .iter()
                .filter(|&&length| match path.as_bytes().get(length) {
                    None => path.len() == length,
                    Some(&byte) => byte == b'/',
                })
                .find_map(|&length| Some(found(self.prefixes.get(&path[..length])?, length)))
        })
    }
}

impl Other {
    fn new(far: Far) -> Self {
        let far = Arc::new(far);
        Self {
            backend: Arc::clone(&far) as Arc<dyn Backend>,
            far,
        }
    }
}

impl Group {
    /// The replica to ask: one that is here, else one of the nearest node.
    pub(crate) fn pick(&self) -> Option<&Arc<dyn Backend>> {
        self.pick_here().or_else(|| self.pick_far(&[]))
    }

    /// The less loaded of two random ones. Reads no shared counter but the loads, so that cores do not
    /// fight over a cache line.
    fn pick_here(&self) -> Option<&Arc<dyn Backend>> {
        let count = self.replicas.len();
        match count {
            0 | 1 => self.replicas.first(),
            _ => {
                let first = random_below(count);
                let second = (first + 1 + random_below(count - 1)) % count;
                Some(self.less_loaded(first, second))
            }
        }
    }

    /// The less loaded of two random ones among those of the first rank: nodes that answer before
    /// nodes that do not, near ones before far ones.
    fn pick_far(&self, tried: &[&Arc<dyn Backend>]) -> Option<&Arc<dyn Backend>> {
        let others = || {
            let others = self.others.iter();
            others.filter(|other| !is_among(tried, &other.backend))
        };
        let rank = others().map(|other| other.far.rank()).min()?;
        let equal = || others().filter(|other| other.far.rank() == rank);
        // What a rank is may change between two looks.
        let count = equal().count().max(1);
        let first = random_below(count);
        let second = (first + 1 + random_below(count.saturating_sub(1).max(1))) % count;
        let at = |index| equal().nth(index).or_else(|| others().next());
        let (first, second) = (at(first)?, at(second)?);
        match second.backend.load() < first.backend.load() {
            true => Some(&second.backend),
            false => Some(&first.backend),
        }
    }

    /// Another replica than those that were `tried`, so it may scan: the least loaded one here if it
    /// has less to do than the last of them, else one of another node: where the better of two had no
    /// room, none here may have any.
    pub(crate) fn pick_other(&self, tried: &[&Arc<dyn Backend>]) -> Option<&Arc<dyn Backend>> {
        let others = self.replicas.iter();
        let here = others
            .filter(|replica| !is_among(tried, replica))
            .min_by_key(|replica| replica.load());
        let last = tried.last();
        let is_freer = here.is_some_and(|here| last.is_none_or(|last| here.load() < last.load()));
        match is_freer || self.others.is_empty() {
            true => here,
            false => self.pick_far(tried).or(here),
        }
    }

    /// Whether there is a replica, here or elsewhere.
    fn has_any(&self) -> bool {
        !self.replicas.is_empty() || !self.others.is_empty()
    }

    /// Whether a request that one replica never took could go to another.
    fn has_several(&self) -> bool {
        self.replicas.len() + self.others.len() > 1
    }

    fn less_loaded(&self, first: usize, second: usize) -> &Arc<dyn Backend> {
        let (first, second) = (&self.replicas[first], &self.replicas[second]);
        if second.load() < first.load() {
            second
        } else {
            first
        }
    }
}

fn is_among(some: &[&Arc<dyn Backend>], one: &Arc<dyn Backend>) -> bool {
    some.iter().any(|other| Arc::ptr_eq(other, one))
}

/// A number below `limit` from a generator per thread: balancing needs spread, not secrecy.
pub(crate) fn random_below(limit: usize) -> usize {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0_u8) | 1);
    }
    STATE.with(|state| {
        // xorshift64: three shifts, period 2^64 - 1, never zero.
        let mut bits = state.get();
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        state.set(bits);
        // The high half of a product spreads evenly over any limit.
        usize::try_from((u128::from(bits) * limit as u128) >> 64).expect("it is below a usize")
    })
}

#[cfg(test)]
mod tests;
