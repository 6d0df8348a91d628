//! Replicas that the realm places: they move when their node dies or is drained, come back with it, and are
//! replaced one after the other. Real processes, killed with -9, under a load whose answers are checked.

use realm_model::view::ReachState;
use realm_test_guests as guests;

use crate::lab::Lab;
use crate::realms::Realms;
use crate::support::{Load, eventually};

/// Three nodes and a component that answers its version, with these keys on its route.
async fn three_nodes(keys: &str) -> Realms {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    realms.apply(&manifest(keys));
    realms
}

fn manifest(keys: &str) -> String {
    format!(
        "[components.app]\nsource = \"file:app.wasm\"\n\n[routing]\n\
         \"*\" = [{{ path = \"/app/...\", component = \"app\", {keys} }}]\n"
    )
}

/// Which nodes have a healthy replica, by their own word.
async fn holders(realms: &Realms) -> Vec<usize> {
    let mut holders = Vec::new();
    for (index, node) in realms.nodes.iter().enumerate() {
        if node.is_running() && node.healthy().await.contains(&"app".to_owned()) {
            holders.push(index);
        }
    }
    holders
}

/// Waits until so many nodes have a replica.
async fn held_by(realms: &Realms, number: usize) -> Vec<usize> {
    eventually("as many nodes as shall have a replica", async || {
        let holders = holders(realms).await;
        (holders.len() == number).then_some(holders)
    })
    .await
}

/// Both versions answer 200 with their name.
fn a_or_b(status: u16, body: &str) -> bool {
    status == 200 && (body == "version a\n" || body == "version b\n")
}

/// Clients that ask one node all the time.
async fn load(realms: &Realms, at: usize) -> Load {
    eventually("the node answers", async || {
        (realms.nodes[at].get("/app/").await.0 == 200).then_some(())
    })
    .await;
    let load = Load::start(realms.nodes[at].agent().url("/app/"), 8, a_or_b);
    load.more(200).await;
    load
}

async fn lost_none(load: Load) {
    load.more(300).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
}

