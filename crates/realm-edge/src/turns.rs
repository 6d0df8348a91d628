//! Whose turn it is on a serving thread: components divide its time.
//!
//! A thread has one queue, and serves who is ready in the order in which they became so. A component whose
//! clients begin again as soon as they are answered would fill it, and everybody's request would wait
//! behind all of theirs. So each poll of a connection is charged to the component that it serves, and who is
//! due later than others may be ([`accounts`]) is held back until all that is ready has run, and what that
//! made ready as well: a lap of the queue in which nobody ran but who was held back. Then who is due first is
//! let in first, a few at a time ([`BATCH`]) between two looks at the sockets, and one at a time where there is
//! no such lap ([`PATIENCE`]): a thread never rests while anybody waits. Nobody is held back on one that serves
//! one component alone.
//!
//! A request that was not begun within some time is let in to be refused ([`Turn::Late`]).
//!
//! Not here: guests that compute (they leave the serving threads: `heavy` of `realm-host`), what is done
//! for a connection before a head was read, and what all streams of an HTTP/2 connection have in common: its
//! frames, their compression and encryption.

mod accounts;
mod queue;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use realm_model::name::ComponentName;
use tokio::task::yield_now;

use accounts::{Accounts, Key, Line, Ticket};

/// Those who were held back are let in for so long before the sockets are looked at again.
const BATCH: Duration = Duration::from_micros(50);
/// Where there is always somebody else who is ready, one of them is let in after so long all the same.
const PATIENCE: Duration = Duration::from_millis(1);
/// Requests that waited for too long are let in so many at a time: they are refused, which takes a moment each.
const LATE_MAX: usize = 4;
/// They are looked for so many times in the time that is too long.
const LATE_LOOKS: u32 = 100;

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
    /// Who waits for longer to begin is late.
    turn_timeout: Duration,
    late_looked_at: Instant,
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
    /// It was let in because it had waited for too long.
    is_late: bool,
    /// The next one is not to be held back.
    passes: bool,
}

/// A connection, as its thread knows it.
#[derive(Default)]
struct Place {
    serves: Option<(Key, ComponentName)>,
    /// That has ended: what comes next may be for another one.
    is_between: bool,
    /// The next poll is not held back.
    passes: bool,
    held: Option<Held>,
}

/// Whether a request may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nobody was to come first.
    AtOnce,
    /// It waited.
    Waited,
    /// It waited for too long.
    Late,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Well,
    Badly,
    /// It was not begun.
    Refused,
    /// Its client left before it was begun.
    Left,
}

/// Who is held back, and is woken once that is over; one that is dropped waits no more.
struct Held {
    key: Key,
    ticket: Ticket,
}

impl Drop for Held {
    fn drop(&mut self) {
        with(|turns| turns.accounts.give_up(self.key, self.ticket));
    }
}

