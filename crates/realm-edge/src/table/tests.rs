//! The table finds what a scan over the sorted routes would find, and balances by load.

use std::sync::atomic::{AtomicU32, Ordering};

use http::{Request, Response};
use proptest::prelude::*;

use super::*;
use crate::backend::{Body, BoxFuture, CallError};

struct Loaded(AtomicU32);

impl Backend for Loaded {
    fn call(&self, _: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        Box::pin(async { Err(CallError::new(http::StatusCode::OK, "unused", "")) })
    }

    fn load(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The owner by the model's own rule (the first match of the sorted routes), and the bytes that its
/// route names.
fn scan(routes: &[Route], host: &str, path: &str) -> Option<(ComponentName, usize)> {
    let mut routes = routes.to_vec();
    Route::sort(&mut routes);
    routes
        .into_iter()
        .find(|route| {
            route
                .host
                .as_ref()
                .is_none_or(|pattern| pattern.matches(host))
                && route.path.matches(path)
        })
        .map(|route| (route.component, route.path.precedence().1))
}

#[test]
fn a_miss_on_the_better_host_falls_through() {
    let route = |host: Option<HostPattern>, path, component: &str| Route {
        host,
        path,
        component: component.parse().expect("a name"),
        weights: BTreeMap::new(),
    };
    let routes = vec![
        route(
            Some(HostPattern::Exact("a.b".to_owned())),
            PathPattern::Exact("/x".to_owned()),
            "exact",
        ),
        route(
            Some(HostPattern::Below("b".to_owned())),
            PathPattern::Prefix("/y".to_owned()),
            "below",
        ),
        route(None, PathPattern::Prefix(String::new()), "any"),
    ];
    let table = Table::new(routes, BTreeMap::new());
    let owner = |host, path| {
        let found = table.find(host, path).expect("a route");
        found.owner.choose().group.component.as_str().to_owned()
    };
    assert_eq!(owner("a.b", "/x"), "exact");
    assert_eq!(owner("a.b", "/y/z"), "below");
    assert_eq!(owner("a.b", "/z"), "any");
    assert_eq!(owner("other", "/x"), "any");
}

#[test]
fn the_less_loaded_of_two_is_asked() {
    let group = group(&[9, 1]);
    for _ in 0..100 {
        assert_eq!(group.pick().expect("a replica").load(), 1);
    }
    let first = group.pick().expect("a replica");
    assert_eq!(group.pick_other(&[first]).expect("another").load(), 9);
    let group = self::group(&[3, 9, 1]);
    let first = &group.replicas[0];
    assert_eq!(group.pick_other(&[first]).expect("another").load(), 1);
}

#[test]
fn equal_replicas_share_the_work() {
    let group = group(&[0, 0, 0, 0]);
    let mut counts = [0; 4];
    for _ in 0..4000 {
        let picked = group.pick().expect("a replica");
        let index = group
            .replicas
            .iter()
            .position(|replica| Arc::ptr_eq(replica, picked));
        counts[index.expect("one of them")] += 1;
    }
    for count in counts {
        // Two random choices with equal loads: 1000 expected, 27 the standard deviation.
        assert!((800..1200).contains(&count));
    }
}

#[test]
fn a_group_of_one_has_no_other() {
    let group = group(&[0]);
    let first = group.pick().expect("a replica");
    assert!(group.pick_other(&[first]).is_none());
    assert!(self::group(&[]).pick().is_none());
}

proptest! {
    #[test]
    fn the_table_agrees_with_the_model(
        routes in proptest::collection::vec(routes(), 0..12),
        host in "(a|b|a\\.b|x\\.a\\.b|y\\.x\\.a\\.b)",
        path in "(/[xy]{0,2}){1,4}",
    ) {
        let expected = scan(&routes, &host, &path);
        let table = Table::new(routes, BTreeMap::new());
        let found = table.find(&host, &path);
        let found = found.map(|found| (found.owner.choose().group.component.clone(), found.prefix_bytes));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_path_is_looked_up(path in "\\PC{0,40}") {
        let routes = ["", "/a", "/ä", "/a/"].map(|prefix| Route {
            host: None,
            path: PathPattern::Prefix(prefix.to_owned()),
            component: "a".parse().expect("a name"),
            weights: BTreeMap::new(),
        });
        let table = Table::new(routes.to_vec(), BTreeMap::new());
        let _ = table.find("h", &path);
    }
}

fn routes() -> impl Strategy<Value = Route> {
    let host = prop_oneof![
        Just(None),
        "(a|b|a\\.b|x\\.a\\.b)".prop_map(|host| Some(HostPattern::Exact(host))),
        "(b|a\\.b|x\\.a\\.b)".prop_map(|host| Some(HostPattern::Below(host))),
    ];
    let path = prop_oneof![
        "(/[xy]{0,2}){1,3}".prop_map(PathPattern::Exact),
        "(/[xy]{0,2}){0,3}".prop_map(PathPattern::Prefix),
    ];
    (host, path, "[a-d]").prop_map(|(host, path, component)| Route {
        host,
        path,
        component: component.parse().expect("a name"),
        weights: BTreeMap::new(),
    })
}

fn group(loads: &[u32]) -> Group {
    Group {
        gate: None,
        component: "a".parse().expect("a name"),
        replicas: loads
            .iter()
            .map(|&load| Arc::new(Loaded(AtomicU32::new(load))) as Arc<dyn Backend>)
            .collect(),
        others: Vec::new(),
    }
}

/// A route that divides between versions, of which some have replicas here.
fn divided(weights: &[(&str, u32)], able: &[&str]) -> Table {
    let name = |label: &&str| {
        format!("a@{label}")
            .parse::<ComponentName>()
            .expect("a name")
    };
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: "a".parse().expect("a name"),
        weights: weights
            .iter()
            .map(|(label, weight)| (name(label), *weight))
            .collect(),
    };
    let backend = || vec![Arc::new(Loaded(AtomicU32::new(0))) as Arc<dyn Backend>];
    let backends = able.iter().map(|label| (name(label), backend()));
    Table::new(vec![route], backends.collect())
}

/// How many of a thousand requests each version gets, in hundreds.
#[track_caller]
fn check_division(weights: &[(&str, u32)], able: &[&str], expected: &[(&str, u32)]) {
    let table = divided(weights, able);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..4_000 {
        let target = table.find("", "/").expect("a route").owner.choose();
        let label = target
            .group
            .component
            .label()
            .unwrap_or_default()
            .to_owned();
        *seen.entry(label).or_default() += 1;
    }
    let expected_names: Vec<&str> = expected.iter().map(|(label, _)| *label).collect();
    assert_eq!(
        seen.keys().map(String::as_str).collect::<Vec<_>>(),
        expected_names
    );
    for (label, hundredths) in expected {
        let share = f64::from(seen[*label]) / 40.0;
        assert!(
            (share - f64::from(*hundredths)).abs() < 5.0,
            "{label}: {share} of {hundredths}"
        );
    }
}

#[test]
fn requests_are_divided_by_weight_between_versions_that_can_answer() {
    let both = [("blue", 75), ("green", 25)];
    check_division(&both, &["blue", "green"], &[("blue", 75), ("green", 25)]);
    // Who cannot answer gets nothing, and who has no weight answers only in the stead of all others.
    check_division(&both, &["green"], &[("green", 100)]);
    let waiting = [("blue", 0), ("green", 1), ("red", 0)];
    check_division(&waiting, &["blue", "green"], &[("green", 100)]);
    check_division(&waiting, &["blue"], &[("blue", 100)]);
    check_division(&waiting, &[], &[("green", 100)]);
}

/// Who guards a path by another division is another owner.
#[test]
fn other_versions_are_another_owner() {
    let name = |label: &str| {
        format!("a@{label}")
            .parse::<ComponentName>()
            .expect("a name")
    };
    let route = |path: &str, label: &str| Route {
        host: None,
        path: PathPattern::Prefix(path.to_owned()),
        component: "a".parse().expect("a name"),
        weights: [(name(label), 1)].into(),
    };
    let routes = vec![
        route("", "blue"),
        route("/x", "blue"),
        route("/admin", "internal"),
    ];
    let table = Table::new(routes, BTreeMap::new());
    let owner = |path| table.find("", path).expect("a route").owner;
    assert!(owner("/").is(owner("/x/y")));
    assert!(!owner("/").is(owner("/admin")));
}

#[test]
fn what_a_version_did_not_take_goes_to_another_version() {
    let table = divided(&[("blue", 1), ("green", 0)], &["blue", "green"]);
    let target = table.find("", "/").expect("a route").owner.choose();
    assert!(target.has_several());
    let tried = target.group.pick().expect("a replica");
    let (group, other) = target.pick_other(&[tried]).expect("another one");
    assert_eq!(group.component.as_str(), "a@green");
    assert!(!Arc::ptr_eq(tried, other));
    let alone = divided(&[("blue", 1), ("green", 0)], &["blue"]);
    let target = alone.find("", "/").expect("a route").owner.choose();
    assert!(!target.has_several());
}
