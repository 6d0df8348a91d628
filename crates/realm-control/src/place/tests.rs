//! Where replicas are placed, and what moves when nodes come and go.

use proptest::prelude::*;
use realm_model::entry::{Body, SetNode};

use super::*;
use crate::testing::{Realm, approval, component_name, node_key, node_name};

/// A realm of these nodes (`name` or `name tag tag`), in which these routes lead to `app`.
pub(super) fn realm(nodes: &[&str], routing: &str) -> Realm {
    let mut realm = Realm::found();
    for node in nodes {
        let words: Vec<&str> = node.split(' ').collect();
        let (name, tags) = words.split_first().expect("a name");
        realm.submit(approval(name, tags)).expect("an approval");
    }
    let text = format!("[components.app]\nsource = 'file:a'\n[routing]\n{routing}\n");
    realm.apply(&text, &[("app", "1")]);
    realm
}

fn nodes(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("n{index:03}")).collect()
}

fn of_nodes(count: usize, routing: &str) -> Realm {
    let names = nodes(count);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    realm(&names, routing)
}

fn all(replicas: u32) -> String {
    format!("'*' = [{{ path = '/', component = 'app', replicas = {replicas} }}]")
}

fn placed(realm: &Realm, gone: &[&str]) -> Placement {
    let (desired, authority) = (realm.ledger.desired(), realm.ledger.authority());
    place(desired, authority, &|node, _| gone.contains(&node.as_str()))
}

/// Who has the seats, in their order; `-`: nobody.
fn seats(placement: &Placement) -> Vec<String> {
    let seats = placement.seats(&component_name("app"));
    seats
        .map(|holder| holder.map_or("-".to_owned(), |(node, _)| node.to_string()))
        .collect()
}

fn check(nodes: &[&str], routing: &str, gone: &[&str], expected: &str) {
    let placement = placed(&realm(nodes, routing), gone);
    assert_eq!(seats(&placement).join(" "), expected, "{routing}");
}

/// The ranks are part of the wire format: another answer here would split realms of two versions.
#[test]
fn the_ranks_are_pinned() {
    let (node, component) = (seed_of(&node_key("n000")), seed(b"app"));
    assert_eq!(
        [
            node,
            component,
            rank(node, component, 0),
            rank(node, component, 1)
        ]
        .map(|number| format!("{number:016x}")),
        [
            "c7823586f9740420",
            "b84ff6512a10a4d7",
            "e0b1020cfcc037f4",
            "355b40aea7ac4259"
        ]
    );
    let names = ["a", "b", "c", "d", "e"];
    check(&names, &all(1), &[], "c");
    check(&names, &all(7), &[], "c a d b e a c");
}

#[test]
fn a_node_has_what_is_pinned_to_it_whatever_becomes_of_it() {
    let pinned = "a = [{ path = '/', component = 'app', replicas = 2 }]";
    check(&["a", "b"], pinned, &[], "a a");
    check(&["a", "b"], pinned, &["a"], "- -");
    let each = "'*' = [{ path = '/', component = 'app', replicas = 2, per_node = true }]";
    check(&["a", "b"], each, &["b"], "a a - -");
    // The routes of a node are an exception from those of all.
    let both = "a = [{ path = '/', component = 'app' }]\n'*' = [{ path = '/', component = 'app', replicas = 2 }]";
    check(&["a", "b"], both, &[], "a b b");
    // Of several lists that want something of one node the greatest number counts.
    let two = "a = [{ path = '/', component = 'app', replicas = 2 }]\n'*' = [{ path = '/x', component = 'app', per_node = true }]";
    check(&["a", "b"], two, &[], "a a b");
}

/// What is placed besides on a node that has more by its name has a seat where it is while that node is gone.
#[test]
fn what_moves_from_a_node_with_pinned_ones_keeps_its_seat() {
    let both = "a = [{ path = '/', component = 'app', replicas = 3 }]\n\
                '*' = [{ path = '/x', component = 'app', replicas = 2 }]";
    check(&["a", "b", "c"], both, &[], "a a a c");
    check(&["a", "b", "c"], both, &["a"], "b - - c");
    check(&["a", "b", "c"], both, &["c"], "a a a b");
}

/// What others wait for before they give up replicas that moved: of each list its own, also on a node that
/// has more by its name.
#[test]
fn what_moves_is_awaited_and_what_is_pinned_is_not() {
    let check = |routing: &str, drained: &[&str], expected: &[(&str, u32)]| {
        let mut realm = realm(&["a", "b"], routing);
        for node in drained {
            set(&mut realm, node, false, true);
        }
        let placement = placed(&realm, &[]);
        let app = component_name("app");
        let movable: Vec<(&str, u32)> = placement
            .movable(&app)
            .map(|(node, count)| (node.as_str(), count))
            .collect();
        assert_eq!(movable, expected, "{routing} {drained:?}");
    };
    let pinned = "a = [{ path = '/', component = 'app', replicas = 3 }]";
    let each = "'*' = [{ path = '/', component = 'app', per_node = true }]";
    let both = format!("{pinned}\n'*' = [{{ path = '/x', component = 'app', replicas = 2 }}]");
    check(pinned, &[], &[]);
    check(each, &[], &[]);
    check(&all(2), &[], &[("a", 1), ("b", 1)]);
    check(&all(2), &["a"], &[("b", 2)]);
    check(&all(2), &["a", "b"], &[]);
    check(&both, &[], &[("a", 1), ("b", 1)]);
    check(&both, &["a"], &[("b", 2)]);
}

