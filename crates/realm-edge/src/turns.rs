//! Whose turn it is on a serving thread: components divide its time.
//!
//! A thread has one queue, and serves who is ready in the order in which they became so. A component whose
//! clients begin again as soon as they are answered would fill it, and everybody's request would wait
//! behind all of theirs. So each poll of a connection is charged to the component that it serves, and who is
//! due later than others may be ([`accounts`]) is held back until all that is ready has run. Then who is due
//! first is let in first, a few at a time ([`BATCH`]) between two looks at the sockets: a thread never rests
//! while anybody waits. Nobody is held back on one that serves one component alone.
//!
//! Not here: guests that compute (they leave the serving threads: `heavy` of `realm-host`), what is done
//! for a connection before a head was read, and what all streams of an HTTP/2 connection have in common: its
//! frames, their compression and encryption.

mod accounts;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use realm_model::name::ComponentName;
use tokio::task::yield_now;

use accounts::{Accounts, Key, Ticket};

/// Those who were held back are let in for so long before the sockets are looked at again.
const BATCH: Duration = Duration::from_micros(50);

thread_local! {
    /// Of a serving thread. Others have none, and hold nobody back.
    static TURNS: RefCell<Option<Turns>> = const { RefCell::new(None) };
    /// For whom a thread of another kind begins something that a serving thread goes on with.
    static BEGINS_FOR: RefCell<Option<ComponentName>> = const { RefCell::new(None) };
}

/// One serving thread.
struct Turns {
    accounts: Accounts,
    /// Lets in who is held back.
    doorkeeper: Option<Waker>,
    /// Polls of who was not held back.
    n_polls: u64,
    /// The poll under way, which nothing here outlives.
    now: Now,
}

/// What is known of one poll while it lasts.
struct Now {
    began: Instant,
    serves: Option<Key>,
    /// What was served has ended, and what comes next is not known.
    is_between: bool,
    /// It is spent on what nobody wants.
    is_waste: bool,
    /// What it serves from here on is to be held back.
    is_early: bool,
}

/// A connection, as its thread knows it.
#[derive(Default)]
struct Place {
    serves: Option<(Key, ComponentName)>,
    /// That has ended: what comes next may be for another one.
    is_between: bool,
    held: Option<Held>,
}

/// Who is held back, and is woken once that is over.
struct Held {
    ticket: Ticket,
    waker: Waker,
}

/// Begins to divide the time of the calling thread, which runs one runtime and nothing else. Within it.
pub(crate) fn divide() {
    let now = Instant::now();
    TURNS.set(Some(Turns {
        accounts: Accounts::new(now),
        doorkeeper: None,
        n_polls: 0,
        now: Now {
            began: now,
            serves: None,
            is_between: false,
            is_waste: false,
            is_early: false,
        },
    }));
    tokio::spawn(keep_the_door());
}

/// Runs what serves a connection, in turn with what serves others. Not within another one. What `is_to_end`
/// is not held back.
pub(crate) async fn in_turn<F: Future>(serving: F, is_to_end: impl Fn() -> bool) -> F::Output {
    let mut serving = std::pin::pin!(serving);
    let mut place = Place::default();
    poll_fn(|context| {
        if !enter(&mut place, context, &is_to_end) {
            return Poll::Pending;
        }
        let polled = serving.as_mut().poll(context);
        leave(&mut place, context, polled.is_pending());
        polled
    })
    .await
}

/// A task of its own for a part of what the calling task does: in turn with the others of its thread as
/// that one is, but for what `is_to_end`. What it takes to end it counts too.
pub fn in_turn_with_caller(task: Task, is_to_end: IsToEnd) -> Task {
    let serves = with(|turns| {
        let key = turns.now.serves?;
        Some((key, turns.accounts.component(key)?.clone()))
    });
    // An account is opened where it runs.
    let begun = || Some((Key::NONE, BEGINS_FOR.with_borrow(Clone::clone)?));
    match serves.flatten().or_else(begun) {
        None => task,
        serves => Box::pin(Part {
            task: Some(task),
            is_to_end,
            place: Place {
                serves,
                ..Place::default()
            },
        }),
    }
}

