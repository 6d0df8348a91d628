//! The ways in which health is asked.

use std::time::Duration;

use realm_host::{Config, Host, ProbeError};
use realm_model::manifest::Probe;
use realm_test_guests as guests;

use crate::harness::{Guest, eventually, get, guest};

async fn probe(guest: Guest) -> Result<(), (&'static str, String)> {
    let answer = guest.load().replica.probe().await;
    answer.map_err(|error: ProbeError| (error.code(), error.to_string()))
}

fn code(answer: Result<(), (&'static str, String)>) -> Result<(), &'static str> {
    answer.map_err(|(code, _)| code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn health_ok() {
    assert_eq!(
        probe(guest(guests::HEALTH_OK).probe(Probe::Export)).await,
        Ok(())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn health_bad() {
    let (code, message) = probe(guest(guests::HEALTH_BAD).probe(Probe::Export))
        .await
        .unwrap_err();
    assert_eq!(code, "unhealthy");
    assert!(message.contains("database is down"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn health_flaky() {
    for (health, expected) in [
        ("ok", Ok(())),
        ("bad", Err("unhealthy")),
        ("long", Err("unhealthy")),
        ("trap", Err("trap")),
        ("spin", Err("epoch-timeout")),
    ] {
        let guest = guest(guests::HEALTH_FLAKY)
            .limits(|limits| limits.epoch_timeout_ms = 50)
            .grants(|grants| drop(grants.env.insert("HEALTH".into(), health.into())))
            .probe(Probe::Export);
        assert_eq!(code(probe(guest).await), expected, "{health}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_component_says_of_itself_is_one_short_line() {
    let guest = guest(guests::HEALTH_FLAKY)
        .grants(|grants| drop(grants.env.insert("HEALTH".into(), "long".into())))
        .probe(Probe::Export);
    let (_, message) = probe(guest).await.unwrap_err();
    let says = "the component says: ";
    assert!(
        message.starts_with(&format!("{says}[2J long long")),
        "{message}"
    );
    assert_eq!(message.chars().count(), says.len() + 1_024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn health_path() {
    let good = guest(guests::HEALTH_PATH).probe(Probe::Http("/healthz".into()));
    assert_eq!(probe(good).await, Ok(()));
    let bad = guest(guests::HEALTH_PATH)
        .grants(|grants| drop(grants.env.insert("HEALTH".into(), "bad".into())))
        .probe(Probe::Http("/healthz".into()));
    let (code, message) = probe(bad).await.unwrap_err();
    assert_eq!(code, "probe-status");
    assert!(message.contains("503"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_probe_it_has_to_start() {
    assert_eq!(probe(guest(guests::HELLO)).await, Ok(()));
    assert_eq!(probe(guest(guests::P3_HELLO)).await, Ok(()));
    let small = guest(guests::HELLO).limits(|limits| limits.memory_max_mb = 1);
    assert_eq!(code(probe(small).await), Err("memory-limit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_traps_says_so() {
    let trap = guest(guests::TRAP).probe(Probe::Http("/".into()));
    assert_eq!(code(probe(trap).await), Err("trap"));
    let trap = guest(guests::TRAP_MID_RESPONSE).probe(Probe::Http("/".into()));
    assert_eq!(code(probe(trap).await), Err("trap"));
}

#[test]
fn an_export_that_is_not_there_is_said_at_load() {
    let error = guest(guests::HELLO)
        .probe(Probe::Export)
        .try_load()
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), "no-health-export");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_replica_is_healthy_and_probes_are_not_requests() {
    let park = guest(guests::PARK)
        .limits(|limits| limits.max_concurrency = 1)
        .probe(Probe::Http("/?ms=1".into()))
        .load();
    let busy = park.replica.clone();
    let call = tokio::spawn(async move { busy.call(get("/?ms=60000")).await.map(drop) });
    eventually(|| park.replica.in_flight() == 1).await;
    let answer = tokio::time::timeout(Duration::from_secs(10), park.replica.probe()).await;
    assert_eq!(answer.unwrap(), Ok(()));
    call.abort();
    park.ended("cancelled").await;
    assert_eq!(park.count("ok"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_takes_all_it_can_leaves_its_neighbours_healthy_and_served() {
    let mut config = Config::default();
    config.policy.instances_max = 8;
    let host = Host::new(config).unwrap();
    let greedy = guest(guests::PARK).probe(Probe::Http("/?ms=1".into()));
    let greedy = greedy.load_into(&host).unwrap();
    let modest = guest(guests::PARK).probe(Probe::Http("/?ms=1".into()));
    let modest = modest.load_into(&host).unwrap();
    let mut calls = tokio::task::JoinSet::new();
    // Half of eight is promised, two to each of the two.
    for (loaded, most) in [(&greedy, 6), (&modest, 2)] {
        for _ in 0..8 {
            let replica = loaded.replica.clone();
            calls.spawn(async move { replica.call(get("/?ms=60000")).await.map(drop) });
        }
        eventually(|| loaded.replica.in_flight() == most).await;
    }
    // Every instance is taken, and every probe is answered.
    for loaded in [&greedy, &modest] {
        let answer = tokio::time::timeout(Duration::from_secs(10), loaded.replica.probe()).await;
        assert_eq!(answer.unwrap(), Ok(()));
    }
    assert_eq!(
        (greedy.replica.in_flight(), modest.replica.in_flight()),
        (6, 2)
    );
}
