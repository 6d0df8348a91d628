//! Every key, and every problem with its place.

use proptest::prelude::*;

use super::*;

fn good(text: &str) -> NodeConfig {
    let (config, problems) = parse(text);
    assert_eq!(problems, [], "{text}");
    config.expect("no problems")
}

fn refused(text: &str, expected: &[(&str, usize, usize)]) {
    let (config, problems) = parse(text);
    let seen: Vec<_> = problems
        .iter()
        .map(|problem| (problem.code, problem.line, problem.column))
        .collect();
    assert_eq!(seen, expected, "{text}: {problems:#?}");
    assert_eq!(config, None, "{text}");
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(good(""), NodeConfig::default());
    assert_eq!(good("[listen]\n[guests]\n[exec]\n"), NodeConfig::default());
}

#[test]
fn every_key_is_read() {
    let config = good(FULL);
    assert_eq!(config.name, Some("bm-01".parse().expect("a name")));
    assert_eq!(config.tags, ["metal"]);
    assert_eq!(
        config.trusted_proxies,
        ["10.0.0.1".parse::<std::net::IpAddr>().expect("an address")]
    );
    assert_eq!(config.listen.http.len(), 2);
    let ports = config.listen.ports.iter().map(ToString::to_string);
    assert_eq!(ports.collect::<Vec<_>>(), ["10.0.0.5", "::1"]);
    assert_eq!(config.listen.admin.to_string(), "127.0.0.1:9000");
    assert_eq!(config.cache_max_mb, Some(256));
    assert_eq!(config.guests.dirs, ["/srv"]);
    assert_eq!(config.guests.private_ranges, ["10.0.0.0/8", "::1"]);
    assert_eq!(config.guests.tls_roots, ["/etc/ssl/company.pem"]);
    assert_eq!(config.guests.instances_max, 200);
    assert_eq!(
        config.listen.api.map(|api| api.to_string()).as_deref(),
        Some("0.0.0.0:9443")
    );
    let fastcgi = config.listen.fastcgi.iter().map(ToString::to_string);
    let expected = ["unix:/run/realm/fastcgi.sock", "127.0.0.1:9001"];
    assert_eq!(fastcgi.collect::<Vec<_>>(), expected);
    let fastcgi = FastCgiSettings {
        socket_mode: 0o666,
        socket_group: Some("www-data".to_owned()),
        allow: vec!["10.0.0.0/8".to_owned()],
        requests_per_connection: 8,
        params_bytes_max: 100_000,
        params_max: 300,
        param_name_bytes_max: 100,
        stderr_bytes_max: 0,
        connections_max: 500,
        aborts_per_second_max: 20,
        question_bytes_max: 2_000,
        stdin_waiting_bytes_max: 70_000,
        stdout_waiting_bytes_max: 80_000,
        head_timeout_ms: 1_001,
        idle_timeout_ms: 1_002,
        stall_timeout_ms: 1_003,
        body_timeout_ms: 1_004,
    };
    assert_eq!(config.fastcgi, fastcgi);
    let exec = ExecPolicy {
        allow: vec![ExecCaller::Owner, ExecCaller::Delegates],
        run: vec![ExecCaller::Owner],
        user: Some("deploy".to_owned()),
        shell: "/bin/bash".to_owned(),
        max_seconds: 60,
        max_at_once: 2,
    };
    assert_eq!(config.exec, exec);
    let allow = ["unix:/run/php/php-fpm.sock", "10.0.0.0/8:8080"];
    let upstreams = UpstreamPolicy {
        allow: allow.map(|rule| rule.parse().expect("a rule")).to_vec(),
        connect_timeout_ms: 1_005,
        kept_ms_max: 1_006,
        head_bytes_max: 10_000,
        head_fields_max: 50,
        collected_bytes_max: 5,
        log_bytes_max: 6,
    };
    assert_eq!(config.upstreams, upstreams);
    assert_eq!(config.listen.connections_max, 300);
    let sources = SourceSettings {
        ipfs_gateways: vec!["https://trustless-gateway.link".to_owned()],
        s3_endpoint: Some("http://127.0.0.1:9000".to_owned()),
        s3_region: Some("garage".to_owned()),
        registry_auth: Some("/etc/realm/registries.json".to_owned()),
        registries_without_tls: vec!["registry.example.com:5000".to_owned()],
    };
    assert_eq!(config.sources, sources);
}

