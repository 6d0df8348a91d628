//! Who asks an origin for bytes that several nodes want, and when.
//!
//! All nodes hear of a build at about one moment and nobody has it: if each asked the origin, it would
//! give the same bytes as often as there are nodes. So each node ranks all that want them, and the
//! first asks at once. The others ask their peers again and again, as long as somebody gets on, and
//! the origin each in its turn once nobody does. Nothing is agreed upon: two nodes that see different
//! ones ahead of them ask the origin twice, and who hears nobody asks at once. What others say of
//! themselves is believed for a bounded time. Not here: who says it, and where the bytes come from.

use std::collections::BTreeMap;

use realm_model::digest::Digest;
use realm_model::key::PublicKey;
use realm_model::manifest::Manifest;
use realm_model::name::{ComponentName, NodeName};

use crate::authority::Authority;
use crate::desired::Desired;
use crate::place::Placement;
use crate::plan::Standing;

/// Which ranks these are. Two versions that rank otherwise ask the origin once each.
const RANKS: &[u8] = b"realm.fetch.v1";

/// Between the turns of two nodes: long enough for the news of an entry to come to all, and for a
/// registry's answers, its token and its redirect before the first byte.
const STEP_MS: u64 = 1_500;
/// So many nodes have turns of their own, one after the other; all others follow together.
const STEPS_MAX: u64 = 3;
/// Those ask at any time within this one, so that the origin does not meet all of them at once.
const SPREAD_MS: u64 = 2_000;
/// The longest wait while nobody gets on: what it costs at most that those ahead are stopped, cut off
/// from the origin or without the credentials for it.
pub const PATIENCE_MS_MAX: u64 = (STEPS_MAX + 1) * STEP_MS - STEP_MS / 2 + SPREAD_MS;
/// A download that brings nothing for so long has broken down: as long as a busy disk may take.
const STALL_MS: u64 = 2_000;
/// Bytes per second that those who get on must be able to have brought, counted from the beginning: who
/// claims to get on, and does not, is believed no longer than [`PATIENCE_MS_MAX`] and that.
pub const BYTES_PER_S_MIN: u64 = 512 * 1_024;

/// The first pause between two rounds of questions, in a small realm.
const PAUSE_MS_MIN: u64 = 100;
/// The longest one.
const PAUSE_MS_MAX: u64 = 1_000;
/// For each other node, since all of them may ask the same one.
const PAUSE_EACH_MS: u64 = 12;
/// After a wait of so many milliseconds the pause is one longer: long downloads need no quick answer.
const PAUSE_GROWS_MS: u64 = 16;

/// What a peer says of bytes that it cannot give yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It fetches them, and has so many.
    Fetches {
        /// Bytes.
        bytes: u64,
    },
    /// It has them, and gives them to others at the moment.
    Busy,
}

/// The nodes that shall ask the origin of these bytes before `own`, the first one first. None: it asks
/// at once, as it does for bytes that nothing in the manifest wants of it (any longer).
pub fn ahead(
    desired: &Desired,
    authority: &Authority,
    placement: &Placement,
    own: &NodeName,
    digest: &Digest,
    unix_s: u64,
) -> Vec<PublicKey> {
    let Some(manifest) = desired.manifest.as_deref() else {
        return Vec::new();
    };
    let components: Vec<&ComponentName> = manifest
        .components
        .keys()
        .filter(|name| desired.pin(name).is_some_and(|pin| pin.digest == *digest))
        .collect();
    let wants = |node: &NodeName| {
        let standing = Standing::of(authority, node, unix_s);
        components.iter().any(|component| {
            is_for(component, manifest, placement, node)
                && standing
                    .withholds(desired.since(component), false)
                    .is_none()
        })
    };
    let nodes = authority.nodes.iter().filter(|(name, _)| wants(name));
    let mut ranked: Vec<_> = nodes
        .map(|(name, node)| (rank(digest, &node.key), node.key, name))
        .collect();
    ranked.sort_unstable();
    let place = ranked.iter().position(|(_, _, name)| *name == own);
    let ranked = ranked.into_iter().map(|(_, key, _)| key);
    ranked.take(place.unwrap_or(0)).collect()
}

fn is_for(
    component: &ComponentName,
    manifest: &Manifest,
    placement: &Placement,
    node: &NodeName,
) -> bool {
    // What runs by itself runs on every node, unless there is to be one of it.
    let is_everywhere = manifest
        .components
        .get(component)
        .is_some_and(|spec| !spec.mode().takes_requests() && !spec.singleton);
    is_everywhere
        || placement.share(component, node) > 0
        || placement.standbys(node).any(|name| name == component)
}

