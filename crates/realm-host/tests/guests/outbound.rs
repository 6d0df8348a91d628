//! `allowed_outbound`, seen from a guest: nothing, what a rule names, and never what is private.

use realm_model::grants::{OutboundHost, OutboundRule, PortRange};
use realm_test_guests as guests;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{Loaded, guest};

/// A server that answers every connection with `served`.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..count]).into_owned();
                let body = request.lines().take(1).collect::<String>();
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

fn rule(host: OutboundHost, port: u16) -> OutboundRule {
    OutboundRule {
        scheme: None,
        host,
        ports: PortRange {
            first: port,
            last: port,
        },
    }
}

fn loopback() -> OutboundHost {
    OutboundHost::Block {
        address: [127, 0, 0, 1].into(),
        prefix: 32,
    }
}

fn allowed(rules: Vec<OutboundRule>, private: &[&str]) -> Loaded {
    guest(guests::OUTBOUND)
        .config(|config| {
            config.policy.private_ranges = private.iter().map(|&range| range.into()).collect();
        })
        .grants(|grants| grants.allowed_outbound = rules)
        .load()
}

#[track_caller]
fn check(told: &str, expected: &str) {
    assert!(told.contains(expected), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn outbound() {
    let port = server().await;
    let target = format!("/?url=http://127.0.0.1:{port}/a%3Fb");

    let nothing = allowed(Vec::new(), &["127.0.0.0/8"]);
    check(&nothing.body(&target).await, "HttpRequestDenied");
    assert_eq!(nothing.meter().outbound_denied, 1);
    check(
        &nothing.log.agent(),
        &format!("outbound-denied: http://127.0.0.1:{port}"),
    );

    let granted = allowed(vec![rule(loopback(), port)], &["127.0.0.0/8"]);
    check(
        &granted.body(&target).await,
        r#"{"status":200,"body":"GET /a?b HTTP/1.1"}"#,
    );
    assert_eq!(granted.meter().outbound_denied, 0);
    // Another port and another host are other targets.
    check(
        &granted.body("/?url=http://127.0.0.1:1/").await,
        "HttpRequestDenied",
    );
    check(
        &granted.body("/?url=http://example.com/").await,
        "HttpRequestDenied",
    );
    // The same port in the name of someone else.
    let hidden = format!("/?url=http://127.0.0.1@127.0.0.1:{port}/");
    check(&granted.body(&hidden).await, "error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_alone_does_not_open_what_is_private() {
    let port = server().await;
    let closed = allowed(
        vec![rule(loopback(), port), rule(OutboundHost::Any, port)],
        &[],
    );
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "127.1",
        "0.0.0.0",
    ] {
        let told = closed.body(&format!("/?url=http://{host}:{port}/")).await;
        assert!(
            told.contains("error") && !told.contains("GET"),
            "{host}: {told}"
        );
    }
    check(
        &closed
            .body(&format!("/?url=http://localhost:{port}/"))
            .await,
        "DestinationIpProhibited",
    );
    check(&closed.log.agent(), "guests.private_ranges");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_checked_and_then_its_address() {
    let port = server().await;
    let named = allowed(
        vec![rule(OutboundHost::Name("localhost".into()), port)],
        &["127.0.0.0/8", "::1/128"],
    );
    check(
        &named.body(&format!("/?url=http://localhost:{port}/")).await,
        "\"status\":200",
    );
    check(
        &named
            .body(&format!("/?url=http://LOCALHOST.:{port}/"))
            .await,
        "\"status\":200",
    );
    // The address that the name has is not what the rule names.
    check(
        &named.body(&format!("/?url=http://127.0.0.1:{port}/")).await,
        "HttpRequestDenied",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_outbound() {
    let port = server().await;
    let target = format!("/?url=http://127.0.0.1:{port}/a%3Fb");
    let load = |rules: Vec<OutboundRule>, private: &[&str]| {
        guest(guests::P3_OUTBOUND)
            .config(|config| {
                config.policy.private_ranges = private.iter().map(|&range| range.into()).collect();
            })
            .grants(|grants| grants.allowed_outbound = rules)
            .load()
    };
    let nothing = load(Vec::new(), &["127.0.0.0/8"]);
    assert_eq!(
        nothing.body(&target).await,
        "error: ErrorCode::HttpRequestDenied"
    );
    assert_eq!(nothing.meter().outbound_denied, 1);
    let closed = load(vec![rule(loopback(), port)], &[]);
    assert_eq!(
        closed.body(&target).await,
        "error: ErrorCode::DestinationIpProhibited"
    );
    let granted = load(vec![rule(loopback(), port)], &["127.0.0.0/8"]);
    assert_eq!(granted.body(&target).await, "200 GET /a?b HTTP/1.1");
    let hidden = format!("/?url=http://127.0.0.1@127.0.0.1:{port}/");
    check(&granted.body(&hidden).await, "error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_speaks_tls() {
    let port = server().await;
    let granted = allowed(vec![rule(loopback(), port)], &["127.0.0.0/8"]);
    check(
        &granted
            .body(&format!("/?url=https://127.0.0.1:{port}/"))
            .await,
        "TlsProtocolError",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let granted = allowed(vec![rule(loopback(), port)], &["127.0.0.0/8"]);
    check(
        &granted
            .body(&format!("/?url=http://127.0.0.1:{port}/"))
            .await,
        "ConnectionRefused",
    );
}

/// A command asks over `wasi:http` what its rules name, and nothing else.
async fn fetches(path: &'static str) {
    let port = server().await;
    let url = format!("http://127.0.0.1:{port}/a");
    let rules = [
        (vec![rule(loopback(), port)], "200 GET /a HTTP/1.1"),
        (vec![rule(loopback(), 1)], "HttpRequestDenied"),
        (Vec::new(), "HttpRequestDenied"),
    ];
    for (rules, expected) in rules {
        let denied = u64::from(expected == "HttpRequestDenied");
        let fetch = guest(path)
            .config(|config| config.policy.private_ranges = vec!["127.0.0.0/8".into()])
            .grants(|grants| grants.allowed_outbound = rules)
            .program()
            .unwrap();
        let (code, written) = crate::programs::ran(&fetch, &[&url], b"").await;
        assert_eq!(code, Ok(0));
        check(&String::from_utf8_lossy(&written), expected);
        assert_eq!(fetch.meter.snapshot().outbound_denied, denied);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn fetch() {
    fetches(guests::FETCH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn p3_fetch() {
    fetches(guests::P3_FETCH).await;
}
