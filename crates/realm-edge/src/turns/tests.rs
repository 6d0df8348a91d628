//! A serving thread that divides its time, without sockets.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::runtime::Builder;

use super::accounts::tests::Count;
use super::*;
use crate::config::TURN_TIMEOUT;

fn name(text: &str) -> ComponentName {
    text.parse().unwrap()
}

fn on_a_serving_thread<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        divide(TURN_TIMEOUT);
        test().await
    })
}

fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Asks again as soon as it was served, which takes so long.
async fn greedy(component: ComponentName, time: Duration, served: Arc<AtomicU32>) {
    let asking = async {
        loop {
            serve(&component).await;
            spin(time);
            served.fetch_add(1, Relaxed);
            to_the_end_of_the_queue().await;
        }
    };
    in_turn(asking, || false).await;
}

#[test]
fn one_client_gets_as_much_as_thirty_of_another_component() {
    const TIME: Duration = Duration::from_micros(40);
    let [one, thirty]: [Arc<AtomicU32>; 2] = Default::default();
    on_a_serving_thread(|| async {
        tokio::spawn(greedy(name("one"), TIME, Arc::clone(&one)));
        for _ in 0..30 {
            tokio::spawn(greedy(name("thirty"), TIME, Arc::clone(&thirty)));
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    });
    let [one, thirty] = [one, thirty].map(|served| served.load(Relaxed));
    assert!(thirty > 100, "{one} {thirty}");
    assert!(one > thirty / 2 && one < thirty * 2, "{one} {thirty}");
}

#[test]
fn what_bytes_nobody_wants_take_counts_more() {
    const TIME: Duration = Duration::from_micros(40);
    let [wanted, unwanted]: [Arc<AtomicU32>; 2] = Default::default();
    on_a_serving_thread(|| async {
        tokio::spawn(greedy(name("wanted"), TIME, Arc::clone(&wanted)));
        let (component, served) = (name("unwanted"), Arc::clone(&unwanted));
        tokio::spawn(in_turn(
            async move {
                serve(&component).await;
                loop {
                    spin(TIME);
                    reads_on(true);
                    served.fetch_add(1, Relaxed);
                    to_the_end_of_the_queue().await;
                }
            },
            || false,
        ));
        tokio::time::sleep(Duration::from_millis(400)).await;
    });
    let [wanted, unwanted] = [wanted, unwanted].map(|served| served.load(Relaxed));
    assert!(
        unwanted > 0 && unwanted < wanted / 16,
        "{wanted} {unwanted}"
    );
}

#[test]
fn who_is_behind_is_held_back_until_nothing_else_is_ready_or_it_is_to_end() {
    let (woken, waker) = Count::waker();
    let context = Context::from_waker(&waker);
    on_a_serving_thread(|| async {
        let mut place = Place::default();
        assert!(enter(&mut place, &context, || false));
        assert_eq!(with(|turns| turns.serve(&name("greedy"))), Some(false));
        leave(&mut place, &context, true);
        let (key, _) = place.serves.clone().unwrap();
        let used_much = || {
            with(|turns| turns.accounts.charge(key, Duration::from_millis(5), false));
        };
        used_much();
        assert!(enter(&mut place, &context, || false), "it is alone");
        leave(&mut place, &context, true);
        with(|turns| turns.accounts.open(&name("other")));
        used_much();
        assert!(!enter(&mut place, &context, || false));
        assert!(!enter(&mut place, &context, || false), "still");
        assert!(enter(&mut place, &context, || true), "it is to end");
        leave(&mut place, &context, true);
        used_much();
        assert!(!enter(&mut place, &context, || false));
        while woken.get() < 1 {
            yield_now().await;
        }
        assert!(enter(&mut place, &context, || false), "it is let in");
        leave(&mut place, &context, true);
        // It goes on in another task, which is woken in the end.
        used_much();
        assert!(!enter(&mut place, &context, || false));
        let (woken, waker) = Count::waker();
        let context = Context::from_waker(&waker);
        assert!(!enter(&mut place, &context, || false));
        while woken.get() < 1 {
            yield_now().await;
        }
        assert!(enter(&mut place, &context, || false));
        leave(&mut place, &context, true);
    });
}

/// Where what is ready is never held back, and takes longer than a batch.
#[test]
fn who_is_held_back_is_let_in_at_some_time_however_busy_the_thread_is() {
    const TIME: Duration = Duration::from_millis(400);
    let served: Arc<AtomicU32> = Arc::default();
    on_a_serving_thread(|| async {
        for number in 0..2 {
            let (component, served) = (name(&format!("held-{number}")), Arc::clone(&served));
            tokio::spawn(greedy(component, 2 * BATCH, served));
        }
        // In the queue, as connections are that serve somebody who is not behind.
        let busy = tokio::spawn(async {
            loop {
                spin(2 * BATCH);
                with(|turns| turns.n_polls += 1);
                to_the_end_of_the_queue().await;
            }
        });
        tokio::time::sleep(TIME).await;
        busy.abort();
    });
    let served = served.load(Relaxed);
    assert!(served > 40, "{served}");
}

#[test]
fn who_waits_for_too_long_is_let_in_and_told() {
    const TIMEOUT: Duration = Duration::from_millis(20);
    const CLIENTS: usize = 200;
    const REQUESTS: u32 = 600;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let [late, served]: [Arc<AtomicU32>; 2] = Default::default();
    runtime.block_on(async {
        divide(TIMEOUT);
        for number in 0..CLIENTS {
            let component = name(["one", "two"][number % 2]);
            let (late, served) = (Arc::clone(&late), Arc::clone(&served));
            let asking = async move {
                loop {
                    let held_at = Instant::now();
                    if serve(&component).await == Turn::Late {
                        assert!(held_at.elapsed() >= TIMEOUT);
                        late.fetch_add(1, Relaxed);
                        ended(End::Refused);
                    } else {
                        spin(8 * BATCH);
                        served.fetch_add(1, Relaxed);
                        ended(End::Well);
                    }
                    to_the_end_of_the_queue().await;
                }
            };
            tokio::spawn(in_turn(asking, || false));
        }
        // Whoever is refused leaves its time to others.
        while served.load(Relaxed) < REQUESTS {
            tokio::time::sleep(TIMEOUT).await;
        }
    });
    // Of all that are under way 50 are begun in that time.
    let late = late.load(Relaxed);
    assert!(late > REQUESTS / 4, "{late}");
}

#[test]
fn what_was_not_begun_says_nothing_of_its_component() {
    on_a_serving_thread(|| async {
        let bad = name("bad");
        let charged = |how: End, times: u32| {
            let key = with(|turns| turns.accounts.open(&bad)).unwrap();
            with(|turns| turns.now.serves = Some(key));
            (0..times).for_each(|_| ended(how));
            let due = || with(|turns| turns.accounts.due(&bad)).unwrap();
            let before = due();
            with(|turns| turns.accounts.charge(key, Duration::from_micros(10), false));
            due() - before
        };
        // Else nothing is owed.
        with(|turns| turns.accounts.open(&name("other")));
        let usual = charged(End::Refused, 1);
        let more = charged(End::Badly, 100);
        assert!(more > 60 * usual, "{usual:?} {more:?}");
        assert_eq!(charged(End::Refused, 100), more);
        assert_eq!(charged(End::Left, 100), more);
        assert!(charged(End::Well, 100) < 2 * usual);
        // But for what it took that a client came and went.
        with(|turns| turns.now.is_waste = false);
        ended(End::Left);
        assert_eq!(with(|turns| turns.now.is_waste), Some(true));
    });
}

#[test]
fn who_was_let_in_may_look_once_more() {
    let (_, waker) = Count::waker();
    let context = &mut Context::from_waker(&waker);
    on_a_serving_thread(|| async {
        let serving = in_turn(
            async {
                serve(&name("greedy")).await;
                once_more().await;
            },
            || false,
        );
        let mut serving = std::pin::pin!(serving);
        let (other, greedy) = with(|turns| {
            let open = |turns: &mut Turns, text| turns.accounts.open(&name(text));
            (open(turns, "other"), open(turns, "greedy"))
        })
        .unwrap();
        assert!(serving.as_mut().poll(context).is_pending(), "it looks");
        with(|turns| {
            turns
                .accounts
                .charge(other, Duration::from_millis(1), false);
            turns
                .accounts
                .charge(greedy, Duration::from_millis(5), false);
        });
        assert!(serving.as_mut().poll(context).is_ready());
    });
}

#[test]
fn who_is_dropped_waits_no_more() {
    let (_, waker) = Count::waker();
    let context = &mut Context::from_waker(&waker);
    on_a_serving_thread(|| async {
        let serving = in_turn(serve_for_ever(), || false);
        let mut serving = Box::pin(serving);
        assert!(serving.as_mut().poll(context).is_pending());
        with(|turns| {
            let [_, greedy] = ["other", "greedy"].map(|text| turns.accounts.open(&name(text)));
            turns
                .accounts
                .charge(greedy, Duration::from_millis(5), false);
        });
        assert!(serving.as_mut().poll(context).is_pending());
        let has_waiting = || with(|turns| turns.accounts.has_waiting());
        assert_eq!(has_waiting(), Some(true));
        drop(serving);
        assert_eq!(has_waiting(), Some(false));
    });
}

async fn serve_for_ever() {
    serve(&name("greedy")).await;
    std::future::pending::<()>().await;
}

#[test]
fn a_task_is_known_to_whoever_wakes_it_however_late_its_turn_is() {
    let (_, waker) = Count::waker();
    let context = &mut Context::from_waker(&waker);
    on_a_serving_thread(|| async {
        let n_polls: Arc<AtomicU32> = Arc::default();
        let polls = Arc::clone(&n_polls);
        let mut begun = None;
        let begins = async {
            serve(&name("greedy")).await;
            let task = poll_fn(move |_| {
                polls.fetch_add(1, Relaxed);
                Poll::Pending
            });
            begun = Some(in_turn_with_caller(Box::pin(task), Box::new(|| false)));
        };
        in_turn(begins, || false).await;
        let mut task = begun.expect("it was begun");
        with(|turns| {
            let [_, greedy] = ["other", "greedy"].map(|text| turns.accounts.open(&name(text)));
            turns
                .accounts
                .charge(greedy, Duration::from_millis(5), false);
        });
        for _ in 0..2 {
            assert!(task.as_mut().poll(context).is_pending());
            assert_eq!(n_polls.load(Relaxed), 1);
        }
    });
}

#[test]
fn a_task_counts_for_the_component_that_began_it_and_so_does_its_end() {
    const TIME: Duration = Duration::from_millis(2);
    struct SlowToEnd;
    impl Drop for SlowToEnd {
        fn drop(&mut self) {
            spin(TIME);
        }
    }
    let due = |turns: &mut Turns| turns.accounts.due(&name("one"));
    on_a_serving_thread(|| async {
        let mut begun = None;
        let begins = async {
            serve(&name("one")).await;
            let held = SlowToEnd;
            let task = in_turn_with_caller(
                Box::pin(async move {
                    spin(TIME);
                    std::future::pending::<()>().await;
                    drop(held);
                }),
                Box::new(|| false),
            );
            begun = Some(tokio::spawn(task));
        };
        in_turn(begins, || false).await;
        let task = begun.expect("it was begun");
        let before = with(due).unwrap();
        yield_now().await;
        let polled = with(due).unwrap();
        assert!(polled >= before + TIME, "{before:?} {polled:?}");
        task.abort();
        let _ = task.await;
        let ended = with(due).unwrap();
        assert!(ended >= polled + TIME, "{polled:?} {ended:?}");
    });
}

#[test]
fn what_another_thread_begins_for_a_component_is_charged_where_it_runs() {
    const TIME: Duration = Duration::from_millis(2);
    let one = name("one");
    let begin = |begun: Arc<AtomicU32>| {
        let task = async move {
            spin(TIME);
            begun.fetch_add(1, Relaxed);
        };
        in_turn_with_caller(Box::pin(task), Box::new(|| false))
    };
    let begun = Arc::new(AtomicU32::new(0));
    let of_one = begin_for(&one, || begin(Arc::clone(&begun)));
    let of_nobody = begin(Arc::clone(&begun));
    on_a_serving_thread(|| async {
        let due = || with(|turns| turns.accounts.due(&one)).unwrap();
        tokio::spawn(of_nobody).await.unwrap();
        assert_eq!(due(), Duration::ZERO);
        tokio::spawn(of_one).await.unwrap();
        assert!(due() >= TIME, "{:?}", due());
    });
    assert_eq!(begun.load(Relaxed), 2);
}

#[tokio::test]
async fn other_threads_hold_nobody_back() {
    let component = name("anybody");
    let serving = in_turn(async { serve(&component).await }, || false);
    assert_eq!(serving.await, Turn::AtOnce);
    once_more().await;
    reads_on(true);
    ended(End::Badly);
    in_turn_with_caller(Box::pin(async {}), Box::new(|| false)).await;
}
