//! What `realm edge` prints: the servers themselves accept it, and it says where something is missing.

use std::os::unix::fs::PermissionsExt;

use super::client::{Ask, CLIENT};
use super::servers::{Behind, Door, Front, Server, realm};
use crate::support::Realm;

const SERVERS: [&str; 5] = ["nginx", "apache", "caddy", "haproxy", "lighttpd"];

const HOSTS: &str = r#"
[components.app]
source = "file:./app.wasm"
wall_timeout_ms = 61001
max_request_bytes = 2048

[routing]
"*" = [
  { path = "/...", component = "app" },
  { path = "/x/...", host = "shop.example.com", component = "app" },
  { path = "/...", host = "*.example.com", component = "app" },
  { path = "/...", host = "*.a.example.com", component = "app" },
  { path = "/...", host = "[::1]", component = "app" },
  { path = "/...", host = "127.0.0.1", component = "app" },
  { path = "/...", host = "my_service", component = "app" },
]
"#;

#[test]
fn every_server_accepts_what_is_printed_for_it() {
    let realm = Realm::empty();
    realm.write("realm.toml", HOSTS);
    for server in SERVERS {
        for (protocol, at) in [
            ("--fastcgi", "unix:/run/realm/fastcgi.sock"),
            ("--fastcgi", "127.0.0.1:9000"),
            ("--fastcgi", "[::1]:9000"),
            ("--http", "127.0.0.1:8080"),
        ] {
            for listen in [
                &[][..],
                &["--listen", "127.0.0.1:18080"],
                &["--listen", "18080"],
            ] {
                let args = [
                    "edge",
                    server,
                    protocol,
                    "--at",
                    at,
                    "--manifest",
                    "realm.toml",
                    "--check",
                ];
                let said = realm.run(&[&args[..], listen].concat()).ok();
                assert!(said.stderr.contains("accepts it"), "{}", said.stderr);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_and_the_doctor_say_where_nobody_listens() {
    let realm = Realm::new();
    realm.app(realm_test_guests::HELLO, "");
    let path = realm.path("fastcgi.sock");
    let socket = path.display();
    let before = realm.read(".realm/node.toml");
    let listen = "[listen]\nhttp = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n";
    let port = crate::support::lasting_port();
    let both = format!("{before}\n{listen}fastcgi = [\"unix:{socket}\", \"127.0.0.1:{port}\"]\n");
    let nobody = |args: &[&str], at: &str| {
        let said = realm
            .run(&[&["edge", "nginx", "--check"], args].concat())
            .ok();
        assert!(said.stderr.contains("nginx accepts it"), "{}", said.stderr);
        let told = said.stderr.contains(&format!("nobody listens at `{at}`"));
        assert_eq!(
            told,
            said.stderr.contains("start it anew"),
            "{}",
            said.stderr
        );
        let json = realm.run(&[&["edge", "nginx", "--check", "--json"], args].concat());
        let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(json["answered"], !told);
        told
    };
    let doctor = |code: &str| {
        let found = realm.run(&["doctor", "--json"]).ok().stdout;
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let found = found.as_array().unwrap().iter().filter(|one| {
            let message = one["message"].as_str().unwrap();
            one["code"] == code && message.starts_with("nobody listens at")
        });
        let remedy = |one: &serde_json::Value| one["remedy"].as_str().unwrap().to_owned();
        let found: Vec<String> = found.map(remedy).collect();
        assert!(found.iter().all(|remedy| remedy.contains("agent anew")));
        found.len()
    };
    let at_socket = format!("unix:{socket}");
    let at_port = format!("127.0.0.1:{port}");
    let by_port = ["--at", &at_port];
    // An agent that was started before node.toml said so.
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    realm.write(".realm/node.toml", &both);
    assert!(nobody(&[], &at_socket) && nobody(&by_port, &at_port));
    assert_eq!((doctor("fastcgi"), doctor("port")), (1, 1));
    // A socket that was left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(nobody(&[], &at_socket));
    assert_eq!(doctor("fastcgi"), 1);
    agent.terminate();
    // Without an agent it is the check alone that says it: nothing is wrong with the machine.
    assert!(nobody(&[], &at_socket));
    assert_eq!((doctor("fastcgi"), doctor("port")), (0, 0));
    let agent = realm.agent();
    assert!(!nobody(&[], &at_socket) && !nobody(&by_port, &at_port));
    assert_eq!((doctor("fastcgi"), doctor("port")), (0, 0));
    drop(agent);
}

#[test]
fn what_a_server_does_not_accept_is_told_with_its_words() {
    let realm = Realm::empty();
    realm.write("realm.toml", HOSTS);
    // HAProxy has room for another name in the path of a socket, and so takes less of it.
    let at = format!("unix:/{}", "a".repeat(100));
    let args = [
        "edge",
        "haproxy",
        "--at",
        &at,
        "--manifest",
        "realm.toml",
        "--check",
    ];
    let said = realm.run(&args).fails(1, "not-accepted");
    assert!(said.stderr.contains("too long"), "{}", said.stderr);
    assert!(said.stdout.contains("fcgi-app realm"), "{}", said.stdout);
}

/// The arguments that let a server check what is printed for it.
fn checked(server: &str) -> [&str; 7] {
    let at = "127.0.0.1:9000";
    [
        "edge",
        server,
        "--at",
        at,
        "--manifest",
        "realm.toml",
        "--check",
    ]
}

/// The real servers read it, each with a line of somebody's around it that is none of theirs.
#[test]
fn each_server_says_no_in_its_own_words() {
    let realm = Realm::empty();
    realm.write("realm.toml", HOSTS);
    let line = "no_such_word to_be_read;";
    let site = "http://x {\n\tno_such_word\n}";
    for (server, program, line, words) in [
        (
            "nginx",
            "/usr/sbin/nginx",
            line,
            "unknown directive \"no_such_word\"",
        ),
        (
            "apache",
            "/usr/sbin/apache2",
            line,
            "Invalid command 'no_such_word'",
        ),
        (
            "caddy",
            "/usr/bin/caddy",
            site,
            "unrecognized directive: no_such_word",
        ),
        (
            "haproxy",
            "/usr/sbin/haproxy",
            line,
            "unknown keyword 'no_such_word'",
        ),
        (
            "lighttpd",
            "/usr/sbin/lighttpd",
            line,
            "parser failed at: to_be_read",
        ),
    ] {
        let bin = realm.path(server);
        std::fs::create_dir(&bin).unwrap();
        let name = program.rsplit('/').next().unwrap();
        let file = bin.join(name);
        // The last word of every check is the file to be read.
        let script = format!(
            "#!/bin/sh\nfor last; do :; done\ncat >> \"$last\" << END\n{line}\nEND\nexec {program} \"$@\"\n"
        );
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut command = realm.command(&checked(server));
        command.env("PATH", format!("{}:{path}", bin.display()));
        let said = crate::support::said(command).fails(1, "not-accepted");
        let name = format!("`{name}` does not accept it");
        assert!(said.stderr.contains(&name), "{}", said.stderr);
        assert!(said.stderr.contains(words), "{server}: {}", said.stderr);
        // What was checked is there to be read.
        assert!(said.stdout.contains("in front of realm"), "{}", said.stdout);
    }
}

/// Where no server is, none agrees.
#[test]
fn a_server_that_is_not_there_is_no_server_that_agrees() {
    let realm = Realm::empty();
    realm.write("realm.toml", HOSTS);
    for (server, package) in [
        ("nginx", "nginx"),
        ("apache", "apache2"),
        ("caddy", "caddy"),
        ("haproxy", "haproxy"),
        ("lighttpd", "lighttpd"),
    ] {
        // A machine on which the folders of servers are empty.
        let mut command = std::process::Command::new("unshare");
        command.arg("--mount");
        if rustix::process::geteuid().as_raw() != 0 {
            command.args(["--map-root-user"]);
        }
        let script = "mount -t tmpfs none /usr/local/sbin && mount -t tmpfs none /usr/sbin && \
            PATH=/nonexistent exec \"$@\"";
        command
            .args(["sh", "-c", script, "sh", crate::support::PROGRAM])
            .args(checked(server))
            .current_dir(realm.path(""))
            .env("NO_COLOR", "1")
            .env_remove("REALM_DIR");
        let said = crate::support::said(command).fails(1, "no-server");
        let hint = format!("apt-get install {package}");
        assert!(said.stderr.contains(&hint), "{}", said.stderr);
        assert!(said.stdout.contains("in front of realm"), "{}", said.stdout);
    }
}

#[test]
fn where_realm_answers_comes_from_node_toml_and_a_missing_listener_is_told() {
    let realm = Realm::new();
    realm.write("realm.toml", HOSTS);
    let edge =
        |more: &[&str]| realm.run(&[&["edge", "nginx", "--manifest", "realm.toml"], more].concat());
    let said = edge(&[]).fails(1, "no-listener");
    assert!(
        said.stdout.contains("server unix:/run/realm/fastcgi.sock;"),
        "{}",
        said.stdout
    );
    assert!(
        said.stderr
            .contains("fastcgi = [\"unix:/run/realm/fastcgi.sock\"]"),
        "{}",
        said.stderr
    );
    realm.write(
        ".realm/node.toml",
        "[listen]\nhttp = [\"0.0.0.0:8000\"]\nfastcgi = [\"127.0.0.1:9001\", \"unix:/srv/realm.sock\"]\n",
    );
    let said = edge(&[]).ok();
    // The socket before the port; limits from the components.
    for line in [
        "server unix:/srv/realm.sock;",
        "server_name \"shop.example.com\";",
        "fastcgi_param REALM_HOST \"shop.example.com\";",
        "fastcgi_read_timeout 67s;",
        "client_max_body_size 2048;",
    ] {
        assert!(said.stdout.contains(line), "{line} of\n{}", said.stdout);
    }
    let said = edge(&["--http"]).ok();
    assert!(
        said.stdout.contains("server 127.0.0.1:8000;"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.contains("trusted_proxies = [\"127.0.0.1\"]"),
        "{}",
        said.stdout
    );
    // Nobody would see who asks.
    let missing = "does not name this server in `trusted_proxies`";
    assert!(said.stderr.contains(missing), "{}", said.stderr);
    assert!(!edge(&[]).ok().stderr.contains("trusted_proxies"));
    let text = std::fs::read_to_string(realm.path(".realm/node.toml")).unwrap();
    let trusting = format!("trusted_proxies = [\"127.0.0.1\"]\n{text}");
    realm.write(".realm/node.toml", &trusting);
    assert_eq!(edge(&["--http"]).ok().stderr, "");
    let said = edge(&["--http", "--at", "unix:/srv/realm.sock"]);
    said.fails(64, "usage");
    realm.write(
        ".realm/node.toml",
        "[listen]\nfastcgi = [\"unix:/srv/a b.sock\"]\n",
    );
    edge(&[]).fails(64, "bad-path");
    let json: serde_json::Value =
        serde_json::from_str(&edge(&["--http", "--json"]).ok().stdout).unwrap();
    assert_eq!(
        (&json["server"], &json["at"]),
        (&"nginx".into(), &"127.0.0.1:8080".into())
    );
    assert!(json["config"].as_str().unwrap().contains("proxy_pass"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_in_force_are_those_of_the_agent_or_of_its_log() {
    let Behind { realm, agent, .. } = realm(Door::Unix);
    let edge = || realm.run(&["edge", "nginx"]).ok().stdout;
    let printed = edge();
    assert!(
        printed.contains("server_name \"shop.example.com\";"),
        "{printed}"
    );
    assert!(
        printed.contains("client_max_body_size 16777216;"),
        "{printed}"
    );
    agent.terminate();
    assert_eq!(edge(), printed);
}

/// Over HTTP: the guest sees its client, and believes none of its words.
fn check_http(server: Server) {
    // The agent's own port is not in node.toml.
    let front = Front::start_http(server);
    let got = Ask::post("/length", vec![7; 100_000]).send(front.port);
    assert!(got.text().starts_with("100000 "), "{got:?}");
    let got = Ask::post_chunked("/length", vec![7; 100_000]).send(front.port);
    assert!(got.text().starts_with("100000 "), "{got:?}");
    let ask = Ask::get("/request?x=%2F")
        .host(&format!("{}:{}", super::HOST, front.port))
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-Forwarded-Host", "admin.example")
        .header("X-Forwarded-Proto", "https")
        .header("Forwarded", "for=6.6.6.6;host=admin.example")
        .header("Proxy", "http://evil.example")
        .header("X-Realm-Remote-User", "root");
    let got = ask.send(front.port);
    assert_eq!(got.status, 200, "{got:?}");
    let seen = got.json();
    assert_eq!(seen["authority"], format!("{}:{}", super::HOST, front.port));
    assert_eq!(
        (&seen["target"], &seen["scheme"]),
        (&"/request?x=%2F".into(), &"Scheme::Http".into())
    );
    // The client, and the web server.
    let way = format!("{CLIENT}, 127.0.0.1");
    assert_eq!(seen["headers"]["x-forwarded-for"], way);
    let all = seen.to_string();
    for forged in ["6.6.6.6", "admin.example", "evil", "root"] {
        assert!(!all.contains(forged), "{forged} in {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_over_http() {
    check_http(Server::Nginx);
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_over_http() {
    check_http(Server::Apache);
}

#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_over_http() {
    check_http(Server::Lighttpd);
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_over_http() {
    check_http(Server::Caddy);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_over_http() {
    check_http(Server::HaproxyMultiplexed);
}
