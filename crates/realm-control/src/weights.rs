//! How the requests of an app are divided between its versions, and were before. Not which replica gets
//! one: that is the edge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::entry::WeighBody;
use realm_model::manifest::Manifest;
use realm_model::name::ComponentName;

/// Divisions of one app that are remembered: to go back is to go one or two steps back.
const DIVISIONS_MAX: usize = 8;

/// How the requests of one app are divided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weights {
    /// The newest last.
    divisions: Vec<Division>,
    /// Whether an entry of its own said so, and not the manifest.
    decided: bool,
    /// Whether one component answers for the app again.
    ended: bool,
}

/// One division, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    /// The entry that brought it.
    pub entry: u64,
    /// Version → how many requests of all together.
    pub weights: BTreeMap<ComponentName, u32>,
}

impl Weights {
    /// What it was at each time, the newest last.
    pub fn divisions(&self) -> &[Division] {
        &self.divisions
    }

    /// Whether one component answers for the app again.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
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
            self.divisions.remove(0);
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
    known.retain(|app, _| written.contains_key(app) || manifest.components.contains_key(app));
    for (app, weights) in &mut known {
        weights.ended = !written.contains_key(app);
        weights.decided &= !weights.ended;
    }
    for (app, divisions) in written {
        let of_app = known.entry(app.clone()).or_default();
        let is_same = before.get(app) == Some(&divisions);
        if let Some(first) = divisions.into_iter().next()
            && !is_same
        {
            of_app.decided = false;
            of_app.push(entry, first.clone());
        }
    }
    known
}

/// A manifest with what was decided since.
pub(crate) fn applied(
    manifest: &Arc<Manifest>,
    known: &BTreeMap<ComponentName, Weights>,
) -> Arc<Manifest> {
    let decided: BTreeMap<&ComponentName, &Division> = known
        .iter()
        .filter(|(_, weights)| weights.decided)
        .filter_map(|(app, weights)| Some((app, weights.divisions.last()?)))
        .collect();
    if decided.is_empty() {
        return Arc::clone(manifest);
    }
    let mut manifest = Manifest::clone(manifest);
    for route in manifest.routing.values_mut().flatten() {
        let Some(division) = decided.get(&route.component) else {
            continue;
        };
        for (version, weight) in &mut route.weights {
            *weight = division.weights.get(version).copied().unwrap_or_default();
        }
    }
    Arc::new(manifest)
}

/// Versions between which requests were divided, or what answered before, and to which no route leads any
/// longer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Former {
    /// App → such versions of it.
    of_apps: BTreeMap<ComponentName, Vec<ComponentName>>,
    /// Version → those that take over from it.
    successors: BTreeMap<ComponentName, Vec<ComponentName>>,
}

impl Former {
    /// Of all namespaces, by what their manifests say now.
    pub(crate) fn of_all<'a>(
        divided: impl Iterator<Item = (&'a ComponentName, &'a Weights)>,
        parts: &[Arc<Manifest>],
    ) -> Self {
        let mut of_apps: BTreeMap<&ComponentName, BTreeSet<&ComponentName>> = BTreeMap::new();
        for (app, weights) in divided {
            let versions = weights.divisions.iter().flat_map(|one| one.weights.keys());
            let of_app = of_apps.entry(app).or_default();
            // What answered before there were versions.
            of_app.insert(app);
            // What another namespace divides under the same name is none of ours.
            of_app.extend(versions.filter(|version| version.app() == app.as_str()));
        }
        if of_apps.is_empty() {
            return Self::default();
        }
        let routes = || {
            parts
                .iter()
                .flat_map(|part| part.routing.values().flatten())
        };
        let routed: BTreeSet<&ComponentName> =
            routes().flat_map(|route| route.answering()).collect();
        let mut heavy: BTreeMap<&ComponentName, BTreeSet<&ComponentName>> = BTreeMap::new();
        for route in routes().filter(|route| of_apps.contains_key(&route.component)) {
            let of_app = heavy.entry(&route.component).or_default();
            let weight = |name| route.weights.get(name).copied().unwrap_or(1);
            of_app.extend(route.answering().filter(|name| weight(*name) > 0));
        }
        let mut former = Self::default();
        for (app, versions) in of_apps {
            let Some(heavy) = heavy.get(app) else {
                continue;
            };
            let gone = versions.into_iter().filter(|one| !routed.contains(one));
            let gone: Vec<ComponentName> = gone.cloned().collect();
            for version in &gone {
                let heavy = heavy.iter().copied().cloned().collect();
                former.successors.insert(version.clone(), heavy);
            }
            if !gone.is_empty() {
                former.of_apps.insert(app.clone(), gone);
            }
        }
        former
    }

    /// Such versions of an app.
    pub(crate) fn of(&self, app: &ComponentName) -> &[ComponentName] {
        self.of_apps.get(app).map_or(&[], Vec::as_slice)
    }

    /// The versions that take over from one; empty: it is none of these.
    pub(crate) fn successors(&self, version: &ComponentName) -> &[ComponentName] {
        self.successors.get(version).map_or(&[], Vec::as_slice)
    }
}

/// App → the divisions that routes of a manifest say.
type Written<'m> = BTreeMap<&'m ComponentName, BTreeSet<&'m BTreeMap<ComponentName, u32>>>;

fn written(manifest: &Manifest) -> Written<'_> {
    let mut written = Written::new();
    for route in manifest.routing.values().flatten() {
        if !route.weights.is_empty() {
            written
                .entry(&route.component)
                .or_default()
                .insert(&route.weights);
        }
    }
    written
}
