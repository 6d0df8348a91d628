//! The manifest as a whole: the user's own text, every key, one case for each code, any text.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::cases::CASES;
use super::*;
use crate::codes;
use crate::diagnostic::Severity;
use crate::grants::{ClockGrant, DirGrant};

/// The text of the specification, with real values where it has placeholders.
const SPECIFICATION: &str = include_str!("../../tests/fixtures/3-realm.toml");
/// Every key that there is.
const FULL: &str = include_str!("../../tests/fixtures/full.toml");

/// Parses, and checks what holds for every text.
fn parsed(text: &str) -> (Option<Manifest>, Vec<Diagnostic>) {
    let (manifest, problems) = parse(text);
    let refused = problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    assert_eq!(manifest.is_none(), refused, "{text}: {problems:#?}");
    for problem in &problems {
        assert!(text.get(problem.span.clone()).is_some(), "{problem:?}");
        let (_, severity, _) = codes::ALL
            .iter()
            .find(|(code, _, _)| *code == problem.code)
            .expect("every code is in the list");
        let is_error = problem.severity == Severity::Error;
        assert_eq!(*severity == "error", is_error, "{problem:?}");
        assert!(!problem.message.contains('\n'), "{problem:?}");
    }
    let starts: Vec<usize> = problems.iter().map(|problem| problem.span.start).collect();
    assert!(starts.is_sorted(), "{problems:#?}");
    (manifest, problems)
}

/// The problems as `code line:column`, with the hint where `expected` has one after ` | `.
fn check(text: &str, expected: &[&str]) {
    let (_, problems) = parsed(text);
    let seen: Vec<String> = problems
        .iter()
        .enumerate()
        .map(|(index, problem)| {
            let place = format!("{} {}:{}", problem.code, problem.line, problem.column);
            match (expected.get(index), &problem.hint) {
                (Some(line), Some(hint)) if line.contains(" | ") => format!("{place} | {hint}"),
                _ => place,
            }
        })
        .collect();
    assert_eq!(seen, expected, "{text}\n{problems:#?}");
}

fn good(text: &str) -> Manifest {
    let (manifest, problems) = parsed(text);
    assert_eq!(problems, [], "{text}");
    manifest.expect("no problems")
}

/// A manifest of one component with this line in it, which is line 3.
fn component(line: &str) -> String {
    format!("[components.a]\nsource = 'file:a'\n{line}\n")
}

/// A manifest of two components with these routes, which begin on line 5.
fn routes(lines: &str) -> String {
    format!(
        "[components]\na = {{ source = 'file:a' }}\nb = {{ source = 'file:b' }}\n[routing]\n{lines}\n"
    )
}

#[test]
fn the_text_of_the_specification_is_a_manifest() {
    let (manifest, problems) = parsed(SPECIFICATION);
    let manifest = manifest.expect("valid");
    check(
        SPECIFICATION,
        &["address-spelling 7:13 | write `addr_hint = \"/dns/dev-laptop.local/udp/443/quic-v1\"`"],
    );
    assert_eq!(problems[0].severity, Severity::Warning);
    assert_eq!(manifest.nodes.len(), 2);
    assert_eq!(manifest.secrets.len(), 2);
    assert!(manifest.owner.is_some());
    let orders = &manifest.components[&"orders".parse().expect("a name")];
    assert_eq!(orders.world, Some(World::Command));
    assert_eq!(orders.limits.memory_max_mb, 128);
    assert_eq!(orders.limits.fuel_per_sec, Some(10_000_000));
    assert_eq!(orders.limits.epoch_timeout_ms, 150);
    assert_eq!(orders.limits.max_response_bytes, None);
    assert_eq!(
        orders.grants.vars["DB_URL"],
        "postgres://spin@db.internal/shop"
    );
    assert!(orders.grants.allowed_outbound[0].matches("postgres", "db.internal", 5432));
    let auth = &manifest.components[&"auth".parse().expect("a name")];
    assert_eq!(auth.grants.env["RUST_LOG"], "info");
    assert!(matches!(&auth.source, Source::Registry(source) if source.repository == "acme/auth"));
    let routes = &manifest.routing[&NodeSelector::Node("bm-01".parse().expect("a name"))];
    let seen: Vec<_> = routes
        .iter()
        .map(|route| {
            format!(
                "{} {} {}",
                route.path, route.component, route.upkeep.replicas
            )
        })
        .collect();
    assert_eq!(seen, ["/auth/... auth 2", "/orders/... orders 3"]);
}

