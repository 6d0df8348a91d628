//! Timers of guests: a message that is to come later comes once, though everybody is killed meanwhile.

use realm_test_guests::{TIMERS, WORKER};

use crate::keyvalue::servers;
use crate::support::{Agent, Realm, eventually, figure, get};

/// `web` sets timers, `worker` writes a file for each that fires.
fn realm(backend: &str) -> Realm {
    let realm = Realm::new();
    realm.guest(TIMERS, "web.wasm");
    realm.guest(WORKER, "worker.wasm");
    let state = realm.path("state");
    std::fs::create_dir(&state).unwrap();
    let state = state.display();
    realm.write(
        "realm.toml",
        &format!(
            "[bindings.orders]\ninterface = \"wasi:messaging\"\nbackend = \"{backend}\"\n\n\
             [components.web]\nsource = \"file:./web.wasm\"\nbind = {{ default = \"orders\" }}\n\n\
             [components.worker]\nsource = \"file:./worker.wasm\"\nbind = {{ default = \"orders\" }}\n\
             dirs = [\"{state}::/state::rw\"]\nsubscribe = {{ work = {{}} }}\n\n\
             [routing]\n\"*\" = [{{ path = \"/...\", component = \"web\" }}]\n"
        ),
    );
    let before = realm.read(".realm/node.toml");
    let allow = match backend {
        "embedded" => String::new(),
        _ => format!("\n[backends]\nallow = [\"{backend}\"]\n"),
    };
    let config = format!("{before}\n[guests]\ndirs = [\"{state}\"]\n{allow}");
    realm.write(".realm/node.toml", &config);
    realm
}

async fn set(agent: &Agent, after_ms: u64, words: &str) {
    let url = agent.url(&format!("/?topic=work&after={after_ms}&data={words}"));
    eventually("the timer is set", async || {
        (get(&url).await == (200, "set\n".to_owned())).then_some(())
    })
    .await;
}

async fn fired(realm: &Realm, words: &str) {
    let file = realm.path("state").join(words);
    eventually("the timer fires", async || file.exists().then_some(())).await;
}

/// Sets a timer, kills the agent before it fires, does what happens to others, and starts the agent again.
async fn fires_once_after_a_kill(backend: &str, mut meanwhile: impl FnMut()) {
    let realm = realm(backend);
    let mut agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    // On a machine with much to do the first may fire before anybody is killed, which shows nothing.
    for after_ms in [3_000, 12_000, 30_000] {
        let words = format!("after{after_ms}");
        set(&agent, after_ms, &words).await;
        agent.kill_9();
        let is_early = realm.path("state").join(&words).exists();
        tokio::task::block_in_place(&mut meanwhile);
        agent = realm.agent();
        fired(&realm, &words).await;
        if is_early {
            continue;
        }
        // What would fire twice has done so before one that was set after it.
        set(&agent, 1_000, "last").await;
        fired(&realm, "last").await;
        let series = "messages_total{component=\"worker\",result=\"done\"}";
        let done = eventually("both are counted", async || {
            let page = get(&agent.metrics_url).await.1;
            let done = page.contains(series).then(|| figure(&page, series))?;
            (done >= 2.0).then_some(done)
        })
        .await;
        assert_eq!(done, 2.0);
        return;
    }
    panic!("each timer fired before the agent was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_outlives_kill_9_of_the_agent_and_fires_once() {
    fires_once_after_a_kill("embedded", || {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_on_nats_outlives_kill_9_of_agent_and_server_and_fires_once() {
    let mut server = servers::nats("", None);
    let backend = format!("nats://127.0.0.1:{}", server.port);
    fires_once_after_a_kill(&backend, || {
        server.kill();
        server.run();
    })
    .await;
}
