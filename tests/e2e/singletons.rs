//! Singletons: one of it in the realm, or none, and never two. Real processes, killed with -9 and cut
//! off from each other. What runs tells so by a connection that stands for as long as it runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use realm_test_guests as guests;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::lab::Lab;
use crate::realms::Realms;
use crate::support::eventually;

/// A connection that was closed is seen to be so this late at most: both ends are on this machine.
const NOTICED: Duration = Duration::from_millis(300);

/// Who runs, by the connections that they hold.
#[derive(Clone, Default)]
struct Roll(Arc<Mutex<Called>>);

#[derive(Default)]
struct Called {
    begun: u64,
    running: BTreeSet<u64>,
    most: usize,
}

impl Roll {
    /// Takes the calls of the runs, at a port of this machine.
    async fn call() -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let roll = Self::default();
        let own = roll.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let roll = own.clone();
                tokio::spawn(async move {
                    let number = {
                        let mut called = roll.0.lock().unwrap();
                        called.begun += 1;
                        called.begun
                    };
                    let late = Instant::now() + NOTICED;
                    while roll.running() > 0 && Instant::now() < late {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    {
                        let mut called = roll.0.lock().unwrap();
                        called.running.insert(number);
                        called.most = called.most.max(called.running.len());
                    }
                    // It says nothing: this returns when it ends.
                    let _ = stream.read(&mut [0; 16]).await;
                    roll.0.lock().unwrap().running.remove(&number);
                });
            }
        });
        (roll, port)
    }

    fn running(&self) -> usize {
        self.0.lock().unwrap().running.len()
    }

    fn begun(&self) -> u64 {
        self.0.lock().unwrap().begun
    }

    #[track_caller]
    fn never_two(&self) {
        assert_eq!(self.0.lock().unwrap().most, 1);
    }

    async fn until(&self, what: &str, running: usize) {
        eventually(what, async || (self.running() == running).then_some(())).await;
    }
}

const TO_THIS_MACHINE: &str = "[guests]\nprivate_ranges = [\"127.0.0.1\"]\n";