const FULL: &str = r#"
name = "bm-01"
tags = ["metal"]
trusted_proxies = ["10.0.0.1"]
cache_max_mb = 256
[listen]
http = ["0.0.0.0:80", "[::]:8080"]
admin = "127.0.0.1:9000"
api = "0.0.0.0:9443"
ports = ["10.0.0.5", "::1"]
connections_max = 300
fastcgi = ["unix:/run/realm/fastcgi.sock", "127.0.0.1:9001"]
[fastcgi]
socket_mode = "0666"
socket_group = "www-data"
allow = ["10.0.0.0/8"]
requests_per_connection = 8
params_bytes_max = 100_000
params_max = 300
param_name_bytes_max = 100
stderr_bytes_max = 0
connections_max = 500
aborts_per_second_max = 20
question_bytes_max = 2_000
stdin_waiting_bytes_max = 70_000
stdout_waiting_bytes_max = 80_000
head_timeout_ms = 1_001
idle_timeout_ms = 1_002
stall_timeout_ms = 1_003
body_timeout_ms = 1_004
[exec]
allow = ["owner", "delegates"]
run = ["owner"]
user = "deploy"
shell = "/bin/bash"
max_seconds = 60
max_at_once = 2
[guests]
dirs = ["/srv/"]
private_ranges = ["10.0.0.0/8", "::1"]
tls_roots = ["/etc/ssl/company.pem"]
instances_max = 200
[upstreams]
allow = ["unix:/run/php/php-fpm.sock", "10.0.0.0/8:8080"]
connect_timeout_ms = 1_005
kept_ms_max = 1_006
head_bytes_max = 10_000
head_fields_max = 50
collected_bytes_max = 5
log_bytes_max = 6

[sources]
ipfs_gateways = ["https://trustless-gateway.link/"]
s3_endpoint = "http://127.0.0.1:9000"
s3_region = "garage"
registry_auth = "/etc/realm/registries.json"
registries_without_tls = ["Registry.example.com:5000"]
"#;

#[test]
fn ports_of_servers_are_listened_on_at_addresses_that_are_named() {
    refused(
        "[listen]\nports = ['0.0.0.0', '10.0.0.5:80', '::']\n",
        &[
            (codes::BAD_VALUE, 2, 10),
            (codes::BAD_VALUE, 2, 21),
            (codes::BAD_VALUE, 2, 36),
        ],
    );
}

#[test]
fn every_problem_is_told_with_its_place() {
    refused(
        "nam = 'a'\nname = 'a b'\ntags = ['x', 'x']\ntrusted_proxies = ['proxy']\n",
        &[
            (codes::UNKNOWN_KEY, 1, 1),
            (codes::BAD_NAME, 2, 8),
            (codes::DUPLICATE_VALUE, 3, 14),
            (codes::BAD_VALUE, 4, 20),
        ],
    );
    refused(
        "[listen]\nhttp = [':80']\nadmin = 9180\n[guests]\ndirs = ['srv']\nprivate_ranges = ['10.0.0.1/8']\ninstances_max = 0\ntls_roots = ['ca.pem']\n",
        &[
            (codes::BAD_VALUE, 2, 9),
            (codes::WRONG_TYPE, 3, 9),
            (codes::BAD_DIR, 5, 9),
            (codes::BAD_VALUE, 6, 19),
            (codes::OUT_OF_RANGE, 7, 17),
            (codes::BAD_VALUE, 8, 14),
        ],
    );
    refused(
        &"#".repeat(NODE_CONFIG_BYTES_MAX + 1),
        &[(codes::TOO_LARGE, 1, 1)],
    );
    refused(
        "[exec]\nallow = ['all']\nuser = '-x'\nshell = 'sh'\nmax_seconds = 0\n",
        &[
            (codes::BAD_VALUE, 2, 10),
            (codes::BAD_VALUE, 3, 8),
            (codes::BAD_VALUE, 4, 9),
            (codes::OUT_OF_RANGE, 5, 15),
        ],
    );
    refused(
        "[sources]\nipfs_gateways = ['ipfs.io']\ns3_endpoint = 'https://user:password@s3.example.com'\ns3_region = ''\nregistry_auth = 'auth.json'\nregistries_without_tls = ['registry']\n",
        &[
            (codes::BAD_VALUE, 2, 18),
            (codes::BAD_VALUE, 3, 15),
            (codes::BAD_VALUE, 4, 13),
            (codes::BAD_VALUE, 5, 17),
            (codes::BAD_VALUE, 6, 27),
        ],
    );
    refused(
        "[sources]\nipfs_gateways = ['http://a', 'http://b', 'http://c', 'http://d', 'http://e']\n",
        &[(codes::OUT_OF_RANGE, 2, 66)],
    );
    let long = format!("[listen]\nfastcgi = ['unix:/{}']\n", "x".repeat(200));
    refused(&long, &[(codes::BAD_VALUE, 2, 12)]);
    refused(
        "[listen]\nfastcgi = ['/run/x.sock', 'unix:run/x', '9000']\n[fastcgi]\nsocket_mode = '0888'\nsocket_group = 'a b'\nallow = ['web']\nparams_max = 0\n",
        &[
            (codes::BAD_VALUE, 2, 12),
            (codes::BAD_VALUE, 2, 27),
            (codes::BAD_VALUE, 2, 41),
            (codes::BAD_VALUE, 4, 15),
            (codes::BAD_VALUE, 5, 16),
            (codes::BAD_VALUE, 6, 10),
            (codes::OUT_OF_RANGE, 7, 14),
        ],
    );
    refused("listen = 1", &[(codes::WRONG_TYPE, 1, 10)]);
}