#[test]
fn only_nodes_with_the_tag_have_places_and_zones_come_first() {
    let tagged = "'tag:metal' = [{ path = '/', component = 'app', replicas = 3 }]";
    check(&["a", "b metal", "c"], tagged, &[], "b b b");
    check(&["a", "b", "c"], tagged, &[], "");
    check(&["a", "b metal", "c"], tagged, &["b"], "- - -");
    let zones = ["a zone-x", "b zone-x", "c zone-x", "d zone-y"];
    let placement = placed(&realm(&zones, &all(4)), &[]);
    let of = |node: &str| placement.share(&component_name("app"), &node_name(node));
    assert_eq!((of("a") + of("b") + of("c"), of("d")), (2, 2));
    let placement = placed(&realm(&zones, &all(4)), &["d"]);
    assert_eq!(
        seats(&placement).iter().filter(|node| *node == "d").count(),
        0
    );
}

pub(super) fn set(realm: &mut Realm, node: &str, cordoned: bool, drained: bool) {
    let set = SetNode {
        key: node_key(node),
        cordoned,
        drained,
    };
    realm.submit(Body::SetNode(set)).expect("an owner's word");
}

#[test]
fn a_cordoned_node_keeps_its_places_and_takes_no_others_and_a_drained_one_has_none() {
    let mut realm = of_nodes(3, &all(3));
    let before = seats(&placed(&realm, &[]));
    let taker = |realm: &Realm, gone: &str| {
        let seats = seats(&placed(realm, &[gone]));
        let moved = before.iter().zip(seats).find(|(base, _)| *base == gone);
        moved.expect("its seat").1
    };
    let other = taker(&realm, "n000");
    set(&mut realm, &other, true, false);
    assert_eq!(seats(&placed(&realm, &[])), before);
    assert_ne!(taker(&realm, "n000"), other);
    set(&mut realm, &other, false, true);
    assert!(!seats(&placed(&realm, &[])).contains(&other));
    // Where nobody else is, it is said of those that are drained, and nobody waits for them.
    for node in nodes(3) {
        set(&mut realm, &node, false, true);
    }
    let placement = placed(&realm, &[]);
    assert_eq!(seats(&placement), ["-"; 3]);
    let shares: u32 = placement
        .holders(&component_name("app"))
        .map(|(_, share)| share)
        .sum();
    assert_eq!(shares, 3);
    // What is pinned to a drained node is not waited for either.
    let each = "'*' = [{ path = '/', component = 'app', per_node = true }]";
    let mut realm = of_nodes(3, each);
    set(&mut realm, "n001", false, true);
    assert_eq!(seats(&placed(&realm, &[])), ["n000", "-", "n002"]);
}

/// How many seats have another holder.
fn moves(before: &[String], after: &[String]) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b).count()
}

#[test]
fn few_replicas_move_when_a_node_joins() {
    let mut moved = 0;
    for count in 4..24 {
        for replicas in [1, 3, 10, 30] {
            let fewer = of_nodes(count, &all(replicas));
            let more = of_nodes(count + 1, &all(replicas));
            let (before, after) = (seats(&placed(&fewer, &[])), seats(&placed(&more, &[])));
            let fair = (replicas as usize).div_ceil(count + 1);
            let n = moves(&before, &after);
            assert!(n <= 4 * fair + 4, "{n} of {replicas} on {count}");
            moved += n * 100 / replicas as usize;
        }
    }
    // In percent: a node of these has 9 of a hundred on average.
    assert!(moved / 80 <= 20, "{}", moved / 80);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Each replica has a place; they are spread; the death of nodes moves what they had, and
    /// nothing else; and with the nodes comes back what was there.
    #[test]
    fn only_what_was_on_gone_nodes_moves(
        count in 1usize..20,
        replicas in 1u32..30,
        gone in prop::collection::btree_set(0usize..20, 0..10),
    ) {
        let realm = of_nodes(count, &all(replicas));
        let names = nodes(count);
        let before = placed(&realm, &[]);
        let gone: Vec<&str> = gone
            .iter()
            .filter_map(|index| names.get(*index).map(String::as_str))
            .collect();
        let after = placed(&realm, &gone);
        let app = component_name("app");
        for placement in [&before, &after] {
            let there: Vec<u32> = placement.holders(&app).map(|(_, share)| share).collect();
            let sum: u32 = there.iter().sum();
            prop_assert_eq!(sum, if gone.len() == count && placement == &after { 0 } else { replicas });
            let most = there.iter().max().copied().unwrap_or_default();
            let hosts = if placement == &before { count } else { count - gone.len() };
            prop_assert!(hosts == 0 || most <= replicas.div_ceil(u32::try_from(hosts).unwrap()));
        }
        for (was, is) in seats(&before).iter().zip(seats(&after)) {
            if gone.contains(&was.as_str()) {
                prop_assert!(!gone.contains(&is.as_str()));
            } else {
                prop_assert_eq!(was, &is);
            }
        }
    }
}

