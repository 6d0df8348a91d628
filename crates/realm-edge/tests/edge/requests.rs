//! What a backend sees: the URI, the host, the headers, and the way the request came.

use crate::support::{Rig, for_http1, get, mirror, request, soon, whole};

const OWN: &str = "forwarded: for=127.0.0.1;host=h;proto=http\n\
                   host: h\n\
                   x-forwarded-for: 127.0.0.1\n\
                   x-forwarded-host: h\n\
                   x-forwarded-proto: http";

/// Sends a raw head over HTTP/1.1 and compares what the mirror answers.
async fn check(rig: &Rig, head: &str, expected: &str) {
    let answer = rig.raw(format!("{head}connection: close\r\n\r\n")).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body, expected, "{head}");
}

async fn trusting() -> Rig {
    Rig::with_config(vec![mirror()], |config| {
        config.trusted_proxies = vec![[127, 0, 0, 1].into(), [10, 0, 0, 1].into()];
    })
    .await
}

#[tokio::test]
async fn the_uri_is_absolute_and_the_target_as_sent() {
    let rig = Rig::new(mirror()).await;
    for target in [
        "/",
        "/a/b?c=d&e",
        "/%61%2Fb//c?x=%2e%2e/../y",
        "/a;b=c/ä?",
        "/a|b\\c\"{}",
    ] {
        let expected = format!("GET http://h{target}\n{OWN}");
        check(
            &rig,
            &format!("GET {target} HTTP/1.1\r\nHost: h\r\n"),
            &expected,
        )
        .await;
    }
    let (_, _, body) = rig.both(|| get("http://h/x//y?z=%2e")).await;
    assert_eq!(body, format!("GET http://h/x//y?z=%2e\n{OWN}"));
}

#[tokio::test]
async fn the_host_is_seen_as_sent() {
    let rig = Rig::new(mirror()).await;
    for host in ["Shop.Example.COM.:8080", "[::1]:81", "127.0.0.1", "a:"] {
        let answer = rig
            .raw(format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert!(
            answer.contains(&format!("GET http://{host}/\n")),
            "{answer}"
        );
        assert!(answer.contains(&format!("\nhost: {host}\n")), "{answer}");
        assert!(
            answer.contains(&format!("\nx-forwarded-host: {host}\n")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_absolute_target_wins_over_host() {
    let rig = Rig::new(mirror()).await;
    check(
        &rig,
        "GET http://h?q HTTP/1.1\r\nHost: other\r\n",
        &format!("GET http://h/?q\n{OWN}"),
    )
    .await;
    // The scheme is that of the connection, whatever the client writes.
    check(
        &rig,
        "GET https://h/x HTTP/1.1\r\nHost: h\r\n",
        &format!("GET http://h/x\n{OWN}"),
    )
    .await;
}

#[tokio::test]
async fn http10_needs_no_host() {
    let rig = Rig::new(mirror()).await;
    let answer = rig.raw("GET /x HTTP/1.0\r\n\r\n").await;
    let expected = format!("GET http://{}/x\n", rig.address);
    assert!(answer.contains(&expected), "{answer}");
}

#[tokio::test]
async fn what_belongs_to_the_connection_stays_there() {
    let rig = Rig::new(mirror()).await;
    check(
        &rig,
        "GET / HTTP/1.1\r\nHost: h\r\nKeep-Alive: 5\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\n\
         Proxy-Connection: x\r\nProxy-Authorization: y\r\nConnection: X-Mine, Host\r\n\
         X-Mine: 1\r\nAccept: */*\r\n",
        &format!("GET http://h/\naccept: */*\n{OWN}")
            .replace("\nx-forwarded-for", "\nte: trailers\nx-forwarded-for"),
    )
    .await;
}

#[tokio::test]
async fn a_stranger_cannot_tell_its_own_way() {
    let rig = Rig::new(mirror()).await;
    let forged = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\n\
                  Forwarded: for=6.6.6.6;host=evil;proto=https\r\n";
    check(
        &rig,
        &format!("GET / HTTP/1.1\r\nHost: h\r\n{forged}"),
        &format!("GET http://h/\n{OWN}"),
    )
    .await;
    // Naming the edge's own headers as the connection's does not remove them.
    check(
        &rig,
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Forwarded-For, Forwarded\r\n",
        &format!("GET http://h/\n{OWN}"),
    )
    .await;
}

/// What becomes the same variable as a field of the edge's in a guest with CGI's conventions.
#[tokio::test]
async fn names_that_guests_misread_are_dropped() {
    let odd = "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: https\r\nX_Forwarded-Host: evil\r\n\
               X.Real.IP: 6.6.6.6\r\nHTTP_HOST: evil\r\nProxy: http://evil/\r\n";
    for rig in [Rig::new(mirror()).await, trusting().await] {
        check(
            &rig,
            &format!("GET / HTTP/1.1\r\nHost: h\r\n{odd}"),
            &format!("GET http://h/\n{OWN}"),
        )
        .await;
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let rig = trusting().await;
    check(
        &rig,
        "GET / HTTP/1.1\r\nHost: inner:81\r\nX-Forwarded-For: 203.0.113.7\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n",
        "GET https://shop.example/\n\
         forwarded: for=203.0.113.7;host=shop.example;proto=https, \
         for=127.0.0.1;host=\"inner:81\";proto=http\n\
         host: shop.example\n\
         x-forwarded-for: 203.0.113.7, 127.0.0.1\n\
         x-forwarded-host: shop.example\n\
         x-forwarded-proto: https",
    )
    .await;
    check(
        &rig,
        "GET / HTTP/1.1\r\nHost: inner\r\n\
         Forwarded: for=6.6.6.6;host=evil;proto=http, for=\"[2001:db8::7]\";host=shop.example;proto=https\r\n\
         Forwarded: for=10.0.0.1\r\n",
        "GET https://shop.example/\n\
         forwarded: for=6.6.6.6, \
         for=\"[2001:db8::7]\";host=shop.example;proto=https, \
         for=10.0.0.1, for=127.0.0.1;host=inner;proto=http\n\
         host: shop.example\n\
         x-forwarded-for: 6.6.6.6, 2001:db8::7, 10.0.0.1, 127.0.0.1\n\
         x-forwarded-host: shop.example\n\
         x-forwarded-proto: https",
    )
    .await;
    check(
        &rig,
        "GET / HTTP/1.1\r\nHost: h\r\n",
        &format!("GET http://h/\n{OWN}"),
    )
    .await;
}

#[tokio::test]
async fn a_connection_may_name_several_hosts() {
    let rig = Rig::new(mirror()).await;
    let (mut first, mut second) = (rig.http1().await, rig.http2().await);
    for host in ["a", "b", "a", "A"] {
        let uri = format!("http://{host}/");
        let sent = first.send_request(for_http1(get(&uri)));
        let one = whole(soon(sent).await.expect("an answer")).await.2;
        let two = whole(
            soon(second.send_request(get(&uri)))
                .await
                .expect("an answer"),
        )
        .await
        .2;
        let host = format!("GET {uri}\nforwarded: for=127.0.0.1;host={host};proto=http\n");
        assert!(one.starts_with(host.as_bytes()), "{one:?}");
        assert_eq!(one, two);
    }
}

#[tokio::test]
async fn the_backend_sees_the_method() {
    let rig = Rig::new(mirror()).await;
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE",
    ] {
        let answer = rig
            .send2(request(method, "http://h/", crate::support::empty()))
            .await;
        let (_, _, body) = whole(answer).await;
        assert!(
            body.starts_with(format!("{method} http://h/\n").as_bytes()),
            "{body:?}"
        );
    }
}
