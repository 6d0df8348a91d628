//! `realm invite --wait`: whoever shows the ticket's voucher in time is let in without further
//! questions, on the owner's terms; nobody else is, and nobody afterwards.

use realm_model::view::{NodeView, ReachState, StatusView};
use realm_test_guests::HELLO;

use crate::realms::{Node, Realms, pinned};
use crate::support::{Agent, Running, eventually};

/// The owner waits at the first node; the ticket that is printed at once.
fn waiting(realms: &Realms, more: &[&str]) -> (Running, String) {
    let args = [&["invite", "--wait", "60s"], more].concat();
    let waiting = Running::start(realms.first().command(&args));
    let ticket = waiting.stdout.next().expect("a ticket");
    (waiting, ticket.trim().to_owned())
}

/// Joins with a ticket, proposing tags; the agent is started and may wait for ever.
fn comes(realms: &mut Realms, name: &'static str, ticket: &str) -> Running {
    realms.add(name);
    let node = realms.nodes.last().unwrap();
    let args = ["join", ticket, "--name", name, "--tags", "core"];
    node.run(&args).ok();
    node.begin()
}

fn node<'a>(status: &'a StatusView, name: &str) -> Option<&'a NodeView> {
    let mut nodes = status.nodes.iter();
    nodes.find(|node| node.name.as_str() == name && node.key.is_some())
}

/// Who asks, by the names that they propose, once these do.
async fn asking(first: &Node, names: &[&str]) {
    eventually(&format!("{names:?} ask"), async || {
        let pending = first.status().await.pending;
        let mut asking: Vec<&str> = pending.iter().map(|one| one.name.as_str()).collect();
        asking.sort_unstable();
        (asking == names).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_with_the_voucher_in_time_is_let_in_on_the_owners_terms_and_nobody_else() {
    let mut realms = Realms::meet(&["alpha"]).await;
    // Somebody with a ticket of the realm and without a voucher asks all the while.
    let plain = realms.ticket();
    let _plain = comes(&mut realms, "plain", &plain);
    asking(realms.first(), &["plain"]).await;
    let terms = ["--uses", "2", "--tags", "edge", "--expires", "30d"];
    let (waiting, ticket) = waiting(&realms, &terms);
    assert_ne!(ticket, plain);
    for name in ["beta", "gamma"] {
        let running = comes(&mut realms, name, &ticket);
        let line = waiting.stdout.next().expect("it is told who came");
        assert!(line.starts_with(&format!("{name} is approved")), "{line}");
        let agent = Agent::of(running);
        let status = realms.first().status().await;
        let let_in = node(&status, name).expect("a node");
        // What it proposed of itself is nobody's word.
        assert_eq!(let_in.vouched_tags, ["edge"]);
        let days = (let_in.not_after_unix_s.unwrap() - now_unix_s()) / 86_400;
        assert!((29..=30).contains(&days), "{days} days");
        agent.terminate();
        realms.nodes.last_mut().unwrap().start();
    }
    assert_eq!(waiting.ended().code(), Some(0));
    realms.all_meet().await;
    realms.apply(&pinned(&[("hello", HELLO, "beta")]));
    realms.run_there(&[("hello", "beta")]).await;
    // Twice was all; and the one without a voucher goes on waiting.
    let _late = comes(&mut realms, "late", &ticket);
    asking(realms.first(), &["late", "plain"]).await;
    let status = realms.first().status().await;
    assert!(node(&status, "late").is_none() && node(&status, "plain").is_none());
    // Nor does the next voucher let in who has the one before; a name is the owner's choice.
    let (waiting, ticket) = self::waiting(&realms, &["--name", "chosen"]);
    let right = comes(&mut realms, "delta", &ticket);
    assert_eq!(waiting.ended().code(), Some(0));
    let _right = Agent::of(right);
    let status = realms.first().status().await;
    let chosen = node(&status, "chosen").expect("a node");
    assert_eq!(
        chosen.key,
        Some(realms.nodes.last().unwrap().key().public())
    );
    assert!(node(&status, "delta").is_none() && node(&status, "late").is_none());
    asking(realms.first(), &["late", "plain"]).await;
    realms
        .first()
        .until_sees("chosen", ReachState::Direct)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_lets_nobody_in_once_its_time_is_over() {
    let mut realms = Realms::meet(&["alpha"]).await;
    let waited = realms.first().run(&["invite", "--wait", "1s"]);
    let waited = waited.fails(1, "nobody-came");
    let ticket = waited.stdout.trim().to_owned();
    let late = comes(&mut realms, "late", &ticket);
    asking(realms.first(), &["late"]).await;
    let status = realms.first().status().await;
    assert!(node(&status, "late").is_none());
    // It proves what it has; the owner may still say yes.
    assert!(status.pending[0].voucher_proof.is_some());
    let words = realms.nodes[1].key().public().words().join(" ");
    let approve = ["nodes", "approve", &words, "--yes"];
    realms.first().run(&approve).ok();
    let _late = Agent::of(late);
    realms.first().until_sees("late", ReachState::Direct).await;
}

fn now_unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}
