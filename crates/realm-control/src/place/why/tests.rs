//! Every reason in a table, and that the explanation is what is placed and planned.

use proptest::prelude::*;
use realm_model::key::SecretKey;
use realm_model::observed::{Millis, Observed};

use super::*;
use crate::around::Around;
use crate::place::tests::{realm, set};
use crate::place::{Placement, place};
use crate::plan::plan;
use crate::testing::{
    Realm, approval, component_name, delegation, key, namespace, node_key, node_name, revocation,
};

/// What is known of the nodes, from few words: `a gone`, `b away 12000`, `c gone back 3000`.
struct Seen {
    gone: Vec<NodeName>,
    away: BTreeMap<NodeName, Away>,
}

impl Seen {
    fn of(lines: &[&str]) -> Self {
        let (mut gone, mut away) = (Vec::new(), BTreeMap::new());
        for line in lines {
            let mut words = line.split(' ');
            let name = node_name(words.next().expect("a name"));
            let mut number = None;
            let mut is_back = false;
            for word in words {
                match word {
                    "gone" => gone.push(name.clone()),
                    "back" => is_back = true,
                    "away" => {}
                    ms => number = ms.parse().ok(),
                }
            }
            if let Some(ms) = number {
                let one = if is_back {
                    Away::Back(ms)
                } else {
                    Away::For(ms)
                };
                away.insert(name, one);
            }
        }
        Self { gone, away }
    }

    fn explain(&self, realm: &Realm, component: &str) -> Option<Explained> {
        let asked = Asked {
            desired: realm.ledger.desired(),
            authority: realm.ledger.authority(),
            gone: &|node, _| self.gone.contains(node),
            away: &|node| self.away.get(node).copied(),
            unix_s: 0,
        };
        Why::of(asked)?.explain(&component_name(component))
    }
}

/// The explanation of `app` as lines: `node replicas code …: messages`, then the component's own.
fn told(explained: &Explained) -> String {
    let mut text = String::new();
    for (node, place) in &explained.nodes {
        let Place {
            replicas,
            withheld,
            reasons,
        } = place;
        let mark = if *withheld { "!" } else { "" };
        for reason in reasons {
            let (code, message) = (reason.code(), reason.message());
            text += &format!("{node} {replicas}{mark} {code}: {message}\n");
        }
    }
    for reason in &explained.reasons {
        text += &format!("{}: {}\n", reason.code(), reason.message());
    }
    text + &format!("{} of {} unplaced", explained.unplaced, explained.wanted)
}

fn check(realm: &Realm, seen: &[&str], expected: &str) {
    let explained = Seen::of(seen).explain(realm, "app").expect("it is there");
    let expected: Vec<&str> = expected.lines().map(str::trim).collect();
    assert_eq!(told(&explained), expected.join("\n").trim());
}

#[test]
fn a_list_for_all_says_who_has_it_and_how_far_the_others_are() {
    let two = "'*' = [{ path = '/', component = 'app', replicas = 2 }]";
    let mut realm = realm(&["a", "b", "c", "d"], two);
    let expected = "
        a 1 placed: ranks highest for 1 replica of `*`
        b 0 outranked: is outranked for the 2 replicas of `*`: with 4 it would have one
        c 1 placed: ranks highest for 1 replica of `*`
        d 0 outranked: is outranked for the 2 replicas of `*`: with 3 it would have one
        0 of 2 unplaced";
    check(&realm, &[], expected);
    set(&mut realm, "a", false, true);
    set(&mut realm, "b", true, false);
    let expected = "
        a 0 drained: is drained: it runs nothing
        b 1 placed: ranks highest for 1 replica of `*`
        c 1 placed: ranks highest for 1 replica of `*`
        d 0 outranked: is outranked for the 2 replicas of `*`: with 3 it would have one
        0 of 2 unplaced";
    check(&realm, &[], expected);
    // What came after the cordon does not begin there.
    let text = "[components.app]\nsource = 'file:a'\n[components.late]\nsource = 'file:a'\n\
                [routing]\n'*' = [{ path = '/', component = 'late' }]";
    realm.apply(text, &[("app", "1"), ("late", "1")]);
    let late = Seen::of(&[]).explain(&realm, "late").expect("it is there");
    assert!(
        told(&late).contains("b 0 cordoned: is cordoned: nothing new begins there\n"),
        "{}",
        told(&late)
    );
    let expected = "
        a 0 not-listed: is in no list that leads to it
        b 0 not-listed: is in no list that leads to it
        c 0 not-listed: is in no list that leads to it
        d 0 not-listed: is in no list that leads to it
        no-route: no route leads to it: nothing asks for it, and no node runs it
        0 of 0 unplaced";
    check(&realm, &[], expected);
}

