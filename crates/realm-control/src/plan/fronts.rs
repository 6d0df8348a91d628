//! What holds on this node for requests of components before anybody answers them, wherever that is.

use std::collections::BTreeMap;

use realm_model::front::Fronted;
use realm_model::manifest::{ComponentSpec, Manifest};
use realm_model::name::{ComponentName, NodeName};
use realm_model::observed::{Revision, RouteTable};
use realm_model::route::Route;

use crate::desired::Desired;

/// The fronts of all components that a table leads to.
pub(super) fn fronts(
    desired: &Desired,
    node: &NodeName,
    table: &RouteTable,
) -> BTreeMap<ComponentName, Fronted> {
    let Some(manifest) = desired.manifest.as_deref() else {
        return BTreeMap::new();
    };
    // Most manifests have none.
    if manifest
        .components
        .values()
        .all(|spec| spec.front.is_empty())
    {
        return BTreeMap::new();
    }
    let named = table.routes.iter().flat_map(Route::answering);
    let fronted = named.filter_map(|component| {
        let front = &spec(manifest, component)?.front;
        let fronted = || Fronted {
            front: front.clone(),
            revision: settled(desired, node, table, component),
        };
        (!front.is_empty()).then(|| (component.clone(), fronted()))
    });
    fronted.collect()
}

/// A version that goes on although the manifest does not name it any more is no way around what the
/// manifest says of the versions that it names.
fn spec<'m>(manifest: &'m Manifest, component: &ComponentName) -> Option<&'m ComponentSpec> {
    manifest.components.get(component).or_else(|| {
        let others = manifest.components.iter();
        let mut same = others.filter(|(name, _)| name.app() == component.app());
        same.find(|(_, spec)| !spec.front.is_empty())
            .map(|(_, spec)| spec)
    })
}

/// The revision that all replicas here have, restarts aside, if it is the one that is wanted.
fn settled(
    desired: &Desired,
    node: &NodeName,
    table: &RouteTable,
    component: &ComponentName,
) -> Option<Revision> {
    let wanted = desired.revision_of(component, node)?;
    let replicas = table.backends.get(component);
    let mut replicas = replicas.into_iter().flatten();
    let (_, first) = desired.settings(component)?;
    replicas.all(|id| id.revision == wanted).then_some(first)
}

#[cfg(test)]
mod tests {
    use realm_model::action::Action;
    use realm_model::observed::{
        Artifact, ArtifactState, Millis, Observed, ReplicaId, ReplicaState,
    };

    use super::*;
    use crate::testing::{Realm, component_name, node_name, pin, plan_alone};

    /// A realm of one node in which `app` is healthy as it was applied first.
    struct Stage {
        realm: Realm,
        observed: Observed,
    }

    impl Stage {
        fn new(keys: &str) -> Self {
            let mut stage = Self {
                realm: Realm::of_one_node(),
                observed: Observed::default(),
            };
            stage.apply(keys, "first");
            let id = ReplicaId {
                component: component_name("app"),
                revision: stage.wanted(),
                slot: 0,
            };
            let healthy = ReplicaState::Healthy { since: Millis(0) };
            stage.observed.replicas.insert(id, healthy);
            stage
        }

        fn apply(&mut self, keys: &str, build: &str) {
            let text = format!(
                "[components.app]\nsource = 'file:a'\n{keys}\n[routing]\n\
                 '*' = [{{ path = '/...', component = 'app' }}]\n"
            );
            self.realm.apply(&text, &[("app", build)]);
            let digest = pin(build).digest;
            let artifact = Artifact {
                digest,
                fuel: false,
            };
            let ready = ArtifactState::Ready;
            self.observed.artifacts.insert(artifact, ready);
        }

        fn wanted(&self) -> Revision {
            let desired = self.realm.ledger.desired();
            let revision = desired.revision_of(&component_name("app"), &node_name("here"));
            revision.expect("it is wanted")
        }

        /// Plans, takes the table into force, and gives what else is to be done.
        fn plan(&mut self) -> Vec<Action> {
            let (desired, authority) = (self.realm.ledger.desired(), self.realm.ledger.authority());
            let now = Millis(100_000);
            let plan = plan_alone(desired, authority, &node_name("here"), &self.observed, now);
            let mut others = Vec::new();
            for action in plan.actions {
                match action {
                    Action::Route(table) => self.observed.routes = table,
                    Action::Start(_)
                    | Action::Stop(_)
                    | Action::Drain { .. }
                    | Action::Fetch { .. }
                    | Action::Compile(_)
                    | Action::Handle { .. } => others.push(action),
                }
            }
            others
        }

        fn front(&self) -> Option<&Fronted> {
            self.observed.routes.fronts.get(&component_name("app"))
        }
    }

    #[test]
    fn a_limit_of_clients_comes_into_force_and_replaces_nothing_that_runs() {
        let mut stage = Stage::new("");
        stage.plan();
        assert_eq!(stage.front(), None);
        stage.apply("per_client = { requests_per_sec = 5 }", "first");
        assert_eq!(stage.plan(), []);
        let per_client = |stage: &Stage| stage.front().and_then(|fronted| fronted.front.per_client);
        assert_eq!(per_client(&stage).map(|limit| limit.burst), Some(5));
        stage.apply("per_client = { requests_per_sec = 6 }", "first");
        assert_eq!(stage.plan(), []);
        assert_eq!(per_client(&stage).map(|limit| limit.burst), Some(6));
    }

    #[test]
    fn what_answers_is_known_unless_an_older_version_does() {
        const RULES: &str = "rules = [{ action = 'deny', paths = ['/x'] }]";
        let mut stage = Stage::new(RULES);
        stage.plan();
        let first = stage.front().and_then(|fronted| fronted.revision);
        assert!(first.is_some());
        stage.apply(RULES, "second");
        stage.plan();
        let serving = &stage.observed.routes.backends[&component_name("app")];
        assert_ne!(serving[0].revision, stage.wanted(), "the older one serves");
        assert_eq!(stage.front().map(|fronted| fronted.revision), Some(None));
    }

    #[test]
    fn a_version_that_is_not_named_any_more_is_no_way_around_the_rules() {
        let of = |text: &str| {
            let (manifest, problems) = realm_model::manifest::parse(text);
            manifest.unwrap_or_else(|| panic!("{problems:?}"))
        };
        let manifest = of(
            "[components.\"a@new\"]\nsource = 'file:a'\nrules = [{ action = 'deny' }]\n\
             [components.b]\nsource = 'file:b'",
        );
        let denies = |name: &str| {
            let spec = spec(&manifest, &component_name(name));
            spec.is_some_and(|spec| !spec.front.rules.is_empty())
        };
        assert!(denies("a@new") && denies("a@old") && denies("a"));
        assert!(!denies("b") && !denies("c"));
    }
}
