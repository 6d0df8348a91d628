//! What only the whole manifest shows: keys that have no effect the way a component runs, and
//! ports that two servers insist on. Comes after routing, which decides what is a service.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{ComponentSpec, Manifest, Mode, NodeSelector, NodeSpec, RouteSpec, Serve, World};
use crate::codes;
use crate::fields::Report;
use crate::name::{ComponentName, NodeName};

/// Routes that are looked at for ports, over all kinds of nodes: a hundred nodes with twenty
/// thousand routes each. Beyond that, a port that is claimed twice is found by the node.
const ROUTE_LOOKS_MAX: usize = 2_000_000;

/// A component's name and table, as written.
pub(super) type Entry<'d, 'i> = (&'d Spanned<DeString<'i>>, &'d Spanned<DeValue<'i>>);

/// Checks a manifest whose components stand in `entries`.
pub(super) fn check(report: &mut Report<'_>, entries: &[Entry<'_, '_>], manifest: &Manifest) {
    let mut claims = BTreeMap::new();
    for (key, value) in entries {
        let found = key
            .get_ref()
            .parse::<ComponentName>()
            .ok()
            .and_then(|name| manifest.components.get_key_value(&name));
        let (Some((name, spec)), DeValue::Table(table)) = (found, value.get_ref()) else {
            continue;
        };
        // Of a text that is not TOML, the route may be lost that says how it runs.
        if !report.is_broken() {
            check_effects(report, table, spec);
        }
        if let (Some(port), Some(listen)) = (spec.listen, table.get("listen")) {
            claims.insert(name, (port, listen.span()));
        }
    }
    check_ports(report, claims, manifest);
    check_groups(report, entries, manifest);
}

/// Members of one group take the same messages: each goes to one of them, whichever that is.
fn check_groups(report: &mut Report<'_>, entries: &[Entry<'_, '_>], manifest: &Manifest) {
    let mut groups = BTreeMap::new();
    for (key, value) in entries {
        let name = key.get_ref().parse::<ComponentName>().ok();
        let spec = name.and_then(|name| manifest.components.get(&name));
        let (Some(spec), DeValue::Table(table)) = (spec, value.get_ref()) else {
            continue;
        };
        for one in &spec.triggers.subscriptions {
            let Some((store, part)) = spec.grants.messages(&one.from) else {
                continue;
            };
            let group = (&*store.binding, part, &*one.topic, &*one.group);
            let (rules, first) = *groups.entry(group).or_insert((&one.rules, key));
            if *rules == one.rules {
                continue;
            }
            let written = table.get_key_value("subscribe").map(|(key, _)| key.span());
            let message = format!(
                "group `{}` of `{}` takes other messages in `{}`: each goes to one of a group",
                one.group,
                one.topic,
                first.get_ref()
            );
            let hint = "write the same `where`, or give one of them a `group` of its own";
            let span = written.unwrap_or_else(|| key.span());
            let code = codes::SUBSCRIPTIONS_DISAGREE;
            report.error(code, span, message, Some(hint.to_owned()));
        }
    }
}

fn check_effects(report: &mut Report<'_>, table: &DeTable<'_>, spec: &ComponentSpec) {
    if spec.serve.is_none() && table.contains_key("serve") {
        // It could not be read: how it runs is not known.
        return;
    }
    for (key, why) in without_effect(spec) {
        if let Some((key_as_written, _)) = table.get_key_value(key) {
            let message = format!("`{key}` has no effect here: {why}");
            report.warning(codes::NO_EFFECT, key_as_written.span(), message, None);
        }
    }
}

/// Keys that do nothing for a component, and why.
fn without_effect(spec: &ComponentSpec) -> Vec<(&'static str, &'static str)> {
    const RUNS_ON: &str = "it ends no program, it only lets others run in between";
    const NO_REQUESTS: &str = "no request comes to it";
    let mut keys = match spec.mode() {
        Mode::Answers => vec![(
            "restart",
            "each request is a run of its own; only what runs by itself is started again",
        )],
        // What has no place beside `upstream` is an error, and told by whoever reads it.
        Mode::Upstream => return Vec::new(),
        Mode::Server => vec![("epoch_timeout_ms", RUNS_ON)],
        Mode::Worker => vec![
            (
                "restart",
                "each message is a run of its own; only what runs by itself is started again",
            ),
            ("reuse", "each message has an instance of its own"),
            ("max_request_bytes", NO_REQUESTS),
            ("max_response_bytes", NO_REQUESTS),
        ],
        Mode::Service | Mode::Once | Mode::Scheduled => vec![
            ("epoch_timeout_ms", RUNS_ON),
            ("max_concurrency", NO_REQUESTS),
            ("max_request_bytes", NO_REQUESTS),
            ("max_response_bytes", NO_REQUESTS),
        ],
    };
    if spec.mode() != Mode::Server {
        const NO_WEBSOCKET: &str = "WebSockets are passed on to servers alone";
        keys.push(("websocket_idle_ms", NO_WEBSOCKET));
    }
    if spec.mode() == Mode::Service {
        keys.push(("wall_timeout_ms", "a service runs on until it is replaced"));
    }
    if !matches!(spec.mode(), Mode::Answers | Mode::Worker) {
        const NO_INSTANCES: &str = "only what has an instance for each call is called by events";
        keys.extend([("subscribe", NO_INSTANCES), ("watch", NO_INSTANCES)]);
    }
    let is_command = !matches!(spec.mode(), Mode::Answers | Mode::Worker)
        || spec.serve == Some(Serve::Cgi)
        || spec.world == Some(World::Command);
    if is_command && spec.reuse {
        keys.push(("reuse", "a command runs once in each of its instances"));
    }
    keys
}

