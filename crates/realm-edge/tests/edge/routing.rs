//! Who answers which host and path, and what nobody answers.

use http::StatusCode;

use crate::support::{Rig, get, named, request, soon, table, text, whole};

async fn rig() -> Rig {
    let rig = Rig::new(named("app")).await;
    let backends: Vec<_> = ["root", "auth", "login", "orders", "shop", "below"]
        .into_iter()
        .map(|name| (name, vec![named(name)]))
        .collect();
    rig.handle.set_table(table(
        &[
            ("*/...", "root"),
            ("*/auth/...", "auth"),
            ("*/auth/login", "login"),
            ("*/orders/...", "orders"),
            ("*/down/...", "down"),
            ("shop.example.com/shop/...", "shop"),
            ("[::1]/...", "shop"),
            ("*.example.com/shop/...", "below"),
        ],
        &backends,
    ));
    rig
}

/// The answer to a raw head: its status line, its `realm-error`, its body.
async fn ask(rig: &Rig, head: &str) -> (String, Option<String>, String) {
    let answer = rig.raw(format!("{head}connection: close\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.lines().next().expect("a status line");
    let code = head
        .lines()
        .find_map(|line| line.strip_prefix("realm-error: "));
    (status.to_owned(), code.map(str::to_owned), body.to_owned())
}

async fn check(rig: &Rig, host: &str, path: &str, expected: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n");
    let (status, code, body) = ask(rig, &head).await;
    assert_eq!(code.unwrap_or(body), expected, "{host} {path} {status}");
}

#[tokio::test]
async fn the_most_specific_route_answers() {
    let rig = rig().await;
    check(&rig, "h", "/", "root").await;
    check(&rig, "h", "/auth", "auth").await;
    check(&rig, "h", "/auth/", "auth").await;
    check(&rig, "h", "/auth/x?y=/orders", "auth").await;
    check(&rig, "h", "/auth/login", "login").await;
    check(&rig, "h", "/auth/login/", "auth").await;
    check(&rig, "h", "/authority", "root").await;
    check(&rig, "h", "/AUTH", "root").await;
    check(&rig, "shop.example.com", "/shop/x", "shop").await;
    check(&rig, "SHOP.example.COM.:8080", "/shop/x", "shop").await;
    check(&rig, "a.b.example.com", "/shop/x", "below").await;
    check(&rig, "example.com", "/shop/x", "root").await;
    check(&rig, "shop.example.com", "/auth", "auth").await;
    check(&rig, "[0::1]:80", "/", "shop").await;
    check(&rig, "h", "/down/x", "no-backend").await;
}

#[tokio::test]
async fn no_spelling_reaches_around_a_route() {
    let rig = rig().await;
    for path in [
        "/auth/../orders",
        "/auth/./x",
        "/auth/%2e%2e/orders",
        "/auth/.%2E/orders",
        "/auth/..%2forders",
        "/auth%2f..%2forders",
        "/auth\\..\\orders",
        "/auth/..;x/orders",
        "/..",
        // No dots, but a reader that decodes or folds ends at another route.
        "//auth/x",
        "/%61uth/x",
        "/auth%2fx",
        "/auth\\x",
        // Nor parameters, however they hide a slash.
        "/auth;v=1/x",
        "/;v/auth/x",
        "/;%2fx/auth/x",
        "/auth/login;v=1",
        "/orders%2f..",
        "/x/..",
    ] {
        check(&rig, "h", path, "bad-path").await;
    }
    // The same spellings within one route are the component's own business.
    for (path, owner) in [
        ("/x//y", "root"),
        ("/%78%2Fy", "root"),
        ("/auth/a%2Fb//c\\d", "auth"),
        ("/auth/%6cogin2", "auth"),
        ("/100%", "root"),
        ("/x;v=1/y;w", "root"),
        ("/auth/x;%2fy", "auth"),
    ] {
        check(&rig, "h", path, owner).await;
    }
    check(&rig, "h", "/auth/%6cogin", "bad-path").await;
}

#[tokio::test]
async fn bad_targets_are_refused() {
    let rig = rig().await;
    for (head, status, code) in [
        ("GET / HTTP/1.1\r\n", "400", "bad-host"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
            "400",
            "bad-host",
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
            "400",
            "bad-host",
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n", "400", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n", "400", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n", "400", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n", "400", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n", "400", "bad-host"),
        ("GET / HTTP/1.1\r\nHost: \u{fc}\r\n", "400", "bad-host"),
        ("GET http://a/ HTTP/1.1\r\n", "400", "bad-host"),
        ("GET http://a/ HTTP/1.1\r\nHost: b@c\r\n", "400", "bad-host"),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n", "400", "bad-host"),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n", "400", "bad-path"),
        ("GET a HTTP/1.1\r\nHost: a\r\n", "400", "bad-path"),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n", "400", "bad-path"),
        ("GET * HTTP/1.1\r\nHost: a\r\n", "400", "bad-path"),
        ("GET ?x HTTP/1.1\r\nHost: a\r\n", "400", "bad-request"),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n",
            "501",
            "method-not-supported",
        ),
    ] {
        let (line, found, body) = ask(&rig, head).await;
        assert!(line.contains(status), "{head} {line}");
        assert_eq!(found.as_deref(), Some(code), "{head} {line}");
        assert!(
            body.starts_with(&format!("error[{code}]: ")),
            "{head} {body}"
        );
        assert!(body.contains("\nhint: "), "{head} {body}");
    }
}

#[tokio::test]
async fn options_of_the_server_names_the_methods() {
    let rig = rig().await;
    let answer = rig
        .raw("OPTIONS * HTTP/1.1\r\nHost: h\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert!(answer.contains("\r\nallow: GET, HEAD, POST"), "{answer}");
    let (_, code, _) = ask(&rig, "OPTIONS * HTTP/1.1\r\n").await;
    assert_eq!(code.as_deref(), Some("bad-host"));
}

#[tokio::test]
async fn http2_is_held_to_the_same() {
    let rig = rig().await;
    let (status, headers, _) = rig.both(|| get("http://h/auth/%2e%2e/orders")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(headers["realm-error"], "bad-path");
    let (_, _, body) = rig.both(|| get("http://SHOP.example.com:99/shop/x")).await;
    assert_eq!(body, "shop");

    let mut differing = get("http://a/");
    differing
        .headers_mut()
        .insert("host", "b".parse().expect("a value"));
    let answer = rig.send2(differing).await;
    assert_eq!(answer.headers()["realm-error"], "bad-host");

    let mut same = get("http://a/");
    same.headers_mut()
        .insert("host", "A".parse().expect("a value"));
    assert_eq!(rig.send2(same).await.status(), StatusCode::OK);

    let connect = request("CONNECT", "a:80", text(""));
    let answer = soon(rig.http2().await.send_request(connect))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(answer.headers()["realm-error"], "method-not-supported");
}

#[tokio::test]
async fn refusals_tell_when_to_come_back_and_speak_json() {
    let mut rig = rig().await;
    let (status, headers, body) = rig.both(|| get("http://h/down/")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    assert!(body.starts_with(b"error[no-backend]: "), "{body:?}");
    let seen = rig.seen().await;
    assert_eq!((seen.status, seen.code), (503, Some("no-backend")));
    assert_eq!(seen.component.as_deref(), Some("down"));

    rig.handle.set_table(table(&[], &[]));
    let (status, headers, body) = rig
        .both(|| {
            let mut request = get("http://h/");
            let accept = "application/json".parse().expect("a value");
            request.headers_mut().insert("accept", accept);
            request
        })
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["realm-error"], "no-route");
    assert!(
        body.starts_with(b"{\"error\":{\"code\":\"no-route\",\"message\":\"no component"),
        "{body:?}"
    );

    let head = request("HEAD", "http://h/", text(""));
    let (status, headers, body) = whole(rig.send1(head).await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_ne!(headers["content-length"], "0");
    assert!(body.is_empty());
}
