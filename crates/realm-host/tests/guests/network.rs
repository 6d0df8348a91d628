//! Sockets and look-ups of a guest's own, in both generations of WASI: nothing, what a rule names,
//! and never what is private.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use realm_host::{Reach, Resolver, Run};
use realm_model::api::LogStream;
use realm_test_guests as guests;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UdpSocket};

use crate::harness::{Guest, Loaded, guest};

const GUESTS: [&str; 2] = [guests::NET, guests::P3_NET];
/// How the standard library and the bindings of 0.3 tell a denial.
const DENIED: [&str; 2] = ["error: PermissionDenied", "error: ErrorCode::AccessDenied"];

/// A server on every loopback address that says `pong` to who has said all.
async fn tcp_server() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut heard = String::new();
                let _ = stream.read_to_string(&mut heard).await;
                let answer = heard.replace("ping", "pong");
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
            });
        }
    });
    (port, seen)
}

/// The same for datagrams.
async fn udp_server() -> u16 {
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut heard = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut heard).await {
            let _ = socket.send_to(b"pong", peer).await;
        }
    });
    port
}

/// A resolver that knows one name, and says something else each time it is asked.
fn says(name: &'static str, answers: &[&[[u8; 4]]]) -> Resolver {
    let answers: Vec<Vec<IpAddr>> = answers
        .iter()
        .map(|answer| {
            answer
                .iter()
                .map(|&bytes| Ipv4Addr::from(bytes).into())
                .collect()
        })
        .collect();
    let asked = AtomicU32::new(0);
    Resolver::new(move |host| {
        if host.trim_end_matches('.') != name {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        let index = asked.fetch_add(1, Relaxed) as usize;
        Ok(answers[index.min(answers.len() - 1)].clone())
    })
}

fn with(path: &'static str, rules: &[String], private: &[&str]) -> Guest {
    guest(path)
        .config(|config| {
            config.policy.private_ranges = private.iter().map(|&range| range.into()).collect();
        })
        .grants(|grants| {
            grants.allowed_outbound = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        })
}

/// What a guest tells that does something under these rules, and where the operator opens this.
async fn check(rules: &[String], private: &[&str], target: &str, expected: [&str; 2]) {
    for (path, expected) in GUESTS.into_iter().zip(expected) {
        let guest = with(path, rules, private).load();
        let told = guest.body(target).await;
        assert_eq!(
            told,
            expected,
            "{target} under {rules:?}: {}",
            guest.log.agent()
        );
    }
}

/// Without a grant, every door is shut, and nobody is reached.
async fn check_denied(path: &'static str, denied: &str) {
    let (port, seen) = tcp_server().await;
    let guest = with(path, &[], &["127.0.0.0/8"]).load();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for target in [
        format!("/tcp?to={at}"),
        format!("/udp?to={at}"),
        "/listen?at=127.0.0.1:0".to_owned(),
        "/bind?at=127.0.0.1:0".to_owned(),
        "/resolve?name=localhost".to_owned(),
    ] {
        let told = guest.body(&target).await;
        // What the standard library makes of a look-up that is denied has no kind of its own.
        let told = told.replace("Uncategorized", "PermissionDenied");
        assert_eq!(told, denied, "{target}");
    }
    assert_eq!(seen.load(Relaxed), 0);
    assert_eq!(guest.meter().outbound_denied, 5);
    let log = guest.log.agent();
    assert!(log.contains("add the target as `tcp://HOST:PORT`"), "{log}");
    assert!(
        log.contains("add `allowed_outbound = [\"tcp://localhost:*\"]`"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn net() {
    check_denied(guests::NET, DENIED[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_net() {
    check_denied(guests::P3_NET, DENIED[1]).await;
}

/// What the reference host, `wasmtime run`, tells of the same program.
const AS_WASMTIME: &str = r#"tcp: Ok(("and back", "there"))
tcp on IPv6: Ok(("and back", "there"))
udp: Ok("ping")
connect to port 0: Err(ErrorCode::InvalidArgument)
connect to port 1: Err(ErrorCode::ConnectionRefused)
connect to no address: Err(ErrorCode::InvalidArgument)
bind twice: Err(ErrorCode::InvalidState)
receive before a connection: Err(ErrorCode::InvalidState)
"127.0.0.1": Ok([IpAddress::Ipv4((127, 0, 0, 1))])
"::1": Ok([IpAddress::Ipv6((0, 0, 0, 0, 0, 0, 0, 1))])
"[::1]": Ok([IpAddress::Ipv6((0, 0, 0, 0, 0, 0, 0, 1))])
"127.1": Ok([IpAddress::Ipv4((127, 0, 0, 1))])
"": Err(ErrorCode::InvalidArgument)
"a b": Err(ErrorCode::InvalidArgument)
"http://a": Err(ErrorCode::InvalidArgument)
"a:80": Err(ErrorCode::InvalidArgument)
"a..b": Err(ErrorCode::NameUnresolvable)
localhost: true"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_sockets() {
    let inherited = guest(guests::P3_SOCKETS)
        .config(|config| config.reach = Reach::Everything)
        .program()
        .unwrap();
    assert_eq!(inherited.program.run(Run::default()).await, Ok(0));
    let told = inherited.log.lines(LogStream::Stdout);
    assert_eq!(told.join("\n"), AS_WASMTIME);
    let denied = guest(guests::P3_SOCKETS).program().unwrap();
    assert_eq!(denied.program.run(Run::default()).await, Ok(0));
    let told = denied.log.lines(LogStream::Stdout);
    let shut = told
        .iter()
        .filter(|line| line.ends_with(": Err(ErrorCode::AccessDenied)"));
    // Eight sockets, and the one name that is asked for.
    assert_eq!(shut.count(), 9, "{told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_opens_an_address_and_a_port_to_tcp() {
    let (port, _) = tcp_server().await;
    let open = ["127.0.0.0/8"];
    let here = format!("/tcp?to=127.0.0.1:{port}");
    for rule in [
        format!("tcp://127.0.0.1:{port}"),
        format!("postgres://127.0.0.0/8:{port}"),
        format!("*://*:{port}"),
        format!("tcp://127.0.0.1:{port}..65536"),
    ] {
        check(&[rule], &open, &here, ["pong"; 2]).await;
    }
    for rule in [
        format!("tcp://127.0.0.2:{port}"),
        format!("tcp://127.0.0.1:1..{port}"),
        format!("tcp://[::1]:{port}"),
        format!("tcp://localhost:{port}"),
        format!("udp://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}"),
        format!("https://*:{port}"),
    ] {
        check(&[rule], &open, &here, DENIED).await;
    }
    // The port is open, the address is not public.
    for rule in [format!("tcp://127.0.0.1:{port}"), "*://*:*".to_owned()] {
        check(&[rule], &[], &here, DENIED).await;
        check(&[format!("tcp://*:{port}")], &["10.0.0.0/8"], &here, DENIED).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_says_what_is_missing() {
    let denied = async |rules: &[String], private: &[&str], expected: &str| {
        for path in GUESTS {
            let guest = with(path, rules, private).load();
            guest.body("/tcp?to=127.0.0.1:7").await;
            let log = guest.log.agent();
            assert!(
                log.contains("outbound-denied: tcp://127.0.0.1:7: "),
                "{log}"
            );
            assert!(log.contains(expected), "{log}");
            assert_eq!(guest.meter().outbound_denied, 1, "{log}");
        }
    };
    let other = ["tcp://127.0.0.1:8".to_owned()];
    let missing = "add `allowed_outbound = [\"tcp://127.0.0.1:7\"]`";
    denied(&other, &["127.0.0.0/8"], missing).await;
    denied(&other, &[], missing).await;
    let right = ["tcp://127.0.0.1:7".to_owned()];
    denied(&right, &[], "`127.0.0.1` is not public").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_opens_an_address_and_a_port_to_udp() {
    let port = udp_server().await;
    let here = format!("/udp?to=127.0.0.1:{port}");
    let open = ["127.0.0.1"];
    check(
        &[format!("udp://127.0.0.1:{port}")],
        &open,
        &here,
        ["pong"; 2],
    )
    .await;
    check(&[format!("*://*:{port}")], &open, &here, ["pong"; 2]).await;
    check(&[format!("udp://127.0.0.1:{port}")], &[], &here, DENIED).await;
    check(&[format!("udp://127.0.0.2:{port}")], &open, &here, DENIED).await;
    check(&[format!("tcp://127.0.0.1:{port}")], &open, &here, DENIED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rule_lets_a_guest_listen() {
    let everything = ["*://*:*".to_owned()];
    let open = ["0.0.0.0/0"];
    for at in ["127.0.0.1:0", "0.0.0.0:0", "0.0.0.0:8080", "127.0.0.1:8080"] {
        check(&everything, &open, &format!("/listen?at={at}"), DENIED).await;
    }
    for at in ["127.0.0.1:0", "0.0.0.0:8080", "127.0.0.1:8080"] {
        check(&everything, &open, &format!("/bind?at={at}"), DENIED).await;
    }
    // What every client does without knowing.
    check(&everything, &open, "/bind?at=0.0.0.0:0", ["bound"; 2]).await;
}

/// A guest under one rule, whose resolver says that.
fn named(path: &'static str, rule: String, private: &[&str], resolver: Resolver) -> Loaded {
    with(path, &[rule], private)
        .config(|config| config.resolver = resolver)
        .load()
}

/// Both guests look `db.test` up and connect; the older one cannot do one without the other.
fn by_name(name: &str, address: &str, port: u16) -> [(&'static str, String); 2] {
    [
        (guests::NET, format!("/tcp?to={name}:{port}")),
        (
            guests::P3_NET,
            format!("/tcp?name={name}&to={address}:{port}"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_a_rule_opens_what_it_resolved_to() {
    let (port, _) = tcp_server().await;
    let open = ["127.0.0.1/32"];
    let db = || says("db.test", &[&[[127, 0, 0, 1]]]);
    for name in ["db.test", "DB.test", "db.test."] {
        for (path, target) in by_name(name, "127.0.0.1", port) {
            let granted = named(path, format!("tcp://db.test:{port}"), &open, db());
            assert_eq!(granted.body(&target).await, "pong", "{target}");
            // The address is not what the rule names, and the name was looked up elsewhere.
            let direct = granted.body(&format!("/tcp?to=127.0.0.1:{port}")).await;
            assert!(DENIED.contains(&&*direct), "{target}: {direct}");
        }
    }
    for (path, target) in by_name("db.test", "127.0.0.1", port) {
        for rule in ["tcp://*.test:*", "*://*:*"] {
            let granted = named(path, rule.to_owned(), &open, db());
            assert_eq!(granted.body(&target).await, "pong", "{rule}");
        }
        // Another port of the same name.
        let other = named(path, format!("tcp://db.test:{}", port - 1), &open, db());
        assert!(DENIED.contains(&&*other.body(&target).await));
        let log = other.log.agent();
        assert!(
            log.contains(&format!("[\"tcp://db.test:{port}\"]")),
            "{log}"
        );
        // Names that no rule about sockets is about.
        for rule in [
            format!("tcp://other.test:{port}"),
            format!("tcp://*.db.test:{port}"),
            format!("tcp://127.0.0.1:{port}"),
            format!("https://db.test:{port}"),
        ] {
            let denied = named(path, rule.clone(), &open, db());
            let told = denied.body(&target).await;
            assert!(told.starts_with("error"), "{rule}: {told}");
            let log = denied.log.agent();
            assert!(log.contains("look-up of `db.test`: no rule"), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_changes_its_mind_opens_nothing_private() {
    let (port, seen) = tcp_server().await;
    // 127.0.0.1 stands for what is public here, 127.0.0.2 for what is private.
    let open = ["127.0.0.1/32"];
    let rebinds = || says("db.test", &[&[[127, 0, 0, 2]], &[[127, 0, 0, 1]]]);
    for (path, target) in by_name("db.test", "127.0.0.2", port) {
        let guest = named(path, format!("tcp://db.test:{port}"), &open, rebinds());
        let told = guest.body(&target).await;
        assert!(told.starts_with("error"), "{told}");
        let log = guest.log.agent();
        assert!(
            log.contains("look-up of `db.test`: `127.0.0.2` is not public"),
            "{log}"
        );
    }
    // The first answer was good, and the guest goes to the second one.
    let guest = named(
        guests::P3_NET,
        format!("tcp://db.test:{port}"),
        &open,
        says("db.test", &[&[[127, 0, 0, 1]]]),
    );
    let told = guest
        .body(&format!("/tcp?name=db.test&to=127.0.0.2:{port}"))
        .await;
    assert_eq!(told, DENIED[1]);
    // Of several answers, what is closed is left out.
    let mixed = || says("db.test", &[&[[127, 0, 0, 2], [127, 0, 0, 1]]]);
    for path in GUESTS {
        let guest = named(path, "tcp://db.test:*".to_owned(), &open, mixed());
        assert_eq!(guest.body("/resolve?name=db.test").await, "127.0.0.1");
    }
    assert_eq!(seen.load(Relaxed), 0);
}

/// The same over UDP.
fn by_name_in_datagrams(name: &str, address: &str, port: u16) -> [(&'static str, String); 2] {
    by_name(name, address, port).map(|(path, target)| (path, target.replace("/tcp", "/udp")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_a_rule_opens_what_it_resolved_to_for_datagrams() {
    let port = udp_server().await;
    let open = ["127.0.0.1/32"];
    let db = || says("db.test", &[&[[127, 0, 0, 1]]]);
    for name in ["db.test", "DB.test", "db.test."] {
        for (path, target) in by_name_in_datagrams(name, "127.0.0.1", port) {
            let granted = named(path, format!("udp://db.test:{port}"), &open, db());
            assert_eq!(granted.body(&target).await, "pong", "{target}");
            // The address is not what the rule names, and the name was looked up elsewhere.
            let direct = granted.body(&format!("/udp?to=127.0.0.1:{port}")).await;
            assert!(DENIED.contains(&&*direct), "{target}: {direct}");
        }
    }
    for (path, target) in by_name_in_datagrams("db.test", "127.0.0.1", port) {
        for rule in ["udp://*.test:*", "*://*:*"] {
            let granted = named(path, rule.to_owned(), &open, db());
            assert_eq!(granted.body(&target).await, "pong", "{rule}");
        }
        // Another port of the same name.
        let other = named(path, format!("udp://db.test:{}", port - 1), &open, db());
        let told = other.body(&target).await;
        assert!(DENIED.contains(&&*told), "{told}");
        let log = other.log.agent();
        let missing = format!("[\"udp://db.test:{port}\"]");
        assert!(log.contains(&missing), "{log}");
        // Connections to it are another thing.
        let other = named(path, format!("tcp://db.test:{port}"), &open, db());
        assert!(DENIED.contains(&&*other.body(&target).await));
        for rule in [
            format!("udp://other.test:{port}"),
            format!("udp://127.0.0.1:{port}"),
        ] {
            let denied = named(path, rule.clone(), &open, db());
            let told = denied.body(&target).await;
            assert!(told.starts_with("error"), "{rule}: {told}");
            let log = denied.log.agent();
            assert!(log.contains("look-up of `db.test`: no rule"), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_changes_its_mind_sends_no_datagram_to_what_is_private() {
    let port = udp_server().await;
    let rule = format!("udp://db.test:{port}");
    // 127.0.0.1 stands for what is public here, 127.0.0.2 for what is private.
    let open = ["127.0.0.1/32"];
    for (path, target) in by_name_in_datagrams("db.test", "127.0.0.2", port) {
        let rebinds = says("db.test", &[&[[127, 0, 0, 2]], &[[127, 0, 0, 1]]]);
        let guest = named(path, rule.clone(), &open, rebinds);
        let told = guest.body(&target).await;
        assert!(told.starts_with("error"), "{told}");
        let log = guest.log.agent();
        assert!(
            log.contains("look-up of `db.test`: `127.0.0.2` is not public"),
            "{log}"
        );
    }
    // The first answer was good, and the datagram is for the second one.
    let good = says("db.test", &[&[[127, 0, 0, 1]], &[[127, 0, 0, 2]]]);
    let guest = named(guests::P3_NET, rule, &open, good);
    let told = guest
        .body(&format!("/udp?name=db.test&to=127.0.0.2:{port}"))
        .await;
    assert_eq!(told, DENIED[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_disguise_opens_nothing() {
    let (port, seen) = tcp_server().await;
    let rules = [
        format!("tcp://*.test:{port}"),
        format!("tcp://8.8.8.8:{port}"),
    ];
    for host in [
        "2130706433",
        "127.1",
        "0x7f.1",
        "127.0.0.1.",
        "localhost",
        "db.test@127.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ] {
        let guest = with(guests::NET, &rules, &["127.0.0.0/8"]).load();
        let told = guest.body(&format!("/tcp?to={host}:{port}")).await;
        assert!(told.starts_with("error"), "{host}: {told}");
    }
    assert_eq!(seen.load(Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_has_so_many_sockets_and_gets_their_places_back() {
    let (port, _) = tcp_server().await;
    let rules = [format!("tcp://127.0.0.1:{port}")];
    let target = format!("/hold?to=127.0.0.1:{port}&count=");
    for path in GUESTS {
        let guest = with(path, &rules, &["127.0.0.1"]).load();
        assert_eq!(guest.body(&format!("{target}5")).await, "5 5");
        assert_eq!(guest.body(&format!("{target}100")).await, "64 64");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_network_is_inherited_everything_is_open() {
    let (port, _) = tcp_server().await;
    let datagrams = udp_server().await;
    for path in GUESTS {
        let guest = guest(path)
            .config(|config| config.reach = Reach::Everything)
            .load();
        let check = async |target: String, expected: &str| {
            assert_eq!(guest.body(&target).await, expected, "{target}");
        };
        check(format!("/tcp?to=127.0.0.1:{port}"), "pong").await;
        check(format!("/udp?to=127.0.0.1:{datagrams}"), "pong").await;
        check(format!("/hold?to=127.0.0.1:{port}&count=70"), "70 70").await;
        check("/listen?at=127.0.0.1:0".to_owned(), "listening").await;
        check("/bind?at=127.0.0.1:0".to_owned(), "bound").await;
        let told = guest.body("/resolve?name=localhost").await;
        assert!(told.contains("127.0.0.1"), "{told}");
        assert_eq!(guest.meter().outbound_denied, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_operator_writes_the_rules_they_open_what_they_name() {
    let (port, _) = tcp_server().await;
    let db = || says("db.test", &[&[[127, 0, 0, 1]]]);
    for (path, target) in by_name("db.test", "127.0.0.1", port) {
        let load = |rule: String| {
            with(path, &[rule], &[])
                .config(|config| {
                    config.reach = Reach::Named;
                    config.resolver = db();
                })
                .load()
        };
        let told = load(format!("tcp://db.test:{port}")).body(&target).await;
        assert_eq!(told, "pong");
        let direct = format!("/tcp?to=127.0.0.1:{port}");
        let told = load(format!("tcp://127.0.0.0/8:{port}"))
            .body(&direct)
            .await;
        assert_eq!(told, "pong");
        for rule in ["*://*:*", "tcp://*.test:*"] {
            let told = load(rule.to_owned()).body(&target).await;
            assert!(told.starts_with("error"), "{rule}: {told}");
        }
    }
}
