//! Versions of one app side by side: requests move from one to the other under load, and none is lost. A
//! version goes only once another one answers. What was before can be had again.

use realm_model::name::ComponentName;
use realm_model::view::ReachState;
use realm_test_guests as guests;

use crate::realms::Realms;
use crate::support::{Load, Realm, eventually};

/// A manifest in which requests are divided so, with these keys on the versions.
fn manifest(versions: &[(&str, &str)], weights: &str) -> String {
    let mut text = String::new();
    for (label, keys) in versions {
        text.push_str(&format!(
            "[components.\"app@{label}\"]\nsource = \"file:{label}.wasm\"\n{keys}\n"
        ));
    }
    format!(
        "{text}[routing]\n\"*\" = [{{ path = \"/app/...\", component = \"app\", weights = {{ {weights} }}, replicas = 2, min_ready = \"1s\" }}]\n"
    )
}

const BOTH: [(&str, &str); 2] = [("blue", ""), ("green", "")];

/// Three nodes with both versions; blue answers `version a`, green `version b`.
async fn three_nodes() -> Realms {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.first().realm.guest(guests::VERSION_A, "blue.wasm");
    realms.first().realm.guest(guests::VERSION_B, "green.wasm");
    realms
}

/// Both versions answer 200 with their name.
fn a_or_b(status: u16, body: &str) -> bool {
    status == 200 && (body == "version a\n" || body == "version b\n")
}

/// Waits until every node has heard of who answers.
async fn all_answer(realms: &Realms) {
    for node in realms.running() {
        eventually("the node answers", async || {
            (node.get("/app/").await.0 == 200).then_some(())
        })
        .await;
    }
}

/// Clients that ask each node all the time.
async fn loads(realms: &Realms) -> Vec<Load> {
    all_answer(realms).await;
    let mut loads = Vec::new();
    for node in realms.running() {
        let load = Load::start(node.agent().url("/app/"), 4, a_or_b);
        load.more(100).await;
        loads.push(load);
    }
    loads
}

async fn lost_none(loads: Vec<Load>) {
    for load in loads {
        load.more(100).await;
        let (good, bad, first_bad) = load.stop().await;
        assert_eq!(bad, 0, "of {good}: {first_bad:?}");
    }
}

/// How many of so many answers of each node are those of the version `b`.
async fn of_b(realms: &Realms, of_each: usize) -> usize {
    let mut seen = 0;
    for node in realms.running() {
        for _ in 0..of_each {
            let (status, body) = node.get("/app/").await;
            assert!(a_or_b(status, &body), "{status} {body}");
            seen += usize::from(body == "version b\n");
        }
    }
    seen
}

/// Waits until every node answers with one version alone.
async fn answers(realms: &Realms, version: &str) {
    all_answer(realms).await;
    let of_each = if version == "b" { 20 } else { 0 };
    let expected = of_each * realms.running().count();
    eventually("one version answers everywhere", async || {
        (of_b(realms, 20).await == expected).then_some(())
    })
    .await;
}

