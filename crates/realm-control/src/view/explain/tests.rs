//! What is told of a component, from what the realm signed and the nodes say.

use std::collections::BTreeMap;

use realm_model::action::Plan;
use realm_model::entry::{Body, SetNode};
use realm_model::observed::{Millis, Observed};
use realm_model::record::{
    Alarm, ChainHead, ComponentSummary, NodeRecord, ROLLOUT_FAILED, Version,
};
use realm_model::why::Verdict;

use super::*;
use crate::losses::Away;
use crate::place::{Asked, Why, place};
use crate::reach::{Link, Reached};
use crate::testing::{Realm, approval, component_name, key, node_key, node_name, plan_alone};
use crate::view::{Across, Here, across, view};

const MANIFEST: &str = "[components.app]\nsource = 'file:a'\n[components.job]\nsource = 'file:a'\nserve = 'job'\n[routing]\n\
    '*' = [{ path = '/app/...', component = 'app', per_node = true }]\n\
    'tag:gpu' = [{ host = 'x.example', path = '/', component = 'app' }]";

/// The nodes `here`, `there` and `third`, of which the others say something.
struct World {
    realm: Realm,
    records: Records,
    lost: Vec<&'static str>,
}

impl World {
    fn new() -> Self {
        let mut realm = Realm::found();
        for node in ["here", "there", "third"] {
            realm.submit(approval(node, &[])).expect("an approval");
        }
        realm.apply(MANIFEST, &[("app", "1"), ("job", "1")]);
        let records = Records::new(realm.ledger.realm(), node_key("here"));
        Self {
            realm,
            records,
            lost: Vec::new(),
        }
    }

    fn says(&mut self, node: &str, change: impl FnOnce(&mut NodeBody)) {
        let mut body = NodeBody::of(node_name(node));
        let heads = self.realm.ledger.heads().into_iter();
        body.heads = heads
            .map(|(chain, head)| ChainHead { chain, head })
            .collect();
        change(&mut body);
        let key = key(node);
        let version = Version {
            epoch: 1,
            boot: 1,
            counter: 1,
        };
        let bytes = NodeRecord::sign(self.realm.ledger.realm(), &key, version, body);
        let members = [(key.public().into(), key.public())].into();
        self.records.offer(&bytes, &members, true);
    }

    fn plan(&self) -> Plan {
        let (desired, authority) = (self.realm.ledger.desired(), self.realm.ledger.authority());
        let here = node_name("here");
        plan_alone(desired, authority, &here, &Observed::default(), Millis(0))
    }

    fn status(&self, plan: &Plan) -> StatusView {
        let (desired, authority) = (self.realm.ledger.desired(), self.realm.ledger.authority());
        let here = Here {
            node: &node_name("here"),
            agent_version: "0.1.0",
            urls: &[],
            restarts: &BTreeMap::new(),
            refusals: &BTreeMap::new(),
        };
        let mut status = view(desired, authority, plan, &here);
        let reached = authority.nodes.iter().map(|(name, node)| {
            let link = Link {
                how: realm_model::record::ReachedBy::Direct,
                rtt_ms: 1,
                why: String::new(),
            };
            let how = match self.lost.contains(&name.as_str()) {
                true => Reached::Lost,
                false => Reached::Linked(link),
            };
            (node.key, how)
        });
        let reached = reached.collect();
        let others = Across {
            own: node_key("here"),
            heads: &self.realm.ledger.heads(),
            records: &self.records,
            reached: &reached,
            connections: &BTreeMap::new(),
            pending: &[],
            placement: &place(desired, authority, &|_, _| false),
        };
        across(&mut status, authority, &others);
        status
    }

    fn explain(&self, component: &str) -> ExplainView {
        let (desired, authority) = (self.realm.ledger.desired(), self.realm.ledger.authority());
        let plan = self.plan();
        let status = self.status(&plan);
        let asked = Asked {
            desired,
            authority,
            gone: &|_, _| false,
            away: &|node| {
                self.lost
                    .contains(&node.as_str())
                    .then_some(Away::For(12_000))
            },
            unix_s: 0,
        };
        let component = component_name(component);
        let explained = Why::of(asked).expect("a manifest").explain(&component);
        let looked = Looked {
            desired,
            authority,
            status: &status,
            reports: &plan.reports,
            records: Some(&self.records),
        };
        let explained = explained.expect("it is there");
        explain(&component, &explained, &looked).expect("it is there")
    }
}