/// Nodes with a service that is a singleton, and who runs it.
async fn with_service(names: &[&'static str]) -> (Realms, Roll) {
    serving(Realms::in_lab(None, names, TO_THIS_MACHINE).await).await
}

async fn serving(realms: Realms) -> (Realms, Roll) {
    let (roll, port) = Roll::call().await;
    realms.first().realm.guest(guests::PROGRAM, "app.wasm");
    realms.apply(&format!(
        "[components.app]\nsource = \"file:app.wasm\"\nserve = \"service\"\nsingleton = true\n\
         args = [\"connect\", \"127.0.0.1:{port}\"]\nallowed_outbound = [\"tcp://127.0.0.1:{port}\"]\n"
    ));
    roll.until("it runs", 1).await;
    (realms, roll)
}

/// Which nodes run it, by their own word.
async fn holders(realms: &Realms) -> Vec<usize> {
    let mut holders = Vec::new();
    for (index, node) in realms.nodes.iter().enumerate() {
        if node.is_running() && node.healthy().await.contains(&"app".to_owned()) {
            holders.push(index);
        }
    }
    holders
}

async fn holder(realms: &Realms) -> usize {
    eventually(
        "one node runs it",
        async || match holders(realms).await[..] {
            [one] => Some(one),
            _ => None,
        },
    )
    .await
}

/// What a node says that it waits for.
async fn waits_for(realms: &Realms, at: usize) -> Option<(String, String)> {
    let status = realms.nodes[at].status().await;
    let app = status.components.into_iter();
    let mut app = app.filter(|one| one.name.as_str() == "app");
    let waits = app.next()?.waiting_on.into_iter().next()?;
    Some((waits.code, waits.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_of_one_node_runs_it_at_once_and_again_after_each_death() {
    let (mut realms, roll) = with_service(&["alpha"]).await;
    for _ in 0..5 {
        realms.nodes[0].kill_9();
        roll.until("it is gone with its agent", 0).await;
        let began = Instant::now();
        realms.nodes[0].start();
        roll.until("it runs again", 1).await;
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    roll.never_two();
}

/// A new version: the old one stops, then the new one starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_it_starts_when_the_old_one_has_stopped() {
    let (realms, roll) = with_service(&["alpha", "beta", "gamma"]).await;
    for number in 2..5 {
        realms.as_owner(1, &["restart", "app", "--no-wait"]).ok();
        eventually("the new version alone", async || {
            (roll.begun() == number && roll.running() == 1).then_some(())
        })
        .await;
    }
    holder(&realms).await;
    roll.never_two();
}

/// Case 18: the node that runs it is killed, at once started again, and killed for longer.
#[tokio::test(flavor = "multi_thread")]
async fn case_18_it_runs_elsewhere_when_its_node_was_killed_and_never_twice() {
    let (mut realms, roll) = with_service(&["alpha", "beta", "gamma"]).await;
    let dies = holder(&realms).await;
    for _ in 0..3 {
        realms.nodes[dies].kill_9();
        realms.nodes[dies].start();
        roll.until("it is gone with its agent", 0).await;
        roll.until("it runs again", 1).await;
    }
    assert_eq!(holder(&realms).await, dies);
    realms.nodes[dies].kill_9();
    roll.until("it is gone with its agent", 0).await;
    // It counts as lost first.
    let patience = Instant::now() + Duration::from_secs(120);
    while roll.running() == 0 {
        if Instant::now() > patience {
            let mut told = Vec::new();
            for at in (0..3).filter(|at| *at != dies) {
                let seen = realms.nodes[at].sees(realms.nodes[dies].name).await;
                told.push((seen.reach.state, waits_for(&realms, at).await));
            }
            panic!("it runs nowhere: {told:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_ne!(holder(&realms).await, dies);
    realms.nodes[dies].start();
    eventually("it is back where it was", async || {
        (holders(&realms).await == [dies]).then_some(())
    })
    .await;
    roll.never_two();
}

/// Case 16: a lease counts time that has passed, and no time of day.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_clocks_that_jump_take_no_lease_away() {
    let names = ["alpha", "beta", "gamma"];
    let (realms, roll) = serving(Realms::on_own_clocks(&names, TO_THIS_MACHINE).await).await;
    let holds = holder(&realms).await;
    roll.until("it runs", 1).await;
    let begun = roll.begun();
    for (at, node) in realms.nodes.iter().enumerate() {
        node.set_clock(match at == holds {
            true => "+1d",
            false => "@1970-01-02 00:00:00",
        });
    }
    // It is renewed every ten seconds.
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert_eq!((roll.running(), roll.begun()), (1, begun));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(holder(&realms).await, holds);
    roll.never_two();
}

/// Case 17: with the other nodes gone there is no majority.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_it_stays_down_in_a_minority() {
    let (mut realms, roll) = with_service(&["alpha", "beta", "gamma"]).await;
    let stays = holder(&realms).await;
    for other in (0..3).filter(|index| *index != stays) {
        realms.nodes[other].kill_9();
    }
    roll.until("its lease is over", 0).await;
    let begun = roll.begun();
    let still = Instant::now() + Duration::from_secs(10);
    while Instant::now() < still {
        assert_eq!((roll.running(), roll.begun()), (0, begun));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, message) = waits_for(&realms, stays).await.unwrap();
    assert_eq!(code, "waits-for-lease", "{message}");
    assert!(message.contains("2 nodes have to grant"), "{message}");
    roll.never_two();
}

/// Case 17: the node that runs it is cut off. It stops there, with the request that is under way, before
/// it starts elsewhere; and when they meet again there is still one.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_it_stops_where_it_is_cut_off_before_it_starts_elsewhere() {
    let lab = Lab::new(&["left", "left", "left"]);
    let realms = Realms::in_lab(Some(lab), &["alpha", "beta", "gamma"], "").await;
    realms.first().realm.guest(guests::PARK, "app.wasm");
    realms.apply(
        "[components.app]\nsource = \"file:app.wasm\"\nsingleton = true\nwall_timeout_ms = 600_000\n\
         [routing]\n\"*\" = [{ path = \"/app/...\", component = \"app\", lost_after = \"2s\" }]\n",
    );
    let cut_off = holder(&realms).await;
    let lab = realms.lab.as_ref().unwrap();
    let others = || (0..3).filter(|index| *index != cut_off);
    for other in others() {
        eventually("every node answers", async || {
            let (status, _) = realms.nodes[other].get("/app/?ms=1").await;
            (status == 200).then_some(())
        })
        .await;
    }
    for other in others() {
        lab.lose(cut_off, other);
        lab.lose(other, cut_off);
    }
    assert_eq!(realms.nodes[cut_off].get("/app/?ms=1").await.0, 200);
    let mut asked = realms.nodes[cut_off].curl("/app/?ms=590000");
    asked.stdout(std::process::Stdio::piped());
    let mut asked = asked.spawn().unwrap();
    let mut answered = false;
    let began = Instant::now();
    eventually("it runs elsewhere", async || {
        let before = asked.try_wait().unwrap().is_some();
        let holders = holders(&realms).await;
        assert!(holders.len() <= 1, "{holders:?} run it");
        answered |= before;
        let elsewhere = holders.first().is_some_and(|one| *one != cut_off);
        assert!(
            !elsewhere || answered,
            "a request is under way at the former holder"
        );
        elsewhere.then_some(())
    })
    .await;
    assert!(
        began.elapsed() > Duration::from_secs(15),
        "a lease lasts longer"
    );
    let mut answer = String::new();
    std::io::Read::read_to_string(asked.stdout.as_mut().unwrap(), &mut answer).unwrap();
    asked.wait().unwrap();
    assert!(
        answer.contains("stopped") && answer.ends_with("503"),
        "{answer}"
    );
    assert_eq!(realms.nodes[cut_off].get("/app/?ms=1").await.0, 503);
    let (code, message) = waits_for(&realms, cut_off).await.unwrap();
    assert_eq!(code, "waits-for-lease", "{message}");
    lab.lose_nothing();
    eventually("it is back where it was", async || {
        let holders = holders(&realms).await;
        assert!(holders.len() <= 1, "{holders:?} run it");
        (holders == [cut_off]).then_some(())
    })
    .await;
}
