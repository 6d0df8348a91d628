//! Who is let in when, without a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Wake;

use super::*;

const US: Duration = Duration::from_micros(1);

/// How often somebody was woken.
#[derive(Default)]
pub(in crate::turns) struct Count(AtomicUsize);

impl Count {
    pub(in crate::turns) fn waker() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        (Arc::clone(&count), Waker::from(count))
    }

    pub(in crate::turns) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn name(text: &str) -> ComponentName {
    text.parse().unwrap()
}

fn two() -> (Accounts, [Key; 2], Instant) {
    let start = Instant::now();
    let mut accounts = Accounts::new(start);
    let keys = ["good", "greedy"].map(|text| accounts.open(&name(text)));
    (accounts, keys, start)
}

/// Who is served how often, where all of `wants` have something to do at any time, for a second: each
/// takes so long, and ends badly or well.
fn served(wants: &[(Duration, bool)]) -> Vec<u32> {
    let start = Instant::now();
    let mut accounts = Accounts::new(start);
    let mut now = start;
    let mut served = vec![0; wants.len()];
    let keys: Vec<_> = (0..wants.len())
        .map(|index| accounts.open(&name(&format!("c{index}"))))
        .collect();
    let (_, waker) = Count::waker();
    let mut tickets: Vec<_> = keys
        .iter()
        .map(|key| accounts.hold(*key, Line::Begins, waker.clone(), Instant::now()))
        .collect();
    while now.duration_since(start) < Duration::from_secs(1) {
        accounts.let_in(true).expect("everybody waits");
        let index = (0..wants.len())
            .find(|index| accounts.is_let_in(keys[*index], tickets[*index]))
            .expect("somebody is let in");
        let (took, is_bad) = wants[index];
        now += took;
        accounts.sweep(now);
        accounts.charge(keys[index], took, false);
        accounts.ended(keys[index], is_bad);
        served[index] += 1;
        tickets[index] = accounts.hold(keys[index], Line::Begins, waker.clone(), Instant::now());
    }
    served
}

#[track_caller]
fn check_times(wants: &[(Duration, bool)], parts: &[f64]) {
    let served = served(wants);
    for (index, part) in parts.iter().enumerate() {
        let time = wants[index].0 * served[index];
        let is = time.as_secs_f64();
        assert!((is / part - 1.0).abs() < 0.15, "{wants:?} {served:?}");
    }
}

#[test]
fn time_is_divided_and_not_requests() {
    check_times(&[(30 * US, false), (30 * US, false)], &[0.5, 0.5]);
    check_times(&[(30 * US, false), (300 * US, false)], &[0.5, 0.5]);
    let four = [(20 * US, false); 4];
    check_times(&four, &[0.25; 4]);
}

#[test]
fn who_ends_badly_gets_a_small_part_and_never_none() {
    let bad = 1.0 / 65.0;
    check_times(&[(30 * US, false), (30 * US, true)], &[1.0 - bad, bad]);
    // All of them alike.
    check_times(&[(30 * US, true), (30 * US, true)], &[0.5, 0.5]);
}

#[test]
fn who_comes_now_and_then_is_next_whatever_it_had() {
    let (mut accounts, [good, greedy], _) = two();
    let (_, waker) = Count::waker();
    // The one used more than the other, which did nothing meanwhile.
    for _ in 0..100 {
        if accounts.is_behind(good) {
            accounts.hold(good, Line::Begins, waker.clone(), Instant::now());
            accounts.let_in(true).expect("it waits");
        }
        accounts.charge(good, 50 * US, false);
    }
    // Of which many come at once now.
    for n in 0..20 {
        assert_eq!(accounts.is_behind(greedy), n > 2, "{n}");
        accounts.charge(greedy, 50 * US, false);
    }
    accounts.hold(greedy, Line::Begins, waker.clone(), Instant::now());
    let ticket = accounts.hold(good, Line::Begins, waker, Instant::now());
    accounts.let_in(true).expect("they wait");
    assert!(accounts.is_let_in(good, ticket));
}

#[test]
fn waste_counts_as_what_ends_badly() {
    let (mut accounts, [good, greedy], _) = two();
    accounts.charge(good, 640 * US, false);
    accounts.charge(greedy, 10 * US, true);
    let due = [good, greedy].map(|key| accounts.account(key).unwrap().due_ns);
    assert_eq!(due, [640_000, 640_000]);
}

#[test]
fn who_fails_now_and_then_pays_little() {
    for (one_bad_of, factor) in [(20, 1.0..1.6), (4, 3.0..7.0), (1, 63.0..65.0)] {
        let (mut accounts, [good, greedy], _) = two();
        for number in 0..400 {
            accounts.ended(greedy, number % one_bad_of == 0);
        }
        accounts.charge(greedy, 100 * US, false);
        let due = accounts.due(&name("greedy"));
        let is = due.as_secs_f64() / (100 * US).as_secs_f64();
        assert!(factor.contains(&is), "1 of {one_bad_of}: {is}");
        assert!(!accounts.is_behind(good));
    }
}

