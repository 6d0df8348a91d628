//! Rates of clients and rules: who is refused before any backend is asked, and who is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::{Request, Response, StatusCode};
use realm_edge::{Backend, Body, CallError, Far, Handle, Line, Table};
use realm_model::front::{Front, Fronted, PerClient};
use realm_model::manifest;
use realm_model::name::ComponentName;
use realm_model::route::{PathPattern, Route};

use crate::fastcgi::{KEEP, RESPONDER, Server};
use crate::support::{Rig, Streams, backend, empty, get, request, text, whole};

fn app() -> ComponentName {
    "app".parse().expect("a name")
}

/// What the bucket of a client holds. It is filled slowly, but it is, on a slow machine between two requests.
const BURST: u32 = 20;
/// Requests of which none is refused where a bucket is full, and one is where it was just empty.
const FEW: u32 = 10;

fn bucket() -> Front {
    Front {
        per_client: Some(PerClient {
            requests_per_sec: 1,
            burst: BURST,
        }),
        ..Front::default()
    }
}

/// Asks until there is an answer that says so, and how often there was another one.
async fn until(refused: u16, ask: impl AsyncFn() -> u16) -> u32 {
    for passed in 0..BURST * 50 {
        if ask().await == refused {
            return passed;
        }
    }
    panic!("nothing was refused");
}

/// How many of a few requests are refused.
async fn refused_of_few(ask: impl AsyncFn() -> u16) -> u32 {
    let mut refused = 0;
    for _ in 0..FEW {
        refused += u32::from(ask().await == 429);
    }
    refused
}

/// The rules of a manifest.
fn rules(rules: &str) -> Front {
    let text = format!("[components.app]\nsource = \"file:app\"\nrules = [{rules}]");
    let (manifest, problems) = manifest::parse(&text);
    let manifest = manifest.unwrap_or_else(|| panic!("{problems:?}"));
    manifest.components[&app()].front.clone()
}

/// A backend that counts its calls.
fn counted() -> (Arc<dyn Backend>, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let backend = backend(move |_| {
        counted.fetch_add(1, Relaxed);
        async { Ok(Response::new(text("passed"))) }
    });
    (backend, count)
}

/// `app` behind all paths, with a front.
fn guard(handle: &Handle, here: Vec<Arc<dyn Backend>>, others: Vec<Far>, front: &Front) {
    let route = Route {
        host: None,
        path: PathPattern::Prefix(String::new()),
        component: app(),
        weights: BTreeMap::new(),
    };
    let fronted = Fronted {
        front: front.clone(),
        revision: None,
    };
    let gates = handle.gates([(app(), fronted)].into());
    let (here, others) = ([(app(), here)].into(), [(app(), others)].into());
    handle.set_table(Table::with_others(vec![route], here, others, gates));
}

async fn guarded(front: &Front) -> (Rig, Arc<AtomicU32>) {
    let (backend, count) = counted();
    let rig = Rig::with_config(Vec::new(), |config| {
        config.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    })
    .await;
    guard(&rig.handle, vec![backend], Vec::new(), front);
    (rig, count)
}

/// One that says whose it is, as a proxy does.
fn of(client: &str, uri: &str) -> Request<Body> {
    let mut request = get(uri);
    let client = client.parse().expect("a value");
    request.headers_mut().insert("x-forwarded-for", client);
    request
}

async fn status(rig: &Rig, request: Request<Body>) -> (u16, String) {
    let (status, headers, _) = whole(rig.send1(request).await).await;
    let code = headers.get("realm-error");
    let code = code.map_or("", |code| code.to_str().expect("text"));
    (status.as_u16(), code.to_owned())
}

