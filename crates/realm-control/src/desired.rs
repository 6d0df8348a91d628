//! What shall run in the realm: all namespaces together. Where two want one name, the earlier namespace
//! has it: the owners' own first, then by name. Not where things run: that is `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::entry::{Head, NamespaceName};
use realm_model::lock::{Lock, Pin};
use realm_model::manifest::{ComponentSpec, Manifest};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::Revision;
use realm_model::sealing::Sealed;

use crate::namespace::NamespaceState;
use crate::weights::{self, Weights};

/// What the realm shall run. `version`, `head` and the texts are those of the owners' namespace;
/// `manifest` and `lock` are of all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The version in force; 0: nothing was applied yet.
    pub version: u64,
    /// The last entry of the namespace chain.
    pub head: Head,
    /// Everything that is wanted.
    pub manifest: Option<Arc<Manifest>>,
    /// The text of the owners' manifest, byte for byte.
    pub manifest_text: Option<Arc<str>>,
    /// The pins of everything that is wanted.
    pub lock: Arc<Lock>,
    /// The text of the owners' lock, byte for byte.
    pub lock_text: Option<Arc<str>>,
    /// Each namespace as its chain says, the owners' first.
    pub namespaces: BTreeMap<NamespaceName, NamespaceState>,
    /// What each namespace wants and gets, in order of precedence.
    parts: Vec<Arc<Manifest>>,
    /// Former version → those that take over from it.
    successors: BTreeMap<ComponentName, BTreeSet<ComponentName>>,
}

impl Desired {
    /// Nothing, before the first entry.
    pub(crate) fn nothing(origin: Head) -> Self {
        let mut desired = Self {
            version: 0,
            head: origin,
            manifest: None,
            manifest_text: None,
            lock: Arc::default(),
            lock_text: None,
            namespaces: BTreeMap::new(),
            parts: Vec::new(),
            successors: BTreeMap::new(),
        };
        desired.set(NamespaceName::DEFAULT, NamespaceState::nothing(origin));
        desired
    }

    /// Puts a namespace into force as it stands.
    pub(crate) fn set(&mut self, name: NamespaceName, state: NamespaceState) {
        self.namespaces.insert(name, state);
        self.merge();
    }

    /// What would be wanted with another manifest in a namespace, after this authority entry.
    #[must_use]
    pub fn with(
        &self,
        name: NamespaceName,
        mut manifest: Manifest,
        lock: Lock,
        authority_seq: u64,
    ) -> Self {
        manifest.belong_to(name);
        let mut desired = self.clone();
        let state = desired.namespaces.remove(&name);
        let mut state = state.unwrap_or_else(|| NamespaceState::nothing(self.head));
        let next = Head {
            seq: state.head.seq + 1,
            ..state.head
        };
        // Nobody reads the texts of what is not in force.
        state.set_manifest(Arc::new(manifest), Arc::from(""), authority_seq, next.seq);
        state.set_lock(lock, Arc::from(""), next);
        desired.set(name, state);
        desired
    }

    /// Takes a namespace out to change it. What is merged is as it was until [`Desired::set`].
    pub(crate) fn take(&mut self, name: NamespaceName) -> NamespaceState {
        self.namespaces
            .remove(&name)
            .expect("it is put back at once")
    }

    /// Raised by every entry of any namespace that takes effect.
    pub fn generation(&self) -> u64 {
        self.namespaces.values().map(|state| state.head.seq).sum()
    }

