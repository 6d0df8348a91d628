//! Workflows, with processes: whoever is killed, each run comes to its end, and what was written down is done
//! once.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use realm_test_guests::WORKFLOWS;

use crate::postgres::{Server, USER};
use crate::realms::Realms;
use crate::support::{Agent, Realm, eventually, figure, get};

/// One component `app` that starts runs, and takes them; what their steps do is seen in `state`.
fn manifest(backend: &str, state: &Path, routing: &str) -> String {
    format!(
        r#"
[bindings.flows]
interface = "realm:cloud/workflows"
backend = "{backend}"

[components.app]
source = "file:app.wasm"
bind = {{ default = "flows" }}
dirs = ["{state}::/state::rw"]
wall_timeout_ms = 60_000

[components.app.workflows.test]
concurrency = 4
lease = "4s"
attempts = 4
backoff = "100ms"

[routing]
{routing}
"#,
        state = state.display()
    )
}

const EVERYWHERE: &str = "\"*\" = [{ path = \"/...\", component = \"app\" }]";

fn backend(server: &Server) -> String {
    let port = server.port;
    format!("postgres://{USER}@127.0.0.1:{port}/postgres?sslmode=disable")
}

fn allow(server: &Server) -> String {
    let port = server.port;
    format!("[backends]\nallow = [\"postgres://127.0.0.1:{port}\"]\n")
}

fn realm(backend: &str, more: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(WORKFLOWS, "app.wasm");
    let state = realm.path("state");
    std::fs::create_dir(&state).unwrap();
    realm.write("realm.toml", &manifest(backend, &state, EVERYWHERE));
    let config = realm.read(".realm/node.toml");
    let dirs = format!("[guests]\ndirs = [\"{}\"]\n", state.display());
    realm.write(".realm/node.toml", &format!("{config}\n{dirs}{more}"));
    realm
}

/// How often each step of a run was done out there.
fn effects(state: &Path, id: &str) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    let text = std::fs::read_to_string(state.join(id)).unwrap_or_default();
    for line in text.lines() {
        *times.entry(line.to_owned()).or_default() += 1;
    }
    times
}

async fn starts(agent: &Agent, id: &str, input: &str) {
    let url = agent.url(&format!("/start?id={id}&input={input}"));
    eventually("a run is started", async || {
        let (status, said) = get(&url).await;
        (status == 200 && ["true", "false"].contains(&&*said)).then_some(())
    })
    .await;
}

const WHOLE: &str = "done 0,1,2,3,4,5,6,7,8,9,by ship";