#[test]
fn every_key_is_read() {
    let json = serde_json::to_string_pretty(&good(FULL)).expect("serialises");
    insta::assert_snapshot!("full", json);
    // A key that the fixture lacks is a key that no test reads.
    for section in keys::SECTIONS {
        for key in section.keys {
            assert!(
                FULL.contains(key.name),
                "`{}` of `{}`",
                key.name,
                section.title
            );
        }
    }
}

/// Two servers that insist on one port, with these nodes and lists of routes.
fn servers(routing: &str) -> String {
    format!(
        "[components]\na = {{ source = 'file:a', listen = 80 }}\nb = {{ source = 'file:b', listen = 80 }}\n\
         [nodes.n]\ntags = ['x', 'y']\n[nodes.m]\ntags = ['z']\n[routing]\n{routing}\n"
    )
}

#[test]
fn one_port_is_refused_to_two_servers_of_one_node_alone() {
    let (a, b) = (
        "{ path = '/a', component = 'a' }",
        "{ path = '/b', component = 'b' }",
    );
    let check_ports = |lists: &[(&str, &str)], refused: bool| {
        let routing: Vec<String> = lists
            .iter()
            .map(|(selector, routes)| format!("'{selector}' = [{routes}]"))
            .collect();
        let expected: &[&str] = if refused {
            &["duplicate-port 3:35"]
        } else {
            &[]
        };
        check(&servers(&routing.join("\n")), expected);
    };
    for (of_a, of_b, refused) in [
        ("n", "m", false),
        ("n", "tag:z", false),
        ("tag:x", "tag:z", false),
        ("*", "n", true),
        ("*", "tag:z", true),
        ("n", "tag:y", true),
        ("tag:x", "tag:y", true),
        ("tag:y", "n", true),
    ] {
        check_ports(&[(of_a, a), (of_b, b)], refused);
        check_ports(&[(of_b, a), (of_a, b)], refused);
    }
    for selector in ["*", "n", "tag:x"] {
        check_ports(&[(selector, &format!("{a}, {b}"))], true);
    }
    // Without a route it does not run.
    check_ports(&[("*", a)], false);
    // A node that is made an exception runs the one in place of the other.
    let instead = "{ path = '/a', component = 'b' }";
    check_ports(&[("*", a), ("n", instead)], false);
    check_ports(&[("tag:x", a), ("n", instead)], false);
    check_ports(
        &[
            ("*", &format!("{a}, {{ path = '/c', component = 'a' }}")),
            ("n", instead),
        ],
        true,
    );
}

#[test]
fn an_empty_text_is_an_empty_manifest() {
    assert_eq!(good(""), Manifest::default());
    assert_eq!(good("# nothing\n[components]\n"), Manifest::default());
    assert_eq!(good("\u{feff}version = 3").version, Some(3));
}

#[test]
fn defaults_hold_where_nothing_is_written() {
    let manifest = good(&component(""));
    let spec = &manifest.components[&"a".parse().expect("a name")];
    assert_eq!(spec.limits, Limits::default());
    assert_eq!(spec.grants, Grants::default());
    assert_eq!((spec.serve, spec.listen, spec.reuse), (None, None, false));
    assert_eq!((spec.restart, &spec.health), (RestartPolicy::Always, &None));
}

#[test]
fn numbers_may_be_written_in_any_form_of_toml() {
    for number in [
        "5_000_000",
        "5000000",
        "+5_000_000",
        "0x4c4b40",
        "0o23045500",
        "0b10011000100101101000000",
    ] {
        let manifest = good(&component(&format!("fuel_per_sec = {number}")));
        let spec = &manifest.components[&"a".parse().expect("a name")];
        assert_eq!(spec.limits.fuel_per_sec, Some(5_000_000), "{number}");
    }
}

