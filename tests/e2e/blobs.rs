//! The bytes of components between nodes: whoever serves others than were signed is named, and the
//! next one is asked.

use std::path::PathBuf;

use realm_model::digest::Digest;
use realm_test_guests::HELLO;

use crate::realms::{Node, Realms, pinned};
use crate::support::eventually;

/// Where a node keeps the bytes of [`HELLO`].
fn blob(node: &Node) -> PathBuf {
    let digest = Digest::of(&std::fs::read(HELLO).unwrap());
    node.realm.path(".realm/blobs").join(digest.hex())
}

/// Why a component does not run on a node, as the node says.
async fn waits(node: &Node, component: &str) -> Option<(String, String)> {
    let status = node.status().await;
    let found = status
        .components
        .iter()
        .find(|one| one.name.as_str() == component)?;
    let waits = found.waiting_on.first()?;
    Some((waits.code.clone(), waits.message.clone()))
}

/// Facts §5, case 27: the bytes on the disks of two nodes are other ones, then of one.
#[tokio::test(flavor = "multi_thread")]
async fn case_27_who_serves_other_bytes_is_named_and_the_next_is_asked() {
    let realms = Realms::meet(&["alpha", "beta", "gamma"]).await;
    realms.apply(&pinned(&[("first", HELLO, "beta")]));
    realms.run_there(&[("first", "beta")]).await;
    let both = pinned(&[("first", HELLO, "beta"), ("second", HELLO, "gamma")]);
    realms.first().realm.write("realm.toml", &both);
    // An upload mends what is damaged: the third node begins to fetch after that.
    realms.first().run(&["nodes", "cordon", "gamma"]).ok();
    realms.first().run(&["apply", "--yes", "--no-wait"]).ok();
    realms.converge().await;
    assert!(!blob(&realms.nodes[2]).exists());
    // One byte of many: neither the size nor the beginning tells.
    let sound = std::fs::read(HELLO).unwrap();
    let mut altered = sound.clone();
    *altered.last_mut().unwrap() ^= 1;
    for node in &realms.nodes[..2] {
        std::fs::write(blob(node), &altered).unwrap();
    }
    realms.first().run(&["nodes", "uncordon", "gamma"]).ok();
    let gamma = &realms.nodes[2];
    let (code, message) = eventually("gamma says whose bytes are other ones", async || {
        let (code, message) = waits(gamma, "second").await?;
        (message.contains("`alpha`") && message.contains("`beta`")).then_some((code, message))
    })
    .await;
    assert_eq!(code, "backoff");
    assert!(message.starts_with("digest-mismatch"), "{message}");
    assert!(!blob(gamma).exists(), "what is wrong is not kept");
    eventually("the first node shows it as well", async || {
        let told = realms.first().run(&["status"]).ok().stdout;
        (told.contains("has other bytes")).then_some(())
    })
    .await;
    // The nodes are asked in the order of their keys: the first one goes on lying.
    let (mut liar, mut honest) = (&realms.nodes[0], &realms.nodes[1]);
    if honest.key().public() < liar.key().public() {
        (liar, honest) = (honest, liar);
    }
    std::fs::write(blob(honest), &sound).unwrap();
    realms
        .run_there(&[("first", "beta"), ("second", "gamma")])
        .await;
    let blamed = gamma.agent().after("a source did not give the bytes");
    assert!(blamed.contains(liar.name), "{blamed}");
    let from = gamma.agent().after("fetched");
    assert!(from.contains(honest.name), "{from}");
    assert_eq!(std::fs::read(blob(gamma)).unwrap(), sound);
    assert_eq!(gamma.get("/second/").await, (200, "hello\n".to_owned()));
    // Who already ran it was not disturbed.
    assert_eq!(realms.nodes[1].get("/first/").await.0, 200);
}