/// Cases 18 and 33: a node with a replica dies; another one stands in; it comes back, and so does the
/// replica.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_killed_node_move_and_come_back_with_it() {
    let mut realms = three_nodes("replicas = 2, lost_after = \"2s\"").await;
    let before = held_by(&realms, 2).await;
    let spare = (0..3).find(|index| !before.contains(index)).unwrap();
    let load = load(&realms, spare).await;
    let dies = before[0];
    realms.nodes[dies].kill_9();
    let mut instead = vec![before[1], spare];
    instead.sort_unstable();
    assert_eq!(held_by(&realms, 2).await, instead);
    realms.nodes[dies].start();
    eventually("everything is where it was", async || {
        (holders(&realms).await == before).then_some(())
    })
    .await;
    lost_none(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_replica_goes_on_until_another_node_answers_when_its_node_is_drained() {
    let realms = three_nodes("replicas = 1").await;
    let before = held_by(&realms, 1).await[0];
    let load = load(&realms, (before + 1) % 3).await;
    let name = realms.nodes[before].name;
    realms.as_owner(0, &["nodes", "drain", name]).ok();
    eventually("another node has it alone", async || {
        let holders = holders(&realms).await;
        (holders.len() == 1 && holders[0] != before).then_some(())
    })
    .await;
    load.more(300).await;
    realms.as_owner(0, &["nodes", "uncordon", name]).ok();
    eventually("it is back where it was", async || {
        (holders(&realms).await == [before]).then_some(())
    })
    .await;
    lost_none(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_goes_from_node_to_node_within_its_budget() {
    let realms = three_nodes("replicas = 3, max_surge = 1, min_ready = \"1s\"").await;
    held_by(&realms, 3).await;
    let load = load(&realms, 0).await;
    push(&realms, guests::VERSION_B);
    let mut mixed = 0;
    eventually("every node has the new version", async || {
        let mut renewed = 0;
        for node in &realms.nodes {
            let status = node.status().await;
            let app = status
                .components
                .iter()
                .find(|one| one.name.as_str() == "app");
            let app = app.unwrap();
            assert!(app.healthy + app.old >= 1, "{} has none", node.name);
            renewed += u32::from(app.healthy == 1 && app.old == 0 && app.digest.is_some());
            mixed += app.old;
        }
        let (_, body) = realms.nodes[2].get("/app/").await;
        (renewed == 3 && body == "version b\n").then_some(())
    })
    .await;
    assert!(mixed > 0, "old and new ones were there together");
    lost_none(load).await;
}

/// Pushes another build to the realm's only component, and does not wait.
fn push(realms: &Realms, guest: &str) {
    realms.first().realm.guest(guest, "new.wasm");
    let args = ["push", "app", "new.wasm", "--no-wait"];
    realms.as_owner(0, &args).ok();
}

/// Waits until every running node answers with the new version, and runs nothing else.
async fn all_new(realms: &Realms) {
    eventually("the new version alone", async || {
        for node in realms.running() {
            let status = node.status().await;
            let app = status
                .components
                .iter()
                .find(|one| one.name.as_str() == "app");
            let app = app.unwrap();
            if (app.healthy, app.old) != (app.wanted, 0) {
                return None;
            }
            if node.get("/app/").await != (200, "version b\n".to_owned()) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Case 31: a node that takes part in a rollout dies in the middle of it, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_rollout_goes_on_when_a_node_of_it_is_killed() {
    let keys = "replicas = 3, max_surge = 1, min_ready = \"1s\", lost_after = \"2s\"";
    let mut realms = three_nodes(keys).await;
    held_by(&realms, 3).await;
    let load = load(&realms, 0).await;
    push(&realms, guests::VERSION_B);
    realms.nodes[2].kill_9();
    all_new(&realms).await;
    realms.nodes[2].start();
    held_by(&realms, 3).await;
    all_new(&realms).await;
    lost_none(load).await;
}

/// Cases 17 and 31: the realm falls apart in the middle of a rollout. Both sides go on answering, the one
/// that heard of the new version with that, and when they meet all have it, each once.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_a_rollout_ends_well_when_the_realm_fell_apart_in_it() {
    let lab = Lab::new(&["left", "left", "right"]);
    let realms = Realms::in_lab(Some(lab), &["alpha", "beta", "gamma"], "").await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    realms.apply(&manifest(
        "replicas = 3, max_surge = 1, min_ready = \"1s\", lost_after = \"3s\"",
    ));
    held_by(&realms, 3).await;
    push(&realms, guests::VERSION_B);
    realms.lab.as_ref().unwrap().cut();
    realms.first().until_sees("gamma", ReachState::Lost).await;
    eventually("the left side has the new version", async || {
        let (status, body) = realms.first().get("/app/").await;
        assert_eq!(status, 200, "{body}");
        (body == "version b\n").then_some(())
    })
    .await;
    assert_eq!(realms.nodes[2].get("/app/").await.0, 200);
    realms.lab.as_ref().unwrap().mend();
    held_by(&realms, 3).await;
    all_new(&realms).await;
    eventually("each has one", async || {
        let mut wanted = Vec::new();
        for node in &realms.nodes {
            wanted.push(node.status().await.components[0].wanted);
        }
        (wanted == [1, 1, 1]).then_some(())
    })
    .await;
}

/// Case 31: a build that never gets healthy is undone where the manifest says so, to what was signed
/// before.
#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_failed_rollout_goes_back_to_the_version_before() {
    let keys = "replicas = 3, max_unavailable = 1, max_surge = 0, progress_deadline = \"3s\", on_fail = \"revert\"";
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    let manifest = manifest(keys).replace("\n\n[routing]", "\nhealth = \"/\"\n\n[routing]");
    realms.apply(&manifest);
    held_by(&realms, 3).await;
    let load = load(&realms, 0).await;
    push(&realms, guests::TRAP_START);
    eventually("a node that says that it failed", async || {
        let alarms = realms.first().alarms().await;
        alarms.contains(&"rollout-failed".to_owned()).then_some(())
    })
    .await;
    held_by(&realms, 3).await;
    for node in &realms.nodes {
        assert_eq!(node.get("/app/").await, (200, "version a\n".to_owned()));
    }
    lost_none(load).await;
    // What mends it is taken at once.
    push(&realms, guests::VERSION_B);
    all_new(&realms).await;
}
