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
        found.group.component.as_str().to_owned()
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
    assert_eq!(group.pick_other(first).expect("another").load(), 9);
    let group = self::group(&[3, 9, 1]);
    let first = &group.replicas[0];
    assert_eq!(group.pick_other(first).expect("another").load(), 1);
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
    assert!(group.pick_other(first).is_none());
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
        let found = found.map(|found| (found.group.component.clone(), found.prefix_bytes));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_path_is_looked_up(path in "\\PC{0,40}") {
        let routes = ["", "/a", "/ä", "/a/"].map(|prefix| Route {
            host: None,
            path: PathPattern::Prefix(prefix.to_owned()),
            component: "a".parse().expect("a name"),
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
    })
}

fn group(loads: &[u32]) -> Group {
    Group {
        component: "a".parse().expect("a name"),
        replicas: loads
            .iter()
            .map(|&load| Arc::new(Loaded(AtomicU32::new(load))) as Arc<dyn Backend>)
            .collect(),
        others: Vec::new(),
    }
}