#[test]
fn what_one_used_alone_it_owes_nobody() {
    let mut accounts = Accounts::new(Instant::now());
    let greedy = accounts.open(&name("greedy"));
    for _ in 0..1_000 {
        accounts.charge(greedy, 1_000 * US, false);
    }
    let good = accounts.open(&name("good"));
    assert!(!accounts.is_behind(greedy) && !accounts.is_behind(good));
    // From here on they divide.
    let (_, waker) = Count::waker();
    accounts.charge(greedy, 200 * US, false);
    assert!(accounts.is_behind(greedy) && !accounts.is_behind(good));
    accounts.hold(greedy, Line::Begins, waker.clone(), Instant::now());
    accounts.charge(good, 300 * US, false);
    let ticket = accounts.hold(good, Line::Begins, waker, Instant::now());
    accounts.let_in(true).expect("both wait");
    assert!(!accounts.is_let_in(good, ticket));
    accounts.let_in(true).expect("one waits");
    assert!(accounts.is_let_in(good, ticket));
}

#[test]
fn who_comes_later_does_not_overtake_who_waits() {
    let (mut accounts, [good, greedy], _) = two();
    let (_, waker) = Count::waker();
    accounts.charge(greedy, 300 * US, false);
    let first = accounts.hold(greedy, Line::Begins, waker.clone(), Instant::now());
    let second = accounts.hold(greedy, Line::Begins, waker, Instant::now());
    accounts.let_in(true).expect("two wait");
    // It is due, and yet one of it came before.
    assert!(accounts.is_let_in(greedy, first) && accounts.is_behind(greedy));
    assert!(!accounts.is_behind(good));
    accounts.let_in(true).expect("one waits");
    assert!(accounts.is_let_in(greedy, second) && !accounts.is_behind(greedy));
}

#[test]
fn who_is_due_is_let_in_first_and_each_in_its_order() {
    let (mut accounts, [good, greedy], start) = two();
    accounts.charge(greedy, 900 * US, false);
    accounts.charge(good, 300 * US, false);
    let counted = [(); 3].map(|()| Count::waker());
    let mut of = [greedy, greedy, good].into_iter();
    let tickets = counted.each_ref().map(|(_, waker)| {
        let key = of.next().expect("three");
        (
            key,
            accounts.hold(key, Line::Begins, waker.clone(), Instant::now()),
        )
    });
    let is_let_in =
        |accounts: &Accounts| tickets.map(|(key, ticket)| accounts.is_let_in(key, ticket));
    let let_in = |accounts: &mut Accounts| accounts.let_in(true).unwrap().wake();
    let_in(&mut accounts);
    assert_eq!(is_let_in(&accounts), [false, false, true]);
    // Time changes nothing of the order.
    accounts.sweep(start + 3 * FORGOTTEN_AFTER);
    let_in(&mut accounts);
    assert_eq!(is_let_in(&accounts), [true, false, true]);
    assert!(accounts.has_waiting());
    let_in(&mut accounts);
    assert_eq!(is_let_in(&accounts), [true; 3]);
    assert!(!accounts.has_waiting() && accounts.let_in(true).is_none());
    assert_eq!(counted.map(|(count, _)| count.get()), [1; 3]);
}

#[test]
fn nobody_is_behind_alone_and_who_is_not_used_is_forgotten() {
    let start = Instant::now();
    let mut accounts = Accounts::new(start);
    let greedy = accounts.open(&name("greedy"));
    accounts.charge(greedy, 1_000 * US, false);
    assert!(!accounts.is_behind(greedy));
    let good = accounts.open(&name("good"));
    accounts.charge(greedy, 1_000 * US, false);
    assert!(accounts.is_behind(greedy) && !accounts.is_behind(good));
    accounts.sweep(start + FORGOTTEN_AFTER);
    accounts.charge(good, US, false);
    accounts.sweep(start + 2 * FORGOTTEN_AFTER);
    assert!(!accounts.has(greedy, &name("greedy")) && accounts.has(good, &name("good")));
    let anew = accounts.open(&name("other"));
    assert!(accounts.has(anew, &name("other")) && !accounts.has(greedy, &name("greedy")));
    assert!(!accounts.is_behind(anew) && !accounts.is_behind(greedy));
    // Whoever waited for one that is gone waits no more.
    let (line, number) = (Line::Begins, 7);
    assert!(accounts.is_let_in(greedy, Ticket { line, number }));
}

#[test]
fn where_somebody_may_be_ready_only_who_is_due_is_let_in() {
    let (mut accounts, [good, greedy], _) = two();
    let (_, waker) = Count::waker();
    accounts.charge(greedy, 300 * US, false);
    let ticket = accounts.hold(greedy, Line::Begins, waker.clone(), Instant::now());
    assert!(accounts.let_in(false).is_none());
    accounts.charge(good, 290 * US, false);
    accounts.hold(good, Line::Begins, waker, Instant::now());
    accounts.let_in(true).expect("two wait");
    assert!(!accounts.is_let_in(greedy, ticket));
    accounts.let_in(false).expect("it is due");
    assert!(accounts.is_let_in(greedy, ticket));
}