/// Waits until a node says that blue goes on until green answers.
async fn blue_waits(realms: &Realms) {
    // Each node says this of its own replicas, and two of the three have some of blue.
    eventually("blue waits for green", async || {
        for node in realms.running() {
            let status = node.status().await;
            let mut waits = status.components.iter().flat_map(|one| &one.waiting_on);
            if waits.any(|one| one.code == "handing-over") {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// Replicas of a version that take requests, on all nodes.
async fn running(realms: &Realms, version: &str) -> u32 {
    let mut running = 0;
    for node in realms.running() {
        let status = node.status().await;
        let mut views = status.components.iter();
        let view = views.find(|one| one.name.as_str() == version);
        running += view.map_or(0, |view| view.healthy + view.old);
    }
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn blue_and_green_change_places_under_load() {
    let realms = three_nodes().await;
    realms.apply(&manifest(&BOTH, "blue = 100, green = 0"));
    let loads = loads(&realms).await;
    answers(&realms, "a").await;
    eventually("both wait", async || {
        let both = (
            running(&realms, "app@blue").await,
            running(&realms, "app@green").await,
        );
        (both == (2, 2)).then_some(())
    })
    .await;
    let told = realms
        .as_owner(0, &["promote", "app@green", "--percent", "25"])
        .ok();
    assert!(
        told.stderr.contains("blue 75 %, green 25 %"),
        "{}",
        told.stderr
    );
    eventually("a quarter on every node", async || {
        let share = of_b(&realms, 100).await;
        (40..=110).contains(&share).then_some(())
    })
    .await;
    realms.as_owner(0, &["promote", "app@green"]).ok();
    answers(&realms, "b").await;
    // Nothing is in the middle any longer; what was before comes back at once.
    realms
        .as_owner(0, &["abort", "app"])
        .fails(1, "nothing-underway");
    realms.as_owner(0, &["rollback", "app"]).ok();
    let told = realms.as_owner(0, &["abort", "app"]).ok();
    assert!(told.stderr.contains("green 100 %"), "{}", told.stderr);
    answers(&realms, "b").await;
    // The manifest of another change leaves it so; without blue, blue goes.
    realms.apply(&manifest(&BOTH, "blue = 100, green = 0").replace("1s", "2s"));
    answers(&realms, "b").await;
    realms.apply(&manifest(&BOTH[1..], "green = 100"));
    eventually("blue is gone", async || {
        (running(&realms, "app@blue").await == 0).then_some(())
    })
    .await;
    answers(&realms, "b").await;
    lost_none(loads).await;
}

/// The issue's own words: both colours are never gone at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_goes_on_while_the_one_after_it_does_not_start() {
    let realms = three_nodes().await;
    realms.apply(&manifest(&BOTH[..1], "blue = 100"));
    let loads = loads(&realms).await;
    answers(&realms, "a").await;
    realms.first().realm.guest(guests::TRAP_START, "green.wasm");
    let broken = manifest(&[("green", "health = \"/\"")], "green = 100");
    realms.first().realm.write("realm.toml", &broken);
    realms.as_owner(0, &["apply", "--yes", "--no-wait"]).ok();
    blue_waits(&realms).await;
    for load in &loads {
        load.more(500).await;
    }
    assert_eq!(of_b(&realms, 20).await, 0);
    assert_eq!(running(&realms, "app@blue").await, 2);
    realms.first().realm.guest(guests::VERSION_B, "good.wasm");
    realms.as_owner(0, &["push", "app@green", "good.wasm"]).ok();
    answers(&realms, "b").await;
    eventually("blue is gone", async || {
        (running(&realms, "app@blue").await == 0).then_some(())
    })
    .await;
    lost_none(loads).await;
}

/// What a dead node had of a version that left the manifest is begun nowhere else; what is left of it answers
/// for all, until its successor does.
#[tokio::test(flavor = "multi_thread")]
async fn case_31_what_is_left_of_a_version_answers_when_a_node_dies_before_its_successor_serves() {
    let mut realms = three_nodes().await;
    let quick = |text: String| text.replace("min_ready", "lost_after = \"2s\", min_ready");
    realms.apply(&quick(manifest(&BOTH[..1], "blue = 100")));
    answers(&realms, "a").await;
    realms.first().realm.guest(guests::TRAP_START, "green.wasm");
    let broken = manifest(&[("green", "health = \"/\"")], "green = 100");
    realms.first().realm.write("realm.toml", &quick(broken));
    realms.as_owner(0, &["apply", "--yes", "--no-wait"]).ok();
    blue_waits(&realms).await;
    assert_eq!(running(&realms, "app@blue").await, 2);
    // The first node has the owner's key.
    let mut dies = 0;
    for at in 1..3 {
        let status = realms.nodes[at].status().await;
        let mut here = status.components.iter();
        if here.any(|one| one.name.as_str() == "app@blue" && one.healthy + one.old > 0) {
            dies = at;
        }
    }
    let dead = realms.nodes[dies].name;
    realms.nodes[dies].kill_9();
    let load = Load::start(realms.first().agent().url("/app/"), 2, a_or_b);
    realms.first().until_sees(dead, ReachState::Lost).await;
    let app: ComponentName = "app@green".parse().unwrap();
    let client = realms.first().realm.client();
    eventually("nobody waits for the dead node any more", async || {
        let view = client.explain(&app).await.unwrap();
        let node = view.nodes.iter().find(|one| one.node.as_str() == dead)?;
        (node.replicas == 0).then_some(())
    })
    .await;
    load.more(500).await;
    assert_eq!(of_b(&realms, 20).await, 0);
    assert_eq!(running(&realms, "app@blue").await, 1);

    realms.first().realm.guest(guests::VERSION_B, "good.wasm");
    realms.as_owner(0, &["push", "app@green", "good.wasm"]).ok();
    answers(&realms, "b").await;
    // Who is back begins what it had, for a moment.
    realms.nodes[dies].start();
    eventually("blue is gone everywhere", async || {
        (running(&realms, "app@blue").await == 0).then_some(())
    })
    .await;
    answers(&realms, "b").await;
    lost_none(vec![load]).await;
}

/// What is in no manifest any more comes back all the same, from what the log remembers of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_comes_back_with_its_agent_while_the_one_after_it_does_not_start() {
    let realm = Realm::new();
    realm.guest(guests::VERSION_A, "blue.wasm");
    realm.guest(guests::TRAP_START, "green.wasm");
    let agent = realm.agent();
    realm.write("realm.toml", &manifest(&BOTH[..1], "blue = 100"));
    realm.run(&["apply", "--yes"]).ok();
    let broken = manifest(&[("green", "health = \"/\"")], "green = 100");
    realm.write("realm.toml", &broken);
    realm.run(&["apply", "--yes", "--no-wait"]).ok();
    let of_blue =
        async |agent: &str| crate::support::get(agent).await == (200, "version a\n".into());
    assert!(of_blue(&agent.url("/app/")).await);
    agent.kill_9();
    let agent = realm.agent();
    eventually("blue answers", async || {
        of_blue(&agent.url("/app/")).await.then_some(())
    })
    .await;
    realm.guest(guests::VERSION_B, "good.wasm");
    realm.run(&["push", "app@green", "good.wasm"]).ok();
    let is_gone = async || {
        let status = realm.status().await;
        let names = status.components.iter().map(|one| one.name.as_str());
        names.eq(["app@green"]).then_some(())
    };
    eventually("blue is gone", &is_gone).await;
    // Killed in the moment in which blue went it may come for a moment, and goes.
    agent.kill_9();
    let agent = realm.agent();
    eventually("blue is gone for good", &is_gone).await;
    let (status, body) = crate::support::get(&agent.url("/app/")).await;
    assert_eq!((status, body.as_str()), (200, "version b\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_is_not_promoted() {
    let realm = Realm::new();
    realm.guest(guests::VERSION_A, "blue.wasm");
    realm.guest(guests::TRAP_START, "green.wasm");
    let agent = realm.agent();
    let versions = [("blue", ""), ("green", "health = \"/\"")];
    realm.write("realm.toml", &manifest(&versions, "blue = 100, green = 0"));
    realm.run(&["apply", "--yes", "--no-wait"]).ok();
    eventually("blue answers", async || {
        let (status, body) = crate::support::get(&agent.url("/app/")).await;
        (status == 200 && body == "version a\n").then_some(())
    })
    .await;
    realm.run(&["promote", "app@green"]).fails(1, "not-running");
    realm.run(&["promote", "app@red"]).fails(1, "unknown-name");
    realm.run(&["promote", "app"]).fails(64, "usage");
    realm
        .run(&["promote", "app@green", "--force", "--no-wait"])
        .ok();
    // It has every request and cannot answer: blue answers in its stead.
    for _ in 0..50 {
        let (status, body) = crate::support::get(&agent.url("/app/")).await;
        assert_eq!((status, body.as_str()), (200, "version a\n"));
    }
    realm.run(&["rollback", "app"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_goes_back_to_what_it_ran_with() {
    let realm = Realm::new();
    realm.app(guests::VERSION_A, "env = { A = \"1\" }");
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    realm.run(&["rollback", "app"]).fails(1, "nothing-before");
    realm.run(&["abort", "app"]).fails(1, "nothing-underway");
    realm.guest(guests::VERSION_B, "b.wasm");
    realm.run(&["push", "app", "b.wasm"]).ok();
    let body = async || crate::support::get(&agent.url("/app/")).await.1;
    assert_eq!(body().await, "version b\n");
    realm.run(&["rollback", "app"]).ok();
    assert_eq!(body().await, "version a\n");
    realm.run(&["rollback", "app", "--to", "2"]).ok();
    assert_eq!(body().await, "version b\n");
    realm
        .run(&["rollback", "app", "--to", "9"])
        .fails(1, "nothing-before");
    let listed = realm.run(&["rollback", "app", "--list"]).ok().stdout;
    assert_eq!(listed.lines().count(), 4, "{listed}");
    // A build that does not get healthy is taken back.
    realm.guest(guests::TRAP_START, "broken.wasm");
    realm.run(&["push", "app", "broken.wasm", "--no-wait"]).ok();
    realm.run(&["abort", "app"]).ok();
    assert_eq!(body().await, "version b\n");
    realm.run(&["abort", "app"]).fails(1, "nothing-underway");
}

/// The one that was there before there were versions is on another node than the version after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_gets_versions_and_loses_them_again_across_nodes() {
    let realms = three_nodes().await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    let plain = "[components.app]\nsource = \"file:app.wasm\"\n[routing]\n\"*\" = [{ path = \"/app/...\", component = \"app\" }]\n";
    realms.apply(plain);
    let loads = loads(&realms).await;
    let alone = async |version: &str| {
        eventually("one version runs alone", async || {
            let mut there = Vec::new();
            for name in ["app", "app@blue", "app@green"] {
                there.extend((running(&realms, name).await > 0).then_some(name));
            }
            (there == [version]).then_some(())
        })
        .await;
    };
    for label in ["green", "blue"] {
        let versions = [(label, "")];
        let divided = manifest(&versions, &format!("{label} = 1"));
        realms.apply(&divided.replace("replicas = 2", "replicas = 1"));
        alone(&format!("app@{label}")).await;
    }
    realms.apply(plain);
    alone("app").await;
    lost_none(loads).await;
}