/// Rendezvous hashing: the least is first, and of another build another one.
fn rank(digest: &Digest, node: &PublicKey) -> Digest {
    Digest::of(&[RANKS, &[0], digest.as_bytes(), node.as_bytes()].concat())
}

/// How long a node waits for others to have the bytes before it asks their origin. Times are in
/// milliseconds since it began to want them.
#[derive(Debug)]
pub struct Patience {
    size: u64,
    random: u64,
    /// Who fetches, and the most that each had.
    fetch: BTreeMap<PublicKey, u64>,
    /// When somebody got on last.
    sign_ms: Option<u64>,
}

impl Patience {
    /// For so many bytes.
    pub const fn new(size: u64, random: u64) -> Self {
        Self {
            size,
            random,
            fetch: BTreeMap::new(),
            sign_ms: None,
        }
    }

    /// Takes what a peer says. Only who has more than before gets on: that others have begun is no
    /// reason to wait, as the origin may not answer them.
    pub fn heard(&mut self, from: PublicKey, said: Said, now_ms: u64) {
        let gets_on = match said {
            Said::Busy => true,
            Said::Fetches { bytes } => {
                let most = self.fetch.entry(from).or_default();
                let gets_on = *most < bytes.min(self.size);
                *most = bytes.max(*most);
                gets_on
            }
        };
        if gets_on {
            self.sign_ms = Some(now_ms);
        }
    }

    /// When to ask the origin, with so many nodes ahead that are heard from.
    pub fn origin_at_ms(&self, ahead: usize) -> u64 {
        let turn = u64::try_from(ahead).unwrap_or(u64::MAX);
        let turn_ms = match turn {
            0..=STEPS_MAX => turn * STEP_MS,
            _ => STEPS_MAX * STEP_MS + STEP_MS / 2 + self.random % (SPREAD_MS + 1),
        };
        match self.sign_ms {
            None => turn_ms,
            // Those ahead come first after that as well.
            Some(at) => {
                let longest = PATIENCE_MS_MAX + self.size.saturating_mul(1_000) / BYTES_PER_S_MIN;
                let spread = self.random % (SPREAD_MS + 1);
                (at + STALL_MS + turn_ms).min(longest + spread)
            }
        }
    }
}

/// How long to wait between two rounds of questions, after `since_ms` of them, among so many other
/// nodes: up to a quarter less by `random`, so that they do not ask in step.
pub fn pause_ms(others: usize, since_ms: u64, random: u64) -> u64 {
    let each = PAUSE_EACH_MS.saturating_mul(u64::try_from(others).unwrap_or(u64::MAX));
    let grown = (since_ms / PAUSE_GROWS_MS).max(each);
    let full = grown.clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
    full - random % (full / 4 + 1)
}

#[cfg(test)]
mod tests {
    use realm_model::entry::{Body, SetNode};

    use super::*;
    use crate::place::place;
    use crate::testing::{Realm, approval, component_name, node_key, node_name};

    const SIZE: u64 = 10_000_000;

    fn realm(nodes: &[&str], text: &str, pins: &[(&str, &str)]) -> Realm {
        let mut realm = Realm::found();
        for node in nodes {
            realm.submit(approval(node, &[])).expect("an approval");
        }
        realm.apply(text, pins);
        realm
    }

    /// For each node those ahead of it, by name, for the bytes of a component.
    fn order(realm: &Realm, component: &str) -> Vec<(String, Vec<String>)> {
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        let placement = place(desired, authority, &|_, _| false);
        let digest = desired.pin(&component_name(component)).unwrap().digest;
        let name = |key: &PublicKey| authority.name_of(key).unwrap().to_string();
        let mut order: Vec<_> = authority
            .nodes
            .keys()
            .map(|own| {
                let ahead = ahead(desired, authority, &placement, own, &digest, 0);
                (own.to_string(), ahead.iter().map(name).collect::<Vec<_>>())
            })
            .collect();
        order.sort_by_key(|(_, ahead)| ahead.len());
        order
    }

    const EVERYWHERE: &str = "[components.app]\nsource = 'file:a'\n\
        [routing]\n'*' = [{ path = '/', component = 'app', per_node = true }]\n";

    #[test]
    fn one_node_is_first_and_each_other_one_has_a_turn_behind_it() {
        let realm = realm(&["a", "b", "c", "d"], EVERYWHERE, &[("app", "1")]);
        let order = order(&realm, "app");
        let mut before: Vec<String> = Vec::new();
        for (own, ahead) in order {
            assert_eq!(ahead, before);
            before.push(own);
        }
        assert_eq!(before.len(), 4);
    }

    #[test]
    fn another_build_has_another_first_node() {
        let names = ["a", "b", "c", "d", "e"];
        let first = |build: &str| {
            let realm = realm(&names, EVERYWHERE, &[("app", build)]);
            order(&realm, "app")[0].0.clone()
        };
        let first: std::collections::BTreeSet<String> =
            (0..40).map(|build| first(&build.to_string())).collect();
        assert_eq!(first.len(), names.len());
    }