#[tokio::test]
async fn a_client_that_sends_more_than_it_may_is_told_when_to_come_again() {
    let (mut rig, count) = guarded(&bucket()).await;
    let (status, headers) = loop {
        let (status, headers, _) = whole(rig.send1(get("http://a/")).await).await;
        let seen = rig.seen().await;
        if status != StatusCode::OK {
            assert_eq!(seen.code, Some("too-many-requests"));
            assert_eq!(seen.component.as_deref(), Some("app"));
            break (status, headers);
        }
        assert_eq!(seen.code, None);
        assert!(count.load(Relaxed) < BURST * 50, "nothing is refused");
    };
    let passed = count.load(Relaxed);
    assert!(passed >= BURST, "{passed} passed");
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(headers["realm-error"], "too-many-requests");
    assert_eq!(headers["retry-after"], "1");
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart_and_what_they_make_up_is_not() {
    let (rig, _) = guarded(&bucket()).await;
    let ask = async |client: &str| status(&rig, of(client, "http://a/")).await.0;
    let is_same = async |used: &str, client: &str| {
        until(429, async || ask(used).await).await;
        refused_of_few(async || ask(client).await).await > 0
    };
    assert!(is_same("203.0.113.1", "203.0.113.1").await);
    assert!(!is_same("203.0.113.1", "203.0.113.2").await);
    // What stands left of the first address that is no trusted proxy was written by a client.
    assert!(is_same("203.0.113.3", "198.51.100.77, 203.0.113.3").await);
    assert!(is_same("203.0.113.4", "198.51.100.77, 203.0.113.4, 127.0.0.1").await);
    assert!(!is_same("203.0.113.4", "198.51.100.77").await);
    assert!(is_same("203.0.113.5", "::ffff:203.0.113.5").await);
    // One household has a /64.
    assert!(is_same("2001:db8::1", "2001:db8::2").await);
    assert!(!is_same("2001:db8::1", "2001:db8:0:1::1").await);
    // Whom the proxy does not name is the proxy.
    assert!(is_same("unknown", "_hidden").await);
    assert!(is_same("unknown", "127.0.0.1").await);
}

/// A proxy writes one of two families, and passes on what a client says in the other: nothing shows which.
#[tokio::test]
async fn a_client_of_whom_two_tales_are_told_has_to_pass_as_either_and_counts_as_the_proxy() {
    let mut front = rules(
        "{ action = \"deny\", clients = [\"198.51.100.0/24\"] },
         { action = \"allow\", paths = [\"/staff/...\"], clients = [\"10.0.0.0/8\", \"127.0.0.0/8\"] },
         { action = \"deny\", paths = [\"/staff/...\"] }",
    );
    let (rig, _) = guarded(&front).await;
    let ask = async |rig: &Rig, path: &str, headers: &[(&str, &str)]| {
        let mut request = get(&format!("http://a{path}"));
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a name");
            request
                .headers_mut()
                .append(name, value.parse().expect("a value"));
        }
        status(rig, request).await.0
    };
    let (x, standard) = ("x-forwarded-for", "forwarded");
    let staff = [(x, "10.0.0.5"), (standard, "for=10.0.0.5")];
    assert_eq!(ask(&rig, "/staff/x", &staff).await, 200);
    // Made up in either of them.
    let made_up = [
        [(x, "10.0.0.5"), (standard, "for=203.0.113.7")],
        [(x, "203.0.113.7"), (standard, "for=10.0.0.5")],
        // Damaged, or hidden, it is the proxy itself that asks.
        [(x, "203.0.113.7"), (standard, "nonsense")],
        [(x, "203.0.113.7"), (standard, "for=unknown")],
        [(x, "nonsense"), (standard, "for=203.0.113.7")],
        [
            ("x-forwarded-proto", "https"),
            (standard, "for=203.0.113.7"),
        ],
    ];
    for headers in made_up {
        assert_eq!(ask(&rig, "/staff/x", &headers).await, 403, "{headers:?}");
        assert_eq!(ask(&rig, "/", &headers).await, 200, "{headers:?}");
    }
    for headers in [
        [(x, "198.51.100.9"), (standard, "for=203.0.113.7")],
        [(x, "203.0.113.7"), (standard, "for=198.51.100.9")],
    ] {
        assert_eq!(ask(&rig, "/", &headers).await, 403, "{headers:?}");
    }
    // A new name with each request makes no new client, and nobody pays for another one.
    front.per_client = bucket().per_client;
    let (rig, _) = guarded(&front).await;
    let number = std::cell::Cell::new(0_u32);
    let tale = async || {
        number.set(number.get() + 1);
        let made_up = format!("for=203.0.113.{}", number.get() % 200);
        ask(&rig, "/", &[(x, "203.0.113.222"), (standard, &made_up)]).await
    };
    until(429, tale).await;
    let ask = async |client: &str| status(&rig, of(client, "http://a/")).await.0;
    assert_eq!(refused_of_few(async || ask("203.0.113.1").await).await, 0);
    assert_eq!(refused_of_few(async || ask("203.0.113.222").await).await, 0);
}

#[tokio::test]
async fn a_client_that_nobody_vouches_for_is_the_address_that_it_has() {
    let (backend, _) = counted();
    let rig = Rig::with_config(Vec::new(), |_| {}).await;
    guard(&rig.handle, vec![backend], Vec::new(), &bucket());
    let ask = async |client: &str| status(&rig, of(client, "http://a/")).await.0;
    until(429, async || ask("203.0.113.1").await).await;
    assert!(refused_of_few(async || ask("203.0.113.2").await).await > 0);
}

#[tokio::test]
async fn clients_of_a_web_server_are_told_apart() {
    let (rig, _) = guarded(&bucket()).await;
    let server = tokio::sync::Mutex::new(Server::of(&rig));
    let ask = async |client: &str| {
        let more = [("REMOTE_ADDR", client), ("REQUEST_METHOD", "GET")];
        let mut server = server.lock().await;
        server.begin(1, RESPONDER, KEEP, &more).await;
        server.body(1, b"").await;
        let answer = server.came(1).await.answer;
        let status = answer.strip_prefix("Status: ").expect("a status");
        status[..3].parse::<u16>().expect("a status")
    };
    until(429, async || ask("203.0.113.1").await).await;
    assert!(refused_of_few(async || ask("203.0.113.1").await).await > 0);
    assert_eq!(refused_of_few(async || ask("203.0.113.2").await).await, 0);
}

#[tokio::test]
async fn a_request_that_another_node_brings_is_counted_where_its_client_came_in() {
    let (backend, count) = counted();
    let far = Rig::with_config(Vec::new(), |_| {}).await;
    let near = Rig::with_config(Vec::new(), |_| {}).await;
    // There a rule would refuse it, and with a second count half of them would be too many.
    let mut strict = rules("{ action = \"deny\" }");
    strict.per_client = Some(PerClient {
        requests_per_sec: 1,
        burst: 1,
    });
    guard(&far.handle, vec![backend], Vec::new(), &strict);
    let name = "node-0".parse().expect("a name");
    let line = Line::new(name, Box::new(Streams(far.handle.clone())));
    let ways = vec![Far::new(line, app(), 0)];
    guard(&near.handle, Vec::new(), ways, &bucket());
    let ask = async || status(&near, get("http://a/")).await.0;
    for _ in 0..BURST {
        assert_eq!(ask().await, 200);
    }
    let passed = BURST + until(429, ask).await;
    assert_eq!(count.load(Relaxed), passed);
}

#[tokio::test]
async fn no_spelling_of_a_path_or_a_host_leads_around_a_rule() {
    let (rig, count) = guarded(&rules(
        "{ action = \"deny\", paths = [\"/admin/...\"], hosts = [\"shop.example\"] }",
    ))
    .await;
    for path in [
        "/admin",
        "/admin/",
        "/admin/users",
        "/%61dmin/users",
        "/admin%2fusers",
        "/admin%2Fusers",
        "//admin/users",
        "/admin//users",
        "/admin\\users",
        "/admin;v=1/users",
        "/;/admin",
        "/%61dmin%3bv",
        "/admin?x=/open",
    ] {
        for host in [
            "shop.example",
            "SHOP.Example",
            "shop.example.",
            "shop.example:81",
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = rig.raw(head).await;
            assert!(
                answer.starts_with("HTTP/1.1 403 "),
                "{host} {path}: {answer}"
            );
            assert!(answer.contains("realm-error: denied-by-rule"), "{answer}");
        }
        // The target's own host is the one that counts.
        let head = format!(
            "GET http://Shop.example{path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n"
        );
        let answer = rig.raw(head).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
    }
    for path in ["/a/../admin", "/a/%2e%2e/admin", "/./admin"] {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        let answer = rig.raw(head).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    assert_eq!(count.load(Relaxed), 0);
    assert_eq!(
        status(&rig, get("http://shop.example/administration"))
            .await
            .0,
        200
    );
    assert_eq!(status(&rig, get("http://other.example/admin")).await.0, 200);
}

#[tokio::test]
async fn rules_see_clients_methods_and_headers_as_the_component_does() {
    let (rig, _) = guarded(&rules(
        r#"{ action = "allow", paths = ["/admin/..."], clients = ["203.0.113.0/24"], headers = { x-key = "open" } },
           { action = "deny", paths = ["/admin/..."] },
           { action = "deny", methods = ["DELETE", "PUT"] },
           { action = "deny", headers = { user-agent = "*badbot*" } }"#,
    ))
    .await;
    let ask = async |client: &str, method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = request(method, &format!("http://a{path}"), empty());
        let fields = request.headers_mut();
        fields.insert("x-forwarded-for", client.parse().expect("a value"));
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a name");
            fields.append(name, value.parse().expect("a value"));
        }
        status(&rig, request).await.0
    };
    let (staff, stranger) = ("203.0.113.9", "198.51.100.9");
    let key = ("x-key", "open");
    assert_eq!(ask(staff, "GET", "/admin/x", &[key]).await, 200);
    assert_eq!(ask(stranger, "GET", "/admin/x", &[key]).await, 403);
    assert_eq!(ask(staff, "GET", "/admin/x", &[]).await, 403);
    // Whoever reads the first of two lines would see another key.
    assert_eq!(
        ask(staff, "GET", "/admin/x", &[("x-key", "shut"), key]).await,
        403
    );
    // What a connection keeps to itself is no header of the request.
    let hidden = [key, ("connection", "x-key")];
    assert_eq!(ask(staff, "GET", "/admin/x", &hidden).await, 403);
    assert_eq!(ask(stranger, "GET", "/", &[]).await, 200);
    assert_eq!(ask(stranger, "DELETE", "/", &[]).await, 403);
    let bot = [("user-agent", "a BadBot/1.0")];
    assert_eq!(ask(stranger, "GET", "/", &bot).await, 403);
    let two = [("user-agent", "fine"), ("user-agent", "BADBOT")];
    assert_eq!(ask(stranger, "GET", "/", &two).await, 403);
}

#[tokio::test]
async fn a_request_that_a_rule_refuses_costs_its_client_nothing() {
    let mut front = rules("{ action = \"deny\", paths = [\"/shut\"] }");
    front.per_client = bucket().per_client;
    let (rig, _) = guarded(&front).await;
    for _ in 0..BURST * 2 {
        assert_eq!(status(&rig, get("http://a/shut")).await.0, 403);
    }
    for _ in 0..BURST {
        assert_eq!(status(&rig, get("http://a/")).await.0, 200);
    }
}

#[tokio::test]
async fn clients_do_not_begin_anew_with_another_table() {
    let (rig, _) = guarded(&bucket()).await;
    let ask = async || status(&rig, get("http://a/")).await.0;
    until(429, ask).await;
    let (backend, _) = counted();
    guard(&rig.handle, vec![backend], Vec::new(), &bucket());
    assert!(refused_of_few(ask).await > 0);
}

#[tokio::test]
async fn a_retry_goes_to_no_version_with_rules_that_nobody_asked() {
    let rig = Rig::with_config(Vec::new(), |_| {}).await;
    let (one, two): (ComponentName, ComponentName) = (
        "app@one".parse().expect("a name"),
        "app@two".parse().expect("a name"),
    );
    let (second, count) = counted();
    let set = |fronts: [Front; 2]| {
        let full = backend(|_| async {
            Err(CallError {
                retryable: true,
                ..CallError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "full")
            })
        });
        let fronted = [&one, &two]
            .into_iter()
            .cloned()
            .zip(fronts.map(|front| Fronted {
                front,
                revision: None,
            }));
        let route = Route {
            host: None,
            path: PathPattern::Prefix(String::new()),
            component: one.clone(),
            weights: [(one.clone(), 100), (two.clone(), 0)].into(),
        };
        let here = [
            (one.clone(), vec![full]),
            (two.clone(), vec![Arc::clone(&second)]),
        ];
        let gates = rig.handle.gates(fronted.collect());
        let table = Table::with_others(vec![route], here.into(), BTreeMap::new(), gates);
        rig.handle.set_table(table);
    };
    let shut = || rules("{ action = \"deny\", paths = [\"/internal/...\"] }");
    set([Front::default(), shut()]);
    let (status_there, code) = status(&rig, get("http://a/internal/x")).await;
    assert_eq!((status_there, code.as_str()), (503, "overloaded"));
    assert_eq!(count.load(Relaxed), 0);
    // Where both have the same, the other one answers.
    set([shut(), shut()]);
    assert_eq!(status(&rig, get("http://a/open")).await.0, 200);
    assert_eq!(status(&rig, get("http://a/internal/x")).await.0, 403);
    assert_eq!(count.load(Relaxed), 1);
}