fn summary(wanted: u32, healthy: u32, code: &str, reason: &str) -> ComponentSummary {
    ComponentSummary {
        name: "app".to_owned(),
        namespace: "default".to_owned(),
        wanted,
        healthy,
        state: if healthy == wanted {
            "healthy"
        } else {
            "starting"
        }
        .to_owned(),
        code: code.to_owned(),
        reason: reason.to_owned(),
        digest: None,
        serving: Some(healthy),
        seats: None,
        failed: None,
    }
}

fn check(view: &ExplainView, verdict: (Verdict, &str), reasons: &str) {
    let said = (view.verdict.code, view.verdict.message.as_str());
    assert_eq!(said, verdict);
    let told = view.reasons.iter().map(|one| {
        let node = one.node.as_ref().map_or("-", |node| node.as_str());
        let hint = one.reason.hint.as_deref().unwrap_or("-");
        format!(
            "{node} {}: {} | {hint}",
            one.reason.code, one.reason.message
        )
    });
    let told: Vec<String> = told.collect();
    let expected: Vec<&str> = reasons.trim().lines().map(str::trim).collect();
    assert_eq!(told, expected);
}

/// What fails comes before what passes by itself; who is behind and who is lost is told; each with what
/// to do.
#[test]
fn everything_in_the_way_is_told_at_once() {
    let mut world = World::new();
    world.says("there", |body| {
        let reason = "exited twice (dir-denied): `/data` is not allowed; next try in 3 s";
        body.components.push(summary(1, 0, "backoff", reason));
        for (code, about) in [
            (ROLLOUT_FAILED, "`app`: it did not get healthy"),
            (ROLLOUT_FAILED, "`application`: another one"),
            ("isolated", "fewer than half of the others"),
        ] {
            body.alarms.push(Alarm {
                code: code.to_owned(),
                about: about.to_owned(),
            });
        }
    });
    world.lost.push("third");
    let view = world.explain("app");
    check(
        &view,
        (
            Verdict::Down,
            "0 of 4 run; there: exited twice (dir-denied): `/data` is not allowed; next try in 3 s",
        ),
        "
        there backoff: exited twice (dir-denied): `/data` is not allowed; next try in 3 s | allow the directory in node.toml of that node, or take it out of `dirs`
        third not-reached: has not been reached for 12 s: what it runs is not known | see that the machine is on and its agent runs; `realm nodes ls` says how it is reached
        - node-absent: waits for a node with the tag `gpu` | `realm nodes tag NODE gpu` adds it to one
        here fetching: fetching app (sha256:6b86b273ff34…) | -",
    );
    let codes: Vec<&str> = view
        .alarms
        .iter()
        .map(|alarm| alarm.code.as_str())
        .collect();
    assert_eq!(codes, ["isolated", ROLLOUT_FAILED]);
    let routes: Vec<String> = view
        .routes
        .iter()
        .map(|one| format!("{} {}", one.list, one.route))
        .collect();
    assert_eq!(routes, ["* /app/...", "tag:gpu x.example/"]);
    assert_eq!(
        (view.version, view.unplaced, view.nodes.len()),
        (Some(1), 1, 3)
    );
    assert_eq!(view.nodes[2].state, None);
}

/// A node that runs nothing by its owner's word is told of, and is not why the others are not up.
#[test]
fn what_a_node_withholds_is_none_of_what_is_missing() {
    let mut world = World::new();
    let drain = Body::SetNode(SetNode {
        key: node_key("there"),
        cordoned: false,
        drained: true,
    });
    world.realm.submit(drain).expect("it was not drained");
    check(
        &world.explain("job"),
        (
            Verdict::Down,
            "as wanted on 0 of 2 nodes; here: fetching job (sha256:6b86b273ff34…)",
        ),
        "
        there drained: is drained: it runs nothing | `realm nodes uncordon there` ends that
        here fetching: fetching job (sha256:6b86b273ff34…) | -",
    );
}

