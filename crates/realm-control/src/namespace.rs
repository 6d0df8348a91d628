//! One folded namespace chain: what its signers want to run. Not what follows where several
//! namespaces meet: that is `desired`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use realm_model::digest::Digest;
use realm_model::entry::{Head, RestartBody, WeighBody};
use realm_model::lock::{Lock, Pin};
use realm_model::manifest::{ComponentSpec, Manifest};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::Revision;
use realm_model::sealing::Sealed;

use crate::revision::{revision, settings_digest};
use crate::weights::{self, Former, Weights};

/// Settings that a component had before, and restarts, that are remembered: an old replica is at most a few steps behind.
const LINEAGE_MAX: usize = 8;

/// What one namespace shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceState {
    /// The version in force; 0: nothing was applied yet.
    pub version: u64,
    /// The last entry of the namespace chain.
    pub head: Head,
    /// The manifest in force: what was signed, with what was signed since about single components.
    pub manifest: Option<Arc<Manifest>>,
    /// The manifest as it was signed.
    signed: Option<Arc<Manifest>>,
    /// Its text, byte for byte.
    pub manifest_text: Option<Arc<str>>,
    /// The pins in force.
    pub lock: Arc<Lock>,
    /// Their text, byte for byte.
    pub lock_text: Option<Arc<str>>,
    /// The pins that were signed with the manifest.
    signed_lock: Arc<Lock>,
    /// Restarts of each component that is in the manifest, or answered a route before.
    pub restarts: BTreeMap<ComponentName, Restarts>,
    /// Component → the authority head that its first signer saw: what a later cordon does not concern.
    since: BTreeMap<ComponentName, u64>,
    /// Component → the settings it had, the newest last.
    lineage: BTreeMap<ComponentName, Vec<Settings>>,
    /// Component → the entry that made it another revision on some node.
    editions: BTreeMap<ComponentName, u64>,
    /// The last entry that may have changed where replicas shall be.
    placed: u64,
    /// App → how its requests are divided and were before.
    weights: BTreeMap<ComponentName, Weights>,
    /// Route → versions of its app that answered it before.
    former: Former,
}

/// What a component ran with from one version on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    version: u64,
    /// The entry that brought them.
    seq: u64,
    digest: Digest,
    /// The revision before any restart: what nearly every look at a component asks for.
    first: Revision,
    spec: Arc<ComponentSpec>,
    pin: Pin,
    /// The secrets that it may open.
    secrets: BTreeMap<String, Sealed>,
}

/// What a component ran with from one version on, for who looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// The version.
    pub version: u64,
    /// The entry that brought it.
    pub entry: u64,
    /// Its bytes.
    pub pin: Pin,
}

/// How often a component was restarted by its owner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restarts {
    /// On all nodes.
    pub everywhere: u64,
    /// On single nodes, in addition.
    pub nodes: BTreeMap<NodeName, u64>,
}

impl Settings {
    fn revision(&self, restarts: u64) -> Revision {
        match restarts {
            0 => self.first,
            restarts => revision(self.digest, restarts),
        }
    }
}

impl Restarts {
    /// Restarts that concern `node`: each raises this by one, so that it never comes back to an
    /// earlier number.
    pub fn on(&self, node: &NodeName) -> u64 {
        self.everywhere + self.nodes.get(node).copied().unwrap_or_default()
    }
}

impl NamespaceState {
    /// Nothing, before the first entry.
    pub(crate) fn nothing(origin: Head) -> Self {
        Self {
            version: 0,
            head: origin,
            manifest: None,
            signed: None,
            manifest_text: None,
            lock: Arc::default(),
            lock_text: None,
            signed_lock: Arc::default(),
            restarts: BTreeMap::new(),
            since: BTreeMap::new(),
            lineage: BTreeMap::new(),
            editions: BTreeMap::new(),
            placed: 0,
            weights: BTreeMap::new(),
            former: Former::new(),
        }
    }

    /// How often `component` was restarted on `node`.
    pub fn restarts_on(&self, component: &ComponentName, node: &NodeName) -> u64 {
        let restarts = self.restarts.get(component);
        restarts.map_or(0, |restarts| restarts.on(node))
    }

    /// The revision of `component` that shall run on `node`; `None` if it is not in the manifest.
    pub fn revision_of(&self, component: &ComponentName, node: &NodeName) -> Option<Revision> {
        let settings = self.lineage.get(component)?.last()?;
        Some(settings.revision(self.restarts_on(component, node)))
    }

