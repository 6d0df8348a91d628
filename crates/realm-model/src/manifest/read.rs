//! Reads a manifest: sections in an order in which each finds the names it refers to.
//!
//! Every problem is written down and reading goes on; [`super::parse`] decides whether the result
//! is a manifest. Grammar of single values: the sibling modules.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::value::{ValueError, plain_name};
use super::{COMPONENTS_MAX, Manifest, NodeSelector, NodeSpec, RouteSpec, keys};
use super::{ComponentSpec, address, component, host, path, runs, stores, upkeep, weights, whole};
use crate::codes;
use crate::entry::NamespaceName;
use crate::fields::{Fields, ITEMS_MAX, Report, cut, fits, rows, wrong_type};
use crate::key::PublicKey;
use crate::name::{ComponentName, NodeName};
use crate::record::limits::LEASES_MAX;
use crate::sealing::{PREFIX as SEALED_PREFIX, SEALED_BYTES_MAX, Sealed};

/// Routes of one selector, and nodes: a route for each component.
const ROUTES_MAX: usize = COMPONENTS_MAX;

/// Reads everything that can be read.
pub(super) fn manifest(report: &mut Report<'_>, document: &DeTable<'_>) -> Manifest {
    let root = Fields::root(report, document, &keys::ROOT);
    let secrets = read_secrets(report, &root);
    let bindings = stores::bindings(report, &root, &secrets.names);
    let referable = component::Known {
        secrets: &secrets.names,
        bindings: &bindings,
    };
    let nodes = read_nodes(report, &root);
    let mut names = BTreeSet::new();
    let mut components = BTreeMap::new();
    let entries = root.entries(report, "components");
    if let Some(span) = root.key_span("components") {
        fits(report, "components", entries.len(), COMPONENTS_MAX, span);
    }
    let entries = &entries[..entries.len().min(COMPONENTS_MAX)];
    for (key, value) in entries.iter().copied() {
        let Some(name) = read_name::<ComponentName>(report, key) else {
            continue;
        };
        names.insert(name.clone());
        if let Some(spec) = component::read(report, key, value, &referable) {
            components.insert(name, spec);
        }
    }
    let singletons = components.values().filter(|spec| spec.singleton).count();
    if let Some(span) = root.key_span("components") {
        fits(report, "singletons", singletons, LEASES_MAX, span);
    }
    let known = Components {
        names: &names,
        specs: &components,
    };
    let routing = read_routing(report, &root, &nodes, &known);
    runs::infer_services(&mut components, &routing);
    let manifest = Manifest {
        version: root.integer(report, "version"),
        owner: read_owner(report, &root),
        nodes,
        components,
        routing,
        secrets: secrets.values,
        bindings: bindings.specs,
    };
    whole::check(report, entries, &manifest);
    manifest
}

/// A key that is a name.
fn read_name<N: std::str::FromStr<Err = crate::name::NameError>>(
    report: &mut Report<'_>,
    key: &Spanned<DeString<'_>>,
) -> Option<N> {
    key.get_ref()
        .parse()
        .map_err(|error: crate::name::NameError| {
            report.error(codes::BAD_NAME, key.span(), error.to_string(), None);
        })
        .ok()
}

fn read_owner(report: &mut Report<'_>, root: &Fields<'_, '_>) -> Option<PublicKey> {
    let value = root.value(report, "owner")?;
    let place = root.key_span("owner")?;
    let owner = Fields::open(report, value, &keys::OWNER, place, "")?;
    owner.text(report, "pubkey", |text| {
        text.parse().map_err(|error: crate::key::KeyError| {
            // A secret key must not travel on into a terminal or a log.
            if text.starts_with("ed25519-secret:") {
                let hint = "keep it out of every file but its own, and make another: this one was written down";
                return ValueError::new(codes::BAD_KEY, "this is a SECRET key, expected a public one")
                    .hint(Some(hint));
            }
            let message = format!("`{}` is not a public key: {error}", cut(text));
            ValueError::new(codes::BAD_KEY, message)
                .hint(Some("`realm key show` prints the owner's key"))
        })
    })
}

fn read_nodes(report: &mut Report<'_>, root: &Fields<'_, '_>) -> BTreeMap<NodeName, NodeSpec> {
    let entries = root.entries(report, "nodes");
    if let Some(span) = root.key_span("nodes") {
        fits(report, "nodes", entries.len(), ITEMS_MAX, span);
    }
    let mut nodes = BTreeMap::new();
    for (key, value) in entries.into_iter().take(ITEMS_MAX) {
        let name = read_name::<NodeName>(report, key);
        let Some(node) = Fields::open(report, value, &keys::NODE, key.span(), key.get_ref()) else {
            continue;
        };
        let tags = node.texts(report, "tags", |text| plain_name(text, "tag"));
        let tags = component::without_duplicates(report, "tags", tags);
        let addr_hint = read_addr_hint(report, &node);
        if let Some(name) = name {
            nodes.insert(name, NodeSpec { tags, addr_hint });
        }
    }
    nodes
}