#[test]
fn who_is_away_is_told_with_who_stands_in_and_since_when() {
    let two = "'*' = [{ path = '/', component = 'app', replicas = 2 }]";
    let mut realm = realm(&["a", "b", "c", "d"], two);
    let expected = "
        a 1 placed: ranks highest for 1 replica of `*`
        a 1 not-reached: has not been reached for 12 s; after 30 s others stand in
        b 0 outranked: is outranked for the 2 replicas of `*`: with 4 it would have one
        c 1 placed: ranks highest for 1 replica of `*`
        d 0 outranked: is outranked for the 2 replicas of `*`: with 3 it would have one
        0 of 2 unplaced";
    check(&realm, &["a away 12000"], expected);
    let waits = "not-reached: has not been reached for 40 s; nobody stands in yet: only a tenth of the nodes counts as lost within a minute\n";
    let explained = Seen::of(&["a away 40000"]).explain(&realm, "app");
    assert!(told(&explained.expect("it is there")).contains(waits));
    let expected = "
        a 0 lost: has not been reached for 2 min 5 s: its replicas are on `b`
        b 1 stands-in: stands in for `a` with 1 replica
        c 1 placed: ranks highest for 1 replica of `*`
        d 0 outranked: is outranked for the 2 replicas of `*`: with 3 it would have one
        0 of 2 unplaced";
    check(&realm, &["a gone away 125000"], expected);
    let back =
        "a 0 lost: has been back for 3.0 s, and counts again after 30 s: its replicas are on `b`\n";
    let explained = Seen::of(&["a gone back 3000"]).explain(&realm, "app");
    assert!(told(&explained.expect("it is there")).contains(back));
    set(&mut realm, "b", true, false);
    let expected = "
        a 0 lost: is lost: its replicas are on `d`
        b 0 outranked: is outranked for the 2 replicas of `*`: with 4 it would have one
        b 0 cordoned: is cordoned: it stands in for nobody
        c 1 placed: ranks highest for 1 replica of `*`
        d 1 stands-in: stands in for `a` with 1 replica
        0 of 2 unplaced";
    check(&realm, &["a gone"], expected);
    let expected = "
        a 0 lost: is lost: nobody is there to stand in
        b 0 outranked: is outranked for the 2 replicas of `*`: with 4 it would have one
        b 0 cordoned: is cordoned: it stands in for nobody
        c 0 lost: is lost: nobody is there to stand in
        d 0 outranked: is outranked for the 2 replicas of `*`: with 3 it would have one
        no-node: 2 replicas no node can have at present
        2 of 2 unplaced";
    check(&realm, &["a gone", "c gone", "d gone"], expected);
}

#[test]
fn lists_for_a_node_and_for_a_tag_say_whom_they_leave_out() {
    let routing = "a = [{ path = '/a', component = 'app', replicas = 2 }]\n\
                   'tag:metal' = [{ path = '/m', component = 'app', per_node = true }]";
    let mut realm = realm(&["a", "b metal", "c"], routing);
    let expected = "
        a 2 pinned: has 2 replicas of its own by `a`
        b 1 pinned: has 1 replica of its own by `tag:metal`
        c 0 tag-missing: has not the tag `metal`, and is not `a`
        0 of 3 unplaced";
    check(&realm, &[], expected);
    let expected = "
        a 0 lost: has not been reached for 1 min 0 s: what is pinned to it waits for it
        b 1 pinned: has 1 replica of its own by `tag:metal`
        b 1 not-reached: has not been reached for 1.0 s: what it runs is not known
        c 0 tag-missing: has not the tag `metal`, and is not `a`
        no-node: 2 replicas no node can have at present
        2 of 3 unplaced";
    check(&realm, &["a gone away 60000", "b away 1000"], expected);
    // Of a node that is drained nothing is awaited.
    set(&mut realm, "a", false, true);
    let expected = "
        a 2! pinned: has 2 replicas of its own by `a`
        a 2! drained: is drained: it runs nothing
        b 1 pinned: has 1 replica of its own by `tag:metal`
        c 0 tag-missing: has not the tag `metal`, and is not `a`
        0 of 1 unplaced";
    check(&realm, &[], expected);
    // With the tag alone it would have none either.
    set(&mut realm, "c", false, true);
    let explained = Seen::of(&[]).explain(&realm, "app").expect("it is there");
    let both = "c 0 tag-missing: has not the tag `metal`, and is not `a`\nc 0 drained: is drained: it runs nothing\n";
    assert!(told(&explained).contains(both), "{}", told(&explained));
    set(&mut realm, "c", false, false);
    realm.submit(revocation("a")).expect("an owner's word");
    realm.submit(revocation("b")).expect("an owner's word");
    let expected = "
        a 0! not-approved: is not approved: it runs nothing until its owner approves it
        c 0 tag-missing: has not the tag `metal`, and is not `a`
        node-absent: waits for node `a`, which is not approved
        node-absent: waits for a node with the tag `metal`
        3 of 3 unplaced";
    check(&realm, &[], expected);
}