#[test]
fn a_number_has_a_range_and_a_type() {
    for key in keys::COMPONENT.keys {
        let crate::section::Kind::Integer { min, max } = key.kind else {
            continue;
        };
        let name = key.name;
        let component = |line: &str| match name {
            "keep_connections" | "websocket_idle_ms" => {
                component(line).replace("source = 'file:a'", "upstream = 'http://a:1'")
            }
            _ => component(line),
        };
        for number in [min, max] {
            good(&component(&format!("{name} = {number}")));
        }
        let column = name.len() + 4;
        let place = format!("out-of-range 3:{column}");
        let beyond = [0, min.saturating_sub(1), max + 1];
        for number in beyond.into_iter().filter(|one| !(min..=max).contains(one)) {
            check(&component(&format!("{name} = {number}")), &[&place]);
        }
        for number in [
            "-1",
            "-9223372036854775808",
            "99999999999999999999999999999999999999999999",
        ] {
            check(&component(&format!("{name} = {number}")), &[&place]);
        }
        let place = format!("wrong-type 3:{column}");
        for value in ["1.5", "true", "[1]", "{}", "1979-05-27", "inf", "'64 MB'"] {
            check(&component(&format!("{name} = {value}")), &[&place]);
        }
    }
    let text = component("fuel_per_sec = 5e6");
    check(&text, &["wrong-type 3:16 | write it as `5_000_000`"]);
    let text = component("memory_max_mb = '64'");
    check(&text, &["wrong-type 3:17 | write it as `64`"]);
}

#[test]
fn a_health_check_has_a_short_and_a_long_form() {
    let health = |line: &str| {
        let manifest = good(&component(line));
        let spec = &manifest.components[&"a".parse().expect("a name")];
        spec.health.clone().expect("a health check")
    };
    let probe = Probe::Http("/healthz".to_owned());
    assert_eq!(
        health("health = '/healthz'"),
        HealthCheck::with_defaults(probe.clone())
    );
    assert_eq!(
        health("health = { path = '/healthz' }"),
        HealthCheck::with_defaults(probe)
    );
    assert_eq!(
        health("health = 'export'"),
        HealthCheck::with_defaults(Probe::Export)
    );
    let long = "health = { export = true, interval_ms = 500, failures = 1 }";
    let expected = HealthCheck {
        probe: Probe::Export,
        interval_ms: 500,
        // The default would be longer than the interval.
        timeout_ms: 500,
        failures: 1,
    };
    assert_eq!(health(long), expected);
    check(&component("health = 'healthz'"), &["bad-value 3:10"]);
    check(
        &component("health = 1"),
        &["wrong-type 3:10 | quote it: `\"1\"`"],
    );
    check(&component("health = {}"), &["missing-key 3:1"]);
    check(
        &component("health = { path = '/', export = true }"),
        &["missing-key 3:1"],
    );
    check(&component("health = { path = 'x' }"), &["bad-value 3:19"]);
    check(
        &component("health = { path = '/', timout_ms = 1 }"),
        &["unknown-key 3:24 | did you mean `timeout_ms`?"],
    );
    check(
        &component("health = { path = '/', interval_ms = 100, timeout_ms = 101 }"),
        &["out-of-range 3:43"],
    );
}

#[test]
fn replicas_may_be_left_out_but_not_differ() {
    let manifest = good(&routes(
        "'*' = [{ path = '/x', component = 'a' }, { path = '/y', component = 'a', replicas = 3 }, { path = '/z', component = 'b' }]",
    ));
    let replicas: Vec<u32> = manifest.routing[&NodeSelector::All]
        .iter()
        .map(|route| route.upkeep.replicas)
        .collect();
    assert_eq!(replicas, [3, 3, 1]);
    // Each list of routes speaks for its own nodes.
    check(
        &routes(
            "'*' = [{ path = '/x', component = 'a', replicas = 2 }]\n'n' = [{ path = '/x', component = 'a', replicas = 3 }]",
        ),
        &["unlisted-node 6:1"],
    );
}

#[test]
fn how_replicas_are_kept_is_written_once_and_within_bounds() {
    let route = |keys: &str| {
        routes(&format!(
            "'*' = [{{ path = '/', component = 'a', {keys} }}]"
        ))
    };
    let two = |keys: &str, others: &str| {
        routes(&format!(
            "'*' = [{{ path = '/', component = 'a', {keys} }},\n{{ path = '/x', component = 'a', {others} }}]"
        ))
    };
    good(&two(
        "max_surge = 1, on_fail = 'revert'",
        "max_surge = 1, lost_after = '1m'",
    ));
    check(
        &two("max_surge = '10%'", "max_surge = '11%'"),
        &["replicas-disagree 6:45 | it holds for the component: write it on one route"],
    );
    for (keys, expected) in [
        ("max_surge = 1001", "out-of-range 5:51"),
        ("max_surge = -1", "out-of-range 5:51"),
        ("max_surge = '101%'", "bad-value 5:51"),
        ("max_surge = '1'", "bad-value 5:51"),
        ("max_surge = true", "wrong-type 5:51"),
        ("min_ready = '61m'", "out-of-range 5:51"),
        ("min_ready = '-1s'", "bad-value 5:51"),
        ("min_ready = 'soon'", "bad-value 5:51"),
        ("min_ready = 5", "wrong-type 5:51"),
        ("lost_after = '999ms'", "out-of-range 5:52"),
        ("progress_deadline = '25h'", "out-of-range 5:59"),
        (
            "on_fail = 'revrt'",
            "bad-value 5:49 | did you mean `\"revert\"`?",
        ),
        (
            "max_surge = 0, max_unavailable = '0%'",
            "out-of-range 5:72 | write 1 for one of them",
        ),
    ] {
        check(&route(keys), &[expected]);
    }
}

