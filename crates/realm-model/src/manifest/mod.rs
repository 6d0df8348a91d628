//! `realm.toml`: the desired state that a person writes, as validated values.
//!
//! [`parse`] turns text into a [`Manifest`] and every problem at once; a manifest with an error
//! is no manifest. Not here: resolving sources to digests (`lock`), and what runs where (control).

mod address;
mod component;
mod dir;
mod front;
mod host;
pub mod keys;
mod origin;
mod outbound;
mod path;
mod read;
mod rules;
mod runs;
mod schema;
mod source;
mod stores;
mod upkeep;
mod upstreams;
mod value;
mod weights;
mod whole;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

pub use address::{Address, parse_address};
pub(crate) use component::{without_duplicates, without_places};
pub use dir::parse_dir;
pub(crate) use host::{dns_name, ends_in_a_number};
pub use origin::{IpfsSource, ObjectSource, RegistrySource, is_loopback};
pub(crate) use origin::{check_endpoint, check_region, is_registry};
pub(crate) use path::directory;
pub use schema::schema;
pub use upkeep::{Amount, Budget, OnFail, Upkeep};
pub use value::ValueError;
pub(crate) use value::plain_name;
pub use weights::{LABELS_MAX, WEIGHT_MAX};

use crate::binding::Binding;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::digest::Digest;
use crate::entry::NamespaceName;
use crate::fields::Report;
use crate::front::Front;
use crate::grants::Grants;
use crate::key::PublicKey;
use crate::limits::Limits;
use crate::name::{ComponentName, NodeName};
use crate::route::{HostPattern, PathPattern};
use crate::schedule::Schedule;
use crate::sealing::Sealed;
use crate::trigger::Triggers;
use crate::upstream::Upstream;

/// A manifest larger than this is refused before it is parsed: 200 bytes for each of
/// [`COMPONENTS_MAX`] components and their routes.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Components per manifest: twice what one node is measured with.
pub const COMPONENTS_MAX: usize = 20_000;
/// Replicas per route.
pub const REPLICAS_MAX: u32 = 1_000;

/// A validated `realm.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Manifest {
    /// `version`: greater than that of the manifest in force; absent: the last one plus one.
    pub version: Option<u64>,
    /// `[owner] pubkey`, if named.
    pub owner: Option<PublicKey>,
    /// `[nodes]`.
    pub nodes: BTreeMap<NodeName, NodeSpec>,
    /// `[components]`.
    pub components: BTreeMap<ComponentName, ComponentSpec>,
    /// `[routing]`.
    pub routing: BTreeMap<NodeSelector, Vec<RouteSpec>>,
    /// `[bindings]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bindings: BTreeMap<String, Binding>,
    /// `[secrets]`: name → ciphertext.
    pub secrets: BTreeMap<String, Sealed>,
}

/// A node as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NodeSpec {
    /// Tags for `routing."tag:…"`.
    pub tags: Vec<String>,
    /// A multiaddr to try first, in its proper spelling.
    pub addr_hint: Option<String>,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentSpec {
    /// Where its bytes come from.
    pub source: Source,
    /// The world it was built for, if named.
    pub world: Option<World>,
    /// How it runs; absent: it answers requests, and its exports decide how.
    pub serve: Option<Serve>,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub grants: Grants,
    /// Port that a socket server listens on, if it cannot take one from `PORT`.
    pub listen: Option<u16>,
    /// When a job runs; absent: once for each version.
    pub schedule: Option<Schedule>,
    /// Whether one instance serves many requests.
    pub reuse: bool,
    /// Whether it runs on one node at a time, which holds the lease for it.
    pub singleton: bool,
    /// When a command that runs by itself is started again.
    pub restart: RestartPolicy,
    /// How its health is asked.
    pub health: Option<HealthCheck>,
    /// What calls it beside requests.
    #[serde(skip_serializing_if = "Triggers::is_empty")]
    pub triggers: Triggers,
    /// What nodes do with its requests before anybody answers them.
    #[serde(skip_serializing_if = "Front::is_empty")]
    pub front: Front,
}