/// What is begun within is this component's, wherever it goes on.
pub(crate) fn begin_for<T>(component: &ComponentName, begin: impl FnOnce() -> T) -> T {
    struct Restored(Option<ComponentName>);
    impl Drop for Restored {
        fn drop(&mut self) {
            BEGINS_FOR.set(self.0.take());
        }
    }
    let _restored = Restored(BEGINS_FOR.replace(Some(component.clone())));
    begin()
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type IsToEnd = Box<dyn Fn() -> bool + Send>;

struct Part {
    task: Option<Task>,
    is_to_end: IsToEnd,
    place: Place,
}

impl Future for Part {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !enter(&mut this.place, context, &this.is_to_end) {
            return Poll::Pending;
        }
        let task = this.task.as_mut();
        let polled = task.map_or(Poll::Ready(()), |task| task.as_mut().poll(context));
        if polled.is_ready() {
            this.task = None;
        }
        leave(&mut this.place, context, polled.is_pending());
        polled
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(task) = self.task.take()
            && let Some((key, _)) = self.place.serves
        {
            let began = Instant::now();
            drop(task);
            with(|turns| turns.accounts.charge(key, began.elapsed(), false));
        }
    }
}

/// From here on what is polled serves this component: waits for its turn, and says how long, if it had to.
pub(crate) async fn serve(component: &ComponentName) -> Option<Duration> {
    let mut held_at = None;
    poll_fn(|_| match with(|turns| turns.serve(component)) {
        // It is polled again when the whole is let in: `leave` sees to that.
        Some(true) => {
            held_at.get_or_insert_with(Instant::now);
            Poll::Pending
        }
        Some(false) | None => Poll::Ready(held_at.map(|at| at.elapsed())),
    })
    .await
}

/// The poll under way is spent on what nobody wants.
pub(crate) fn wastes() {
    with(|turns| {
        turns.now.is_waste = true;
        // The connection goes on with what it has.
        turns.now.is_between = false;
    });
}

/// A request that the poll under way served ended well or badly.
pub(crate) fn ended(is_bad: bool) {
    with(|turns| {
        if let Some(key) = turns.now.serves {
            turns.accounts.ended(key, is_bad);
            turns.now.is_between = true;
        }
    });
}

fn with<T>(act: impl FnOnce(&mut Turns) -> T) -> Option<T> {
    // Also where a thread ends, and drops what it served.
    TURNS
        .try_with(|turns| turns.try_borrow_mut().ok()?.as_mut().map(act))
        .ok()
        .flatten()
}

/// Whether it may be polled now; else it is woken when it may.
fn enter(place: &mut Place, context: &Context<'_>, is_to_end: impl Fn() -> bool) -> bool {
    let may_go_on = with(|turns| {
        let now = Instant::now();
        turns.accounts.sweep(now);
        let serves = place.serves.as_mut().map(|(key, component)| {
            // Forgotten while it stood still.
            if !turns.accounts.has(*key, component) {
                *key = turns.accounts.open(component);
                place.held = None;
            }
            *key
        });
        if let Some(key) = serves
            && !place.is_between
            && !is_to_end()
            && turns.keeps_back(key, &mut place.held, context.waker())
        {
            return false;
        }
        place.held = None;
        turns.now = Now {
            began: now,
            serves,
            is_between: place.is_between,
            is_waste: false,
            is_early: false,
        };
        true
    });
    may_go_on.unwrap_or(true)
}

fn leave(place: &mut Place, context: &Context<'_>, goes_on: bool) {
    with(|turns| {
        turns.charge(Instant::now());
        place.is_between = turns.now.is_between;
        let Some(key) = turns.now.serves.take() else {
            return;
        };
        if place.serves.as_ref().is_none_or(|(was, _)| *was != key) {
            let component = turns.accounts.component(key);
            place.serves = component.map(|component| (key, component.clone()));
        }
        match turns.now.is_early {
            true if goes_on => place.held = Some(turns.hold(key, context.waker())),
            true => {}
            false => turns.n_polls += 1,
        }
    });
}

