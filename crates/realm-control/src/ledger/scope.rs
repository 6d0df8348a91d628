//! What a delegate's entry may say: its components, routes, replicas, nodes and grants within what
//! the owners gave, for as long as they gave it. Not whether the manifest is sound.

use realm_model::entry::Delegate;
use realm_model::grants::Capability;
use realm_model::manifest::{Manifest, NodeSelector, RouteSpec};
use realm_model::name::ComponentName;
use realm_model::refusal::{Refusal, RefusalCode};
use realm_model::route::HostPattern;

use super::Effect;
use crate::authority::{Authority, is_over};

/// The scope of one delegate, as it was at the authority head that the signer saw.
pub(super) struct Scope<'a> {
    pub(super) delegate: &'a Delegate,
    pub(super) authority: &'a Authority,
    pub(super) seen: u64,
}

/// Whether the time of a delegate is over: by the date in the entry, and, for an entry that somebody
/// submits here and now, by this node's clock.
pub(super) fn check_time(
    delegate: Option<&Delegate>,
    created_unix_s: u64,
    now_unix_s: Option<u64>,
) -> Result<(), Refusal> {
    let Some(end) = delegate.and_then(|delegate| delegate.not_after_unix_s) else {
        return Ok(());
    };
    let expired = |message| Err(Refusal::new(RefusalCode::Expired, message));
    if created_unix_s > end {
        return expired(format!(
            "the delegation ended at {end}, the entry was signed at {created_unix_s} by its signer's clock"
        ));
    }
    match now_unix_s {
        Some(now) if is_over(Some(end), now) => expired(format!(
            "the delegation ended at {end}, it is {now} by this node's clock"
        )),
        Some(_) | None => Ok(()),
    }
}

impl Scope<'_> {
    /// Checks what an entry changes; `in_force` is the manifest before it.
    pub(super) fn check(
        &self,
        effect: &Effect,
        in_force: Option<&Manifest>,
    ) -> Result<(), Refusal> {
        match effect {
            Effect::Manifest { manifest, .. }
            // The scope may be narrower than it was.
            | Effect::Push { manifest, .. }
            | Effect::Rollback { manifest, .. } => {
                self.check_manifest(manifest)
            }
            Effect::Weigh(_) => {
                in_force.map_or(Ok(()), |manifest| self.check_manifest(manifest))
            }
            Effect::Restart(restart) => self.check_name(&restart.component),
            Effect::Approve(..)
            | Effect::Revoke(_)
            | Effect::SetNode(_)
            | Effect::Owners(_)
            | Effect::Delegate(_)
            | Effect::Undelegate(_)
            | Effect::SetBeacon(_)
            | Effect::Fence
            | Effect::Replace => Ok(()),
        }
    }

    fn check_manifest(&self, manifest: &Manifest) -> Result<(), Refusal> {
        // Nodes are the owners' affair: tags written here would widen the scope of everybody.
        if !manifest.nodes.is_empty() {
            return Err(self.beyond("it has `[nodes]`, which is for the owners".to_owned()));
        }
        for (name, spec) in &manifest.components {
            self.check_name(name)?;
            for capability in Capability::of(spec) {
                self.check_capability(name, capability)?;
            }
            if !spec.mode().takes_requests() && !self.delegate.tags.is_empty() {
                return Err(self.beyond(format!(
                    "component `{name}` runs by itself on every node, and the delegate has some nodes"
                )));
            }
        }
        for (selector, routes) in &manifest.routing {
            if !routes.is_empty() {
                self.check_nodes(selector)?;
            }
            for route in routes {
                self.check_route(route)?;
            }
        }
        Ok(())
    }

    fn check_name(&self, name: &ComponentName) -> Result<(), Refusal> {
        let mut globs = self.delegate.apps.iter();
        if globs.any(|glob| glob_matches(glob, name.as_str())) {
            return Ok(());
        }
        Err(self.beyond(format!("component `{name}` is none of its components")))
    }

    fn check_capability(
        &self,
        name: &ComponentName,
        capability: Capability,
    ) -> Result<(), Refusal> {
        let mut given = self.delegate.capabilities.iter();
        if given.any(|given| given == capability.as_str()) {
            return Ok(());
        }
        Err(self.beyond(format!("component `{name}` wants `{capability}`")))
    }

    fn check_nodes(&self, selector: &NodeSelector) -> Result<(), Refusal> {
        let tags = &self.delegate.tags;
        let within = tags.is_empty()
            || match selector {
                NodeSelector::All => false,
                NodeSelector::Tag(tag) => tags.contains(tag),
                NodeSelector::Node(name) => {
                    let node = self.authority.node_at(name, self.seen);
                    node.is_some_and(|node| node.tags.iter().any(|tag| tags.contains(tag)))
                }
            };
        if within {
            return Ok(());
        }
        let whom = match selector {
            NodeSelector::All => "every node".to_owned(),
            NodeSelector::Tag(tag) => format!("nodes with the tag `{tag}`"),
            NodeSelector::Node(name) => format!("node `{name}`"),
        };
        Err(self.beyond(format!("it routes on {whom}")))
    }

    fn check_route(&self, route: &RouteSpec) -> Result<(), Refusal> {
        // Each version has so many.
        let versions = u32::try_from(route.weights.len().max(1)).unwrap_or(u32::MAX);
        let replicas = route.upkeep.replicas.saturating_mul(versions);
        if let Some(max) = self.delegate.replicas_max
            && replicas > max
        {
            return Err(self.beyond(format!(
                "a route of `{}` asks for {replicas} replicas, at most {max} are allowed",
                route.component
            )));
        }
        // How many that is depends on how many nodes there will be.
        if let Some(max) = self.delegate.replicas_max
            && route.upkeep.per_node
        {
            return Err(self.beyond(format!(
                "a route of `{}` asks for replicas on each node, at most {max} in all are allowed",
                route.component
            )));
        }
        let hosts = &self.delegate.hosts;
        if hosts.is_empty() {
            return Ok(());
        }
        let host = route.host.as_ref().map(HostPattern::to_string);
        // A route for any host takes requests of hosts that are others'.
        if host
            .as_ref()
            .is_some_and(|host| hosts.iter().any(|glob| glob_matches(glob, host)))
        {
            return Ok(());
        }
        Err(self.beyond(format!(
            "a route of `{}` is for {}",
            route.component,
            host.map_or_else(|| "any host".to_owned(), |host| format!("host `{host}`"))
        )))
    }

    fn beyond(&self, why: String) -> Refusal {
        Refusal::new(
            RefusalCode::OutOfScope,
            format!(
                "the delegate of namespace `{}` may not say this: {why}",
                self.delegate.namespace
            ),
        )
    }
}

/// Whether a text is of a form in which `*` stands for any characters, none included.
fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (glob, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "anything", true),
            ("shop-*", "shop-", true),
            ("shop-*", "shop-cart", true),
            ("shop-*", "my-shop-cart", false),
            ("*-api", "orders-api", true),
            ("*-api", "orders-apis", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab*bc", "abc", false),
            ("**", "x", true),
        ] {
            assert_eq!(glob_matches(glob, text), expected, "{glob} {text}");
        }
    }
}
