//! Thousands of components on one agent: they come up together, the work of the loop grows with
//! their number and not with its square, and the idle ones cost no thread and no time.

use std::fmt::Write as _;
use std::time::Duration;

use realm_test_guests::HELLO;

use crate::support::{Realm, cpu_seconds, figure, get};

/// More than one manifest of 192 KiB held, and enough that a plan for each start would show.
const MANY: usize = 2_000;

/// Components of one file with a route each.
fn manifest(number: usize) -> String {
    let mut text = String::new();
    for index in 0..number {
        let _ = writeln!(
            text,
            "[components.c{index}]\nsource = \"file:./hello.wasm\""
        );
    }
    text.push_str("[routing]\n\"*\" = [\n");
    for index in 0..number {
        let _ = writeln!(
            text,
            "  {{ path = \"/c{index}/...\", component = \"c{index}\" }},"
        );
    }
    text + "]\n"
}

/// So many that looking at each would show.
const IDLE_MANY: usize = 6_000;
/// The agent tells the others what it is doing every 15 s: twice in this time.
const IDLE: Duration = Duration::from_secs(32);

fn threads(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_come_up_with_few_plans_and_few_lines() {
    let realm = Realm::new();
    realm.guest(HELLO, "hello.wasm");
    realm.write("realm.toml", &manifest(1));
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let plans = async || figure(&get(&agent.metrics_url).await.1, "realm_plans_total");
    let before = plans().await;

    realm.write("realm.toml", &manifest(MANY));
    let said = realm.run(&["apply", "--yes"]).ok();
    assert!(
        said.stderr
            .contains(&format!("all {MANY} components are as wanted")),
        "{}",
        said.stderr
    );
    // What changes and how it goes is told in some screens; all of it by `plan` and `status`.
    let lines = said.stderr.lines().count();
    assert!(lines < MANY / 2, "{lines} lines");
    for index in [0, MANY / 2, MANY - 1] {
        assert_eq!(get(&agent.url(&format!("/c{index}/"))).await.0, 200);
    }
    // A plan for each start would be twice as many as components.
    let plans = plans().await - before;
    assert!(plans < MANY as f64 / 4.0, "{plans} plans");
    // Threads are the runtime's: those that loaded the components end in their own time.
    let threads = threads(agent.id());
    assert!(threads < MANY / 4, "{threads} threads");

    realm.write("realm.toml", &manifest(1));
    realm.run(&["apply", "--yes"]).ok();
    assert_eq!(get(&agent.url("/c1/")).await.0, 404);
    assert_eq!(get(&agent.url("/c0/")).await.0, 200);
}

/// What an agent with idle components uses of the processors is what one with a single one uses: whatever
/// it does by the clock looks at none of them.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_nobody_asks_cost_no_time() {
    let agents = [1, IDLE_MANY].map(|number| {
        let realm = Realm::new();
        realm.guest(HELLO, "hello.wasm");
        realm.write("realm.toml", &manifest(number));
        let agent = realm.agent();
        realm.run(&["apply", "--yes"]).ok();
        (realm, agent)
    });
    // What is said once everything is up is said, and what starts left behind has ended.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let used = || agents.each_ref().map(|(_, agent)| cpu_seconds(agent.id()));
    let before = used();
    tokio::time::sleep(IDLE).await;
    let after = used();
    let [one, many] = [after[0] - before[0], after[1] - before[1]];
    assert!(
        many < one + 0.25,
        "{many} s of {IDLE:?} with {IDLE_MANY} components, {one} s with one"
    );
}