    #[test]
    fn nobody_waits_for_who_does_not_want_the_bytes() {
        let routed = "[components.app]\nsource = 'file:a'\n\
            [routing]\nb = [{ path = '/', component = 'app' }]\n\
            c = [{ path = '/', component = 'app' }]\n";
        let mut realm = realm(&["a", "b", "c", "d"], routed, &[("app", "1")]);
        let found = order(&realm, "app");
        let with_any: Vec<_> = found
            .iter()
            .filter(|(_, ahead)| !ahead.is_empty())
            .collect();
        assert_eq!(with_any.len(), 1, "{found:?}");
        let (own, ahead) = with_any[0];
        let mut both = [own.as_str(), ahead[0].as_str()];
        both.sort_unstable();
        assert_eq!(both, ["b", "c"]);
        // A drained node fetches nothing.
        let first = node_name(&ahead[0].clone());
        let drained = SetNode {
            key: node_key(first.as_str()),
            cordoned: true,
            drained: true,
        };
        realm.submit(Body::SetNode(drained)).expect("a drain");
        let found = order(&realm, "app");
        assert!(found.iter().all(|(_, ahead)| ahead.is_empty()), "{found:?}");
    }

    /// Ahead of a node are so many; it hears this of two peers (`a 5@100`: at 100 ms a has 5 bytes,
    /// `a busy@100`). When does it ask the origin?
    fn check(ahead: usize, heard: &str, expected_ms: u64) {
        let mut patience = Patience::new(SIZE, 0);
        for one in heard.split_terminator(", ") {
            let (peer, said) = one.split_once(' ').unwrap();
            let (said, at) = said.split_once('@').unwrap();
            let said = match said {
                "busy" => Said::Busy,
                bytes => Said::Fetches {
                    bytes: bytes.parse().unwrap(),
                },
            };
            patience.heard(node_key(peer), said, at.parse().unwrap());
        }
        assert_eq!(patience.origin_at_ms(ahead), expected_ms, "{ahead} {heard}");
    }

    #[test]
    fn while_nobody_gets_on_they_ask_one_after_the_other() {
        check(0, "", 0);
        check(1, "", 1_500);
        check(2, "", 3_000);
        check(3, "", 4_500);
        check(4, "", 5_250);
        check(1_000, "", 5_250);
        // To have begun is not to get on.
        check(1, "a 0@100, a 0@900", 1_500);
    }

    #[test]
    fn while_somebody_gets_on_they_wait_for_it() {
        check(1, "a 5@1000", 4_500);
        check(1, "a 5@1000, a 6@2000", 5_500);
        check(1, "a 5@1000, a 5@2000", 4_500);
        // Also who would be the first, and comes late.
        check(0, "b 5@1000", 3_000);
        check(0, "b busy@1000", 3_000);
        // To begin anew is not to get on, and bytes beyond the pin are none.
        check(1, "a 9@1000, a 3@2000, a 4@3000", 4_500);
        check(1, "a 10000000@1000, a 10000001@2000", 4_500);
    }

    #[test]
    fn nobody_is_believed_for_ever() {
        let mut patience = Patience::new(SIZE, u64::MAX);
        let longest = PATIENCE_MS_MAX + SIZE * 1_000 / BYTES_PER_S_MIN + SPREAD_MS;
        for at in 0..1_000_000 {
            let bytes = at;
            patience.heard(node_key("liar"), Said::Fetches { bytes }, at);
            patience.heard(node_key("busy"), Said::Busy, at);
            if patience.origin_at_ms(7) <= at {
                assert!(at <= longest, "{at}");
                return;
            }
        }
        panic!("it waits for ever");
    }

    #[test]
    fn without_signs_the_longest_wait_is_the_one_that_is_documented() {
        let longest = (0..10_000).map(|random| Patience::new(SIZE, random).origin_at_ms(9));
        assert_eq!(longest.max(), Some(PATIENCE_MS_MAX));
    }

    #[test]
    fn pauses_grow_with_the_realm_and_the_wait() {
        for (others, since_ms, full) in [
            (1, 0, 100),
            (9, 0, 108),
            (50, 0, 600),
            (1_000, 0, 1_000),
            (1, 8_000, 500),
            (usize::MAX, u64::MAX, 1_000),
        ] {
            for random in [0, 1, 99, u64::MAX] {
                let pause = pause_ms(others, since_ms, random);
                assert!(
                    (full * 3 / 4..=full).contains(&pause),
                    "{others} {since_ms}: {pause}"
                );
            }
        }
    }
}
