//! What an entry says, in words for a person who has to choose between two of them. Nothing is decided
//! by these words.

use super::Body;
use super::power::Fence;
use crate::key::PublicKey;
use crate::lock::Lock;
use crate::manifest;

/// Names in one line: what a terminal shows.
const NAMES_SHOWN_MAX: usize = 8;

impl Body {
    /// What it says, in one line.
    pub fn words(&self) -> String {
        match self {
            Self::Genesis(body) => format!("founds the realm of {}", keys(&body.owners)),
            Self::ApproveNode(body) => format!("approves node `{}` ({})", body.name, body.key),
            Self::ApproveUntil(body) => format!(
                "approves node `{}` ({}) until {} s after 1970",
                body.name, body.key, body.not_after_unix_s
            ),
            Self::RevokeNode(body) => format!("revokes the node with the key {}", body.key),
            Self::SetNode(body) => {
                let word = match (body.cordoned, body.drained) {
                    (_, true) => "drains",
                    (true, false) => "cordons",
                    (false, false) => "uncordons",
                };
                format!("{word} the node with the key {}", body.key)
            }
            Self::Rotate(body) => owners("gives the realm to", &body.owners, &body.recovery),
            Self::Delegate(body) => format!(
                "gives namespace `{}` to {} for the components {}",
                body.namespace,
                body.key,
                names(body.apps.iter())
            ),
            Self::Undelegate(body) => format!("takes namespace `{}` back", body.namespace),
            Self::Resolve(body) => resolved(&body.fence),
            Self::Recover(body) => owners("takes the realm back for", &body.owners, &body.recovery),
            Self::SetBeacon(body) => match &body.key {
                Some(key) => format!(
                    "lets {key} sign a beacon every {} s, as `{}`",
                    body.every_s, body.name
                ),
                None => format!("takes the beacon `{}` away", body.name),
            },
            Self::Manifest(body) => {
                let version = Lock::parse(&body.lock).map_or(0, |lock| lock.version);
                let (manifest, _) = manifest::parse(&body.manifest);
                let components =
                    manifest.map_or_else(String::new, |manifest| names(manifest.components.keys()));
                format!("applies version {version} with the components {components}")
            }
            Self::Push(body) => {
                let lock = Lock::parse(&body.lock).unwrap_or_default();
                let pin = lock.components.get(&body.component);
                let digest = pin.map_or_else(String::new, |pin| pin.digest.to_string());
                format!(
                    "pushes `{}` {digest} as version {}",
                    body.component, lock.version
                )
            }
            Self::Restart(body) if body.nodes.is_empty() => {
                format!("restarts `{}` everywhere", body.component)
            }
            Self::Restart(body) => {
                format!(
                    "restarts `{}` on {}",
                    body.component,
                    names(body.nodes.iter())
                )
            }
            Self::Weigh(body) => {
                let weights: Vec<String> = body
                    .weights
                    .iter()
                    .take(NAMES_SHOWN_MAX)
                    .map(|one| format!("`{}` {}", one.component, one.weight))
                    .collect();
                format!(
                    "divides the requests of `{}`: {}",
                    body.app,
                    weights.join(", ")
                )
            }
            Self::Rollback(body) => format!(
                "takes `{}` back to what entry {} brought",
                body.component, body.to
            ),
        }
    }
}

fn owners(what: &str, owners: &[PublicKey], recovery: &[PublicKey]) -> String {
    let recovery = match recovery {
        [] => String::new(),
        recovery => format!(", with the recovery key {}", keys(recovery)),
    };
    format!("{what} {}{recovery}", keys(owners))
}

fn resolved(fence: &Fence) -> String {
    format!(
        "says that entry {} of namespace `{}` is {}",
        fence.head.seq, fence.namespace, fence.head.hash
    )
}

fn keys(keys: &[PublicKey]) -> String {
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    keys.join(", ")
}

fn names(names: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
    let mut shown: Vec<String> = names
        .take(NAMES_SHOWN_MAX)
        .map(|name| format!("`{name}`"))
        .collect();
    if shown.is_empty() {
        shown.push("(none)".to_owned());
    }
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::{
        ApproveNode, Delegate, ManifestBody, RestartBody, RollbackBody, WeighBody, Weight,
    };
    use super::*;
    use crate::key::SecretKey;

    fn check(body: &Body, expected: &str) {
        assert_eq!(body.words(), expected);
    }

    #[test]
    fn what_an_entry_says_fits_one_line() {
        let key = SecretKey::from_seed(&[1; 32]).public();
        let node = ApproveNode {
            key,
            name: "beta".parse().expect("a name"),
            tags: Vec::new(),
        };
        check(
            &Body::ApproveNode(node),
            &format!("approves node `beta` ({key})"),
        );
        let manifest = ManifestBody {
            manifest: "[components.orders]\nsource = \"file:orders.wasm\"\n".to_owned(),
            lock: "version = 7\n".to_owned(),
        };
        check(
            &Body::Manifest(manifest),
            "applies version 7 with the components `orders`",
        );
        let nonsense = ManifestBody {
            manifest: "\n[[".to_owned(),
            lock: "?".to_owned(),
        };
        check(
            &Body::Manifest(nonsense),
            "applies version 0 with the components ",
        );
        let restart = RestartBody {
            component: "orders".parse().expect("a name"),
            nodes: Vec::new(),
        };
        check(&Body::Restart(restart), "restarts `orders` everywhere");
        let weigh = |label: &str, weight| Weight {
            component: format!("orders@{label}").parse().expect("a name"),
            weight,
        };
        let weigh = WeighBody {
            app: "orders".parse().expect("a name"),
            weights: vec![weigh("blue", 90), weigh("green", 10)],
        };
        check(
            &Body::Weigh(weigh),
            "divides the requests of `orders`: `orders@blue` 90, `orders@green` 10",
        );
        let back = RollbackBody {
            component: "orders".parse().expect("a name"),
            to: 7,
            lock: String::new(),
        };
        check(
            &Body::Rollback(back),
            "takes `orders` back to what entry 7 brought",
        );
        let delegate = Delegate {
            namespace: "shop".parse().expect("a name"),
            key,
            apps: (0..10).map(|n| format!("a{n}")).collect(),
            hosts: Vec::new(),
            tags: Vec::new(),
            capabilities: Vec::new(),
            may_exec: false,
            may_approve: false,
            fences: Vec::new(),
            replicas_max: None,
            not_after_unix_s: None,
        };
        assert!(delegate.apps.len() > NAMES_SHOWN_MAX);
        let words = Body::Delegate(delegate).words();
        assert!(words.ends_with("`a7`, and 2 more"), "{words}");
    }
}
