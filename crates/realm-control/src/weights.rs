//! How the requests of an app are divided between its versions, and were before; which versions answered a
//! route before. Not which replica gets a request: that is the edge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::entry::WeighBody;
use realm_model::manifest::Manifest;
use realm_model::name::ComponentName;
use realm_model::route::{HostPattern, PathPattern};

/// Divisions of one app that are remembered: to go back is to go one or two steps back.
const DIVISIONS_MAX: usize = 8;
/// Former versions of one route: more than a few run only where everything went wrong for long.
const FORMER_MAX: usize = 16;

/// How the requests of one app are divided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weights {
    /// The newest last.
    divisions: Vec<Division>,
    /// Whether an entry of its own said so, and not the manifest.
    decided: bool,
}

/// One division, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    /// The entry that brought it.
    pub entry: u64,
    /// Version → how many requests of all together.
    pub weights: BTreeMap<ComponentName, u32>,
}

impl Division {
    /// Whether one version has every request.
    fn is_whole(&self) -> bool {
        self.weights.values().filter(|weight| **weight > 0).count() == 1
    }
}

impl Weights {
    /// What it was at each time, the newest last.
    pub fn divisions(&self) -> &[Division] {
        &self.divisions
    }

    pub(crate) fn set(&mut self, body: &WeighBody, entry: u64) {
        let weights = body.weights.iter();
        let weights = weights.map(|one| (one.component.clone(), one.weight));
        self.push(entry, weights.collect());
        self.decided = true;
    }

    fn push(&mut self, entry: u64, weights: BTreeMap<ComponentName, u32>) {
        self.divisions.push(Division { entry, weights });
        if self.divisions.len() > DIVISIONS_MAX {
            // What one version had alone is what `realm abort` goes back to.
            let whole = self.divisions.iter().rposition(Division::is_whole);
            self.divisions.remove(usize::from(whole == Some(0)));
        }
    }
}

/// The same after another manifest: where that says of an app what the last one said, what was decided
/// since holds on, so that who applies a change of something else does not send requests back.
pub(crate) fn follow(
    mut known: BTreeMap<ComponentName, Weights>,
    before: Option<&Manifest>,
    manifest: &Manifest,
    entry: u64,
) -> BTreeMap<ComponentName, Weights> {
    let written = written(manifest);
    let before = before.map(self::written).unwrap_or_default();
    known.retain(|app, _| written.contains_key(app));
    for (app, division) in written {
        let of_app = known.entry(app.clone()).or_default();
        if before.get(app) != Some(&division) {
            of_app.decided = false;
            of_app.push(entry, division.clone());
        }
    }
    known
}

/// A manifest with what was decided since, and with who answered before.
pub(crate) fn applied(
    manifest: &Arc<Manifest>,
    known: &BTreeMap<ComponentName, Weights>,
    former: &Former,
) -> Arc<Manifest> {
    let decided: BTreeMap<&ComponentName, &Division> = known
        .iter()
        .filter(|(_, weights)| weights.decided)
        .filter_map(|(app, weights)| Some((app, weights.divisions.last()?)))
        .collect();
    if decided.is_empty() && former.is_empty() {
        return Arc::clone(manifest);
    }
    // Who has a route of its own is not taken for another one's.
    let routes = manifest.routing.values().flatten();
    let routed: BTreeSet<ComponentName> = routes
        .flat_map(|route| route.answering())
        .cloned()
        .collect();
    let mut manifest = Manifest::clone(manifest);
    for route in manifest.routing.values_mut().flatten() {
        let address = (route.host.clone(), route.path.clone());
        let earlier = former.get(&address).into_iter().flatten();
        let unrouted = earlier.filter(|name| !routed.contains(name));
        let of_app = unrouted.filter(|name| name.app() == route.component.app());
        route.former = of_app.cloned().collect();
        let Some(division) = decided.get(&route.component) else {
            continue;
        };
        for (version, weight) in &mut route.weights {
            *weight = division.weights.get(version).copied().unwrap_or_default();
        }
    }
    Arc::new(manifest)
}

/// Host and path of a route.
pub(crate) type Address = (Option<HostPattern>, PathPattern);

/// Route → versions of its app that answered it before.
pub(crate) type Former = BTreeMap<Address, BTreeSet<ComponentName>>;

/// Former versions by route, after another manifest than the last.
pub(crate) fn former(known: &Former, before: Option<&Manifest>, manifest: &Manifest) -> Former {
    let Some(before) = before else {
        return Former::new();
    };
    let mut former = Former::new();
    let answered = answering(before);
    for (address, now) in answering(manifest) {
        let apps: BTreeSet<&str> = now.iter().map(|name| name.app()).collect();
        let address = (address.0.clone(), address.1.clone());
        let earlier = known.get(&address).into_iter().flatten();
        let last = answered
            .get(&(&address.0, &address.1))
            .into_iter()
            .flatten();
        let of_app = last.copied().chain(earlier);
        let of_app = of_app.filter(|name| apps.contains(name.app()) && !now.contains(name));
        let of_app: BTreeSet<ComponentName> = of_app.take(FORMER_MAX).cloned().collect();
        if !of_app.is_empty() {
            former.insert(address, of_app);
        }
    }
    former
}

/// Who answers each route.
fn answering(
    manifest: &Manifest,
) -> BTreeMap<(&Option<HostPattern>, &PathPattern), BTreeSet<&ComponentName>> {
    let mut answering: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for route in manifest.routing.values().flatten() {
        let names = answering.entry((&route.host, &route.path)).or_default();
        names.extend(route.answering());
    }
    answering
}

/// Former version → those that take over from it.
pub(crate) fn successors<'a>(
    parts: impl Iterator<Item = &'a Manifest>,
) -> BTreeMap<ComponentName, BTreeSet<ComponentName>> {
    let mut successors: BTreeMap<ComponentName, BTreeSet<ComponentName>> = BTreeMap::new();
    for route in parts.flat_map(|part| part.routing.values().flatten()) {
        let weight = |name| route.weights.get(name).copied().unwrap_or(1);
        for version in &route.former {
            let of_version = successors.entry(version.clone()).or_default();
            let heavy = route.answering().filter(|name| weight(*name) > 0);
            of_version.extend(heavy.cloned());
        }
    }
    successors
}

/// App → the division that its routes in a manifest say: all of them the same.
type Written<'m> = BTreeMap<&'m ComponentName, &'m BTreeMap<ComponentName, u32>>;

fn written(manifest: &Manifest) -> Written<'_> {
    let mut written = Written::new();
    for route in manifest.routing.values().flatten() {
        if !route.weights.is_empty() {
            written.insert(&route.component, &route.weights);
        }
    }
    written
}
