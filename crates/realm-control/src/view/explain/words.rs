//! The words of an explanation: which obstacle is told first, how the whole is, and what to do about
//! what a node waits on.

use realm_model::action::WaitingOn;
use realm_model::name::{ComponentName, NodeName};
use realm_model::why::{Obstacle, ReasonView, Verdict, VerdictView};

/// What runs, in numbers.
pub(super) struct Counts {
    pub(super) wanted: u32,
    pub(super) running: u32,
    pub(super) current: u32,
    pub(super) version: Option<u64>,
    /// Whether it runs to its end.
    pub(super) is_job: bool,
}

/// Codes in the order in which they are told: what a person has to do something about comes first, what
/// passes by itself last. Others stand between.
const FIRST: [&str; 14] = [
    "failed",
    "rollout-failed",
    "backoff",
    "lost",
    "not-reached",
    "no-route",
    "node-absent",
    "no-node",
    "not-approved",
    "approval-expired",
    "drained",
    "cordoned",
    "path-taken",
    "behind",
];
const LAST: [&str; 7] = [
    "fetching",
    "compiling",
    "starting",
    "rolling",
    "routing",
    "draining",
    "name-taken",
];

pub(super) fn rank(code: &str) -> usize {
    if let Some(place) = FIRST.iter().position(|one| *one == code) {
        return place;
    }
    let last = LAST.iter().position(|one| *one == code);
    last.map_or(FIRST.len(), |place| FIRST.len() + 1 + place)
}

/// Whether a wait is one that is in the way, and not how it shall be.
pub(super) fn is_obstacle(code: &str) -> bool {
    !["scheduled", "done"].contains(&code)
}

pub(super) fn verdict(counts: &Counts, first: Option<&Obstacle>) -> VerdictView {
    let Counts {
        wanted,
        running,
        current,
        version,
        is_job,
    } = *counts;
    // Replicas that go on until others have taken over are more than anybody wants.
    let (running, current) = (running.min(wanted), current.min(wanted));
    let code = match (wanted, current, running) {
        (0, _, _) => Verdict::Nowhere,
        (_, current, _) if current == wanted => Verdict::AsWanted,
        (_, _, running) if running == wanted => Verdict::Updating,
        (_, _, 0) => Verdict::Down,
        (_, _, _) => Verdict::Degraded,
    };
    let runs = match code {
        Verdict::Nowhere => "no node shall run it".to_owned(),
        _ if is_job => format!("as wanted on {current} of {wanted} nodes"),
        Verdict::AsWanted | Verdict::Down | Verdict::Degraded => {
            format!("{running} of {wanted} run")
        }
        Verdict::Updating => match version {
            Some(version) => format!("{running} of {wanted} run, {current} with version {version}"),
            None => format!("{running} of {wanted} run, {current} as wanted"),
        },
    };
    let why = first.filter(|_| code != Verdict::AsWanted);
    let why = why.map_or(String::new(), |one| match &one.node {
        Some(node) => format!("; {node}: {}", one.reason.message),
        None => format!("; {}", one.reason.message),
    });
    VerdictView {
        code,
        message: format!("{runs}{why}"),
    }
}

/// A node has not heard of what is wanted.
pub(super) fn behind(version: Option<u64>) -> ReasonView {
    let what = version.map_or_else(
        || "what is wanted".to_owned(),
        |version| format!("version {version}"),
    );
    ReasonView {
        code: "behind".to_owned(),
        message: format!("has not said that {what} is in force there"),
        hint: Some("it hears of it by itself once others reach it: `realm nodes ls`".to_owned()),
    }
}

/// What a node waits on, with what to do about it.
pub(super) fn waiting(
    component: &ComponentName,
    node: &NodeName,
    waiting: &WaitingOn,
) -> ReasonView {
    let hint = match waiting.code.as_str() {
        "failed" | "backoff" => Some(failure(component, node, &waiting.message)),
        "rollout-failed" => Some(format!(
            "`realm --node {node} logs {component}` says why; push what mends it, or apply the version before"
        )),
        _ => None,
    };
    ReasonView {
        code: waiting.code.clone(),
        message: waiting.message.clone(),
        hint,
    }
}

/// Codes of failures that say by themselves what to do. Of the others the log says more.
const FAILURES: [(&[&str], &str); 13] = [
    (
        &["not-uploaded"],
        "`realm apply` brings the bytes of a `file:` source",
    ),
    (
        &[
            "fetch-failed",
            "source-unusable",
            "no-source",
            "bad-source-setting",
            "tls-setup",
        ],
        "look at the source, and at what that machine needs to reach it: docs/operations.md#sources-of-components",
    ),
    (
        &["digest-mismatch", "oversized"],
        "the source has other bytes than were signed: apply again, or ask who publishes them",
    ),
    (
        &[
            "compile-failed",
            "too-large",
            "missing-import",
            "link-failed",
            "wrong-world",
            "no-health-export",
            "no-handler",
        ],
        "`realm inspect FILE` says what the build needs and has; push another one",
    ),
    (
        &["dir-denied"],
        "allow the directory in node.toml of that node, or take it out of `dirs`",
    ),
    (
        &["backend-denied"],
        "add what the reason names to `[backends] allow` in node.toml of that node, and start its agent anew; or bind another `backend`",
    ),
    (
        &["backend-secret"],
        "`realm secret ls` says who can open it, `realm secret set` and `rotate` give it a value: then apply",
    ),
    (
        &["backend-unusable", "backend-failed"],
        "look at `[bindings]` in the manifest, and at `[backends]` in node.toml of that node",
    ),
    (
        &["backend-unknown"],
        "bind another `backend`, or install the newer realm that has this one: docs/wasi-cloud.md",
    ),
    (
        &["upstream-denied"],
        "allow it under `[upstreams] allow` in node.toml of that node and start the agent again, or route to nodes that do",
    ),
    (
        &["upstream-unreachable"],
        "start what is to listen there; of a Unix socket the agent's user must be allowed to write to it",
    ),
    (
        &["port-busy"],
        "end the program that holds the port, or leave `listen` out and read it from `PORT`",
    ),
    (
        &["store-failed", "fetch-lost", "io", "cache-not-writable"],
        "look at the disk of that machine",
    ),
];

/// What to do about a failure, by the code in its message; `None`: the code alone does not say.
pub fn failure_hint(message: &str) -> Option<&'static str> {
    // A failure is told as `code: reason`, or as `failed twice (code): reason`.
    let named = |code: &str| {
        message.contains(&format!("({code}): "))
            || message.starts_with(&format!("{code}: "))
            || message.contains(&format!(": {code}: "))
    };
    let known = FAILURES
        .iter()
        .find(|(codes, _)| codes.iter().any(|code| named(code)));
    known.map(|(_, hint)| *hint)
}

fn failure(component: &ComponentName, node: &NodeName, message: &str) -> String {
    failure_hint(message).map_or_else(
        || format!("`realm --node {node} logs {component}` has what it wrote; docs/operations.md#why-a-component-does-not-run has the code"),
        str::to_owned,
    )
}