#[test]
fn a_path_that_goes_to_another_component_is_named() {
    let mut realm = Realm::found();
    for node in ["a", "b"] {
        realm.submit(approval(node, &[])).expect("an approval");
    }
    let text = "[components.app]\nsource = 'file:a'\n[components.other]\nsource = 'file:a'\n\
                [components.alone]\nsource = 'file:a'\nserve = 'service'\n[routing]\n\
                a = [{ path = '/', component = 'other' }]\n\
                '*' = [{ path = '/', component = 'app', per_node = true }]";
    let builds = [("app", "1"), ("other", "1"), ("alone", "1")];
    realm.apply(text, &builds);
    let expected = "
        a 0 path-taken: answers `/` of `*` with `other`, since `a` comes before it
        b 1 pinned: has 1 replica of its own by `*`
        0 of 1 unplaced";
    check(&realm, &[], expected);
    let other = Seen::of(&[]).explain(&realm, "other").expect("it is there");
    assert!(told(&other).contains("b 0 not-listed: is not `a`, for which its routes are\n"));
    set(&mut realm, "b", false, true);
    let alone = Seen::of(&["a away 1000"]).explain(&realm, "alone");
    let expected = "a 1 everywhere: runs it as every node does, since it runs by itself\n\
                    a 1 not-reached: has not been reached for 1.0 s: what it runs is not known\n\
                    b 1! everywhere: runs it as every node does, since it runs by itself\n\
                    b 1! drained: is drained: it runs nothing\n\
                    0 of 1 unplaced";
    assert_eq!(told(&alone.expect("it is there")), expected);
    assert_eq!(Seen::of(&[]).explain(&realm, "nothing"), None);
}

#[test]
fn a_namespace_that_does_not_have_the_name_is_told_who_has() {
    let one = "'*' = [{ path = '/', component = 'app' }]";
    let mut realm = realm(&["a"], one);
    let team: SecretKey = key("team");
    let body = realm_model::entry::Body::Delegate(delegation("team", team.public()));
    realm.submit(body).expect("an owner's word");
    let text = format!("[components.app]\nsource = 'file:b'\n[routing]\n{one}\n");
    realm
        .apply_in(namespace("team"), &team, &text, &[("app", "2")])
        .expect("a manifest");
    let expected = "
        a 1 placed: ranks highest for 1 replica of `*`
        name-taken: namespace `default` has the name; `team` gets no component of it
        0 of 1 unplaced";
    check(&realm, &[], expected);
}

#[test]
fn an_approval_that_is_over_lets_what_runs_go_on() {
    let one = "'*' = [{ path = '/', component = 'app' }]";
    let mut realm = realm(&["a"], one);
    let until = realm_model::entry::Body::ApproveUntil(realm_model::entry::ApproveUntil {
        key: node_key("a"),
        name: node_name("a"),
        tags: Vec::new(),
        not_after_unix_s: 1_000,
    });
    realm.submit(until).expect("an approval");
    let asked = Asked {
        desired: realm.ledger.desired(),
        authority: realm.ledger.authority(),
        gone: &|_, _| false,
        away: &|_| None,
        unix_s: 10_000,
    };
    let why = Why::of(asked).expect("a manifest");
    let explained = why.explain(&component_name("app")).expect("it is there");
    assert!(
        told(&explained).contains("a 1 approval-expired: has an approval that is over"),
        "{}",
        told(&explained)
    );
    assert_eq!(explained.wanted, 1);
}