/// The first problem's code and hint.
fn hinted(text: &str) -> (&'static str, String) {
    let (_, problems) = parse(text);
    let first = problems
        .first()
        .unwrap_or_else(|| panic!("{text}: no problem"));
    (first.code, first.hint.clone().unwrap_or_default())
}

#[test]
fn common_mistakes_are_told_what_to_write() {
    let allow = |rule: &str| format!("[upstreams]\nallow = ['{rule}']\n");
    let pair = |pair: &str| {
        format!("[listen]\nhttps = ['127.0.0.1:443']\n[tls]\ncertificates = ['{pair}']\n")
    };
    let both = "one file that has both is written without `::`";
    for (text, code, hint) in [
        (
            "[fastcgi]\nsocket_mode = 0660\n".to_owned(),
            codes::SYNTAX,
            "quote it: `\"0660\"`",
        ),
        (
            "[fastcgi]\nsocket_mode = 660\n".to_owned(),
            codes::WRONG_TYPE,
            "quote it: `\"660\"`",
        ),
        (
            "[fast-cgi]\nparams_max = 1\n".to_owned(),
            codes::UNKNOWN_KEY,
            "did you mean `fastcgi`?",
        ),
        (
            "[acme]\nterms_agreed = true\n".to_owned(),
            codes::UNKNOWN_KEY,
            "write `[tls.acme]`",
        ),
        (
            "https = ['127.0.0.1:443']\n".to_owned(),
            codes::UNKNOWN_KEY,
            "addresses stand under `[listen]`, certificates under `[tls]`",
        ),
        (
            allow("/run/app.sock"),
            codes::BAD_VALUE,
            "write `unix:/run/app.sock`",
        ),
        (
            allow("fastcgi:unix:/run/app.sock"),
            codes::BAD_VALUE,
            "write `unix:/run/app.sock`",
        ),
        (
            allow("http://127.0.0.1:3000/"),
            codes::BAD_VALUE,
            "write `127.0.0.1:3000`",
        ),
        (
            allow("localhost:3000"),
            codes::BAD_VALUE,
            "write `127.0.0.1:3000`",
        ),
        (
            pair("shop.pem"),
            codes::BAD_VALUE,
            "write the whole path: `/etc/realm/shop.pem`",
        ),
        (
            pair("/shop.crt::shop.key"),
            codes::BAD_VALUE,
            "write the whole path: `/etc/realm/shop.key`",
        ),
        (pair("/shop.pem::"), codes::BAD_VALUE, both),
        (pair("::/shop.pem"), codes::BAD_VALUE, both),
        (
            pair("/shop.crt:/shop.key"),
            codes::BAD_VALUE,
            "two colons stand between both: `/shop.crt::/shop.key`",
        ),
    ] {
        let (found, told) = hinted(&text);
        assert_eq!(found, code, "{text}");
        assert!(told.contains(hint), "{text}: {told}");
    }
}

#[test]
fn certificates_that_nobody_is_shown_are_told() {
    for (text, expected) in [
        ("[tls]\ndev = true\n", &[(codes::NO_EFFECT, 1)][..]),
        (
            "[listen]\n[tls.acme]\nterms_agreed = true\n",
            &[(codes::NO_EFFECT, 2)],
        ),
        ("[tls]\n", &[]),
        (
            "[listen]\nhttps = ['127.0.0.1:443']\n[tls]\ndev = true\n",
            &[],
        ),
        // One thing at a time.
        (
            "[listen]\nhttps = [':443']\n[tls]\ndev = true\n",
            &[(codes::BAD_VALUE, 2)],
        ),
    ] {
        let (config, problems) = parse(text);
        let seen: Vec<_> = problems.iter().map(|one| (one.code, one.line)).collect();
        assert_eq!(seen, expected, "{text}");
        assert_eq!(config.is_some(), !text.contains("':443'"), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_gives_an_answer(text in "(\\PC|\n){0,200}") {
        let (config, problems) = parse(&text);
        prop_assert!(config.is_some() || !problems.is_empty());
    }

    #[test]
    fn a_changed_file_gives_an_answer(at in 0..FULL.len(), with in "\\PC{0,3}", cut in 0usize..9) {
        let end = (at + cut).min(FULL.len());
        let text = format!("{}{with}{}", &FULL[..at], &FULL[end..]);
        let (config, problems) = parse(&text);
        prop_assert!(config.is_some() || !problems.is_empty());
    }
}
