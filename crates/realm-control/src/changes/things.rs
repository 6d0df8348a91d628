//! A manifest as a flat list of things with keys and values: what is compared, and how a person
//! reads each value.

use std::collections::BTreeMap;
use std::fmt::Display;

use realm_model::binding::Binding;
use realm_model::front::Front;
use realm_model::grants::{ClockGrant, DirGrant, Grants};
use realm_model::limits::Limits;
use realm_model::lock::{Lock, Pin};
use realm_model::manifest::{
    ComponentSpec, HealthCheck, Manifest, NodeSpec, OnFail, Probe, RestartPolicy, RouteSpec, Serve,
    Source, Upkeep, World,
};
use realm_model::name::ComponentName;

use realm_model::digest::Digest;
use realm_model::trigger::{SubscriptionSpec, Triggers, WorkflowSpec};
use realm_model::upstream::{Scripts, Speaks};

use super::Subject;

/// What is in a manifest: (what it is, its name) → key → value.
pub(super) type Things = BTreeMap<(Subject, String), Keys>;
type Keys = BTreeMap<String, Value>;

/// A value as text, safe to print: what a manifest holds may be any Unicode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    /// Whether it says what an absent key says; such keys are compared and not listed.
    pub(super) is_default: bool,
}

pub(super) fn things(manifest: &Manifest, lock: &Lock) -> Things {
    let Manifest {
        version: _,
        owner,
        nodes,
        components,
        routing,
        bindings,
        secrets,
    } = manifest;
    let mut things = Things::new();
    if let Some(owner) = owner {
        let keys = [("pubkey".to_owned(), given(owner))].into();
        things.insert((Subject::Owner, "of the manifest".to_owned()), keys);
    }
    for (name, node) in nodes {
        things.insert((Subject::Node, name.to_string()), node_keys(node));
    }
    for (name, spec) in components {
        let keys = component_keys(spec, lock.components.get(name));
        things.insert((Subject::Component, name.to_string()), keys);
    }
    for (selector, routes) in routing {
        for route in routes {
            let host = route
                .host
                .as_ref()
                .map_or_else(String::new, |host| host.to_string());
            let name = format!("{selector} {host}{}", route.path);
            things.insert((Subject::Route, printable(&name)), route_keys(route));
        }
    }
    for (name, binding) in bindings {
        things.insert((Subject::Binding, printable(name)), binding_keys(binding));
    }
    for (name, ciphertext) in secrets {
        // The ciphertext is long and says nothing; its digest tells whether it is another.
        let keys = [(
            "ciphertext".to_owned(),
            given(Digest::of(ciphertext.text().as_bytes())),
        )]
        .into();
        things.insert((Subject::Secret, printable(name)), keys);
    }
    things
}

fn binding_keys(binding: &Binding) -> Keys {
    let Binding {
        interface,
        backend,
        prefix,
        secret,
        issuer,
        senders,
        model,
        events,
        keep_hours,
        keep_mb,
    } = binding;
    let mut keys = Keys::new();
    let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    set("interface", given(quoted(interface.as_str())));
    set("backend", given(quoted(backend.to_string())));
    for (key, value) in [
        ("prefix", prefix),
        ("secret", secret),
        ("issuer", issuer),
        ("model", model),
    ] {
        if let Some(value) = value {
            set(key, given(quoted(value)));
        }
    }
    for (key, number) in [("keep_hours", keep_hours), ("keep_mb", keep_mb)] {
        if let Some(number) = number {
            set(key, given(number));
        }
    }
    if let Some(events) = events {
        let told = format!("{}/{}", events.binding, events.topic);
        set("events", given(quoted(told)));
    }
    if !senders.is_empty() {
        keys.insert("senders".to_owned(), list(senders.iter().map(quoted)));
    }
    keys
}

