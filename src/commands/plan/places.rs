//! The text of a placement: a line for each component on each node, then who is left out and why. Not
//! how it comes about.

use std::collections::{BTreeMap, BTreeSet};

use realm_model::binding::{Backend, Interface};
use realm_model::grants::StoreGrant;
use realm_model::manifest::Manifest;
use realm_model::why::{PlacementView, ProposedPlace, ProposedView, ReasonView};

use crate::output;

/// Nodes that are named where many are left out for one reason.
const NAMED_MAX: usize = 5;

/// What follows the changes; with `why` every reason in full.
pub(super) fn text(placement: &PlacementView, why: bool) -> String {
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for component in &placement.components {
        for place in &component.nodes {
            if place.in_force > 0 || place.replicas > 0 {
                rows.push((place.node.as_str(), row(component, place)));
            }
        }
    }
    rows.sort_by_key(|(node, _)| *node);
    let mut text = String::new();
    if !rows.is_empty() {
        let header = ["NODE", "COMPONENT", "REPLICAS", "VERSION"];
        let rows = rows.into_iter().map(|(_, row)| row);
        text += &format!("\n\n{}", output::table(&header, rows.collect()));
    }
    let left_out = placement.components.iter().filter_map(|component| {
        let lines = match why {
            true => in_full(component),
            false => in_short(component),
        };
        (!lines.is_empty()).then(|| lines.join("\n"))
    });
    let left_out: Vec<String> = left_out.collect();
    if !left_out.is_empty() {
        let more = if why { "" } else { " (`--why` says more)" };
        text += &format!("\n\nnot on{more}:\n{}", left_out.join("\n"));
    }
    if placement.abridged {
        text += "\nthere are too many components and nodes to say who is left out";
    }
    text
}

/// A line for each component that would have a store of its own on each of several nodes, though its
/// manifest reads as if it were one. Messages go from node to node: each has a queue, and that is one.
pub(super) fn stores_apart(placement: &PlacementView, manifest: &Manifest) -> Vec<String> {
    let lines = placement.components.iter().filter_map(|component| {
        let places = component.nodes.iter();
        let n_nodes = places.filter(|place| place.replicas > 0).count();
        let spec = manifest.components.get(&component.component)?;
        // What is derived from a secret is the same wherever that opens, each node shows what its own guests
        // measure, and messages go where they are taken: nothing is apart that belongs together.
        let kept = |interface| match interface {
            Interface::Keyvalue
            | Interface::Config
            | Interface::Blobstore
            | Interface::Sql
            | Interface::Streams
            | Interface::Workflows => true,
            Interface::Messaging
            | Interface::Keys
            | Interface::Identity
            | Interface::Otel
            | Interface::Mail
            | Interface::Inference => false,
        };
        let embedded = |store: &&StoreGrant| {
            store.spec.backend == Backend::Embedded && kept(store.interface)
        };
        let names = spec.grants.stores.iter().filter(embedded);
        let names: BTreeSet<String> = names.map(|one| format!("`{}`", one.binding)).collect();
        if n_nodes < 2 || names.is_empty() {
            return None;
        }
        let names: Vec<String> = names.into_iter().collect();
        Some(format!(
            "warning[local-store]: `{}` would run on {n_nodes} nodes, and what is embedded (binding {}) is another one on each of them; let a server stand behind it, or one node have it (`singleton = true`, or a route for one node)",
            component.component,
            names.join(", ")
        ))
    });
    lines.collect()
}

fn row(component: &ProposedView, place: &ProposedPlace) -> Vec<String> {
    let replicas = match (place.in_force, place.replicas) {
        (before, after) if before == after => after.to_string(),
        (before, after) => format!("{before} → {after}"),
    };
    let replicas = match place.withheld {
        true => format!("{replicas} ({})", obstacles(place).join(", ")),
        false => replicas,
    };
    let version = match (component.version_in_force, component.version) {
        _ if place.replicas == 0 => "-".to_owned(),
        (Some(before), Some(after)) if component.replaced => format!("{before} → {after}"),
        (_, Some(version)) => version.to_string(),
        (_, None) => "-".to_owned(),
    };
    vec![
        place.node.to_string(),
        component.component.to_string(),
        replicas,
        version,
    ]
}

/// Codes of what is in the way of the replicas that a node would have.
fn obstacles(place: &ProposedPlace) -> Vec<String> {
    let reasons = place.reasons.iter().filter(|reason| !reason.is_having());
    reasons.map(|reason| reason.code.clone()).collect()
}