#[test]
fn a_route_is_the_same_if_host_and_path_are() {
    good(&routes(
        "'*' = [{ path = '/', component = 'a' }, { path = '/...', component = 'a' }, { path = '/', host = 'x', component = 'b' }]",
    ));
    check(
        &routes(
            "'*' = [{ path = '/x/...', host = 'A.b', component = 'a' },\n{ path = '/x/...', host = 'a.B.', component = 'b' }]",
        ),
        &["duplicate-route 6:10"],
    );
}

#[test]
fn names_that_refer_to_nothing_get_the_nearest() {
    check(
        &routes("'*' = [{ path = '/', component = 'c' }]"),
        &["unknown-component 5:34 | did you mean `a`?"],
    );
    check(
        "[components.orders]\nsource='file:a'\n[routing]\n'*'=[{path='/', component='order'}]",
        &["unknown-component 4:27 | did you mean `orders`?"],
    );
    check(
        "[components.orders]\nsource='file:a'\n[routing]\n'*'=[{path='/', component='payment'}]",
        &["unknown-component 4:27 | add `[components.payment]`"],
    );
    check(
        "[nodes.bm-01]\ntags=['metal']\n[routing]\nbm-02=[]\n'tag:metl'=[]",
        &[
            "unlisted-node 4:1 | did you mean `bm-01`?",
            "unlisted-tag 5:1 | did you mean `tag:metal`?",
        ],
    );
    check(
        "[components.a]\nsource='file:a'\nsecrets=['jwt_pup']\n[secrets]\njwt_pub='age-encrypted:AAAA'",
        &["unknown-secret 3:10 | did you mean `jwt_pub`?"],
    );
}

#[test]
fn every_problem_is_told_with_its_place() {
    for (text, expected) in CASES {
        check(text, expected);
    }
}

#[test]
fn every_code_has_a_case() {
    let cases: BTreeSet<&str> = CASES
        .iter()
        .flat_map(|(_, expected)| expected.iter())
        .filter_map(|line| line.split(' ').next())
        .collect();
    for (code, _, _) in codes::ALL {
        // These need a large text: the tests below.
        let is_large = [codes::TOO_LARGE, codes::TOO_MANY_PROBLEMS].contains(code);
        assert!(is_large || cases.contains(code), "`{code}`");
    }
}

#[test]
fn a_broken_line_does_not_hide_the_others() {
    // What stands on the broken line, and what may only be unreadable, is not told twice.
    check(
        "[components.a]\nsource = file:a\nmemory_max_mb = 0\nsorce = 1\n[routing]\n'*' = [{ path = 'x', component = 'b' }]",
        &[
            "syntax 2:10",
            "out-of-range 3:17",
            "unknown-key 4:1",
            "bad-path 6:17",
        ],
    );
}

#[test]
fn a_secret_is_never_shown_again() {
    let secret = crate::key::SecretKey::from_seed(&[7; 32]).to_text();
    let text = format!(
        "[owner]\npubkey = '{}'\n[secrets]\nx = 'hunter2'",
        secret.as_str()
    );
    let (_, problems) = parsed(&text);
    assert_eq!(problems.len(), 2, "{problems:#?}");
    let shown = format!("{problems:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains(&secret[15..]),
        "{shown}"
    );
}