fn node_keys(node: &NodeSpec) -> Keys {
    let NodeSpec { tags, addr_hint } = node;
    let mut keys = Keys::new();
    keys.insert("tags".to_owned(), list(tags.iter().map(quoted)));
    if let Some(hint) = addr_hint {
        keys.insert("addr_hint".to_owned(), given(quoted(hint)));
    }
    keys
}

fn route_keys(route: &RouteSpec) -> Keys {
    let RouteSpec {
        host: _,
        path: _,
        component,
        weights,
        former: _,
        upkeep,
    } = route;
    let Upkeep {
        replicas,
        per_node,
        max_surge,
        max_unavailable,
        min_ready_ms,
        progress_deadline_ms,
        on_fail,
        lost_after_ms,
    } = upkeep;
    let default = Upkeep::default();
    let mut keys = Keys::new();
    let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    set("component", given(quoted(component.as_str())));
    if !weights.is_empty() {
        let label = |name: &ComponentName| name.label().unwrap_or_default().to_owned();
        let weights = weights.iter();
        set(
            "weights",
            list(weights.map(|(name, weight)| format!("{} = {weight}", label(name)))),
        );
    }
    set("replicas", given(replicas));
    set("per_node", or_default(per_node, &default.per_node));
    set("max_surge", or_default(max_surge, &default.max_surge));
    set(
        "max_unavailable",
        or_default(max_unavailable, &default.max_unavailable),
    );
    for (key, ms, default_ms) in [
        ("min_ready", *min_ready_ms, default.min_ready_ms),
        (
            "progress_deadline",
            *progress_deadline_ms,
            default.progress_deadline_ms,
        ),
        ("lost_after", *lost_after_ms, default.lost_after_ms),
    ] {
        set(key, or_default(&span(ms), &span(default_ms)));
    }
    let word = |on_fail: &OnFail| match on_fail {
        OnFail::Halt => "halt",
        OnFail::Revert => "revert",
    };
    set(
        "on_fail",
        or_default(&word(on_fail), &word(&default.on_fail)),
    );
    keys
}

