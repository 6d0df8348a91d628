//! A node says something that makes others panic when they read it: it is set aside and named, the
//! loop goes on with everything else, and what is served is served meanwhile.

use realm_model::entry::RealmId;
use realm_model::key::SecretKey;
use realm_model::record::{NodeBody, NodeRecord, RECORD_POISON, Version};
use realm_model::sync::Hint;
use realm_model::view::AlarmView;
use realm_net::{Topic, Transport as _};
use realm_test_guests::HELLO;

use crate::guest_net::Caller;
use crate::realms::{Node, Realms, pinned};
use crate::support::{Lines, Load, Running, eventually};

/// Only builds with debug assertions know the variable: `realm_node::planted`.
const VARIABLE: &str = "REALM_PLANT_RECORD_PANIC";
/// Records whose agents say that they are of this version make the agent panic that has the variable.
const POISON: &str = "poison";

const PANICKED: &str = "the node's loop panicked";
const SET_ASIDE: &str = "a record of this node makes the loop panic";

/// An approved node that says what it likes.
struct Mallory {
    key: SecretKey,
    realm: RealmId,
    caller: Caller,
    counter: u64,
}

impl Mallory {
    async fn calls(key: SecretKey, realms: &Realms, counter: u64) -> Self {
        let caller = Caller::node(&key, realms).await;
        caller.net.dial(&caller.address).await.unwrap();
        let realm = realms.first().status().await.realm;
        Self {
            key,
            realm,
            caller,
            counter,
        }
    }

    /// A record that is newer than all before it.
    fn record(&mut self, says: &str) -> Vec<u8> {
        let mut body = NodeBody::of("mallory".parse().unwrap());
        body.agent = says.to_owned();
        self.counter += 1;
        let version = Version {
            epoch: 1_000,
            boot: 1,
            counter: self.counter,
        };
        NodeRecord::sign(self.realm, &self.key, version, body)
    }

    fn publish(&self, record: &[u8]) {
        // Nobody may be listening yet: it is said again.
        let hint = Hint::Record(record.to_vec()).to_bytes();
        let _ = self.caller.net.publish(Topic::Records, hint);
    }

    /// Says something, again and again, until `node` repeats it.
    async fn says(&mut self, says: &str, node: &Node) {
        eventually(&format!("{} has heard `{says}`", node.name), async || {
            let record = self.record(says);
            self.publish(&record);
            (version_at(node).await.as_deref() == Some(says)).then_some(())
        })
        .await;
    }
}

/// What mallory says by the word of a node.
async fn version_at(node: &Node) -> Option<String> {
    let said = node.sees("mallory").await.said;
    said.map(|said| said.agent_version)
}

async fn poison_alarms(node: &Node) -> Vec<AlarmView> {
    let alarms = node.status().await.alarms.into_iter();
    alarms.filter(|one| one.code == RECORD_POISON).collect()
}

/// Lines up to one with this text.
fn until(lines: &Lines, text: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(line) = lines.next() {
        seen.push(line);
        if seen.last().is_some_and(|line| line.contains(text)) {
            return seen;
        }
    }
    panic!("no line with `{text}`; seen:\n{}", seen.join("\n"));
}

/// Ends the agent, and returns the lines that were not read.
fn rest(node: &mut Node) -> Vec<String> {
    let agent = node.take();
    agent.signal("KILL");
    std::iter::from_fn(|| agent.lines().next()).collect()
}

fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

fn start_sensitive(node: &mut Node) {
    let mut command = node.agent_command();
    command.env(VARIABLE, POISON);
    node.runs(Running::start(command));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_30_a_record_that_makes_its_reader_panic_is_set_aside_and_all_else_goes_on() {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    realms.add("mallory");
    realms.invite(2);
    realms.approve(2, &[]);
    realms.converge().await;
    realms.nodes[0].take().terminate();
    start_sensitive(&mut realms.nodes[0]);
    realms.all_meet().await;
    let key = realms.nodes[2].key();
    let mut mallory = Mallory::calls(key.clone(), &realms, 0).await;
    mallory.says("fine", realms.first()).await;
    let alpha = realms.first();
    eventually("it is served through alpha", async || {
        (alpha.get("/hello/").await.0 == 200).then_some(())
    })
    .await;
    let load = Load::start(alpha.agent().url("/hello/"), 2, |status, _| status == 200);
    load.more(50).await;

    let poison = mallory.record(POISON);
    eventually("the alarm is raised", async || {
        mallory.publish(&poison);
        (!poison_alarms(alpha).await.is_empty()).then_some(())
    })
    .await;
    let alarm = poison_alarms(alpha).await.remove(0);
    assert_eq!(alarm.node.as_str(), "alpha");
    assert!(alarm.message.contains("`mallory`"), "{alarm:?}");
    let shown = alpha.run(&["status"]).ok().stdout;
    assert!(
        shown.contains(RECORD_POISON) && shown.contains("mallory"),
        "{shown}"
    );
    // Its record before counts.
    assert_eq!(version_at(alpha).await.as_deref(), Some("fine"));
    let beta = &realms.nodes[1];
    eventually("the others hear of it", async || {
        let alarms = poison_alarms(beta).await;
        alarms
            .iter()
            .any(|one| one.node.as_str() == "alpha")
            .then_some(())
    })
    .await;
    // The next one of the kind is tried before anybody reads it: nothing panics any more.
    let mut seen = until(alpha.agent().lines(), SET_ASIDE);
    let next = mallory.record(POISON);
    mallory.publish(&poison);
    mallory.publish(&next);
    seen.extend(until(alpha.agent().lines(), SET_ASIDE));
    // Entries and the records of others go on, and so does what is served.
    alpha.run(&["restart", "hello", "--no-wait"]).ok();
    realms.converge().await;
    load.more(50).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");

    // Not even once more after it was killed: beta has the record, and would give it.
    seen.extend(rest(&mut realms.nodes[0]));
    assert_eq!(count(&seen, PANICKED), 1, "{}", seen.join("\n"));
    start_sensitive(&mut realms.nodes[0]);
    realms.all_meet().await;
    eventually("the alarm stands again", async || {
        (!poison_alarms(realms.first()).await.is_empty()).then_some(())
    })
    .await;
    realms.first().run(&["restart", "hello", "--no-wait"]).ok();
    realms.converge().await;

    // What it says next is heard, and ends the alarm.
    let counter = mallory.counter;
    drop(mallory);
    let mut mallory = Mallory::calls(key, &realms, counter).await;
    mallory.says("better", realms.first()).await;
    eventually("the alarm is over", async || {
        poison_alarms(realms.first()).await.is_empty().then_some(())
    })
    .await;
    let kept = realms.nodes[0].realm.path(".realm/aside");
    assert_eq!(std::fs::read_dir(kept).unwrap().count(), 0);
    let seen = rest(&mut realms.nodes[0]);
    assert_eq!(count(&seen, PANICKED), 0, "{}", seen.join("\n"));
}
