//! Any node answers any route: what runs elsewhere is asked there, over the network of nodes.

use std::time::Duration;

use realm_model::view::ReachState;
use realm_test_guests as guests;
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::realms::{Realms, pinned};
use crate::support::{Load, eventually};

/// Bytes that no window or buffer on the way takes at once.
const LARGE: usize = 9 * 1024 * 1024;

/// `app` on two nodes; the first one has nothing and answers for it.
async fn on_two_nodes() -> Realms {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    realms.apply(
        "[components.app]\nsource = \"file:app.wasm\"\n\n[routing]\n\
         beta = [{ path = \"/app/...\", component = \"app\", replicas = 2 }]\n\
         gamma = [{ path = \"/app/...\", component = \"app\", replicas = 2 }]\n",
    );
    realms.run_there(&[("app", "beta"), ("app", "gamma")]).await;
    answers_there(&realms, 0, "/app/").await;
    realms
}

/// Records travel for a moment.
async fn answers_there(realms: &Realms, at: usize, path: &str) {
    eventually("a node without it answers for it", async || {
        (realms.nodes[at].get(path).await.0 == 200).then_some(())
    })
    .await;
}

/// Runs `event` while clients of alpha ask for `app`: no request is lost.
async fn under_load(realms: &mut Realms, event: impl AsyncFnOnce(&mut Realms)) {
    let url = realms.first().agent().url("/app/");
    let load = Load::start(url, 8, |status, body| {
        (status, body) == (200, "version a\n")
    });
    load.more(200).await;
    event(realms).await;
    load.more(500).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_answers_any_route_with_what_a_client_sent() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    for (guest, name) in [
        (guests::ECHO, "echo.wasm"),
        (guests::ECHO_REQUEST, "request.wasm"),
        (guests::CGI_ENV, "cgi.wasm"),
        (guests::TRAP, "trap.wasm"),
        (guests::BIG_BODY, "big.wasm"),
        (guests::OUTBOUND, "many.wasm"),
    ] {
        realms.first().realm.guest(guest, name);
    }
    let names = ["echo", "request", "cgi", "trap", "big", "many"];
    let files = names.map(|name| format!("{name}.wasm"));
    let components: Vec<_> = names
        .iter()
        .zip(&files)
        .map(|(name, file)| (*name, file.as_str(), "beta"))
        .collect();
    realms.apply(&pinned(&components));
    realms.run_there(&names.map(|name| (name, "beta"))).await;
    for name in names {
        eventually("alpha knows where it runs", async || {
            let (status, _) = realms.first().get(&format!("/{name}/")).await;
            (status != 503).then_some(())
        })
        .await;
    }
    let client = Client::new();
    let url = |path: &str| realms.first().agent().url(path);

    // A body in both directions, larger than anything that is buffered.
    let body: Vec<u8> = (0..LARGE).map(|at| (at / 7 % 251) as u8).collect();
    let answer = client
        .post(url("/echo/"))
        .body(body.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        answer.bytes().await.unwrap() == body,
        "the same bytes come back"
    );

    // What the guest sees is what it would see of a client of its own node.
    let seen = async |at: usize| -> Value {
        let url = realms.nodes[at].agent().url("/request/x?y=1");
        let request = client.get(url).header("host", "shop.example");
        let request = request
            .header("x-mine", "1")
            .header("realm-to", "echo")
            .header("realm-prefix", "3");
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
    };
    let (mut far, mut near) = (seen(0).await, seen(1).await);
    for seen in [&mut far, &mut near] {
        let headers = seen["headers"].as_array_mut().unwrap();
        headers.sort_by_key(Value::to_string);
    }
    assert_eq!(far, near);
    // What nodes say to each other is no word of clients.
    assert!(!far.to_string().contains("realm-"), "{far}");
    assert!(far.to_string().contains("x-forwarded-for"), "{far}");

    // The route's part of the path goes along.
    let cgi: Value = serde_json::from_str(&realms.first().get("/cgi/more?q").await.1).unwrap();
    assert_eq!(cgi["env"]["SCRIPT_NAME"], "/cgi", "{cgi}");
    assert_eq!(cgi["env"]["PATH_INFO"], "/more", "{cgi}");

    // A head of as many fields as a guest may make.
    let address = url("").replace("http://", "");
    let mut raw = tokio::net::TcpStream::connect(address.trim_end_matches('/'))
        .await
        .unwrap();
    let request = b"GET /many/?answer=256 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    raw.write_all(request).await.unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).await.unwrap();
    let fields = answer.lines().filter(|line| line.starts_with("x-"));
    assert_eq!(
        (answer.get(..12), fields.count()),
        (Some("HTTP/1.1 200"), 256),
        "{answer}"
    );

    let head = client
        .request(Method::HEAD, url("/big/?bytes=1000&length=1"))
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], "1000");

    // What goes wrong there is told as it is told there.
    let trapped = client.get(url("/trap/")).send().await.unwrap();
    assert_eq!(
        (trapped.status().as_u16(), &trapped.headers()["realm-error"]),
        (500, &"trap".parse().unwrap())
    );
    let unknown = client.get(url("/nothing")).send().await.unwrap();
    assert_eq!(
        (unknown.status().as_u16(), &unknown.headers()["realm-error"]),
        (404, &"no-route".parse().unwrap())
    );

    // Who asks is told where the request went.
    let path = async |at: usize| {
        let url = realms.nodes[at].agent().url("/request/");
        let answer = client
            .get(url)
            .header("realm-trace", "1")
            .send()
            .await
            .unwrap();
        answer.headers()["realm-path"].to_str().unwrap().to_owned()
    };
    assert_eq!(
        (path(0).await.as_str(), path(1).await.as_str()),
        ("beta", "here")
    );

    let metrics = reqwest::get(&realms.first().agent().metrics_url)
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains("realm_tunnel_requests_total{node=\"beta\",outcome=\"answered\"}"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn case_33_no_request_is_lost_with_a_node_that_is_killed() {
    let mut realms = on_two_nodes().await;
    under_load(&mut realms, async |realms| realms.nodes[1].kill_9()).await;
}

/// A request that may be repeated waits no longer for a node that is gone.
const GONE_MAX: Duration = Duration::from_secs(3);

/// From the moment when a node gives no sign of life until nobody counts on it any more.
async fn while_it_is_missed(signal: &str) {
    let realms = on_two_nodes().await;
    let url = realms.first().agent().url("/app/");
    let load = Load::start(url, 8, |status, body| {
        (status, body) == (200, "version a\n")
    });
    load.more(200).await;
    realms.nodes[1].agent().signal(signal);
    realms.first().until_sees("beta", ReachState::Lost).await;
    // Attempts to connect with it anew end later than that.
    let until = tokio::time::Instant::now() + 2 * GONE_MAX;
    while tokio::time::Instant::now() < until {
        load.more(100).await;
    }
    let slowest = load.slowest();
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
    assert!(slowest <= GONE_MAX, "of {good} one took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_holds_no_request_up_for_long() {
    while_it_is_missed("KILL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_holds_no_request_up_for_long() {
    while_it_is_missed("STOP").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_with_a_node_that_is_drained_or_ends() {
    let mut realms = on_two_nodes().await;
    under_load(&mut realms, async |realms| {
        realms.as_owner(0, &["nodes", "drain", "beta"]).ok();
        // Then it asks another node itself.
        eventually("beta runs nothing", async || {
            let asked = reqwest::Client::new().get(realms.nodes[1].agent().url("/app/"));
            let answer = asked.header("realm-trace", "1").send().await.unwrap();
            (answer.headers().get("realm-path")? == "gamma").then_some(())
        })
        .await;
        realms.as_owner(0, &["nodes", "uncordon", "beta"]).ok();
    })
    .await;
    realms.run_there(&[("app", "beta"), ("app", "gamma")]).await;
    under_load(&mut realms, async |realms| {
        assert!(realms.nodes[2].take().terminate().success());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_nowhere_is_said_so_by_every_node() {
    let realms = Realms::meet(&["alpha", "beta"]).await;
    realms.first().realm.guest(guests::TRAP_START, "app.wasm");
    let manifest = pinned(&[("app", "app.wasm", "beta")]);
    let manifest = manifest.replace("\n\n[routing]", "\nhealth = \"/\"\n\n[routing]");
    realms.first().realm.write("realm.toml", &manifest);
    realms.as_owner(0, &["apply", "--yes", "--no-wait"]).ok();
    for node in realms.running() {
        eventually("the route is known and nobody is behind it", async || {
            let answer = reqwest::get(node.agent().url("/app/")).await.unwrap();
            let code = answer
                .headers()
                .get("realm-error")?
                .to_str()
                .unwrap()
                .to_owned();
            ((answer.status().as_u16(), code.as_str()) == (503, "no-backend")).then_some(())
        })
        .await;
    }
}
