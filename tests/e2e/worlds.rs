//! Programs that run by themselves: servers behind a route, services, jobs, schedules.

use realm_model::view::{ComponentState, ComponentView};
use realm_test_guests::{HELLO, LISTEN, P3_COMMAND, P3_LISTEN, PROGRAM};

use crate::support::{Agent, Load, Realm, eventually, figure, get, lasting_port};

/// A realm with one component `app` behind `/...`, in force.
fn routed(guest: &str, keys: &str) -> (Realm, Agent) {
    let realm = Realm::new();
    realm.app(guest, keys);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    (realm, agent)
}

/// A manifest with one component `app` that no route names.
fn alone(keys: &str) -> String {
    format!("[components.app]\nsource = \"file:./app.wasm\"\n{keys}\n")
}

/// A realm with `program` as a component that no route names, applied.
fn program(keys: &str) -> (Realm, Agent) {
    let realm = Realm::new();
    realm.guest(PROGRAM, "app.wasm");
    realm.write("realm.toml", &alone(keys));
    let agent = realm.agent();
    realm.run(&["apply", "--yes", "--no-wait"]).ok();
    (realm, agent)
}

/// Waits until `app` is in a state, for a reason.
async fn stands(realm: &Realm, state: ComponentState, why: &str) -> ComponentView {
    eventually(&format!("`app` is {state:?} with `{why}`"), async || {
        let app = realm.component("app").await;
        let told = app.waiting_on.iter().any(|w| w.message.contains(why));
        (app.state == state && (why.is_empty() || told)).then_some(app)
    })
    .await
}