    /// The version that brought a revision of `component` that `node` runs; `None` if that was
    /// too long ago.
    pub fn version_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> Option<u64> {
        let mut past = self.past(component, node);
        past.find(|(past, _)| *past == revision)
            .map(|(_, settings)| settings.version)
    }

    /// What a revision of `component` runs with on `node`; `None` if that was too long ago. So an
    /// older version that still serves can be started again.
    pub fn settings_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> Option<(&ComponentSpec, Pin)> {
        let mut past = self.past(component, node);
        past.find(|(past, _)| *past == revision)
            .map(|(_, settings)| (&*settings.spec, settings.pin))
    }

    /// The secrets that a revision of `component` may open on `node`, sealed.
    pub(crate) fn secrets_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> Option<&BTreeMap<String, Sealed>> {
        let mut past = self.past(component, node);
        past.find(|(past, _)| *past == revision)
            .map(|(_, settings)| &settings.secrets)
    }

    /// Every sealed secret that a component may open, or could before.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&str, &Sealed)> {
        let settings = self.lineage.values().flatten();
        let secrets = settings.flat_map(|settings| &settings.secrets);
        secrets.map(|(name, sealed)| (name.as_str(), sealed))
    }

    /// Orders revisions of `component` on `node` by when they were wanted last: 0 is the one
    /// that is wanted, and one that is forgotten is older than all.
    pub(crate) fn age_of(
        &self,
        component: &ComponentName,
        node: &NodeName,
        revision: Revision,
    ) -> usize {
        let mut past = self.past(component, node);
        past.position(|(past, _)| past == revision)
            .unwrap_or(usize::MAX)
    }

    /// Revisions that `component` had on `node`, the newest first, with the settings of each.
    /// Some of them never were: settings and restarts are remembered apart.
    fn past(
        &self,
        component: &ComponentName,
        node: &NodeName,
    ) -> impl Iterator<Item = (Revision, &Settings)> {
        let lineage = self.lineage.get(component);
        let restarts = self.restarts_on(component, node);
        let counts = (0..=restarts).rev().take(LINEAGE_MAX);
        counts.flat_map(move |count| {
            let settings = lineage.into_iter().flatten().rev();
            settings.map(move |settings| (settings.revision(count), settings))
        })
    }

    /// The version that brought the settings of `component`, and their revision without restarts.
    pub(crate) fn settings(&self, component: &ComponentName) -> Option<(u64, Revision)> {
        let settings = self.lineage.get(component)?.last()?;
        Some((settings.version, settings.first))
    }

    /// What a component runs with, or ran with last.
    pub(crate) fn last_settings(&self, component: &ComponentName) -> Option<(&ComponentSpec, Pin)> {
        let settings = self.lineage.get(component)?.last()?;
        Some((&settings.spec, settings.pin))
    }

    /// The version of `component` that an entry left in force.
    pub(crate) fn version_at(&self, component: &ComponentName, entry: u64) -> Option<u64> {
        let mut past = self.lineage.get(component)?.iter().rev();
        let settings = past.find(|settings| settings.seq <= entry)?;
        Some(settings.version)
    }

    /// The pin of `component`.
    pub fn pin(&self, component: &ComponentName) -> Option<Pin> {
        self.lock.components.get(component).copied()
    }

    /// Whether the component is in its manifest.
    pub(crate) fn has(&self, component: &ComponentName) -> bool {
        let manifest = self.manifest.as_deref();
        manifest.is_some_and(|manifest| manifest.components.contains_key(component))
    }

    /// The entry that last made `component` another revision on some node: a rollout goes by it. 0 if it
    /// is not in the manifest.
    pub(crate) fn edition(&self, component: &ComponentName) -> u64 {
        self.editions.get(component).copied().unwrap_or_default()
    }

    /// The last entry that may have changed where replicas shall be. Who has not heard of it means
    /// another place by the same number.
    pub(crate) const fn placed(&self) -> u64 {
        self.placed
    }

    /// What `component` ran with before the settings that are wanted, with the entry and the revision on `node`: the last
    /// that did not come by an entry in `failed`. `None` if what is wanted came by a restart, or
    /// nothing was before.
    pub(crate) fn before(
        &self,
        component: &ComponentName,
        node: &NodeName,
        failed: &BTreeSet<u64>,
    ) -> Option<(u64, Revision, &ComponentSpec, Pin)> {
        let (last, earlier) = self.lineage.get(component)?.split_last()?;
        let mut earlier = earlier.iter().rev();
        let before = earlier.find(|settings| !failed.contains(&settings.seq))?;
        (last.seq == self.edition(component)).then(|| {
            let revision = before.revision(self.restarts_on(component, node));
            (before.seq, revision, &*before.spec, before.pin)
        })
    }

    /// Whether the component answered a route before, and is remembered for as long as others may not have
    /// taken over from it.
    pub(crate) fn is_former(&self, component: &ComponentName) -> bool {
        !self.has(component) && self.lineage.contains_key(component)
    }

    /// Whether an entry is one of those that brought what is remembered of `component`.
    pub(crate) fn brought(&self, component: &ComponentName, entry: u64) -> bool {
        let lineage = self.lineage.get(component);
        let mut known = lineage.into_iter().flatten();
        self.edition(component) == entry || known.any(|settings| settings.seq == entry)
    }

    /// The authority head that was seen when the component came into the manifest.
    pub(crate) fn since(&self, component: &ComponentName) -> Option<u64> {
        self.since.get(component).copied()
    }

    pub(crate) fn set_manifest(
        &mut self,
        manifest: Arc<Manifest>,
        text: Arc<str>,
        authority_seq: u64,
        seq: u64,
    ) {
        self.former = weights::former(&self.former, self.signed.as_deref(), &manifest);
        self.forget(&manifest);
        for component in manifest.components.keys() {
            self.since.entry(component.clone()).or_insert(authority_seq);
        }
        self.weights = weights::follow(
            std::mem::take(&mut self.weights),
            self.signed.as_deref(),
            &manifest,
            seq,
        );
        let is_same = |before: &Arc<Manifest>| {
            before.routing == manifest.routing && before.nodes == manifest.nodes
        };
        if !self.signed.as_ref().is_some_and(is_same) {
            self.placed = seq;
        }
        self.manifest = Some(weights::applied(&manifest, &self.weights, &self.former));
        self.signed = Some(manifest);
        self.manifest_text = Some(text);
    }

    /// Forgets what belongs to components that another manifest does not have, unless they answered a
    /// route before and may have to be started again until others have taken over. What comes back begins
    /// anew.
    fn forget(&mut self, manifest: &Manifest) {
        let before = self.signed.as_deref();
        let had = |name: &ComponentName| before.is_some_and(|m| m.components.contains_key(name));
        let former: BTreeSet<&ComponentName> = self.former.values().flatten().collect();
        let keeps = |name: &ComponentName| match manifest.components.contains_key(name) {
            true => had(name),
            false => former.contains(name),
        };
        self.since.retain(|name, _| keeps(name));
        self.restarts.retain(|name, _| keeps(name));
        self.lineage.retain(|name, _| keeps(name));
        self.editions.retain(|name, _| keeps(name));
    }

    /// Divides the requests of an app otherwise.
    pub(crate) fn weigh(&mut self, body: &WeighBody, head: Head) {
        self.head = head;
        self.placed = head.seq;
        let of_app = self.weights.entry(body.app.clone()).or_default();
        of_app.set(body, head.seq);
        if let Some(manifest) = &self.manifest {
            self.manifest = Some(weights::applied(manifest, &self.weights, &self.former));
        }
    }

    /// The manifest with a component's settings as they were signed: a push ends a rollback.
    pub(crate) fn as_signed(&self, component: &ComponentName) -> Option<Arc<Manifest>> {
        let manifest = self.manifest.as_ref()?;
        let signed = self.signed.as_ref()?.components.get(component)?;
        if manifest.components.get(component) == Some(signed) {
            return Some(Arc::clone(manifest));
        }
        let mut manifest = Manifest::clone(manifest);
        manifest
            .components
            .insert(component.clone(), signed.clone());
        Some(Arc::new(manifest))
    }

    /// Components that run with other settings than the manifest that was signed says.
    pub fn rolled_back(&self) -> impl Iterator<Item = &ComponentName> {
        let (now, signed) = (self.manifest.as_ref(), self.signed.as_ref());
        let both = now
            .zip(signed)
            .filter(|(now, signed)| !Arc::ptr_eq(now, signed));
        both.into_iter().flat_map(|(now, signed)| {
            let components = signed.components.iter();
            let differs =
                components.filter(|(name, spec)| now.components.get(*name) != Some(*spec));
            differs.map(|(name, _)| name)
        })
    }

    pub(crate) fn pins_came_with_the_manifest(&mut self) {
        self.signed_lock = Arc::clone(&self.lock);
    }

    /// Components whose bytes are not those that came with the manifest: pushed since, or rolled back to.
    pub fn pushed(&self) -> impl Iterator<Item = &ComponentName> {
        let signed = &self.signed_lock.components;
        let now = self.lock.components.iter();
        now.filter(|(name, pin)| signed.get(*name).is_some_and(|before| before != *pin))
            .map(|(name, _)| name)
    }

    /// Puts other settings of a component into force, with its pin.
    pub(crate) fn set_manifest_and_lock(
        &mut self,
        manifest: Arc<Manifest>,
        lock: Lock,
        text: Arc<str>,
        head: Head,
    ) {
        self.manifest = Some(manifest);
        self.set_lock(lock, text, head);
    }

    /// What an entry brought to a component, as far as it is remembered.
    pub(crate) fn brought_by(
        &self,
        component: &ComponentName,
        entry: u64,
    ) -> Option<(&ComponentSpec, Pin)> {
        let mut lineage = self.lineage.get(component)?.iter();
        let settings = lineage.find(|settings| settings.seq == entry)?;
        Some((&settings.spec, settings.pin))
    }

    /// What a component ran with, the newest last.
    pub fn history(&self, component: &ComponentName) -> impl Iterator<Item = Past> {
        let lineage = self.lineage.get(component);
        lineage.into_iter().flatten().map(|settings| Past {
            version: settings.version,
            entry: settings.seq,
            pin: settings.pin,
        })
    }

    /// How the requests of an app are divided, and were before.
    pub fn weights(&self, app: &ComponentName) -> Option<&Weights> {
        self.weights.get(app)
    }

    pub(crate) fn set_lock(&mut self, lock: Lock, text: Arc<str>, head: Head) {
        self.version = lock.version;
        self.lock = Arc::new(lock);
        self.lock_text = Some(text);
        self.head = head;
        let Some(manifest) = &self.manifest else {
            return;
        };
        for (component, spec) in &manifest.components {
            let Some(pin) = self.lock.components.get(component) else {
                continue;
            };
            let secrets = secrets_of(manifest, spec);
            let digest = settings_digest(spec, *pin, &secrets);
            let lineage = self.lineage.entry(component.clone()).or_default();
            if lineage.last().is_none_or(|last| last.digest != digest) {
                self.editions.insert(component.clone(), head.seq);
                lineage.push(Settings {
                    version: self.version,
                    seq: head.seq,
                    digest,
                    first: revision(digest, 0),
                    spec: Arc::new(spec.clone()),
                    pin: *pin,
                    secrets,
                });
            } else {
                // The same values, perhaps sealed to others: also for what comes back.
                for (name, sealed) in lineage.iter_mut().flat_map(|one| &mut one.secrets) {
                    if let Some(anew) = secrets.get(name)
                        && anew.value() == sealed.value()
                    {
                        *sealed = anew.clone();
                    }
                }
            }
            if lineage.len() > LINEAGE_MAX {
                lineage.remove(0);
            }
        }
    }

    pub(crate) fn restart(&mut self, restart: &RestartBody, head: Head) {
        self.head = head;
        self.editions.insert(restart.component.clone(), head.seq);
        let restarts = self.restarts.entry(restart.component.clone()).or_default();
        if restart.nodes.is_empty() {
            restarts.everywhere += 1;
        }
        // A node that is named twice is restarted once.
        let nodes: std::collections::BTreeSet<_> = restart.nodes.iter().collect();
        for node in nodes {
            *restarts.nodes.entry(node.clone()).or_default() += 1;
        }
    }
}

/// The secrets that a component may open, and the passwords of the stores that it binds.
fn secrets_of(manifest: &Manifest, spec: &ComponentSpec) -> BTreeMap<String, Sealed> {
    let names = spec.grants.secret_names().into_iter();
    names
        .filter_map(|name| Some((name.clone(), manifest.secrets.get(name)?.clone())))
        .collect()
}