    /// What each namespace wants and gets, in order of precedence: on one node, of two routes of one
    /// host and path that of the earlier one counts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Manifest> {
        self.parts.iter().map(|part| &**part)
    }

    /// The namespace that has the component.
    pub fn namespace_of(&self, component: &ComponentName) -> Option<NamespaceName> {
        let mut namespaces = self.namespaces.iter();
        namespaces
            .find(|(_, state)| state.has(component))
            .map(|(name, _)| *name)
    }

    /// Namespaces that want the component and do not get it, because an earlier one has the name.
    pub fn displaced(&self, component: &ComponentName) -> impl Iterator<Item = NamespaceName> {
        let namespaces = self.namespaces.iter();
        namespaces
            .filter(|(_, state)| state.has(component))
            .skip(1)
            .map(|(name, _)| *name)
    }

    /// How often `component` was restarted on `node`.
    pub fn restarts_on(&self, component: &ComponentName, node: &NodeName) -> u64 {
        let state = self.state_of(component);
        state.map_or(0, |state| state.restarts_on(component, node))
    }

    /// The revision of `component` that shall run on `node`; `None` if it is not in the manifest.
    pub fn revision_of(&self, component: &ComponentName, node: &NodeName) -> Option<Revision> {
        let state = self.state_of(component)?;
        let revision = state.revision_of(component, node);
        revision.filter(|_| state.has(component))
    }

    /// The version that brought a revision of `component` that `node` runs; `None` if that was
    /// too long ago.
    pub fn version_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> Option<u64> {
        let state = self.state_of(component)?;
        state.version_of(component, node, revision)
    }

    /// What a revision of `component` runs with on `node`; `None` if that was too long ago. So an
    /// older version that still serves can be started again.
    pub fn settings_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> Option<(&ComponentSpec, Pin)> {
        let state = self.state_of(component)?;
        state.settings_of(component, node, revision)
    }

    /// The secrets that a revision of `component` may open on `node`, sealed; `None` if that was too long
    /// ago.
    pub fn secrets_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> Option<&BTreeMap<String, Sealed>> {
        let state = self.state_of(component)?;
        state.secrets_of(component, node, revision)
    }

    /// Every sealed secret that a component of the realm may open, or could before, with its name.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &Sealed)> {
        self.namespaces.values().flat_map(NamespaceState::secrets)
    }

    /// Orders revisions of `component` on `node` by when they were wanted last: 0 is the one
    /// that is wanted, and one that is forgotten is older than all.
    pub(crate) fn age_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> usize {
        let state = self.state_of(component);
        state.map_or(usize::MAX, |state| state.age_of(component, node, revision))
    }

    /// The namespace of `component`, and the entry that last made it another revision on some node.
    pub(crate) fn edition(&self, component: &ComponentName) -> Option<(NamespaceName, u64)> {
        let mut namespaces = self.namespaces.iter();
        let (name, state) = namespaces.find(|(_, state)| state.has(component))?;
        Some((*name, state.edition(component)))
    }

    /// What `component` ran with before the settings that are wanted, with the entry and the revision on `node`: the last
    /// that did not come by an entry in `failed`.
    pub(crate) fn before(
        &self,
        component: &ComponentName,
        node: &NodeName,
        failed: &BTreeSet<u64>,
    ) -> Option<(u64, Revision, &ComponentSpec, Pin)> {
        self.state_of(component)?.before(component, node, failed)
    }

    /// Whether an entry is one of those that brought what is remembered of `component`.
    pub(crate) fn brought(&self, component: &ComponentName, entry: u64) -> bool {
        let state = self.state_of(component);
        state.is_some_and(|state| state.brought(component, entry))
    }

    /// The version that brought the settings of `component`, and their revision without restarts.
    pub(crate) fn settings(&self, component: &ComponentName) -> Option<(u64, Revision)> {
        self.state_of(component)?.settings(component)
    }

    /// The version of `component` that an entry left in force; `None` if that was too long ago.
    pub(crate) fn version_at(&self, component: &ComponentName, entry: u64) -> Option<u64> {
        self.state_of(component)?.version_at(component, entry)
    }

    /// The digest of the bytes of `component`; `None` for one that has none.
    pub fn digest(&self, component: &ComponentName) -> Option<Digest> {
        let manifest = self.manifest.as_deref()?;
        let spec = manifest.components.get(component)?;
        let has_bytes = spec.upstream().is_none();
        self.pin(component)
            .filter(|_| has_bytes)
            .map(|pin| pin.digest)
    }

    /// The pin of `component`.
    pub fn pin(&self, component: &ComponentName) -> Option<Pin> {
        self.state_of(component)?.pin(component)
    }

    /// Whether `component` runs on one node at a time, which holds the lease for it.
    pub fn is_singleton(&self, component: &ComponentName) -> bool {
        let manifest = self.manifest.as_deref();
        let spec = manifest.and_then(|manifest| manifest.components.get(component));
        let former = || Some(self.state_of(component)?.last_settings(component)?.0);
        spec.or_else(former).is_some_and(|spec| spec.singleton)
    }

    /// The authority head that was seen when the component came.
    pub(crate) fn since(&self, component: &ComponentName) -> Option<u64> {
        self.state_of(component)?.since(component)
    }

    /// How the requests of an app are divided, and were before, by the first namespace that divides them.
    pub fn weights(&self, app: &ComponentName) -> Option<&Weights> {
        let mut states = self.namespaces.values();
        states.find_map(|state| state.weights(app))
    }

    /// The versions that take over from former ones.
    pub(crate) const fn successors(&self) -> &BTreeMap<ComponentName, BTreeSet<ComponentName>> {
        &self.successors
    }

    /// The namespace that has the component; of what none has any more, the one that knows what it was.
    fn state_of(&self, component: &ComponentName) -> Option<&NamespaceState> {
        let mut states = self.namespaces.values();
        let has = states.find(|state| state.has(component));
        let mut states = self.namespaces.values();
        has.or_else(|| states.find(|state| state.is_former(component)))
    }

    fn merge(&mut self) {
        self.merge_manifests();
        self.successors = weights::successors(self.parts());
    }

    fn merge_manifests(&mut self) {
        if let Some(own) = self.namespaces.get(&NamespaceName::DEFAULT) {
            self.version = own.version;
            self.head = own.head;
            self.manifest_text = own.manifest_text.clone();
            self.lock_text = own.lock_text.clone();
        }
        let mut states = self
            .namespaces
            .values()
            .filter(|state| state.manifest.is_some());
        let (first, more) = (states.next(), states.next().is_some());
        // Nearly every realm has one: a node of thousands of components holds it once.
        if let (Some(only), false) = (first, more) {
            self.manifest = only.manifest.clone();
            self.lock = Arc::clone(&only.lock);
            self.parts = self.manifest.iter().cloned().collect();
            return;
        }
        let parts: Vec<Arc<Manifest>> = self
            .namespaces
            .iter()
            .filter_map(|(name, state)| Some(self.part(*name, state.manifest.as_ref()?)))
            .collect();
        self.manifest = union(&parts).map(Arc::new);
        self.lock = Arc::new(self.all_pins());
        self.parts = parts;
    }

    /// What a namespace wants, without the components whose names an earlier one has.
    fn part(&self, name: NamespaceName, manifest: &Arc<Manifest>) -> Arc<Manifest> {
        let gets = |component: &ComponentName| self.namespace_of(component) == Some(name);
        let is_foreign = |version: &ComponentName| {
            let of = self.namespace_of(version);
            of.is_some_and(|of| of != name)
        };
        let routes = manifest.routing.values().flatten();
        let mut former = routes.flat_map(|route| &route.former);
        if manifest.components.keys().all(gets) && !former.any(is_foreign) {
            return Arc::clone(manifest);
        }
        let mut part = Manifest::clone(manifest);
        part.components.retain(|component, _| gets(component));
        for routes in part.routing.values_mut() {
            routes.retain_mut(|route| {
                route.former.retain(|version| !is_foreign(version));
                if route.weights.is_empty() {
                    return gets(&route.component);
                }
                // Of versions between which it divides, those that are its own.
                route.weights.retain(|version, _| gets(version));
                route.weights.values().any(|weight| *weight > 0)
            });
        }
        Arc::new(part)
    }

    fn all_pins(&self) -> Lock {
        let mut lock = Lock {
            version: self.version,
            ..Lock::default()
        };
        for state in self.namespaces.values() {
            for (component, pin) in &state.lock.components {
                lock.components.entry(component.clone()).or_insert(*pin);
            }
        }
        lock
    }
}

/// Manifests that have no component in common, as one; what is the owners' alone (nodes, owner, version)
/// comes from the first that says it.
fn union(parts: &[Arc<Manifest>]) -> Option<Manifest> {
    let (first, rest) = parts.split_first()?;
    let mut all = Manifest::clone(first);
    for part in rest {
        let components = part.components.iter();
        all.components
            .extend(components.map(|(name, spec)| (name.clone(), spec.clone())));
        for (selector, routes) in &part.routing {
            let list = all.routing.entry(selector.clone()).or_default();
            list.extend(routes.iter().cloned());
        }
        for (name, node) in &part.nodes {
            all.nodes
                .entry(name.clone())
                .or_insert_with(|| node.clone());
        }
    }
    Some(all)
}