fn read_addr_hint(report: &mut Report<'_>, node: &Fields<'_, '_>) -> Option<String> {
    let address = node.text(report, "addr_hint", address::parse_address)?;
    if address.respelled {
        report.warning(
            codes::ADDRESS_SPELLING,
            node.value_span("addr_hint"),
            format!("understood as `{}`", address.proper),
            Some(format!("write `addr_hint = \"{}\"`", address.proper)),
        );
    }
    Some(address.proper)
}

struct Secrets {
    values: BTreeMap<String, Sealed>,
    /// Names that are written, also of secrets that have other problems.
    names: BTreeSet<String>,
}

fn read_secrets(report: &mut Report<'_>, root: &Fields<'_, '_>) -> Secrets {
    let mut secrets = Secrets {
        values: BTreeMap::new(),
        names: BTreeSet::new(),
    };
    for ((name, name_span), (value, span)) in
        root.text_table_of(report, "secrets", SEALED_BYTES_MAX)
    {
        if let Err(error) = plain_name(&name, "secret") {
            report.value_error(name_span, error);
            continue;
        }
        secrets.names.insert(name.clone());
        // The value stays out of the message: it may be the secret itself.
        let base64 = value.strip_prefix(SEALED_PREFIX);
        let is_ciphertext = base64.is_some_and(|base64| {
            !base64.is_empty()
                && base64
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte))
        });
        if is_ciphertext {
            let sealed = Sealed::new(NamespaceName::DEFAULT, &name, value);
            secrets.values.insert(name, sealed);
        } else {
            let message = match base64 {
                Some(_) => format!("what follows `{SEALED_PREFIX}` is not base64"),
                None => {
                    format!("a secret stands here in the clear, expected `{SEALED_PREFIX}BASE64`")
                }
            };
            let hint = "write a ciphertext, never the secret itself: this file is signed and sent to every node".to_owned();
            report.error(codes::BAD_SECRET, span, message, Some(hint));
        }
    }
    secrets
}

/// The components that routes may name.
pub(super) struct Components<'c> {
    /// Names that are written, also of components that have other problems.
    pub(super) names: &'c BTreeSet<ComponentName>,
    specs: &'c BTreeMap<ComponentName, ComponentSpec>,
}

/// What routes may refer to.
struct Listed<'n> {
    nodes: &'n BTreeMap<NodeName, NodeSpec>,
    tags: BTreeSet<&'n str>,
}

fn read_routing(
    report: &mut Report<'_>,
    root: &Fields<'_, '_>,
    nodes: &BTreeMap<NodeName, NodeSpec>,
    components: &Components<'_>,
) -> BTreeMap<NodeSelector, Vec<RouteSpec>> {
    let listed = Listed {
        nodes,
        tags: nodes
            .values()
            .flat_map(|node| node.tags.iter().map(String::as_str))
            .collect(),
    };
    let mut routing = BTreeMap::new();
    let mut divisions = Divisions::new();
    for (key, value) in root.entries(report, "routing") {
        let selector = read_selector(report, key, &listed);
        let routes = read_routes(report, key, value, components, &mut divisions);
        if let Some(selector) = selector {
            routing.insert(selector, routes);
        }
    }
    routing
}

fn read_selector(
    report: &mut Report<'_>,
    key: &Spanned<DeString<'_>>,
    listed: &Listed<'_>,
) -> Option<NodeSelector> {
    let text = key.get_ref().as_ref();
    if text == "*" {
        return Some(NodeSelector::All);
    }
    if let Some(tag) = text.strip_prefix("tag:") {
        let tag = plain_name(tag, "tag")
            .map_err(|error| report.value_error(key.span(), error))
            .ok()?;
        if !listed.tags.contains(tag.as_str()) && !report.is_broken() {
            let hint = report
                .nearest(&tag, listed.tags.iter().copied())
                .map(|near| format!("did you mean `tag:{near}`?"));
            let message = format!("no node under `[nodes]` has the tag `{tag}`");
            report.warning(codes::UNLISTED_TAG, key.span(), message, hint);
        }
        return Some(NodeSelector::Tag(tag));
    }
    let name = read_name::<NodeName>(report, key)?;
    if !listed.nodes.contains_key(&name) && !report.is_broken() {
        let hint = report
            .nearest(text, listed.nodes.keys().map(NodeName::as_str))
            .map(|near| format!("did you mean `{near}`?"));
        let message = format!(
            "node `{name}` is not under `[nodes]`: if no node of that name is approved, its routes wait for one"
        );
        report.warning(codes::UNLISTED_NODE, key.span(), message, hint);
    }
    Some(NodeSelector::Node(name))
}

/// A route, and what it writes of its replicas.
struct Row {
    route: RouteSpec,
    written: upkeep::Written,
}