#[test]
fn who_waits_for_too_long_is_let_in_whenever_it_is_due() {
    let (mut accounts, [good, greedy], start) = two();
    let (_, waker) = Count::waker();
    accounts.charge(greedy, 300 * US, false);
    let tickets = [0, 0, 1, 5].map(|ms| {
        let since = start + ms * 1_000 * US;
        accounts.hold(greedy, Line::Begins, waker.clone(), since)
    });
    let of_good = accounts.hold(good, Line::Begins, waker.clone(), start + 5_000 * US);
    accounts.let_in(true).expect("it is due");
    accounts.let_in(true).expect("the first of the others");
    assert_eq!(accounts.let_in_late(start, 4).len(), 1);
    assert_eq!(accounts.let_in_late(start + 2_000 * US, 4).len(), 1);
    let is_let_in = |accounts: &Accounts, ticket| accounts.is_let_in(greedy, ticket);
    let [served, _, late, young] = tickets;
    assert!(is_let_in(&accounts, served) && is_let_in(&accounts, late));
    assert!(!is_let_in(&accounts, young) && accounts.has_waiting());
    assert!(accounts.is_late(greedy, late) && !accounts.is_late(greedy, served));
    assert!(!accounts.is_late(good, of_good) && !accounts.is_late(Key::NONE, late));
    // So many at a time.
    accounts.hold(greedy, Line::Begins, waker, start + 5_000 * US);
    let later = start + 6_000 * US;
    assert_eq!(accounts.let_in_late(later, 1).len(), 1);
    assert!(accounts.is_late(greedy, young) && !accounts.is_late(greedy, late));
    assert_eq!(accounts.let_in_late(later, 4).len(), 1);
    assert!(!accounts.has_waiting() && accounts.let_in(true).is_none());
}

#[test]
fn what_was_begun_is_never_late_and_keeps_its_place() {
    let (mut accounts, [_, greedy], start) = two();
    let (_, waker) = Count::waker();
    accounts.charge(greedy, 300 * US, false);
    let [first, second, third] = [Line::GoesOn, Line::Begins, Line::GoesOn].map(|line| {
        let since = start + accounts.waiting.len() as u32 * US;
        accounts.hold(greedy, line, waker.clone(), since)
    });
    let is_let_in = |accounts: &Accounts| {
        [first, second, third].map(|ticket| accounts.is_let_in(greedy, ticket))
    };
    accounts.let_in(true).expect("three wait");
    assert_eq!(is_let_in(&accounts), [true, false, false]);
    let later = start + FORGOTTEN_AFTER;
    assert_eq!(accounts.let_in_late(later, 4).len(), 1);
    assert_eq!(is_let_in(&accounts), [true, true, false]);
    assert!(accounts.let_in_late(later, 4).is_empty());
    let is_late = [first, second, third].map(|ticket| accounts.is_late(greedy, ticket));
    assert_eq!(is_late, [false, true, false]);
}

#[test]
fn who_waits_no_more_is_not_let_in() {
    let (mut accounts, [_, greedy], start) = two();
    accounts.charge(greedy, 300 * US, false);
    let counted = [(); 2].map(|()| Count::waker());
    let [left, stays] = counted
        .each_ref()
        .map(|(_, waker)| accounts.hold(greedy, Line::GoesOn, waker.clone(), start));
    accounts.give_up(greedy, left);
    let (moved, waker) = Count::waker();
    accounts.wake_by(greedy, stays, &waker);
    accounts.let_in(true).expect("one waits").wake();
    assert!(accounts.is_let_in(greedy, stays) && !accounts.has_waiting());
    assert_eq!(counted.map(|(count, _)| count.get()), [0, 0]);
    assert_eq!(moved.get(), 1);
    let last = accounts.hold(greedy, Line::Begins, waker, start);
    accounts.give_up(greedy, last);
    accounts.give_up(greedy, stays);
    assert!(!accounts.has_waiting() && accounts.let_in(true).is_none());
}

#[test]
fn an_account_with_somebody_in_its_queue_is_kept() {
    let (mut accounts, [good, _], start) = two();
    let (count, waker) = Count::waker();
    let ticket = accounts.hold(good, Line::Begins, waker, Instant::now());
    for times in 1..4 {
        accounts.sweep(start + times * FORGOTTEN_AFTER);
    }
    assert!(accounts.has(good, &name("good")) && !accounts.is_let_in(good, ticket));
    accounts.let_in(true).unwrap().wake();
    assert!(accounts.is_let_in(good, ticket));
    assert_eq!(count.get(), 1);
}

#[test]
fn no_poll_counts_for_more_than_a_moment() {
    let (mut accounts, [good, greedy], _) = two();
    accounts.charge(good, Duration::MAX, false);
    accounts.charge(greedy, Duration::MAX, true);
    let due = [good, greedy].map(|key| accounts.account(key).unwrap().due_ns);
    assert_eq!(due, [10_000_000, DEBT_MAX_NS]);
}