#[test]
fn a_node_that_has_not_heard_of_the_version_is_named_and_its_replica_is_an_older_one() {
    let mut world = World::new();
    let seat = |number, ready| SeatSummary {
        seat: number,
        up: true,
        ready,
    };
    world.says("there", |body| {
        body.components.push(ComponentSummary {
            seats: Some(vec![seat(1, 1)]),
            ..summary(1, 1, "", "")
        });
    });
    world.realm.apply(MANIFEST, &[("app", "2"), ("job", "1")]);
    world.says("third", |body| {
        body.components.push(ComponentSummary {
            seats: Some(vec![seat(2, 2), seat(3, 0)]),
            ..summary(1, 1, "", "")
        });
    });
    let view = world.explain("app");
    assert_eq!((view.version, view.running, view.current), (Some(2), 2, 1));
    let of = |at: usize| (view.nodes[at].versions.clone(), view.nodes[at].unproven);
    assert_eq!((of(1), of(2)), ((vec![1], 0), (vec![2], 1)));
    let behind = view.reasons.iter().find(|one| one.reason.code == "behind");
    let behind = behind.expect("there is behind");
    assert_eq!(behind.node, Some(node_name("there")));
    assert_eq!(
        behind.reason.message,
        "has not said that version 2 is in force there"
    );
    assert_eq!(view.verdict.code, Verdict::Degraded);
}

#[test]
fn the_verdict_is_a_word_and_counts() {
    let counts = |wanted, running, current| words::Counts {
        wanted,
        running,
        current,
        version: Some(7),
        is_job: false,
    };
    let why = Obstacle {
        node: Some(node_name("a")),
        reason: words::behind(None),
    };
    for (wanted, running, current, code, message) in [
        (3, 3, 3, Verdict::AsWanted, "3 of 3 run"),
        (3, 5, 3, Verdict::AsWanted, "3 of 3 run"),
        (
            3,
            3,
            1,
            Verdict::Updating,
            "3 of 3 run, 1 with version 7; a: has not said that what is wanted is in force there",
        ),
        (
            3,
            2,
            2,
            Verdict::Degraded,
            "2 of 3 run; a: has not said that what is wanted is in force there",
        ),
        (
            3,
            0,
            0,
            Verdict::Down,
            "0 of 3 run; a: has not said that what is wanted is in force there",
        ),
        (
            0,
            2,
            0,
            Verdict::Nowhere,
            "no node shall run it; a: has not said that what is wanted is in force there",
        ),
    ] {
        let verdict = words::verdict(&counts(wanted, running, current), Some(&why));
        assert_eq!((verdict.code, verdict.message.as_str()), (code, message));
    }
}

#[test]
fn where_nobody_shall_have_it_every_nodes_reason_is_in_the_way() {
    let mut world = World::new();
    for node in ["here", "there", "third"] {
        let set = SetNode {
            key: node_key(node),
            cordoned: false,
            drained: true,
        };
        world
            .realm
            .submit(Body::SetNode(set))
            .expect("an owner's word");
    }
    let view = world.explain("job");
    check(
        &view,
        (
            Verdict::Nowhere,
            "no node shall run it; here: is drained: it runs nothing",
        ),
        &["here", "there", "third"]
            .map(|node| format!("{node} drained: is drained: it runs nothing | `realm nodes uncordon {node}` ends that"))
            .join("\n"),
    );
    assert!(view.nodes.iter().all(|node| node.withheld));
}

/// The sum over all nodes is of what they shall have, whether they say so or not.
#[test]
fn what_a_node_shall_have_counts_whether_or_not_it_says_so() {
    let heard = |world: &World| {
        let status = world.status(&world.plan());
        let mut components = status.components.iter();
        let app = components.find(|one| one.name.as_str() == "app");
        let nodes = app.expect("it is wanted").nodes.iter();
        let told = nodes.filter(|(node, _)| node.as_str() != "here");
        let told = told.map(|(node, on)| {
            let why = on.why.as_deref().unwrap_or("-");
            format!("{node} {:?} {}/{}: {why}", on.state, on.healthy, on.wanted)
        });
        told.collect::<Vec<_>>()
    };
    let mut world = World::new();
    world.lost.push("third");
    assert_eq!(
        heard(&world),
        [
            "there None 0/1: the node does not have the change yet",
            "third None 0/1: the node was not heard of yet",
        ]
    );
    for node in ["there", "third"] {
        world.says(node, |body| {
            body.components.push(summary(1, 1, "", ""));
        });
    }
    assert_eq!(
        heard(&world),
        [
            "there Some(Healthy) 1/1: -",
            "third None 0/1: the node is not reached",
        ]
    );
    // One that still says what it had before.
    let mut world = World::new();
    for node in ["there", "third"] {
        world.says(node, |body| {
            body.heads.clear();
            body.components.push(summary(0, 1, "", ""));
        });
    }
    assert_eq!(
        heard(&world),
        ["there Some(Starting) 1/1: -", "third Some(Starting) 1/1: -",]
    );
}