/// `orders: bm-03 (drained); bm-04, bm-05 (tag-missing)`
fn in_short(component: &ProposedView) -> Vec<String> {
    let mut by_codes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for place in left_out(component) {
        let codes = obstacles(place).join(", ");
        by_codes.entry(codes).or_default().push(place.node.as_str());
    }
    let nodes = by_codes.into_iter().map(|(codes, nodes)| {
        let more = nodes.len().saturating_sub(NAMED_MAX);
        let named = nodes[..nodes.len() - more].join(", ");
        match more {
            0 => format!("{named} ({codes})"),
            more => format!("{named} and {more} more ({codes})"),
        }
    });
    let general = component.reasons.iter().map(message);
    let all: Vec<String> = general.chain(nodes).collect();
    match all.is_empty() {
        true => Vec::new(),
        false => vec![format!("  {}: {}", component.component, all.join("; "))],
    }
}

/// A line for each node, with the sentences.
fn in_full(component: &ProposedView) -> Vec<String> {
    let name = &component.component;
    let general = component.reasons.iter();
    let general = general.map(|reason| format!("  {name}: {}", message(reason)));
    // Who would have it and may not begin is in the table as well, with the code alone.
    let withheld = component.nodes.iter().filter(|place| place.withheld);
    let mut nodes: Vec<&ProposedPlace> = left_out(component).chain(withheld).collect();
    nodes.sort_by_key(|place| &place.node);
    nodes.dedup_by_key(|place| &place.node);
    let nodes = nodes.into_iter().map(|place| {
        let reasons = place.reasons.iter().filter(|reason| !reason.is_having());
        let reasons: Vec<String> = reasons.map(message).collect();
        format!("  {name}: {} {}", place.node, reasons.join("; "))
    });
    general.chain(nodes).collect()
}

/// The nodes that would have none of a component that stays or comes.
fn left_out(component: &ProposedView) -> impl Iterator<Item = &ProposedPlace> {
    // Where no route leads to it, that says it all.
    let is_routed = !component.reasons.iter().any(|one| one.code == "no-route");
    let stays = component.version.is_some() && is_routed;
    let nodes = component.nodes.iter();
    nodes.filter(move |place| stays && place.replicas == 0)
}

fn message(reason: &ReasonView) -> String {
    output::within_line(&reason.message).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines for components that would run on so many nodes.
    fn lines(n_nodes: &[(&str, usize)]) -> Vec<String> {
        let text = r#"
            [bindings.here]
            interface = "wasi:keyvalue"
            backend = "embedded"
            [bindings.across]
            interface = "wasi:messaging"
            backend = "embedded"
            [bindings.there]
            interface = "wasi:messaging"
            backend = "nats://nats.internal"
            [components.bound]
            source = "file:a"
            bind = { one = "here", two = "here", three = "there", four = "across" }
            [components.elsewhere]
            source = "file:a"
            bind = { default = "there", two = "across" }
        "#;
        let (manifest, problems) = realm_model::manifest::parse(text);
        assert!(problems.is_empty(), "{problems:?}");
        let node = |n: usize| ProposedPlace {
            node: format!("n{n}").parse().unwrap(),
            in_force: 0,
            // The first one has none.
            replicas: u32::from(n > 0),
            withheld: false,
            reasons: Vec::new(),
        };
        let components = n_nodes.iter().map(|(name, n)| ProposedView {
            component: name.parse().unwrap(),
            wanted: 1,
            unplaced: 0,
            version_in_force: None,
            version: Some(1),
            replaced: false,
            nodes: (0..=*n).map(node).collect(),
            reasons: Vec::new(),
        });
        let placement = PlacementView {
            node: "n0".parse().unwrap(),
            components: components.collect(),
            abridged: false,
        };
        stores_apart(&placement, &manifest.unwrap())
    }

    #[test]
    fn embedded_stores_on_several_nodes_are_told() {
        let lines_of_both = lines(&[("bound", 2), ("elsewhere", 2)]);
        assert_eq!(lines_of_both.len(), 1);
        let start = "warning[local-store]: `bound` would run on 2 nodes, and what is embedded (binding `here`)";
        assert!(lines_of_both[0].starts_with(start), "{lines_of_both:?}");
        assert!(lines(&[("bound", 1), ("elsewhere", 5)]).is_empty());
    }
}