/// Of a singleton there is one place in the realm, whatever its lists say, and an order of those that may
/// have it that does not depend on who is there.
#[test]
fn a_singleton_has_one_place_in_the_realm() {
    let names = ["a", "b", "c", "d", "e"];
    let check = |keys: &str, routing: &str, gone: &[&str], share: &str, order: &str| {
        let mut realm = realm(&names, "");
        let text = format!(
            "[components.app]\nsource = 'file:a'\nsingleton = true\n{keys}\n[routing]\n{routing}\n"
        );
        realm.apply(&text, &[("app", "1")]);
        let placement = placed(&realm, gone);
        let app = component_name("app");
        let has = names
            .iter()
            .filter(|node| placement.share(&app, &node_name(node)) > 0);
        assert_eq!(has.copied().collect::<String>(), share, "{keys} {routing}");
        let mut ranked: Vec<_> = names
            .iter()
            .filter_map(|node| Some((placement.rank(&app, &node_name(node))?, *node)))
            .collect();
        ranked.sort_unstable();
        let ranked: String = ranked.into_iter().map(|(_, node)| node).collect();
        assert_eq!(ranked, order, "{keys} {routing}");
    };
    check("", &all(1), &[], "c", "cdbea");
    check("", &all(1), &["c"], "d", "cdbea");
    let lists = "a = [{ path = '/', component = 'app' }]\nb = [{ path = '/', component = 'app' }]";
    check("", lists, &[], "b", "ba");
    check("", lists, &["b"], "a", "ba");
    check("", lists, &["a", "b"], "", "ba");
    // What runs by itself would run on every node.
    for keys in ["serve = 'service'", "serve = 'job'", "schedule = '@daily'"] {
        check(keys, "", &[], "c", "cdbea");
        check(keys, "", &["c", "d"], "b", "cdbea");
    }
}

/// Of what one node has alone the next one keeps the bytes, and it is the one that would have it.
#[test]
fn the_next_node_keeps_the_bytes_of_what_one_has_alone() {
    let check = |routing: &str, kept: bool| {
        let realm = of_nodes(5, routing);
        let all = place(realm.ledger.desired(), realm.ledger.authority(), &|_, _| {
            false
        });
        let app = component_name("app");
        let standbys: Vec<_> = realm
            .ledger
            .authority()
            .nodes
            .keys()
            .filter(|node| all.standbys(node).any(|name| *name == app))
            .collect();
        assert_eq!(standbys.len(), usize::from(kept), "{routing}");
        let Some(standby) = standbys.first() else {
            return;
        };
        let (holder, _) = all.holders(&app).next().expect("somebody has it");
        let without = place(
            realm.ledger.desired(),
            realm.ledger.authority(),
            &|node, _| node == holder,
        );
        let (next, _) = without.holders(&app).next().expect("somebody has it");
        assert_eq!(next, *standby);
    };
    for path in ["/", "/a", "/b"] {
        check(
            &format!("'*' = [{{ path = '{path}', component = 'app' }}]"),
            true,
        );
    }
    check(
        "'*' = [{ path = '/', component = 'app', replicas = 2 }]",
        false,
    );
    check(
        "'*' = [{ path = '/', component = 'app', per_node = true }]",
        false,
    );
}

#[test]
fn who_may_come_to_run_a_component() {
    let mut realm = Realm::found();
    for (name, tags) in [("a", &["metal"][..]), ("b", &["metal"]), ("c", &[])] {
        realm.submit(approval(name, tags)).expect("an approval");
    }
    let text = "[components.web]\nsource = 'file:a'\n[components.old]\nsource = 'file:a'\n\
        [components.job]\nsource = 'file:a'\nserve = 'job'\n[components.idle]\nsource = 'file:a'\n\
        [routing]\n'tag:metal' = [{ path = '/', component = 'web', replicas = 1 }]\n\
        'b' = [{ path = '/', component = 'old' }]\n";
    let (manifest, problems) = realm_model::manifest::parse(text);
    let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
    for (component, expected) in [
        // One replica, and the other node stands in for the first; where another route counts, none.
        ("web", &["a"][..]),
        ("old", &["b"]),
        ("job", &["a", "b", "c"]),
        ("idle", &[]),
        ("unknown", &[]),
    ] {
        let name = crate::testing::component_name(component);
        let nodes = super::may_run(&manifest, realm.ledger.authority(), &name);
        let nodes: Vec<_> = nodes.iter().map(NodeName::as_str).collect();
        assert_eq!(nodes, expected, "{component}");
    }
}
