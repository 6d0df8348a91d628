//! A cut goes through the realm in the middle of a rollout, under a load whose answers are checked. What
//! each node has is looked at all the time, so that a budget that is not kept for a moment is seen.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use realm_model::digest::Digest;
use realm_model::view::{ComponentView, ReachState};
use realm_test_guests as guests;

use crate::lab::Lab;
use crate::realms::{Node, Realms};
use crate::support::eventually;

const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
const REPLICAS: usize = 3;

/// Longer than a cut goes unnoticed, so that the next one would be replaced while one is missing.
const MIN_READY: &str = "9s";
/// Longer than that again, together with the time until it is noticed.
const LOST_AFTER: &str = "7s";

/// Clients on one machine of the lab, each with a connection that is kept, as long as this lives.
struct Clients {
    processes: Vec<Child>,
    readers: Vec<JoinHandle<()>>,
    heard: Arc<Heard>,
}

/// What all of them were answered.
#[derive(Default)]
struct Heard {
    good: AtomicU64,
    bad: Mutex<Vec<String>>,
}

impl Clients {
    fn of(node: &Node) -> Self {
        let heard = Arc::new(Heard::default());
        let (mut processes, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let mut curl = node.curl("/app/?[1-1000000000]");
            let mut process = curl
                .args(["-N", "-m", "30", "--rate", "50/s"])
                .args(["-w", "%{http_code}\n"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let output = BufReader::new(process.stdout.take().unwrap());
            processes.push(process);
            let heard = Arc::clone(&heard);
            readers.push(std::thread::spawn(move || heard.read(output)));
        }
        Self {
            processes,
            readers,
            heard,
        }
    }

    /// Waits until this many more answers were good.
    async fn more(&self, answers: u64) {
        let target = self.heard.good.load(Relaxed) + answers;
        eventually("the load goes on", async || {
            (self.heard.good.load(Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// Stops: every answer was good, and none was waited for in vain.
    #[track_caller]
    fn lost_none(mut self) {
        self.end();
        let bad = self.heard.bad.lock().unwrap();
        let good = self.heard.good.load(Relaxed);
        assert!(bad.is_empty(), "{} beside {good}: {bad:?}", bad.len());
    }

    fn end(&mut self) {
        for process in &mut self.processes {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Heard {
    /// A body and a line with the status for each answer.
    fn read(&self, output: impl std::io::BufRead) {
        let mut body = String::new();
        for line in output.lines().map_while(Result::ok) {
            let Some(status) = line.parse::<u16>().ok() else {
                body += &line;
                continue;
            };
            match (status, body.as_str()) {
                (200, "version a" | "version b") => {
                    self.good.fetch_add(1, Relaxed);
                }
                _ => self.bad.lock().unwrap().push(format!("{status} {body}")),
            }
            body.clear();
        }
    }
}

/// What a node said of itself at some moment between two.
pub(crate) struct Look {
    before: Instant,
    after: Instant,
    pub(crate) serves: bool,
    /// Whether a replica starts, or failed to.
    pub(crate) begins: bool,
    /// Whether it does so beside an old one.
    pub(crate) is_doubled: bool,
    /// Whether it knew of a node that is not reached.
    misses_one: bool,
    digest: Option<Digest>,
}

/// All that the nodes said of themselves.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    looks: Vec<tokio::task::JoinHandle<Vec<Look>>>,
}

impl Watch {
    pub(crate) fn over(realms: &Realms) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let looks = realms.nodes.iter().map(|node| {
            let (client, stop) = (node.realm.client(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut looks = Vec::new();
                while !stop.load(Relaxed) {
                    let before = Instant::now();
                    let status = client.status().await.unwrap();
                    let after = Instant::now();
                    let app = status.components.iter().find(|one| is_app(one)).unwrap();
                    let begins = ["starting", "backoff", "failed"];
                    let mut waits = app.waiting_on.iter();
                    let begins = waits.any(|one| begins.contains(&one.code.as_str()));
                    let mut nodes = status.nodes.iter();
                    looks.push(Look {
                        before,
                        after,
                        serves: app.healthy + app.old > 0,
                        begins,
                        is_doubled: app.old > 0 && begins,
                        misses_one: nodes.any(|node| node.reach.state == ReachState::Lost),
                        digest: app.digest.filter(|_| app.healthy > 0),
                    });
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                looks
            })
        });
        let looks = looks.collect();
        Self { stop, looks }
    }

    pub(crate) async fn end(self) -> Vec<Vec<Look>> {
        self.stop.store(true, Relaxed);
        let mut all = Vec::new();
        for looks in self.looks {
            all.push(looks.await.unwrap());
        }
        all
    }
}

fn is_app(view: &ComponentView) -> bool {
    view.name.as_str() == "app"
}

/// The times at which something was so for certain: two looks in a row say it.
fn certain(looks: &[Look], what: impl Fn(&Look) -> bool) -> Vec<(Instant, Instant)> {
    let pairs = looks.windows(2);
    let certain = pairs.filter(|pair| pair.iter().all(&what));
    certain
        .map(|pair| (pair[0].after, pair[1].before))
        .collect()
}

/// The most nodes of which something was so at once, for certain, between two moments.
pub(crate) fn most(
    looks: &[&[Look]],
    (from, to): (Instant, Instant),
    what: impl Fn(&Look) -> bool + Copy,
) -> usize {
    let each: Vec<_> = looks.iter().map(|looks| certain(looks, what)).collect();
    let begins = each.iter().flatten().map(|(begin, _)| *begin);
    let at_once = begins.filter(|at| (from..to).contains(at)).map(|at| {
        let is_then = |times: &&Vec<(Instant, Instant)>| {
            times.iter().any(|(begin, end)| *begin <= at && at < *end)
        };
        each.iter().filter(is_then).count()
    });
    at_once.max().unwrap_or_default()
}

/// Which nodes have a healthy replica, by their own word.
async fn holders(realms: &Realms) -> BTreeSet<usize> {
    let mut holders = BTreeSet::new();
    for (index, node) in realms.nodes.iter().enumerate() {
        if node.healthy().await.contains(&"app".to_owned()) {
            holders.insert(index);
        }
    }
    holders
}

/// Which nodes have a healthy replica of another build than this.
async fn renewed(realms: &Realms, old: Digest) -> BTreeSet<usize> {
    let mut renewed = BTreeSet::new();
    for (index, node) in realms.nodes.iter().enumerate() {
        let app = node.realm.component("app").await;
        if app.digest.is_some_and(|digest| digest != old) && app.healthy > 0 {
            renewed.insert(index);
        }
    }
    renewed
}

/// One of three places is renewed when the node of another one is cut off, which has heard of the new
/// version; the fourth node stands in for it, and the realm comes together before the third is done.
async fn a_cut_goes_through_a_rollout(surge: usize, unavailable: usize) {
    let lab = Lab::new(&["left"; NAMES.len()]);
    let realms = Realms::in_lab(Some(lab), &NAMES, "").await;
    let lab = realms.lab.as_ref().unwrap();
    realms.first().realm.guest(guests::VERSION_A, "app.wasm");
    realms.apply(&format!(
        "[components.app]\nsource = \"file:app.wasm\"\n\n[routing]\n\
         \"*\" = [{{ path = \"/app/...\", component = \"app\", replicas = {REPLICAS}, max_surge = {surge}, \
         max_unavailable = {unavailable}, min_ready = \"{MIN_READY}\", lost_after = \"{LOST_AFTER}\" }}]\n"
    ));
    let before = eventually("three have a replica", async || {
        let holders = holders(&realms).await;
        (holders.len() == REPLICAS).then_some(holders)
    })
    .await;
    let old = realms.first().realm.component("app").await.digest.unwrap();
    let spare = (0..NAMES.len()).find(|at| !before.contains(at)).unwrap();
    let mut loads = Vec::new();
    for node in &realms.nodes {
        eventually("the node answers", async || {
            (node.get("/app/").await.0 == 200).then_some(())
        })
        .await;
        let clients = Clients::of(node);
        clients.more(50).await;
        loads.push(clients);
    }
    let watch = Watch::over(&realms);

    let began = Instant::now();
    realms.first().realm.guest(guests::VERSION_B, "new.wasm");
    realms
        .as_owner(0, &["push", "app", "new.wasm", "--no-wait"])
        .ok();
    let first = eventually("the first place is renewed", async || {
        renewed(&realms, old).await.first().copied()
    })
    .await;
    let [waits, cut_off] = before
        .iter()
        .copied()
        .filter(|at| *at != first)
        .collect::<Vec<_>>()[..]
    else {
        panic!("{first} of {before:?}");
    };
    for other in (0..NAMES.len()).filter(|at| *at != cut_off) {
        lab.lose(cut_off, other);
        lab.lose(other, cut_off);
    }
    let cut = Instant::now();
    // Nobody is replaced before all have heard: so has the one that is cut off.
    eventually("the fourth node stands in", async || {
        renewed(&realms, old).await.contains(&spare).then_some(())
    })
    .await;
    let stood_in = Instant::now();
    // It is what it was when the cut came: it hears nobody.
    assert_eq!(realms.nodes[cut_off].get("/app/").await.1, "version a\n");
    for clients in &loads {
        clients.more(30).await;
    }
    let healed = Instant::now();
    lab.lose_nothing();
    eventually(
        "every place has the new version, where it was",
        async || {
            let is_done = renewed(&realms, old).await == before && holders(&realms).await == before;
            is_done.then_some(())
        },
    )
    .await;
    eventually("every node answers with the new version", async || {
        for node in &realms.nodes {
            if node.get("/app/").await != (200, "version b\n".to_owned()) {
                return None;
            }
        }
        Some(())
    })
    .await;
    let ended = Instant::now();
    let looks = watch.end().await;
    for clients in loads {
        clients.more(50).await;
        clients.lost_none();
    }
    let of = |nodes: &[usize]| nodes.iter().map(|at| &*looks[*at]).collect::<Vec<_>>();
    let is_down = |look: &Look| !look.serves;
    let holders: Vec<usize> = before.iter().copied().collect();
    // Up to the cut, and from when somebody stands in to the end, all count.
    assert!(most(&of(&holders), (began, cut), is_down) <= unavailable);
    let all: Vec<usize> = (0..NAMES.len()).collect();
    let down_max = NAMES.len() - REPLICAS + unavailable;
    assert!(most(&of(&all), (stood_in, ended), is_down) <= down_max);
    // Who is missing by the cut has used the budget up, for all who know of it, on both sides.
    for at in [first, waits] {
        let times = looks[at]
            .windows(2)
            .take_while(|pair| pair[1].after < stood_in);
        let mut stops = times.filter(|pair| pair[0].serves && !pair[1].serves);
        assert!(stops.all(|pair| !pair[0].misses_one), "{at} stopped");
    }
    assert_eq!(most(&of(&[cut_off]), (cut, healed), is_down), 0);
    let was_renewed = |look: &Look| look.digest.is_some_and(|digest| digest != old);
    assert_eq!(most(&of(&[cut_off]), (cut, healed), was_renewed), 0);
    let is_doubled = |look: &Look| look.is_doubled;
    assert!(most(&of(&all), (began, ended), is_doubled) <= surge);
    let is_up = |look: &Look| look.serves;
    assert!(most(&of(&all), (began, ended), is_up) <= REPLICAS + surge.max(1));
}

/// Cases 17 and 31: a node of which one other may be missing is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_a_cut_in_the_middle_of_a_rollout_takes_no_more_down_than_one() {
    a_cut_goes_through_a_rollout(0, 1).await;
}

/// Cases 17 and 31: the same where one may be there in addition, and none may be missing.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_a_cut_in_the_middle_of_a_rollout_takes_nothing_down_beside_it() {
    a_cut_goes_through_a_rollout(1, 0).await;
}