/// A random route: whom the list is for, path, component, replicas, each.
type RouteIdea = (usize, usize, usize, u32, bool);

const LISTS: [&str; 6] = ["n0", "n1", "n9", "tag:x", "tag:y", "*"];
const APPS: [&str; 3] = ["app", "other", "third"];

fn manifest(ideas: &[RouteIdea]) -> String {
    let mut text = String::new();
    for app in APPS {
        text += &format!("[components.{app}]\nsource = 'file:a'\n");
    }
    text += "[components.alone]\nsource = 'file:a'\nserve = 'service'\n[routing]\n";
    let mut lists: BTreeMap<usize, BTreeMap<usize, RouteIdea>> = BTreeMap::new();
    for idea in ideas {
        lists.entry(idea.0).or_default().insert(idea.1, *idea);
    }
    for (list, routes) in lists {
        // All routes of one component in a list say the same.
        let mut said: BTreeMap<usize, (u32, bool)> = BTreeMap::new();
        let routes = routes
            .into_iter()
            .map(|(path, (_, _, app, replicas, each))| {
                let (replicas, each) = *said.entry(app).or_insert((replicas, each));
                let each = if each && !LISTS[list].starts_with('n') {
                    ", per_node = true"
                } else {
                    ""
                };
                let app = APPS[app];
                format!("{{ path = '/{path}', component = '{app}', replicas = {replicas}{each} }}")
            });
        let routes: Vec<String> = routes.collect();
        text += &format!("'{}' = [{}]\n", LISTS[list], routes.join(", "));
    }
    text
}

fn ideas() -> impl Strategy<Value = Vec<RouteIdea>> {
    let one = (
        0..LISTS.len(),
        0usize..3,
        0..APPS.len(),
        1u32..5,
        any::<bool>(),
    );
    prop::collection::vec(one, 0..10)
}

/// Nodes with bits: tag x, tag y, a zone, drained, cordoned before, cordoned after, gone.
fn built(nodes: &[u8], ideas: &[RouteIdea]) -> (Realm, Seen) {
    let mut realm = Realm::found();
    let has = |bits: u8, bit: u8| bits & (1 << bit) != 0;
    let name = |index: usize| format!("n{index}");
    for (index, bits) in nodes.iter().enumerate() {
        let tags = ["x", "y", "zone-z"];
        let tags = (0..3)
            .filter(|bit| has(*bits, *bit))
            .map(|bit| tags[usize::from(bit)]);
        let tags: Vec<&str> = tags.collect();
        realm
            .submit(approval(&name(index), &tags))
            .expect("an approval");
    }
    let cordon = |realm: &mut Realm, of: u8| {
        for (index, bits) in nodes.iter().enumerate() {
            if has(*bits, of) {
                set(realm, &name(index), true, has(*bits, 3) && has(*bits, 4));
            }
        }
    };
    cordon(&mut realm, 5);
    let builds = APPS.iter().chain(&["alone"]).map(|app| (*app, "1"));
    realm.apply(&manifest(ideas), &builds.collect::<Vec<_>>());
    cordon(&mut realm, 4);
    let gone = nodes.iter().enumerate().filter(|(_, bits)| has(**bits, 6));
    let gone: Vec<String> = gone
        .map(|(index, _)| format!("n{index} gone away 60000"))
        .collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    (realm, Seen::of(&gone))
}