impl Turns {
    /// Whether the poll under way is to go no further.
    fn serve(&mut self, component: &ComponentName) -> bool {
        if self.now.is_early {
            return true;
        }
        let known = self.now.serves;
        let is_known = known.is_some_and(|key| self.accounts.has(key, component));
        // What it serves already it was let in for.
        if is_known && !self.now.is_between {
            return false;
        }
        self.now.is_between = false;
        if known.is_some() {
            let now = Instant::now();
            self.charge(now);
            self.now.began = now;
        }
        let key = self.accounts.open(component);
        self.now.serves = Some(key);
        self.now.is_early = self.accounts.is_behind(key);
        self.now.is_early
    }

    /// Holds somebody back who is behind, or still is; `false`: who may go on.
    fn keeps_back(&mut self, key: Key, held: &mut Option<Held>, waker: &Waker) -> bool {
        let is_held = match held {
            Some(held) => !self.accounts.is_let_in(key, held.ticket),
            None => self.accounts.is_behind(key),
        };
        // What goes on in another task is woken there.
        let is_known = held
            .as_ref()
            .is_some_and(|held| held.waker.will_wake(waker));
        if is_held && !is_known {
            *held = Some(self.hold(key, waker));
        }
        is_held
    }

    fn charge(&mut self, now: Instant) {
        if let Some(key) = self.now.serves {
            let took = now.saturating_duration_since(self.now.began);
            self.accounts.charge(key, took, self.now.is_waste);
        }
    }

    fn hold(&mut self, key: Key, waker: &Waker) -> Held {
        let ticket = self.accounts.hold(key, waker.clone());
        if let Some(doorkeeper) = self.doorkeeper.take() {
            doorkeeper.wake();
        }
        let waker = waker.clone();
        Held { ticket, waker }
    }
}

/// Lets in who was held back, for as long as the thread serves.
async fn keep_the_door() {
    loop {
        poll_fn(|context| {
            let has_some = with(|turns| {
                let has_some = turns.accounts.has_waiting();
                if !has_some {
                    turns.doorkeeper = Some(context.waker().clone());
                }
                has_some
            });
            match has_some {
                Some(true) => Poll::Ready(()),
                Some(false) | None => Poll::Pending,
            }
        })
        .await;
        // Everything that is ready runs first, and whoever has become so by what the sockets say.
        yield_now().await;
        let looked_at = Instant::now();
        let mut before = None;
        while looked_at.elapsed() < BATCH {
            to_the_end_of_the_queue().await;
            let let_in = with(|turns| {
                let is_quiet = before.replace(turns.n_polls) == Some(turns.n_polls);
                let let_in = turns.accounts.let_in(is_quiet);
                (let_in, is_quiet)
            });
            match let_in {
                Some((Some(waker), _)) => waker.wake(),
                // Who has run may be ready again, and is due sooner.
                Some((None, false)) => {}
                Some((None, true)) | None => break,
            }
        }
    }
}

/// Lets all that is ready run, without a look at the sockets.
async fn to_the_end_of_the_queue() {
    let mut is_again = false;
    poll_fn(|context| match std::mem::replace(&mut is_again, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use tokio::runtime::Builder;

    use super::accounts::tests::Count;
    use super::*;

    fn name(text: &str) -> ComponentName {
        text.parse().unwrap()
    }

    fn on_a_serving_thread<F: Future>(test: impl FnOnce() -> F) -> F::Output {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            divide();
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
                        wastes();
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
            while woken.get() < 2 {
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
        serving.await;
        wastes();
        ended(true);
        in_turn_with_caller(Box::pin(async {}), Box::new(|| false)).await;
    }
}