fn read_routes(
    report: &mut Report<'_>,
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    components: &Components<'_>,
    divisions: &mut Divisions,
) -> Vec<RouteSpec> {
    if let DeValue::Table(table) = value.get_ref() {
        // One route without the list around it: the commonest slip here.
        if table.contains_key("path") {
            let hint = format!("write a list: `{:?} = [{{ … }}]`", cut(key.get_ref()));
            wrong_type(report, value, "a list of routes", Some(hint));
            return Vec::new();
        }
    }
    let fields = rows(report, value, &keys::ROUTE, key.get_ref());
    fits(report, key.get_ref(), fields.len(), ROUTES_MAX, key.span());
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for fields in fields.iter().take(ROUTES_MAX) {
        let Some(row) = read_route(report, fields, components) else {
            continue;
        };
        if !seen.insert((row.route.host.clone(), row.route.path.clone())) {
            let host = row
                .route
                .host
                .as_ref()
                .map_or(String::new(), |host| format!(" of host `{host}`"));
            let message = format!("`{}`{host} is routed twice here", row.route.path);
            let span = fields.value_span("path");
            report.error(codes::DUPLICATE_ROUTE, span, message, None);
        }
        agree(report, fields, &row.route, divisions);
        rows.push((fields, row));
    }
    let divided: BTreeSet<&str> = rows
        .iter()
        .filter(|(_, row)| !row.route.weights.is_empty())
        .map(|(_, row)| row.route.component.as_str())
        .collect();
    // Versions between which requests are divided are kept alike.
    let kept_as = |name: &ComponentName| match divided.contains(name.app()) {
        true => name.app().to_owned(),
        false => name.to_string(),
    };
    let mut upkeeps: BTreeMap<String, upkeep::Merged> = BTreeMap::new();
    for (fields, row) in &rows {
        let merged = upkeeps.entry(kept_as(&row.route.component)).or_default();
        merge(report, fields, row, merged);
    }
    let routes = rows.iter().map(|(_, row)| RouteSpec {
        upkeep: upkeeps
            .get(&kept_as(&row.route.component))
            .map_or(row.route.upkeep, |merged| merged.upkeep),
        ..row.route.clone()
    });
    routes.collect()
}

/// App → how its requests are divided.
type Divisions = BTreeMap<ComponentName, BTreeMap<ComponentName, u32>>;

/// All routes of an app divide its requests alike: one is promoted everywhere.
fn agree(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    route: &RouteSpec,
    divisions: &mut Divisions,
) {
    if route.weights.is_empty() {
        return;
    }
    let app = &route.component;
    let first = divisions
        .entry(app.clone())
        .or_insert_with(|| route.weights.clone());
    if *first != route.weights {
        report.error(
            codes::WEIGHTS_DISAGREE,
            fields.value_span("weights"),
            format!("another route divides the requests of `{app}` differently"),
            Some(format!(
                "write the same weights, or `component = \"{app}@LABEL\"` without"
            )),
        );
    }
}

/// What a route says of its replicas holds for the component in the whole list: the other routes may leave
/// it out, and must not differ.
fn merge(report: &mut Report<'_>, fields: &Fields<'_, '_>, row: &Row, merged: &mut upkeep::Merged) {
    let name = &row.route.component;
    for key in merged.add(&row.written) {
        report.error(
            codes::REPLICAS_DISAGREE,
            fields.value_span(key),
            format!("another route of `{name}` here says something else about `{key}`"),
            Some("it holds for the component: write it on one route".to_owned()),
        );
    }
}

fn read_route(
    report: &mut Report<'_>,
    fields: &Fields<'_, '_>,
    components: &Components<'_>,
) -> Option<Row> {
    let path = fields.text(report, "path", path::route_path);
    let host = fields.text(report, "host", host::route_host);
    let written = upkeep::read(report, fields);
    let upkeep = written.upkeep;
    let answering = weights::read(report, fields, components);
    let named = answering.iter().flat_map(weights::Answering::components);
    let unroutable = named
        .filter_map(|name| components.specs.get(name))
        .find_map(|spec| runs::unroutable(spec, upkeep.replicas));
    if let Some((code, message, hint)) = unroutable {
        report.error(
            code,
            fields.value_span("component"),
            message,
            Some(hint.to_owned()),
        );
    }
    let weights::Answering { component, weights } = answering?;
    let is_singleton = |name| {
        components
            .specs
            .get(name)
            .is_some_and(|spec| spec.singleton)
    };
    if is_singleton(&component) || weights.keys().any(is_singleton) {
        check_one(report, fields, &upkeep);
        if !weights.is_empty() {
            report.error(
                codes::SINGLETON_REPLICAS,
                fields.value_span("weights"),
                "`weights` divides between several, and a singleton is one".to_owned(),
                Some("take `weights` away, or `singleton`".to_owned()),
            );
        }
    }
    Some(Row {
        route: RouteSpec {
            host,
            path: path?,
            component,
            weights,
            former: BTreeSet::new(),
            upkeep,
        },
        written,
    })
}

/// Of a singleton there is one in the whole realm.
fn check_one(report: &mut Report<'_>, fields: &Fields<'_, '_>, upkeep: &upkeep::Upkeep) {
    for (key, is_one) in [
        ("replicas", upkeep.replicas == 1),
        ("per_node", !upkeep.per_node),
    ] {
        if !is_one {
            report.error(
                codes::SINGLETON_REPLICAS,
                fields.value_span(key),
                format!("`{key}` asks for more than one of a singleton"),
                Some(format!("take `{key}` away, or `singleton`")),
            );
        }
    }
}