fn placement(realm: &Realm, seen: &Seen) -> Placement {
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    place(desired, authority, &|node, _| seen.gone.contains(node))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What is explained is what is placed, and what each node plans; and each reason is one.
    #[test]
    fn what_is_explained_is_what_happens(
        nodes in prop::collection::vec(any::<u8>(), 0..7),
        ideas in ideas(),
    ) {
        let (realm, seen) = built(&nodes, &ideas);
        let placement = placement(&realm, &seen);
        let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
        for app in APPS.iter().chain(&["alone"]) {
            let explained = seen.explain(&realm, app).expect("it is in the manifest");
            let app = component_name(app);
            let mut wanted = explained.unplaced;
            for (node, place) in &explained.nodes {
                let is_approved = authority.nodes.contains_key(node);
                if app.as_str() != "alone" {
                    prop_assert_eq!(place.replicas, placement.share(&app, node));
                }
                let having = place.reasons.iter().filter(|reason| reason.is_having()).count();
                prop_assert_eq!(having > 0, place.replicas > 0, "{:?}", place);
                prop_assert!(!place.reasons.is_empty(), "{:?}", explained);
                if is_approved {
                    let around = Around::unheard(placement.clone().into());
                    let observed = Observed::default();
                    let plan = plan(desired, authority, node, &observed, &around, Millis(0));
                    let report = plan.reports.iter().find(|report| report.component == app);
                    let runs = if place.withheld { 0 } else { place.replicas };
                    prop_assert_eq!(report.map_or(0, |report| report.wanted), runs);
                    wanted += runs;
                }
            }
            prop_assert_eq!(wanted, explained.wanted);
            let approved = authority.nodes.keys();
            prop_assert!(approved.into_iter().all(|node| explained.nodes.contains_key(node)));
            let open = placement.of(&app).into_iter().flat_map(|placed| &placed.seats);
            let open = open.filter(|seat| !seat.closed && seat.holder.is_none()).count();
            let mut absent = 0;
            for reason in &explained.reasons {
                if let Reason::NodeAbsent { replicas, .. } = reason {
                    absent += *replicas;
                }
            }
            prop_assert_eq!(explained.unplaced as usize, open + absent as usize);
        }
    }

    /// Of who is outranked it is true that with so many replicas there is one for it, and not with fewer.
    #[test]
    fn who_is_outranked_would_have_the_replica_that_is_said(
        nodes in prop::collection::vec(0u8..64, 2..7),
        replicas in 1u32..4,
    ) {
        let of = |replicas| built(&nodes, &[(5, 0, 0, replicas, false)]);
        let (realm, seen) = of(replicas);
        let explained = seen.explain(&realm, "app").expect("it is in the manifest");
        for (node, place) in explained.nodes {
            for reason in place.reasons {
                if let Reason::Outranked { next, .. } = reason {
                    let next = next.expect("there are few nodes");
                    for (replicas, has) in [(next - 1, 0), (next, 1)] {
                        let (realm, seen) = of(replicas);
                        let share = placement(&realm, &seen).share(&component_name("app"), &node);
                        prop_assert_eq!(share, has, "{} with {}", node, replicas);
                    }
                }
            }
        }
    }
}

/// Of a singleton the holder says that it has it, and the others that they rank lower, whatever names them.
#[test]
fn a_singleton_is_explained_on_every_node() {
    for (routing, keys) in [
        ("'*' = [{ path = '/', component = 'app' }]", ""),
        ("'tag:web' = [{ path = '/', component = 'app' }]", ""),
        (
            "a = [{ path = '/', component = 'app' }]\nb = [{ path = '/', component = 'app' }]\nc = [{ path = '/', component = 'app' }]",
            "",
        ),
        ("", "serve = 'service'"),
    ] {
        let mut realm = Realm::found();
        for node in ["a", "b", "c"] {
            realm.submit(approval(node, &["web"])).expect("an approval");
        }
        let text = format!(
            "[components.app]\nsource = 'file:a'\nsingleton = true\n{keys}\n[routing]\n{routing}\n"
        );
        realm.apply(&text, &[("app", "1")]);
        let why = Why::of(Asked {
            desired: realm.ledger.desired(),
            authority: realm.ledger.authority(),
            gone: &|_, _| false,
            away: &|_| None,
            unix_s: 0,
        });
        let why = why.expect("something was applied");
        let explained = why.explain(&component_name("app")).expect("it is there");
        let has: Vec<usize> = explained
            .nodes
            .values()
            .map(|place| place.replicas as usize)
            .collect();
        assert_eq!(has.iter().sum::<usize>(), 1, "{routing}");
        for (node, place) in &explained.nodes {
            let codes: Vec<&str> = place.reasons.iter().map(Reason::code).collect();
            let expected = if place.replicas == 1 {
                "placed"
            } else {
                "outranked"
            };
            assert_eq!(codes, [expected], "{node} {routing}");
        }
    }
}