/// A time span as a manifest writes it, exactly.
fn span(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

fn component_keys(spec: &ComponentSpec, pin: Option<&Pin>) -> Keys {
    let ComponentSpec {
        source,
        world,
        serve,
        limits,
        grants,
        listen,
        schedule,
        reuse,
        singleton,
        restart,
        health,
        triggers,
        front,
    } = spec;
    let mut keys = Keys::new();
    let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    let upstream = spec.upstream();
    if let Some(upstream) = upstream {
        set("upstream", given(quoted(upstream.to_string())));
        if let Speaks::FastCgi(scripts) = &upstream.speaks {
            let Scripts { root, split, index } = scripts;
            set("root", given(quoted(root)));
            set("split", or_default(split, &".php".to_owned()));
            set("index", or_default(index, &"index.php".to_owned()));
        }
        set("keep_connections", given(upstream.keep));
    } else {
        set("source", given(quoted(source_text(source))));
    }
    // What stands for the bytes of an upstream in the lock says nothing that its address does not.
    if let Some(Pin { digest, size }) = pin.filter(|_| upstream.is_none()) {
        // In full: what is compared is this text, and a short form could be met on purpose.
        set("pin", given(format!("{digest} ({size} bytes)")));
    }
    if let Some(world) = world {
        set("world", given(quoted(world_text(*world))));
    }
    if let Some(serve) = serve {
        set("serve", given(quoted(serve_text(*serve))));
    }
    if let Some(port) = listen {
        set("listen", given(port));
    }
    if let Some(schedule) = schedule {
        set("schedule", given(quoted(schedule.to_string())));
    }
    set("reuse", or_default(reuse, &false));
    set("singleton", or_default(singleton, &false));
    let restart_is_default = *restart == RestartPolicy::default();
    set(
        "restart",
        Value {
            text: quoted(restart_text(*restart)),
            is_default: restart_is_default,
        },
    );
    keys.extend(limit_keys(limits));
    keys.extend(grant_keys(grants));
    keys.extend(health.iter().flat_map(health_keys));
    keys.extend(trigger_keys(triggers));
    keys.extend(front_keys(front));
    keys
}

fn front_keys(front: &Front) -> Keys {
    let Front {
        per_client,
        rules,
        cache,
    } = front;
    let mut keys: Keys = [("cache".to_owned(), or_default(cache, &false))].into();
    if let Some(per_client) = per_client {
        keys.insert("per_client".to_owned(), given(per_client));
    }
    for (number, rule) in rules.iter().enumerate() {
        keys.insert(format!("rules[{number}]"), given(rule));
    }
    keys
}

fn limit_keys(limits: &Limits) -> Keys {
    let Limits {
        memory_max_mb,
        fuel_per_sec,
        epoch_timeout_ms,
        wall_timeout_ms,
        max_concurrency,
        max_request_bytes,
        max_response_bytes,
        websocket_idle_ms,
        storage_max_mb,
        operations_per_sec,
    } = limits;
    let default = Limits::default();
    let numbers = [
        ("memory_max_mb", *memory_max_mb, default.memory_max_mb),
        (
            "epoch_timeout_ms",
            *epoch_timeout_ms,
            default.epoch_timeout_ms,
        ),
        ("wall_timeout_ms", *wall_timeout_ms, default.wall_timeout_ms),
        (
            "max_concurrency",
            u64::from(*max_concurrency),
            u64::from(default.max_concurrency),
        ),
        (
            "max_request_bytes",
            *max_request_bytes,
            default.max_request_bytes,
        ),
        (
            "websocket_idle_ms",
            *websocket_idle_ms,
            default.websocket_idle_ms,
        ),
        ("storage_max_mb", *storage_max_mb, default.storage_max_mb),
    ];
    let mut keys: Keys = numbers
        .into_iter()
        .map(|(key, value, default)| (key.to_owned(), or_default(&value, &default)))
        .collect();
    if let Some(fuel) = fuel_per_sec {
        keys.insert("fuel_per_sec".to_owned(), given(fuel));
    }
    if let Some(bytes) = max_response_bytes {
        keys.insert("max_response_bytes".to_owned(), given(bytes));
    }
    if let Some(operations) = operations_per_sec {
        keys.insert("operations_per_sec".to_owned(), given(operations));
    }
    keys
}

fn grant_keys(grants: &Grants) -> Keys {
    let Grants {
        allowed_outbound,
        env,
        vars,
        args,
        dirs,
        clock,
        secrets,
        stores,
    } = grants;
    let dir_text = |dir: &DirGrant| {
        let mode = if dir.writable { "rw" } else { "ro" };
        quoted(format!("{}::{}::{mode}", dir.host, dir.guest))
    };
    let rules = allowed_outbound.iter().map(|rule| quoted(rule.to_string()));
    let mut keys: Keys = [
        ("allowed_outbound", list(rules)),
        ("args", list(args.iter().map(quoted))),
        ("dirs", list(dirs.iter().map(dir_text))),
        ("secrets", list(secrets.iter().map(quoted))),
        (
            "clock",
            Value {
                text: quoted(clock_text(*clock)),
                is_default: *clock == ClockGrant::default(),
            },
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    for (table, entries) in [("env", env), ("vars", vars)] {
        for (key, value) in entries {
            let key = printable(&format!("{table}.{key}"));
            keys.insert(key, given(quoted(value)));
        }
    }
    for store in stores {
        let key = format!("bind.{}:{}", store.interface.short(), store.identifier);
        keys.insert(printable(&key), given(quoted(&store.binding)));
    }
    keys
}

fn trigger_keys(triggers: &Triggers) -> Keys {
    let Triggers {
        subscriptions,
        watches,
        workflows,
    } = triggers;
    let mut keys = Keys::new();
    if !watches.is_empty() {
        keys.insert("watch".to_owned(), list(watches.iter().map(quoted)));
    }
    for one in subscriptions {
        let SubscriptionSpec {
            topic,
            from,
            group,
            concurrency,
            ack_wait_ms,
            attempts,
            backoff_ms,
            dead_letter,
            rules,
        } = one;
        let mut text = format!(
            "from {from:?} as {group:?}, {concurrency} at once, {attempts} attempts after {}, each within {}",
            span(*backoff_ms),
            span(*ack_wait_ms),
        );
        if let Some(dead_letter) = dead_letter {
            text.push_str(&format!(", then to {dead_letter:?}"));
        }
        if !rules.is_empty() {
            text.push_str(&format!(", where {rules}"));
        }
        keys.insert(
            printable(&format!("subscribe.{topic}")),
            given(printable(&text)),
        );
    }
    for one in workflows {
        let WorkflowSpec {
            workflow,
            from,
            concurrency,
            lease_ms,
            attempts,
            backoff_ms,
        } = one;
        let text = format!(
            "from {from:?}, {concurrency} at once, {attempts} attempts after {}, each within {}",
            span(*backoff_ms),
            span(*lease_ms),
        );
        keys.insert(
            printable(&format!("workflows.{workflow}")),
            given(printable(&text)),
        );
    }
    keys
}

fn health_keys(health: &HealthCheck) -> Keys {
    let HealthCheck {
        probe,
        interval_ms,
        timeout_ms,
        failures,
    } = health;
    let (key, value) = match probe {
        Probe::Http(path) => ("health.path", given(quoted(path))),
        Probe::Export => ("health.export", given(true)),
    };
    [
        (key, value),
        ("health.interval_ms", given(interval_ms)),
        ("health.timeout_ms", given(timeout_ms)),
        ("health.failures", given(failures)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn given(value: impl Display) -> Value {
    Value {
        text: value.to_string(),
        is_default: false,
    }
}

fn or_default<T: Display + PartialEq>(value: &T, default: &T) -> Value {
    Value {
        text: value.to_string(),
        is_default: value == default,
    }
}

fn list(values: impl Iterator<Item = String>) -> Value {
    let values: Vec<String> = values.collect();
    Value {
        text: format!("[{}]", values.join(", ")),
        is_default: values.is_empty(),
    }
}

/// In quotes, with everything escaped that a terminal would act on.
fn quoted(text: impl AsRef<str>) -> String {
    format!("{:?}", text.as_ref())
}

fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

fn source_text(source: &Source) -> String {
    match source {
        Source::File { path } => format!("file:{path}"),
        Source::Http { url, digest } => format!("{url}@{digest}"),
        Source::Registry(source) => pinned(source, source.digest),
        Source::S3(source) => pinned(source, source.digest),
        Source::Ipfs(source) => pinned(source, source.digest),
        Source::Upstream(upstream) => upstream.to_string(),
        Source::Later {
            location, digest, ..
        } => pinned(location, *digest),
    }
}

fn pinned(location: impl Display, digest: Option<Digest>) -> String {
    match digest {
        Some(digest) => format!("{location}@{digest}"),
        None => location.to_string(),
    }
}

const fn world_text(world: World) -> &'static str {
    match world {
        World::Http => "wasi:http",
        World::Command => "wasi:cli/command",
    }
}

const fn serve_text(serve: Serve) -> &'static str {
    match serve {
        Serve::Http => "http",
        Serve::Cgi => "cgi",
        Serve::Socket => "socket",
        Serve::Service => "service",
        Serve::Job => "job",
        Serve::Worker => "worker",
    }
}

const fn restart_text(restart: RestartPolicy) -> &'static str {
    match restart {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    }
}

const fn clock_text(clock: ClockGrant) -> &'static str {
    match clock {
        ClockGrant::None => "none",
        ClockGrant::Coarse => "coarse",
        ClockGrant::Precise => "precise",
    }
}
