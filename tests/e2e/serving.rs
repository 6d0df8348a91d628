//! What a client sees: routes, hosts, streaming, limits, errors with stable codes.

use realm_test_guests::{
    BIG_BODY, CGI_BAD, CGI_ECHO, CGI_ENV, COUNTER, ECHO, ECHO_REQUEST, ENV_DUMP, HELLO,
    MEMORY_BOMB, NO_RESPONSE, P3_ECHO, P3_HELLO, PARK, SPIN, TRAP, VERSION_A, VERSION_B,
};

use crate::support::{Agent, Realm, eventually, get, raw, raw_after_head};

/// A realm with one component at `/...`.
fn serve(guest: &str, more: &str) -> (Realm, Agent) {
    let realm = Realm::new();
    realm.app(guest, more);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    (realm, agent)
}

/// GETs a URL that fails; (status, the code in the header).
async fn code(url: &str) -> (u16, String) {
    let response = reqwest::get(url).await.unwrap();
    let code = response
        .headers()
        .get("realm-error")
        .map(|code| code.to_str().unwrap().to_owned());
    (response.status().as_u16(), code.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_go_to_the_most_specific_host_and_path() {
    let realm = Realm::new();
    for (guest, name) in [(HELLO, "hello"), (VERSION_A, "a"), (VERSION_B, "b")] {
        realm.guest(guest, &format!("{name}.wasm"));
    }
    realm.write(
        "realm.toml",
        r#"
[components.hello]
source = "file:./hello.wasm"
[components.a]
source = "file:./a.wasm"
[components.b]
source = "file:./b.wasm"
[routing]
"node-1" = [
  { path = "/...", component = "hello" },
  { path = "/a/...", component = "a" },
  { path = "/a/exact", component = "b" },
  { path = "/...", host = "shop.example.com", component = "b" },
]
"elsewhere" = [{ path = "/elsewhere", component = "b" }]
"#,
    );
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    for (path, body) in [
        ("/", "hello\n"),
        ("/a", "version a\n"),
        ("/a/deeper?and=more", "version a\n"),
        ("/ab", "hello\n"),
        ("/a/exact", "version b\n"),
        ("/a/exact/not", "version a\n"),
        // The route of another node, for a component that is here as well.
        ("/elsewhere", "version b\n"),
    ] {
        assert_eq!(
            get(&agent.url(path)).await,
            (200, body.to_owned()),
            "{path}"
        );
    }
    let client = reqwest::Client::new();
    for (host, body) in [
        ("SHOP.example.com:80", "version b\n"),
        ("other.example.com", "hello\n"),
    ] {
        let answer = client
            .get(agent.url("/a"))
            .header("host", host)
            .send()
            .await
            .unwrap();
        let expected = if body == "hello\n" {
            "version a\n"
        } else {
            body
        };
        assert_eq!(answer.text().await.unwrap(), expected, "{host}");
    }
    let status = realm.run(&["status"]).ok().stdout;
    let elsewhere = status.lines().find(|line| line.starts_with("elsewhere"));
    assert!(
        elsewhere.is_some_and(|line| line.contains("not approved")),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sees_the_request_as_it_was_sent() {
    let (_realm, agent) = serve(ECHO_REQUEST, "");
    let client = reqwest::Client::new();
    let answer = client
        .put(agent.url("/a%20b/c?x=1&y=%2F"))
        .header("host", "shop.example.com")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-own", "kept")
        .body("body")
        .send()
        .await
        .unwrap();
    let seen: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(seen["method"], "PUT");
    assert_eq!(seen["scheme"], "http");
    assert_eq!(seen["authority"], "shop.example.com");
    assert_eq!(seen["target"], "/a%20b/c?x=1&y=%2F");
    let headers = seen["headers"].to_string();
    assert!(
        headers.contains("kept") && headers.contains("127.0.0.1"),
        "{headers}"
    );
    assert!(
        !headers.contains("6.6.6.6"),
        "a client's word about itself: {headers}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_in_both_worlds() {
    for guest in [ECHO, P3_ECHO] {
        let (_realm, agent) = serve(guest, "");
        let sent: Vec<u8> = (0..3_000_000u32).map(|byte| (byte % 251) as u8).collect();
        let client = reqwest::Client::new();
        let answer = client
            .post(agent.url("/"))
            .body(sent.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        assert!(
            answer.bytes().await.unwrap() == sent,
            "3 MB come back as they were sent"
        );
        // HTTP/2 without TLS.
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .build()
            .unwrap();
        let answer = client
            .post(agent.url("/"))
            .body(sent.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        assert!(answer.bytes().await.unwrap() == sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_expect_and_keep_alive_work_on_the_wire() {
    let (_realm, agent) = serve(ECHO, "");
    let head = raw(
        &agent.url,
        b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    // The body waits for the word of the server: 100, or at once the head of an answer that needs
    // no body to begin (when exactly 100 is sent, the edge's own tests say).
    let expect = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    let (word, answer) = raw_after_head(&agent.url, expect, b"hi");
    assert!(
        word.starts_with("HTTP/1.1 100") || word.starts_with("HTTP/1.1 200"),
        "{word}"
    );
    assert!(answer.contains("hi"), "{answer}");
    let twice = raw(
        &agent.url,
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(twice.matches("HTTP/1.1 200").count(), 2, "{twice}");
    let trailers = b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\nConnection: close, te\r\n\r\n2\r\nhi\r\n0\r\nx-end: here\r\n\r\n";
    let trailers = raw(&agent.url, trailers);
    assert!(trailers.ends_with("0\r\nx-end: here\r\n\r\n"), "{trailers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_generations_of_wasi_http_serve() {
    let (_realm, agent) = serve(P3_HELLO, "world = \"wasi:http/service\"");
    assert_eq!(get(&agent.url("/")).await.0, 200);
    let (_realm, agent) = serve(HELLO, "world = \"wasi:http/proxy\"");
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_gets_an_instance_of_its_own() {
    let (_realm, agent) = serve(COUNTER, "");
    let first = get(&agent.url("/")).await;
    for _ in 0..5 {
        assert_eq!(get(&agent.url("/")).await, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn env_and_args_are_what_the_manifest_grants_and_nothing_else() {
    let (_realm, agent) = serve(ENV_DUMP, "");
    let (_, nothing) = get(&agent.url("/")).await;
    assert!(
        !nothing.contains("PATH") && !nothing.contains("HOME"),
        "{nothing}"
    );
    let (_realm, agent) = serve(ENV_DUMP, "env = { RUST_LOG = \"info\" }\nargs = [\"one\"]");
    let (_, granted) = get(&agent.url("/")).await;
    assert!(
        granted.contains("RUST_LOG") && granted.contains("one"),
        "{granted}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_from_the_first_request() {
    let (realm, agent) = serve(SPIN, "epoch_timeout_ms = 100");
    assert_eq!(
        code(&agent.url("/spin")).await,
        (504, "epoch-timeout".to_owned())
    );
    eventually("the log says so", async || {
        let logs = realm.run(&["logs", "app"]).ok().stdout;
        logs.contains("epoch-timeout").then_some(())
    })
    .await;
    let (realm, agent) = serve(PARK, "wall_timeout_ms = 200");
    assert_eq!(
        code(&agent.url("/?ms=20000")).await,
        (504, "wall-timeout".to_owned())
    );
    eventually("the log says so", async || {
        let logs = realm.run(&["logs", "app"]).ok().stdout;
        logs.contains("wall-timeout").then_some(())
    })
    .await;
    let (_realm, agent) = serve(MEMORY_BOMB, "memory_max_mb = 16");
    assert_eq!(
        code(&agent.url("/")).await,
        (500, "memory-limit".to_owned())
    );
    let (_realm, agent) = serve(ECHO, "max_request_bytes = 1000");
    let client = reqwest::Client::new();
    let large = client
        .post(agent.url("/"))
        .body(vec![0; 1_001])
        .send()
        .await
        .unwrap();
    assert_eq!(large.status(), 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn fuel_is_a_rate_that_slows_and_does_not_kill() {
    let (_realm, agent) = serve(
        realm_test_guests::COMPUTE,
        "fuel_per_sec = 20_000_000\nepoch_timeout_ms = 60_000",
    );
    let started = std::time::Instant::now();
    let mut answers = 0;
    while started.elapsed() < std::time::Duration::from_millis(2_500) {
        assert_eq!(get(&agent.url("/?n=2000000")).await.0, 200);
        answers += 1;
    }
    let took = started.elapsed().as_secs_f64();
    let metrics = get(&agent.metrics_url).await.1;
    let figure = |name: &str| -> f64 {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{component=\"app\"}}")));
        line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    // One second's worth may be saved up, and one invocation may overshoot.
    let allowed = 20_000_000.0 * (took + 1.0) + figure("fuel_used_total") / f64::from(answers);
    assert!(
        figure("fuel_used_total") <= allowed,
        "{} of {allowed}",
        figure("fuel_used_total")
    );
    assert!(figure("fuel_throttled_seconds_total") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_bounded_and_the_rest_is_told_when_to_come_back() {
    let (_realm, agent) = serve(PARK, "max_concurrency = 2");
    let url = agent.url("/?ms=1500");
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let response = reqwest::get(&url).await.unwrap();
                let retry = response.headers().get("retry-after").is_some();
                (response.status().as_u16(), retry)
            })
        })
        .collect();
    let mut shed = 0;
    for request in requests {
        match request.await.unwrap() {
            (200, _) => {}
            (503, true) => shed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(shed > 0, "200 requests for two places");
    assert_eq!(get(&agent.url("/?ms=1")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_fail_end_in_stable_codes() {
    let (_realm, agent) = serve(TRAP, "");
    assert_eq!(code(&agent.url("/")).await, (500, "trap".to_owned()));
    let (_realm, agent) = serve(NO_RESPONSE, "");
    assert_eq!(code(&agent.url("/")).await, (500, "no-response".to_owned()));
    let (_realm, agent) = serve(BIG_BODY, "");
    let (status, body) = get(&agent.url("/?bytes=5000000")).await;
    assert_eq!((status, body.is_empty()), (200, false));
    assert_eq!(
        code(&agent.url("/../etc/passwd")).await.0,
        200,
        "the client resolves it away"
    );
    assert!(
        raw(
            &agent.url,
            b"GET /../x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .contains("bad-path")
    );
    assert!(raw(&agent.url, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").contains("bad-host"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_is_never_a_whole_one() {
    let (_realm, agent) = serve(realm_test_guests::TRAP_MID_RESPONSE, "");
    for client in [
        reqwest::Client::new(),
        reqwest::Client::builder()
            .http2_prior_knowledge()
            .build()
            .unwrap(),
    ] {
        // The head may be on its way already or not: in no case is there a whole answer.
        let whole = async {
            let response = client.get(agent.url("/")).send().await?;
            assert_eq!(response.status(), 200);
            response.bytes().await
        };
        assert!(whole.await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_behind_a_route_is_cgi() {
    let (realm, agent) = serve(CGI_ENV, "world = \"wasi:cli/command\"\nserve = \"cgi\"");
    let client = reqwest::Client::new();
    let seen = client
        .post(agent.url("/a/b?x=1"))
        .header("host", "shop.example.com")
        .header("proxy", "evil:1")
        .header("x-own", "kept")
        .body("body")
        .send()
        .await
        .unwrap();
    assert_eq!(seen.status(), 200);
    let seen = seen.text().await.unwrap();
    for wanted in [
        "POST",
        "/a/b",
        "x=1",
        "shop.example.com",
        "CGI/1.1",
        "HTTP_X_OWN",
        "127.0.0.1",
    ] {
        assert!(seen.contains(wanted), "no `{wanted}` in {seen}");
    }
    assert!(
        !seen.contains("HTTP_PROXY") && !seen.contains("evil"),
        "{seen}"
    );
    let inspected = realm.run(&["inspect", "app.wasm"]).ok().stdout;
    assert!(inspected.contains("serve:   cgi"), "{inspected}");

    realm.write(
        "realm.toml",
        r#"
[components.app]
source = "file:./app.wasm"
[routing]
"*" = [
  { path = "/...", component = "app" },
  { path = "/shop/...", component = "app" },
  { path = "/shop/cart/...", component = "app" },
  { path = "/exact", component = "app" },
]
"#,
    );
    realm.run(&["apply", "--yes"]).ok();
    for (path, script, rest) in [
        ("/", "", "/"),
        ("/a/b", "", "/a/b"),
        ("/shop", "/shop", ""),
        ("/shop/a%20b?x=/shop/cart", "/shop", "/a b"),
        ("/shopping", "", "/shopping"),
        ("/shop/cart/7", "/shop/cart", "/7"),
        ("/exact", "/exact", ""),
    ] {
        let (status, seen) = get(&agent.url(path)).await;
        let wanted = format!("\"PATH_INFO\":\"{rest}\"");
        assert!(status == 200 && seen.contains(&wanted), "{path}: {seen}");
        let wanted = format!("\"SCRIPT_NAME\":\"{script}\"");
        assert!(seen.contains(&wanted), "{path}: {seen}");
    }

    let (_realm, agent) = serve(CGI_ECHO, "");
    let sent: Vec<u8> = (0..3_000_000u32).map(|byte| (byte % 251) as u8).collect();
    let answer = client
        .post(agent.url("/"))
        .body(sent.clone())
        .send()
        .await
        .unwrap();
    assert!(
        answer.bytes().await.unwrap() == sent,
        "3 MB come back as they were sent"
    );
    let (_realm, agent) = serve(CGI_BAD, "");
    assert_eq!(code(&agent.url("/")).await.0, 502);
}