/// Where a component's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "scheme", rename_all = "kebab-case")]
pub enum Source {
    /// `file:./build/orders.wasm`, relative to the manifest.
    File {
        /// The path as written.
        path: String,
    },
    /// `https://…/x.wasm@sha256:…`.
    Http {
        /// The URL without the pin.
        url: String,
        /// The pin, which http sources must carry.
        digest: Digest,
    },
    /// `registry:…`.
    Registry(RegistrySource),
    /// `s3://…`.
    S3(ObjectSource),
    /// `ipfs://…`.
    Ipfs(IpfsSource),
    /// No bytes: a service beside realm answers, as `upstream` says.
    Upstream(Upstream),
    /// `p2p:`: understood, made by a later version.
    Later {
        /// `p2p`.
        kind: String,
        /// The source as written, without the pin.
        location: String,
        /// The pin, if written.
        digest: Option<Digest>,
    },
}

/// The world a component was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// `wasi:http/proxy` (0.2) or `wasi:http/service` (0.3).
    Http,
    /// `wasi:cli/command`.
    Command,
}

/// How a component is invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serve {
    /// One call of the exported HTTP handler per request.
    Http,
    /// One run of the command per request.
    Cgi,
    /// A long-running command with a listening socket.
    Socket,
    /// A long-running command without a route.
    Service,
    /// A command that runs to its end.
    Job,
    /// Calls of the handlers of events that it exports, without a route.
    Worker,
}

/// What a component is to a node: [`Serve`] and the keys beside it, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Instances answer requests: an HTTP handler, or a command as CGI.
    Answers,
    /// One long-running instance per replica, to which requests are passed on.
    Server,
    /// Requests are passed on to a service beside realm.
    Upstream,
    /// One long-running instance per replica, without requests.
    Service,
    /// Instances take what triggers bring, without requests.
    Worker,
    /// A run to its end, once for each version.
    Once,
    /// A run to its end at each time of a schedule.
    Scheduled,
}

/// When a long-running guest is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Whenever it ends.
    #[default]
    Always,
    /// When it ends with a failure.
    OnFailure,
    /// Not at all.
    Never,
}

/// How health is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HealthCheck {
    /// The question.
    pub probe: Probe,
    /// Milliseconds between questions.
    pub interval_ms: u64,
    /// Milliseconds after which no answer is a bad one.
    pub timeout_ms: u64,
    /// Bad answers in a row until a replica is unhealthy.
    pub failures: u32,
}

/// The question that a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// GET this path: 200–399 is healthy.
    Http(String),
    /// Call the exported `realm:app/health` function.
    Export,
}

/// Whom a list of routes concerns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeSelector {
    /// `"*"`: every node.
    All,
    /// `"tag:metal"`: nodes with the tag.
    Tag(String),
    /// `"bm-01"`: one node.
    Node(NodeName),
}

/// One line under `[routing]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteSpec {
    /// Host, if the route is for one.
    pub host: Option<HostPattern>,
    /// Path.
    pub path: PathPattern,
    /// The component that answers; the app whose versions do, if they have weights.
    pub component: ComponentName,
    /// Versions of the app, and how many requests of all together each one gets. Empty: the component
    /// itself answers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<ComponentName, u32>,
    /// Other versions of the app that answered here before this manifest: as long as they still run, they
    /// do while no other can. No key says it: it follows from the manifests before.
    #[serde(skip)]
    pub former: BTreeSet<ComponentName>,
    /// How its replicas are kept: the same on all routes of the component in a list.
    #[serde(flatten)]
    pub upkeep: Upkeep,
}