/// Begins to divide the time of the calling thread, which runs one runtime and nothing else. Within it. Who waits
/// for longer than `turn_timeout` to begin is [late](Turn::Late).
pub(crate) fn divide(turn_timeout: Duration) {
    let now = Instant::now();
    TURNS.set(Some(Turns {
        accounts: Accounts::new(now),
        doorkeeper: None,
        n_polls: 0,
        turn_timeout,
        late_looked_at: now,
        now: Now {
            began: now,
            serves: None,
            is_between: false,
            is_waste: false,
            is_early: false,
            is_late: false,
            passes: false,
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
/// that one is, but for what `is_to_end`, and for its first poll: whoever wakes the caller until then is to know
/// the task. What it takes to end it counts too.
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
                passes: true,
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

/// From here on what is polled serves this component: waits for its turn.
pub(crate) async fn serve(component: &ComponentName) -> Turn {
    let mut turn = Turn::AtOnce;
    poll_fn(
        |_| match with(|turns| (turns.serve(component), turns.now.is_late)) {
            // It is polled again when the whole is let in: `leave` sees to that.
            Some((true, _)) => {
                turn = Turn::Waited;
                Poll::Pending
            }
            Some((false, true)) if turn == Turn::Waited => Poll::Ready(Turn::Late),
            Some((false, _)) | None => Poll::Ready(turn),
        },
    )
    .await
}

/// Has the task be polled once more before this goes on, and not be held back for that.
pub(crate) async fn once_more() {
    with(|turns| turns.now.passes = true);
    to_the_end_of_the_queue().await;
}

/// The poll under way read what nobody wants, which is not in vain where its client did not know.
pub(crate) fn reads_on(is_waste: bool) {
    with(|turns| {
        turns.now.is_waste |= is_waste;
        // The connection goes on with what it has.
        turns.now.is_between = false;
    });
}

/// A request that the poll under way served has ended.
pub(crate) fn ended(how: End) {
    with(|turns| {
        let Some(key) = turns.now.serves else { return };
        match how {
            End::Well | End::Badly => turns.accounts.ended(key, how == End::Badly),
            End::Left => turns.now.is_waste = true,
            End::Refused => {}
        }
        turns.now.is_between = true;
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
    let mut held = None;
    let may_go_on = with(|turns| {
        let now = Instant::now();
        turns.accounts.sweep(now);
        let serves = place.serves.as_mut().map(|(key, component)| {
            // Forgotten while it stood still.
            if !turns.accounts.has(*key, component) {
                *key = turns.accounts.open(component);
                held = place.held.take();
            }
            *key
        });
        if let Some(key) = serves
            && !std::mem::take(&mut place.passes)
            && !place.is_between
            && !is_to_end()
            && turns.keeps_back(key, &mut place.held, context.waker(), now)
        {
            return false;
        }
        // Dropped outside: that needs the accounts too.
        held = held.take().or_else(|| place.held.take());
        let is_late = held
            .as_ref()
            .is_some_and(|held| turns.accounts.is_late(held.key, held.ticket));
        turns.now = Now {
            began: now,
            serves,
            is_between: place.is_between,
            is_waste: false,
            is_early: false,
            is_late,
            passes: false,
        };
        true
    });
    may_go_on.unwrap_or(true)
}

fn leave(place: &mut Place, context: &Context<'_>, goes_on: bool) {
    with(|turns| {
        let now = Instant::now();
        turns.charge(now);
        place.is_between = turns.now.is_between;
        place.passes = turns.now.passes;
        let Some(key) = turns.now.serves.take() else {
            return;
        };
        if place.serves.as_ref().is_none_or(|(was, _)| *was != key) {
            let component = turns.accounts.component(key);
            place.serves = component.map(|component| (key, component.clone()));
        }
        match turns.now.is_early {
            true if goes_on => {
                place.held = Some(turns.hold(key, Line::Begins, context.waker(), now));
            }
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
    fn keeps_back(
        &mut self,
        key: Key,
        held: &mut Option<Held>,
        waker: &Waker,
        now: Instant,
    ) -> bool {
        if let Some(held) = held {
            let is_held = !self.accounts.is_let_in(key, held.ticket);
            if is_held {
                // What goes on in another task is woken there.
                self.accounts.wake_by(key, held.ticket, waker);
            }
            return is_held;
        }
        let is_held = self.accounts.is_behind(key);
        if is_held {
            *held = Some(self.hold(key, Line::GoesOn, waker, now));
        }
        is_held
    }

    fn charge(&mut self, now: Instant) {
        if let Some(key) = self.now.serves {
            let took = now.saturating_duration_since(self.now.began);
            self.accounts.charge(key, took, self.now.is_waste);
        }
    }

    fn hold(&mut self, key: Key, line: Line, waker: &Waker, now: Instant) -> Held {
        let ticket = self.accounts.hold(key, line, waker.clone(), now);
        if let Some(doorkeeper) = self.doorkeeper.take() {
            doorkeeper.wake();
        }
        Held { key, ticket }
    }

    /// Some of the requests that waited for too long.
    fn late(&mut self, now: Instant) -> Vec<Waker> {
        if now.saturating_duration_since(self.late_looked_at) < self.turn_timeout / LATE_LOOKS {
            return Vec::new();
        }
        let since = now.checked_sub(self.turn_timeout);
        let late = since.map(|since| self.accounts.let_in_late(since, LATE_MAX));
        let late = late.unwrap_or_default();
        if late.len() < LATE_MAX {
            self.late_looked_at = now;
        }
        late
    }
}

/// Lets in who was held back, for as long as the thread serves.
async fn keep_the_door() {
    let mut let_in_at = Instant::now();
    loop {
        if !with(|turns| turns.accounts.has_waiting()).unwrap_or_default() {
            somebody_waits().await;
            let_in_at = Instant::now();
        }
        // Everything that is ready runs first, and whoever has become so by what the sockets say.
        yield_now().await;
        let looked_at = Instant::now();
        let late = with(|turns| turns.late(looked_at));
        late.into_iter().flatten().for_each(Waker::wake);
        let mut before = None;
        while looked_at.elapsed() < BATCH {
            to_the_end_of_the_queue().await;
            let is_due = let_in_at.elapsed() >= PATIENCE;
            let let_in = with(|turns| {
                let is_quiet = before.replace(turns.n_polls) == Some(turns.n_polls);
                (turns.accounts.let_in(is_quiet || is_due), is_quiet)
            });
            match let_in {
                Some((Some(waker), _)) => {
                    let_in_at = Instant::now();
                    waker.wake();
                }
                // Who has run may be ready again, and is due sooner.
                Some((None, false)) if !is_due => {}
                Some((None, _)) | None => break,
            }
        }
    }
}

async fn somebody_waits() {
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
mod tests;