/// Case 24: a million components are too large before they are parsed, and depth costs no stack.
#[test]
fn case_24_wide_and_deep_manifests_have_an_answer() {
    let wide: String = (0..1_000_000)
        .map(|number| format!("[components.c{number}]\n"))
        .collect();
    check(&wide, &["too-large 1:1"]);
    let half = MANIFEST_BYTES_MAX / 2 - 16;
    let arrays = format!("a = {}{}", "[".repeat(half), "]".repeat(half));
    let tables = format!("a = {}", "{a=".repeat(half / 2));
    let dotted = format!("{}a = 1", "a.".repeat(half));
    for deep in [arrays, tables, dotted] {
        let (manifest, problems) = parsed(&deep);
        assert!(manifest.is_none(), "{}", &deep[..16]);
        assert!(
            !problems.is_empty() && problems.len() <= 101,
            "{}",
            problems.len()
        );
    }
}

#[test]
fn what_is_too_large_is_refused() {
    check(&"#".repeat(MANIFEST_BYTES_MAX + 1), &["too-large 1:1"]);
    good(&"#".repeat(MANIFEST_BYTES_MAX));
    let items = |count| component(&format!("args = [{}]", "'x',".repeat(count)));
    good(&items(1_000));
    check(&items(1_001), &["too-large 3:8"]);
    let text = |bytes| component(&format!("env = {{ A = '{}' }}", "x".repeat(bytes)));
    good(&text(64 * 1024));
    check(&text(64 * 1024 + 1), &["too-large 3:13"]);
    let nodes: String = (0..1_001)
        .map(|node| format!("[nodes.n{node}]\n"))
        .collect();
    check(&nodes, &["too-large 1:2"]);
    let route = "{path='/x',component='a'},";
    let many = routes(&format!("'*' = [{}]", route.repeat(7_000)));
    let (manifest, problems) = parsed(&many);
    assert!(manifest.is_none());
    assert_eq!(
        problems.len(),
        101,
        "one problem for each of the first hundred, and their number"
    );
    let last = problems.last().expect("101 problems");
    assert_eq!(last.code, codes::TOO_MANY_PROBLEMS);
    assert_eq!(last.message, "6899 more problems are not shown");
}

#[test]
fn an_error_counts_even_behind_a_hundred_warnings() {
    let warnings: String = (0..150).map(|node| format!("n{node} = []\n")).collect();
    let (manifest, _) = parsed(&format!("[routing]\n{warnings}"));
    assert!(manifest.is_some(), "warnings alone refuse nothing");
    let (manifest, problems) = parsed(&format!("[routing]\n{warnings}'*' = 1"));
    assert!(manifest.is_none());
    assert_eq!(
        problems.last().map(|problem| problem.code),
        Some(codes::TOO_MANY_PROBLEMS)
    );
}

#[test]
fn a_message_is_one_printable_line() {
    let (_, problems) = parsed("\"a\\u001b[31m\\n\" = 1");
    assert_eq!(
        problems[0].message,
        "unknown key `a\\u{1b}[31m\\n` in `realm.toml`"
    );
}

#[test]
fn grants_are_read_as_written() {
    let manifest = good(FULL);
    let grants = &manifest.components[&"web".parse().expect("a name")].grants;
    assert_eq!(grants.clock, ClockGrant::Precise);
    let dir = |host: &str, guest: &str, writable| DirGrant {
        host: host.to_owned(),
        guest: guest.to_owned(),
        writable,
    };
    assert_eq!(
        grants.dirs,
        [
            dir("/srv/data", "/data", false),
            dir("/srv/spool", "/spool", true)
        ]
    );
}

proptest! {
    #[test]
    fn any_text_gives_an_answer(text in "(\\PC|\\n){0,300}") {
        parsed(&text);
    }

    #[test]
    fn any_bytes_of_toml_give_an_answer(text in "[\\[\\]{}=.,'\"#_a-c0-9\\\\ \\n\\r\u{feff}\u{0}ü-]{0,200}") {
        parsed(&text);
    }

    #[test]
    fn a_changed_manifest_gives_an_answer(
        full: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..20, "(\\PC|\\n|[\\[\\]{}='\"]){0,4}"), 1..6),
    ) {
        let mut text = if full { FULL } else { SPECIFICATION }.to_owned();
        for (at, cut, with) in changes {
            let mut start = at.index(text.len() + 1);
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let mut end = (start + cut).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.replace_range(start..end.max(start), &with);
        }
        parsed(&text);
    }

    #[test]
    fn swapped_lines_give_an_answer(order in Just(FULL.lines().collect::<Vec<_>>()).prop_shuffle()) {
        parsed(&order.join("\n"));
    }
}