impl Manifest {
    /// What it names in a namespace that is not the owners': bindings of one name in two namespaces are two,
    /// also where their names on a server are given, and secrets of another one do not open.
    pub fn belong_to(&mut self, namespace: NamespaceName) {
        if namespace.is_default() {
            return;
        }
        for (name, sealed) in &mut self.secrets {
            *sealed = sealed.within(namespace, name);
        }
        for store in self
            .components
            .values_mut()
            .flat_map(|spec| &mut spec.grants.stores)
        {
            store.binding = format!("{}/{}", namespace.as_str(), store.binding);
            if let Some(events) = &mut store.spec.events {
                events.binding = format!("{}/{}", namespace.as_str(), events.binding);
            }
        }
    }
}

impl RouteSpec {
    /// The components that answer: the one, or the versions that have weights.
    pub fn answering(&self) -> impl Iterator<Item = &ComponentName> {
        crate::route::answering(&self.component, &self.weights)
    }

    /// Whether a component answers.
    pub fn leads_to(&self, component: &ComponentName) -> bool {
        self.answering().any(|one| one == component)
    }
}

impl ComponentSpec {
    /// What the component is to a node.
    pub const fn mode(&self) -> Mode {
        if self.upstream().is_some() {
            return Mode::Upstream;
        }
        match (self.serve, &self.schedule) {
            (Some(Serve::Http | Serve::Cgi) | None, _) => Mode::Answers,
            (Some(Serve::Socket), _) => Mode::Server,
            (Some(Serve::Service), _) => Mode::Service,
            (Some(Serve::Worker), _) => Mode::Worker,
            (Some(Serve::Job), None) => Mode::Once,
            (Some(Serve::Job), Some(_)) => Mode::Scheduled,
        }
    }

    /// The service that answers in its place; `None`: it has bytes.
    pub const fn upstream(&self) -> Option<&Upstream> {
        match &self.source {
            Source::Upstream(upstream) => Some(upstream),
            Source::File { .. }
            | Source::Http { .. }
            | Source::Registry(_)
            | Source::S3(_)
            | Source::Ipfs(_)
            | Source::Later { .. } => None,
        }
    }
}

impl Mode {
    /// Whether requests come to it, by routes.
    pub const fn takes_requests(self) -> bool {
        match self {
            Self::Answers | Self::Server | Self::Upstream => true,
            Self::Service | Self::Worker | Self::Once | Self::Scheduled => false,
        }
    }

    /// Whether it is a run to its end.
    pub const fn is_job(self) -> bool {
        match self {
            Self::Once | Self::Scheduled => true,
            Self::Answers | Self::Server | Self::Upstream | Self::Service | Self::Worker => false,
        }
    }
}

impl Source {
    /// The digest that the source itself names; of an upstream, of its address.
    pub fn pinned(&self) -> Option<Digest> {
        match self {
            Self::File { .. } => None,
            Self::Http { digest, .. } => Some(*digest),
            Self::Registry(source) => source.digest,
            Self::S3(source) => source.digest,
            Self::Ipfs(source) => source.digest,
            Self::Upstream(upstream) => Some(upstream.pin()),
            Self::Later { digest, .. } => *digest,
        }
    }
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Tag(tag) => write!(f, "tag:{tag}"),
            Self::Node(name) => write!(f, "{name}"),
        }
    }
}

impl Serialize for NodeSelector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parses and validates the text of a manifest.
///
/// Returns the manifest unless there is an error, and every problem that was found, in the order
/// of the text. Total: any text gives an answer. Text above [`MANIFEST_BYTES_MAX`] is one error.
pub fn parse(text: &str) -> (Option<Manifest>, Vec<Diagnostic>) {
    let mut report = Report::new(text);
    if text.len() > MANIFEST_BYTES_MAX {
        let message = format!(
            "the manifest has {} bytes, at most {MANIFEST_BYTES_MAX} are taken",
            text.len()
        );
        report.error(codes::TOO_LARGE, 0..0, message, None);
        return (None, report.finish().0);
    }
    let document = report.document();
    let manifest = read::manifest(&mut report, &document);
    let (problems, refused) = report.finish();
    ((!refused).then_some(manifest), problems)
}