#[tokio::test(flavor = "multi_thread")]
async fn an_order_survives_kill_9_of_the_agent_and_does_what_it_wrote_down_once() {
    let realm = realm("embedded", "");
    let state = realm.path("state");
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    starts(&agent, "o-1", "order").await;
    let mut n_kills = 0;
    // Before it sleeps, while it does or after it, and while it waits.
    for n_steps in [2, 4, 7] {
        eventually("steps are done", async || {
            (effects(&state, "o-1").len() >= n_steps).then_some(())
        })
        .await;
        agent.kill_9();
        n_kills += 1;
        agent = realm.agent();
    }
    eventually("it is signalled", async || {
        let (_, said) = get(&agent.url("/signal?id=o-1&name=shipped&data=by%20ship")).await;
        (said == "true").then_some(())
    })
    .await;
    // A signal that was answered is not lost either.
    agent.kill_9();
    n_kills += 1;
    agent = realm.agent();
    eventually("it comes to its end", async || {
        (get(&agent.url("/get?id=o-1")).await.1 == WHOLE).then_some(())
    })
    .await;
    let effects = effects(&state, "o-1");
    assert_eq!(effects.len(), 10, "{effects:?}");
    let n_again = effects.values().map(|times| times - 1).sum::<usize>();
    assert!(n_again <= n_kills, "{effects:?}");
    // It is over for good.
    let (_, again) = get(&agent.url("/start?id=o-1&input=order")).await;
    assert_eq!(again, "false");
    let (_, late) = get(&agent.url("/signal?id=o-1&name=shipped")).await;
    assert_eq!(late, "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_workflows_run_in_a_file_of_the_node_and_on_postgresql() {
    let server = Server::start(None, "trust");
    for backend in ["embedded".to_owned(), backend(&server)] {
        let realm = realm(&backend, &allow(&server));
        let agent = realm.agent();
        realm.run(&["apply", "--yes"]).ok();
        let lines = eventually("checks are made", async || {
            let (status, lines) = get(&agent.url("/checks?tag=a")).await;
            (status == 200).then_some(lines)
        })
        .await;
        assert!(
            lines.lines().all(|line| line.starts_with("ok ")) && lines.lines().count() >= 25,
            "{backend}: {lines}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_always_traps_has_failed_after_its_attempts_and_is_told() {
    let realm = realm("embedded", "");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    starts(&agent, "p-1", "trap").await;
    let url = agent.url("/get?id=p-1");
    let said = eventually("it has failed", async || {
        let (_, said) = get(&url).await;
        said.starts_with("failed").then_some(said)
    })
    .await;
    assert!(
        said.starts_with("failed trap: the component failed"),
        "{said}"
    );
    let page = get(&agent.metrics_url).await.1;
    let count = |outcome: &str| {
        let series = format!("workflows_total{{component=\"app\",outcome=\"{outcome}\"}}");
        figure(&page, &series)
    };
    let counts = ["done", "suspended", "retried", "failed"].map(count);
    assert_eq!(counts, [0.0, 0.0, 3.0, 1.0]);
    let logs = realm.run(&["logs", "app"]).ok().stdout;
    for line in [
        "workflow-retried: the run `p-1` of `test`, failure 1 of 4, again in 100 ms: trap: ",
        "workflow-failed: the run `p-1` of `test`: trap: ",
    ] {
        assert!(logs.contains(line), "{line}: {logs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_with_the_orders_of_one_that_was_killed() {
    let server = Server::start(None, "trust");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let dirs = format!("[guests]\ndirs = [\"{}\"]\n", state.display());
    let more = format!("{dirs}{}", allow(&server));
    let mut realms = Realms::in_lab(None, &["alpha", "beta"], &more).await;
    realms.first().realm.guest(WORKFLOWS, "app.wasm");
    let routing = "alpha = [{ path = \"/...\", component = \"app\" }]\n\
        beta = [{ path = \"/...\", component = \"app\" }]";
    realms.apply(&manifest(&backend(&server), state, routing));
    let ids: Vec<String> = (0..8).map(|nth| format!("o-{nth}")).collect();
    for (nth, id) in ids.iter().enumerate() {
        let agent = realms.nodes[nth % 2].agent();
        starts(agent, id, "order").await;
    }
    eventually("steps are done", async || {
        let n: usize = ids.iter().map(|id| effects(state, id).len()).sum();
        (n >= 12).then_some(())
    })
    .await;
    realms.nodes[0].kill_9();
    for id in &ids {
        let signal = format!("/signal?id={id}&name=shipped&data=by%20ship");
        eventually("it is signalled", async || {
            (realms.nodes[1].get(&signal).await.1 == "true").then_some(())
        })
        .await;
    }
    for id in &ids {
        let asked = format!("/get?id={id}");
        eventually("it comes to its end", async || {
            (realms.nodes[1].get(&asked).await.1 == WHOLE).then_some(())
        })
        .await;
        let effects = effects(state, id);
        assert_eq!(effects.len(), 10, "{effects:?}");
        // What the killed node was at, once more at most.
        let n_again = effects.values().map(|times| times - 1).sum::<usize>();
        assert!(n_again <= 1, "{effects:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_ships_an_order_and_refuses_another() {
    let realm = Realm::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let manifest = std::fs::read_to_string(root.join("checkout/realm.toml")).unwrap();
    let built = root.join("target/wasm32-wasip2/release");
    if !built.join("checkout.wasm").exists() {
        let script = root.join("../scripts/examples.sh");
        assert!(Command::new(script).status().unwrap().success());
    }
    let guest = built.join("checkout.wasm");
    realm.guest(guest.to_str().unwrap(), "checkout.wasm");
    let here = manifest.replace("../target/wasm32-wasip2/release", ".");
    realm.write("realm.toml", &here);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let client = reqwest::Client::new();
    let post = async |path: &str, body: &'static str| {
        let sent = client.post(agent.url(path)).body(body).send().await;
        sent.unwrap().status().as_u16()
    };
    assert_eq!(post("/checkout/7", "3 bicycles").await, 202);
    assert_eq!(post("/checkout/7", "3 bicycles").await, 200);
    assert_eq!(post("/checkout/8", "1 unicorn").await, 202);
    assert_eq!(post("/checkout/7/shipped", "").await, 202);
    for (path, wanted) in [
        (
            "/checkout/7",
            "3 bicycles put aside, paid under 7/pay, shipped\n",
        ),
        (
            "/checkout/8",
            "it cannot be done: the guest says: out of unicorns\n",
        ),
    ] {
        eventually("it comes to its end", async || {
            (get(&agent.url(path)).await.1 == wanted).then_some(())
        })
        .await;
    }
    assert_eq!(post("/checkout/7/shipped", "").await, 404);
}
