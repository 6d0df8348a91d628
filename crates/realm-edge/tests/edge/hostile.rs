//! Malformed and hostile bytes: each is refused with a code and a closed connection, and a good
//! client beside it notices nothing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Rig, get, mirror, named, soon, whole};

/// Sends bytes and compares status and code of the only answer, after which nothing follows.
async fn check(rig: &Rig, bytes: impl AsRef<[u8]>, status: &str, code: &str) {
    let text = String::from_utf8_lossy(bytes.as_ref()).into_owned();
    let text = &text[..text.len().min(200)];
    let answer = rig.raw(bytes).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "{text:?} {answer:?}"
    );
    assert!(
        head.contains(&format!("\r\nrealm-error: {code}")),
        "{text:?} {answer:?}"
    );
    assert!(
        head.contains("\r\nconnection: close"),
        "{text:?} {answer:?}"
    );
    assert!(
        body.starts_with(&format!("error[{code}]: ")),
        "{text:?} {answer:?}"
    );
    assert_eq!(
        answer.matches("HTTP/1.1 ").count(),
        1,
        "{text:?} {answer:?}"
    );
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_a_code() {
    let rig = Rig::new(mirror()).await;
    for bytes in [
        "\0\r\n\r\n",
        "G\x01T / HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nHost h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX Y: z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        // A TLS client on a plain port.
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03",
    ] {
        check(&rig, bytes, "400", "bad-request").await;
    }
}

/// Shapes in which a front proxy and the edge could see different ends of a body.
#[tokio::test]
async fn smuggling_shapes_are_refused_or_end_the_connection() {
    let rig = Rig::new(mirror()).await;
    for fields in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: , chunked\r\n",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
        );
        check(&rig, request, "400", "bad-request").await;
    }
    check(
        &rig,
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
        "bad-request",
    )
    .await;
    // Both lengths: chunked counts (RFC 9112 §6.3), and nothing on this connection is believed
    // after it.
    let both = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = rig.raw(both).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    assert!(!answer.contains("smuggled"), "{answer}");
    assert!(!answer.contains("content-length: 4"), "{answer}");
}

#[tokio::test]
async fn heads_have_a_size() {
    let rig = Rig::with_limits(mirror(), |limits| {
        limits.header_bytes_max = 10_000;
        limits.buffer_bytes_max = 20_000;
    })
    .await;
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    let head = "GET / HTTP/1.1\r\nHost: h\r\n";
    check(
        &rig,
        format!("{head}{many}\r\n"),
        "431",
        "headers-too-large",
    )
    .await;
    let large = format!("x-large: {}\r\n", "y".repeat(10_000));
    check(
        &rig,
        format!("{head}{large}\r\n"),
        "431",
        "headers-too-large",
    )
    .await;
    let endless = format!("{head}x-endless: {}", "y".repeat(30_000));
    check(&rig, endless, "431", "headers-too-large").await;
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(12_000));
    check(&rig, target, "431", "headers-too-large").await;
    // HTTP/2: h2 answers the large one by itself, the edge counts.
    let mut request = get("http://h/");
    for n in 0..101 {
        let name: http::HeaderName = format!("x-{n}").parse().expect("a name");
        request
            .headers_mut()
            .insert(name, "y".parse().expect("a value"));
    }
    let answer = rig.send2(request).await;
    assert_eq!(answer.status(), 431);
    assert_eq!(answer.headers()["realm-error"], "headers-too-large");
    let mut request = get("http://h/");
    request
        .headers_mut()
        .insert("x-large", "y".repeat(9_999).parse().expect("a value"));
    assert_eq!(rig.send2(request).await.status(), 431);
}

#[tokio::test]
async fn a_target_has_a_length() {
    let rig = Rig::with_limits(mirror(), |limits| {
        limits.header_bytes_max = 200_000;
        limits.buffer_bytes_max = 200_000;
    })
    .await;
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(70_000));
    check(&rig, target, "414", "uri-too-long").await;
}

/// A path of slashes costs no more than a short one: the look-up is bounded by the table.
#[tokio::test]
async fn a_path_of_slashes_is_one_path() {
    let rig = Rig::new(named("a")).await;
    let target = format!(
        "GET {} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "/".repeat(30_000)
    );
    let answer = rig.raw(target).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_bad_chunk_is_the_clients_fault() {
    let mut rig = Rig::new(crate::support::backend(|request| async move {
        let read = http_body_util::BodyExt::collect(request.into_body()).await;
        let error = read.expect_err("the body is damaged");
        Err(realm_edge::CallError::new(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "trap",
            error.to_string(),
        ))
    }))
    .await;
    let request = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n";
    check(&rig, request, "400", "bad-request").await;
    assert_eq!(rig.seen().await.code, Some("bad-request"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::new(mirror()).await;
    let requests: String = (0..20)
        .map(|n| format!("POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"))
        .collect();
    let answer = rig
        .raw(format!(
            "{requests}GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ))
        .await;
    let targets: Vec<_> = answer
        .lines()
        .filter_map(|line| {
            line.split_once(" http://h/")
                .map(|(_, target)| target.to_owned())
        })
        .collect();
    let expected: Vec<_> = (0..20)
        .map(|n| n.to_string())
        .chain(["last".to_owned()])
        .collect();
    assert_eq!(targets, expected);
}

/// What hyper sends by itself is told from a guest's bytes: a guest may say the same.
#[tokio::test]
async fn a_guest_may_answer_as_hyper_does() {
    let rig = Rig::new(crate::support::backend(|_| async {
        let (sender, body) = crate::support::channel();
        tokio::spawn(async move {
            for part in [
                "HTTP/1.1 400 Bad Request\r\n",
                "HTTP/1.1 400 Bad Request\r\n\r\n",
            ] {
                let _ = sender.send(crate::support::data(part)).await;
            }
        });
        let response = http::Response::builder()
            .status(400)
            .header("content-length", "54");
        Ok(response.body(body).expect("a response"))
    }))
    .await;
    let answer = rig
        .raw("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert!(!answer.contains("realm-error"), "{answer}");
    assert_eq!(
        answer.matches("HTTP/1.1 400 Bad Request\r\n").count(),
        3,
        "{answer}"
    );
    // A malformed request after a good one on the same connection gets its own answer.
    let rig = Rig::new(named("good")).await;
    let answer = rig.raw("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /\0").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, second) = answer.split_once("good").expect("a body");
    assert!(
        second.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(
        second.contains("\r\nrealm-error: bad-request\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_says_nothing_or_leaves_at_once_is_no_matter() {
    let rig = Rig::new(named("a")).await;
    for bytes in ["", "G", "PRI * HT", "GET / HTTP/1.1\r\nHo"] {
        let mut stream = rig.connect().await;
        stream.write_all(bytes.as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("shut");
        soon(stream.read_to_end(&mut Vec::new()))
            .await
            .expect("a clean end");
    }
    assert_eq!(whole(rig.send1(get("http://h/")).await).await.2, "a");
}