/// Ports by component, with the place of each.
type Claims<'m> = BTreeMap<&'m ComponentName, (u16, Range<usize>)>;

fn check_ports(report: &mut Report<'_>, mut claims: Claims<'_>, manifest: &Manifest) {
    let mut claimants: BTreeMap<u16, usize> = BTreeMap::new();
    for (port, _) in claims.values() {
        *claimants.entry(*port).or_default() += 1;
    }
    claims.retain(|_, (port, _)| claimants.get(port).is_some_and(|count| *count > 1));
    if claims.is_empty() {
        return;
    }
    let paths = manifest
        .routing
        .iter()
        .map(|(selector, routes)| (selector, routes.iter().map(address).collect()))
        .collect();
    let mut refused: BTreeMap<&ComponentName, &ComponentName> = BTreeMap::new();
    let mut looks = 0;
    for kind in kinds_of_nodes(&manifest.nodes, &manifest.routing) {
        let lists = kind.iter().filter_map(|list| manifest.routing.get(*list));
        looks += lists.map(Vec::len).sum::<usize>();
        if looks > ROUTE_LOOKS_MAX {
            break;
        }
        let mut here = servers_of(&kind, manifest, &paths, &claims);
        here.sort_by_key(|name| claims.get(name).map(|(_, span)| span.start));
        let mut holders: BTreeMap<u16, &ComponentName> = BTreeMap::new();
        for name in here {
            let Some((port, _)) = claims.get(name) else {
                continue;
            };
            let holder = *holders.entry(*port).or_insert(name);
            if holder != name {
                refused.entry(name).or_insert(holder);
            }
        }
    }
    for (name, holder) in refused {
        let Some((port, span)) = claims.remove(name) else {
            continue;
        };
        let message = format!("`{holder}` insists on port {port} of the same nodes");
        let hint =
            "give it another port, or let it read the port from `PORT` and leave `listen` out";
        report.error(codes::DUPLICATE_PORT, span, message, Some(hint.to_owned()));
    }
}

/// What a request names: of two routes with the same, one counts.
type RouteAddress<'m> = (
    Option<&'m crate::route::HostPattern>,
    &'m crate::route::PathPattern,
);

fn address(route: &RouteSpec) -> RouteAddress<'_> {
    (route.host.as_ref(), &route.path)
}

/// Every kind of node that there may be: the lists of routes that concern it, those first that
/// count before the others. A node that is not listed may have any one tag, or none.
fn kinds_of_nodes<'m>(
    nodes: &'m BTreeMap<NodeName, NodeSpec>,
    routing: &'m BTreeMap<NodeSelector, Vec<RouteSpec>>,
) -> BTreeSet<Vec<&'m NodeSelector>> {
    let list = |selector: NodeSelector| routing.get_key_value(&selector).map(|(list, _)| list);
    let concerned = |name: Option<&NodeName>, tags: &[String]| -> Vec<&'m NodeSelector> {
        // In the order of a node: of lists for two of its tags, the first by name counts.
        let tags: BTreeSet<&String> = tags.iter().collect();
        let of_name = name.and_then(|name| list(NodeSelector::Node(name.clone())));
        let of_tags = tags
            .into_iter()
            .filter_map(|tag| list(NodeSelector::Tag(tag.clone())));
        let lists = of_name.into_iter().chain(of_tags);
        lists.chain(list(NodeSelector::All)).collect()
    };
    let listed = nodes
        .iter()
        .map(|(name, node)| concerned(Some(name), &node.tags));
    let others = routing.keys().map(|selector| match selector {
        NodeSelector::All => concerned(None, &[]),
        NodeSelector::Tag(tag) => concerned(None, std::slice::from_ref(tag)),
        NodeSelector::Node(name) => {
            let tags = nodes.get(name).map_or(&[][..], |node| &node.tags);
            concerned(Some(name), tags)
        }
    });
    listed.chain(others).collect()
}

/// The claimants that a node of this kind runs.
fn servers_of<'m>(
    kind: &[&'m NodeSelector],
    manifest: &'m Manifest,
    paths: &BTreeMap<&NodeSelector, BTreeSet<RouteAddress<'_>>>,
    claims: &Claims<'_>,
) -> Vec<&'m ComponentName> {
    let mut servers = BTreeSet::new();
    for (at, selector) in kind.iter().enumerate() {
        let routes = manifest
            .routing
            .get(*selector)
            .map_or(&[][..], Vec::as_slice);
        for route in routes {
            let shadowed = || {
                kind[..at].iter().any(|list| {
                    paths
                        .get(list)
                        .is_some_and(|of| of.contains(&address(route)))
                })
            };
            let mut claimants = route.answering().filter(|name| claims.contains_key(name));
            if let Some(first) = claimants.next()
                && !shadowed()
            {
                servers.insert(first);
                servers.extend(claimants);
            }
        }
    }
    servers.into_iter().collect()
}