/// Runs that ended with an outcome since the agent started.
async fn runs(agent: &Agent, outcome: &str) -> f64 {
    let page = get(&agent.metrics_url).await.1;
    let series = format!("wasm_invocations_total{{component=\"app\",outcome=\"{outcome}\"}}");
    figure(&page, &series)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_replaced_under_load_without_a_failed_request() {
    let keys = |version: u32| format!("serve = \"socket\"\nenv = {{ VERSION = \"{version}\" }}");
    let (realm, agent) = routed(LISTEN, &keys(1));
    assert_eq!(get(&agent.url("/")).await, (200, "version 1\n".to_owned()));
    let load = Load::start(agent.url("/"), 4, |status, body| {
        status == 200 && body.starts_with("version ")
    });
    load.more(50).await;
    for version in 2..5 {
        realm.app(LISTEN, &keys(version));
        tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
        assert_eq!(get(&agent.url("/")).await.1, format!("version {version}\n"));
        load.more(50).await;
    }
    let (good, bad, first) = load.stop().await;
    assert_eq!(bad, 0, "{good} were good; {first:?}");
    // What was replaced is gone: each has one instance, and a port.
    eventually("one program runs", async || {
        let page = get(&agent.metrics_url).await.1;
        (figure(&page, "realm_programs_running{component=\"app\"}") == 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_has_a_port_of_its_own() {
    let realm = Realm::new();
    realm.app(LISTEN, "serve = \"socket\"");
    let routes = realm.read("realm.toml");
    realm.write(
        "realm.toml",
        &routes.replace("component = \"app\"", "component = \"app\", replicas = 3"),
    );
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let mut logs = realm.run(&["logs", "app"]).ok().stdout;
    let listening = |logs: &str| {
        let ports = logs
            .lines()
            .filter_map(|line| line.split("listening on ").nth(1));
        ports
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(listening(&logs).len(), 3, "{logs}");
    // One of them ends: the others answer, and it comes back elsewhere.
    assert_eq!(get(&agent.url("/crash")).await.0, 502);
    for _ in 0..20 {
        assert_eq!(get(&agent.url("/")).await.0, 200);
    }
    eventually("it is back", async || {
        let app = realm.component("app").await;
        (app.healthy == 3 && app.restarts == 1).then_some(())
    })
    .await;
    logs = realm.run(&["logs", "app"]).ok().stdout;
    assert_eq!(logs.matches("listening on ").count(), 4, "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_0_3_answers_many_at_once() {
    let (_realm, agent) = routed(
        P3_LISTEN,
        "serve = \"socket\"\nfuel_per_sec = 1_000_000_000",
    );
    let load = Load::start(agent.url("/"), 16, |status, body| {
        status == 200 && body.starts_with("hello ")
    });
    load.more(500).await;
    let (_, bad, first) = load.stop().await;
    assert_eq!(bad, 0, "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_gets_and_gives_is_whole() {
    let (_realm, agent) = routed(
        LISTEN,
        "serve = \"socket\"\nmax_request_bytes = 1_000_000\nwall_timeout_ms = 1_000",
    );
    let client = reqwest::Client::new();
    let sent: Vec<u8> = (0..1_000_000u32).map(|byte| (byte % 251) as u8).collect();
    let answer = client
        .post(agent.url("/echo"))
        .body(sent.clone())
        .send()
        .await;
    assert!(answer.unwrap().bytes().await.unwrap() == sent);
    let head = client
        .get(agent.url("/head?x=1"))
        .header("host", "shop.example.com")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .send()
        .await
        .unwrap();
    let head = head.text().await.unwrap().to_ascii_lowercase();
    for line in [
        "get /head?x=1 http/1.1",
        "host: shop.example.com",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(!head.contains("upgrade"), "{head}");
    let large = client
        .post(agent.url("/echo"))
        .body(vec![0; 1_000_001])
        .send()
        .await;
    let large = large.unwrap();
    assert_eq!(large.status(), 413);
    assert_eq!(large.headers()["realm-error"], "request-too-large");
    // The head may be on its way already or not: in no case is there a whole answer.
    for path in ["/half", "/stream"] {
        let whole = async { client.get(agent.url(path)).send().await?.bytes().await };
        assert!(whole.await.is_err(), "{path}");
    }
    let silent = client.get(agent.url("/silent")).send().await.unwrap();
    assert_eq!(silent.status(), 504);
    assert_eq!(silent.headers()["realm-error"], "wall-timeout");
    // None of them has cost the server its life.
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_with_so_many_bytes() {
    let (_realm, agent) = routed(LISTEN, "serve = \"socket\"\nmax_response_bytes = 1_000");
    let client = reqwest::Client::new();
    let echo = async |bytes| {
        let sent = client.post(agent.url("/echo")).body(vec![b'x'; bytes]);
        sent.send().await.unwrap()
    };
    assert_eq!(echo(1_000).await.bytes().await.unwrap().len(), 1_000);
    let large = echo(1_001).await;
    assert_eq!(large.status(), 502);
    assert_eq!(large.headers()["realm-error"], "response-too-large");
    let whole = async { reqwest::get(agent.url("/stream")).await?.bytes().await };
    assert!(whole.await.is_err());
    assert_eq!(get(&agent.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_comes_back() {
    let (realm, agent) = routed(LISTEN, "serve = \"socket\"");
    let crash = reqwest::get(agent.url("/crash")).await.unwrap();
    assert_eq!(crash.status(), 502);
    assert_eq!(crash.headers()["realm-error"], "no-response");
    stands(&realm, ComponentState::Backoff, "exit code 4").await;
    let away = reqwest::get(agent.url("/")).await.unwrap();
    assert_eq!(away.status(), 503);
    eventually("it serves again", async || {
        (get(&agent.url("/")).await.0 == 200).then_some(())
    })
    .await;
    let app = realm.component("app").await;
    assert_eq!((app.state, app.restarts), (ComponentState::Healthy, 1));
    let logs = realm.run(&["logs", "app"]).ok().stdout;
    assert!(logs.contains("exited: exit code 4"), "{logs}");
    assert_eq!(runs(&agent, "exit").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_port_of_its_own_is_replaced() {
    let port = lasting_port();
    // It does not ask for `PORT`.
    let keys = |version: u32| {
        let env = format!("ADDRESS = \"127.0.0.1:{port}\", VERSION = \"{version}\"");
        format!("listen = {port}\nenv = {{ {env} }}\nhealth = \"/\"")
    };
    let (realm, agent) = routed(LISTEN, &keys(1));
    for version in 2..4 {
        realm.app(LISTEN, &keys(version));
        tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
        let expected = (200, format!("version {version}\n"));
        assert_eq!(get(&agent.url("/")).await, expected);
    }
    assert_eq!(realm.component("app").await.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_get_its_port_leaves_the_old_version() {
    let (realm, agent) = routed(LISTEN, "serve = \"socket\"\nenv = { VERSION = \"1\" }");
    realm.app(
        LISTEN,
        "serve = \"socket\"\nenv = { ADDRESS = \"0.0.0.0:80\" }",
    );
    realm
        .run(&["apply", "--yes", "--timeout", "2s"])
        .fails(1, "not-running");
    assert_eq!(get(&agent.url("/")).await.1, "version 1\n");
    let app = realm.component("app").await;
    let why = &app.waiting_on[0].message;
    assert!(
        why.contains("exit code 2") && why.contains("keeps serving"),
        "{why}"
    );
    let logs = realm.run(&["logs", "app"]).ok().stdout;
    assert!(
        logs.contains("bind-denied: binding to 0.0.0.0:80"),
        "{logs}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_runs_on_and_spins_without_harm() {
    let (realm, agent) = program("serve = \"service\"\nargs = [\"spin\"]\nepoch_timeout_ms = 1");
    stands(&realm, ComponentState::Healthy, "").await;
    let page = get(&agent.metrics_url).await.1;
    assert_eq!(
        figure(&page, "realm_programs_running{component=\"app\"}"),
        1.0
    );
    // Others are served beside it, on the same two cores.
    realm.guest(HELLO, "hello.wasm");
    let hello = "[components.hello]\nsource = \"file:./hello.wasm\"\n[routing]\n\"*\" = [{ path = \"/...\", component = \"hello\" }]\n";
    let both = alone("serve = \"service\"\nargs = [\"spin\"]\nepoch_timeout_ms = 1") + hello;
    realm.write("realm.toml", &both);
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    let load = Load::start(agent.url("/"), 4, |status, _| status == 200);
    load.more(1_000).await;
    assert_eq!(load.stop().await.1, 0);
    // The first one still spins: nothing of it changed.
    assert_eq!(runs(&agent, "cancelled").await, 0.0);
    realm.write("realm.toml", hello);
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    eventually("it is gone", async || {
        let status = realm.status().await;
        (status.components.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_is_started_again_or_not_as_it_says() {
    let (realm, agent) = program("serve = \"service\"\nargs = [\"exit\", \"3\"]");
    stands(
        &realm,
        ComponentState::Backoff,
        "(exited): exit code 3; next try",
    )
    .await;
    eventually("it is started again", async || {
        (runs(&agent, "exit").await >= 3.0).then_some(())
    })
    .await;
    assert!(realm.component("app").await.restarts >= 2);

    let keys = "world = \"wasi:cli/command\"\nargs = [\"exit\", \"0\"]\nrestart = \"on-failure\"";
    let (realm, agent) = program(keys);
    stands(&realm, ComponentState::Done, "exit code 0").await;
    assert_eq!(runs(&agent, "ok").await, 1.0);
    let status = realm.run(&["status"]).ok().stdout;
    assert!(status.contains("done: exit code 0"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_done_is_not_run_again_after_kill_9() {
    let (realm, agent) = program("serve = \"job\"\nargs = [\"out\", \"1\"]");
    stands(&realm, ComponentState::Done, "exit code 0").await;
    let logs = realm.run(&["logs", "app"]).ok().stdout;
    assert_eq!(logs.matches("line 0").count(), 1, "{logs}");
    agent.kill_9();
    let agent = realm.agent();
    stands(&realm, ComponentState::Done, "exit code 0").await;
    let ended = ["ok", "exit", "cancelled"];
    for outcome in ended {
        assert_eq!(runs(&agent, outcome).await, 0.0, "{outcome}");
    }
    // Its owner wants it once more.
    realm.run(&["restart", "app"]).ok();
    eventually("it ran again", async || {
        (runs(&agent, "ok").await == 1.0).then_some(())
    })
    .await;
    stands(&realm, ComponentState::Done, "exit code 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_killed_with_the_agent_runs_again() {
    let (realm, agent) = program("serve = \"job\"\nargs = [\"park\"]");
    stands(&realm, ComponentState::Running, "").await;
    agent.kill_9();
    let _agent = realm.agent();
    stands(&realm, ComponentState::Running, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_at_its_wall_time_and_not_at_its_running_time() {
    let keys = "serve = \"job\"\nrestart = \"never\"\nepoch_timeout_ms = 1\nwall_timeout_ms = 400";
    for what in ["spin", "park"] {
        let (realm, agent) = program(&format!("{keys}\nargs = [\"{what}\"]"));
        stands(&realm, ComponentState::Failed, "wall-timeout").await;
        assert_eq!(runs(&agent, "wall-timeout").await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_a_schedule_runs_each_time() {
    let (realm, agent) = program("schedule = \"* * * * * *\"\nargs = [\"out\", \"1\"]");
    eventually("it ran three times", async || {
        (runs(&agent, "ok").await >= 3.0).then_some(())
    })
    .await;
    let status = eventually("it waits", async || {
        let app = realm.component("app").await;
        (app.state == ComponentState::Scheduled).then_some(app)
    })
    .await;
    let why = &status.waiting_on[0].message;
    assert!(
        why.starts_with("next run 20") && why.contains(" UTC (in "),
        "{why}"
    );
    // A run that takes longer than its interval is not overtaken.
    realm.write(
        "realm.toml",
        &alone("schedule = { cron = \"* * * * * *\", timezone = \"Europe/Berlin\" }\nargs = [\"park\"]\nwall_timeout_ms = 2_500"),
    );
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    eventually("times are skipped", async || {
        let page = get(&agent.metrics_url).await.1;
        let series = "realm_schedule_unrun_total{component=\"app\",reason=\"overlap\"}";
        (figure(&page, series) >= 2.0).then_some(())
    })
    .await;
    eventually("the last one failed", async || {
        let app = realm.component("app").await;
        let told = app.waiting_on.iter().any(|w| w.message.contains("wall"));
        told.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_0_3_answers_a_route_as_cgi() {
    // It copies its standard input to its standard output: the body says the whole answer.
    let (realm, agent) = routed(P3_COMMAND, "");
    let client = reqwest::Client::new();
    let post = async |body: Vec<u8>| {
        let sent = client.post(agent.url("/any/path?a=b")).body(body);
        sent.send().await.unwrap()
    };
    let head = b"Status: 201 Made\r\nContent-Type: a/b\r\nX-Own: yes\r\n\r\n";
    // More than any pipe between it and the client holds.
    let body: Vec<u8> = (0..3_000_000u32).map(|byte| (byte % 251) as u8).collect();
    for _ in 0..2 {
        let answer = post([&head[..], &body].concat()).await;
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.headers()["content-type"], "a/b");
        assert_eq!(answer.headers()["x-own"], "yes");
        assert!(answer.bytes().await.unwrap() == body);
    }
    assert_eq!(runs(&agent, "ok").await, 2.0);
    // What has no head is no answer, and what ends with a code is told by it; the next one is answered.
    let silent = post(b"no head".to_vec()).await;
    assert_eq!(silent.headers()["realm-error"], "no-response");
    realm.app(P3_COMMAND, "args = [\"code\"]");
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    let ended = post(Vec::new()).await;
    assert_eq!(ended.status(), 500);
    assert_eq!(ended.headers()["realm-error"], "exit");
    realm.app(P3_COMMAND, "serve = \"cgi\"\nworld = \"wasi:cli/command\"");
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    let answer = post([&head[..], b"again"].concat()).await;
    assert_eq!(answer.text().await.unwrap(), "again");
    realm.app(P3_COMMAND, "args = [\"env\"]");
    tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
    let told = post(b"and the body".to_vec()).await.text().await.unwrap();
    for line in [
        "GATEWAY_INTERFACE=CGI/1.1",
        "REQUEST_METHOD=POST",
        "PATH_INFO=/any/path",
        "QUERY_STRING=a=b",
        "CONTENT_LENGTH=12",
        "and the body",
    ] {
        assert!(told.lines().any(|one| one == line), "{line}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_0_3_are_jobs_and_services() {
    let realm = Realm::new();
    realm.guest(P3_COMMAND, "app.wasm");
    let agent = realm.agent();
    let apply = |keys: &str| {
        realm.write("realm.toml", &alone(keys));
        tokio::task::block_in_place(|| realm.run(&["apply", "--yes", "--no-wait"]).ok());
    };
    apply("serve = \"job\"");
    stands(&realm, ComponentState::Done, "exit code 0").await;
    assert_eq!(runs(&agent, "ok").await, 1.0);
    apply("serve = \"job\"\nrestart = \"never\"\nargs = [\"fail\"]");
    stands(&realm, ComponentState::Failed, "exit code 1").await;
    apply("serve = \"service\"\nargs = [\"code\"]");
    let why = "(exited): exit code 7; next try";
    stands(&realm, ComponentState::Backoff, why).await;
    eventually("it is started again", async || {
        (runs(&agent, "exit").await >= 3.0).then_some(())
    })
    .await;
}

/// The hour and the next one, where clocks are so many minutes before UTC; none of both has summer time.
fn hours_at(minutes: i64) -> [i64; 2] {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let here = i64::try_from(now.unwrap().as_secs()).unwrap() + minutes * 60;
    let hour = here.rem_euclid(86_400) / 3_600;
    [hour, (hour + 1) % 24]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_of_a_schedule_decides_whether_it_is_time() {
    const KOLKATA: i64 = 5 * 60 + 30;
    const PHOENIX: i64 = -7 * 60;
    let realm = Realm::new();
    realm.guest(PROGRAM, "app.wasm");
    let agent = realm.agent();
    let ran = async |name: &str| {
        let page = get(&agent.metrics_url).await.1;
        let series = format!("wasm_invocations_total{{component=\"{name}\",outcome=\"ok\"}}");
        figure(&page, &series)
    };
    // One and the same form for both: it is the hour in one zone, and twelve hours and a half from it in the
    // other. With the next hour in it no hour that begins meanwhile is in the way.
    for (wanted, minutes, other) in [
        ("Asia/Kolkata", KOLKATA, "America/Phoenix"),
        ("America/Phoenix", PHOENIX, "Asia/Kolkata"),
    ] {
        let [hour, next] = hours_at(minutes);
        let job = |name: &str, zone: &str| {
            format!(
                "[components.{name}]\nsource = \"file:./app.wasm\"\nargs = [\"out\", \"1\"]\nschedule = {{ cron = \"* * {hour},{next} * * *\", timezone = \"{zone}\" }}\n"
            )
        };
        // Other names each time: what ran before is not counted.
        let [due, idle] = ["due", "idle"].map(|name| format!("{name}-{hour}"));
        let manifest = job(&due, wanted) + &job(&idle, other);
        realm.write("realm.toml", &manifest);
        tokio::task::block_in_place(|| realm.run(&["apply", "--yes"]).ok());
        eventually("it runs where it is the hour", async || {
            (ran(&due).await >= 3.0).then_some(())
        })
        .await;
        let waits = eventually("the other one waits", async || {
            let app = realm.component(&idle).await;
            (app.state == ComponentState::Scheduled).then_some(app)
        })
        .await;
        assert_eq!(ran(&idle).await, 0.0, "{waits:?}");
        // For when one of the hours begins there.
        let begins = [hour, next].map(|hour| format!(" {hour:02}:00:00 {other}"));
        let why = &waits.waiting_on[0].message;
        assert!(
            begins.iter().any(|time| why.contains(time)),
            "{why}: {begins:?}"
        );
    }
}
