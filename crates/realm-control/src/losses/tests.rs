//! When a node counts as gone, and when as back.

use super::*;
use crate::testing::node_name;

const WAIT_MS: u64 = 30_000;

/// Each second of `seen` says who of `a` to `j` is away; then who is gone, by seconds.
fn gone(away: &dyn Fn(char, u64) -> bool, seconds: u64) -> Vec<String> {
    let mut losses = Losses::default();
    let names = 'a'..='j';
    (0..seconds)
        .map(|second| {
            let now = Millis(second * 1_000);
            let lost = names
                .clone()
                .filter(|name| away(*name, second))
                .map(|name| node_name(&name.to_string()))
                .collect();
            losses.look(&lost, 10, WAIT_MS, now);
            let gone = names
                .clone()
                .filter(|name| losses.is_gone(&node_name(&name.to_string()), WAIT_MS, now));
            gone.collect()
        })
        .collect()
}

/// The seconds at which the answer changes, and what it is from then on.
fn check(away: &dyn Fn(char, u64) -> bool, seconds: u64, expected: &[(u64, &str)]) {
    let mut changes: Vec<(u64, String)> = Vec::new();
    for (second, gone) in (0..).zip(gone(away, seconds)) {
        if changes.last().map_or("", |(_, last)| last) != gone {
            changes.push((second, gone));
        }
    }
    let expected: Vec<(u64, String)> = expected
        .iter()
        .map(|(second, gone)| (*second, (*gone).to_owned()))
        .collect();
    assert_eq!(changes, expected);
}

#[test]
fn a_node_is_gone_after_a_while_and_back_after_a_while() {
    let away = |name, second| name == 'a' && (10..100).contains(&second);
    check(&away, 200, &[(40, "a"), (130, "")]);
    let shortly = |name, second| name == 'a' && (10..40).contains(&second);
    check(&shortly, 200, &[]);
}

#[test]
fn what_flaps_moves_nothing() {
    // Away for ten seconds of every twenty: it is never gone.
    let flaps = |name, second: u64| name == 'a' && second % 20 < 10;
    check(&flaps, 300, &[]);
    // Once it is gone it has to stay for as long as it was waited for.
    let returns = |name, second: u64| {
        name == 'a' && (second < 60 || (60..120).contains(&second) && second % 20 < 10)
    };
    check(&returns, 300, &[(30, "a"), (140, "")]);
    // Away again after it was back for good: it is waited for anew.
    let twice = |name, second: u64| name == 'a' && !(60..100).contains(&second);
    check(&twice, 300, &[(30, "a"), (90, ""), (130, "a")]);
}

/// Case 29: many that are away at once are a fault of the view.
#[test]
fn case_29_of_many_at_once_one_a_minute_counts() {
    let half = |name: char, second| name <= 'e' && (10..400).contains(&second);
    let all = ["a", "ab", "abc", "abcd", "abcde"];
    let mut expected: Vec<(u64, &str)> = (0..).map(|n| 40 + n * 60).zip(all).collect();
    expected.push((430, ""));
    check(&half, 500, &expected);
    // Paused for half a minute: nothing counts.
    let pause = |_, second| (10..40).contains(&second);
    check(&pause, 200, &[]);
}

#[test]
fn it_is_known_when_an_answer_changes_by_itself() {
    let mut losses = Losses::default();
    let waits: BTreeSet<u64> = [WAIT_MS].into();
    let lost: BTreeSet<NodeName> = ["a", "b"].map(node_name).into();
    let mut changes = 0;
    let mut now = Millis(0);
    losses.look(&lost, 2, WAIT_MS, now);
    while let Some(at) = losses.wake_at(&waits, now) {
        let gone = |losses: &Losses, now| {
            let gone = |node: &&NodeName| losses.is_gone(node, WAIT_MS, now);
            lost.iter().filter(gone).count()
        };
        let before = gone(&losses, Millis(at.0 - 1));
        losses.look(&lost, 2, WAIT_MS, at);
        now = at;
        changes += gone(&losses, now) - before;
    }
    assert_eq!((changes, now), (2, Millis(WAIT_MS + PERIOD_MS)));
}
