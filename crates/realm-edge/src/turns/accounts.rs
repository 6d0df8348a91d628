//! When the next poll of a component is due, and who waits for that: start-time fair queueing (P. Goyal, H. M.
//! Vin, H. Cheng, 1996), without threads or clocks.
//!
//! The thread has a virtual time. What is next of a component is due when its last poll ended, in that time,
//! or now, if that has passed: nobody saves up turns, and who always has something gets as much as each of
//! the others. The time moves on when nobody is ready who is due sooner, to whoever is let in then.
//!
//! The time of whoever is alone is nobody else's: it moves with what is charged.
//!
//! What is in vain counts up to [`BAD_FACTOR`] times: a component whose guests trap, or whose clients do not
//! wait for an answer, gets what the others leave, and its part of one to that many in any case. It is the square
//! of how much that is, so that one which fails now and then pays little for it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::task::Waker;
use std::time::{Duration, Instant};

use realm_model::name::ComponentName;

use super::queue::Queue;

/// Several that are bad together still leave nearly all to the good ones. Not more: whoever mends a component
/// is to get answers of it too.
const BAD_FACTOR: u64 = 64;
/// A sixteenth of an average is the last one: it follows some dozens.
const AVERAGE_SHIFT: u32 = 4;
/// The average of ends that are all bad.
const ALL_BAD: u64 = 1 << 16;
/// Who is due no later than this is not held back: a handful of requests.
const AHEAD_NS: u64 = 100_000;
/// No more is charged for one poll: where it took longer the whole machine stood still, as a rule.
const CHARGE_MAX: Duration = Duration::from_millis(10);
/// Nobody is due later than this: what was done at once, however bad, is over at some time.
const DEBT_MAX_NS: u64 = 200_000_000;
/// An account that nobody used for so long, and up to twice that, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);

/// An account, until it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    slot: usize,
    generation: u64,
}

impl Key {
    /// Of no account.
    pub(super) const NONE: Self = Self {
        slot: usize::MAX,
        generation: 0,
    };
}

/// A place in a queue of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    line: Line,
    number: u64,
}

/// Which queue of an account. Together they are one, in the order in which their waiters came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Of requests that were not begun.
    Begins,
    /// Of all else.
    GoesOn,
}

pub(super) struct Accounts {
    accounts: Vec<Option<Account>>,
    slots: HashMap<ComponentName, usize>,
    free: Vec<usize>,
    /// Those with somebody in their queue, by when they are due.
    waiting: BTreeSet<(u64, usize)>,
    /// The virtual time.
    now_ns: u64,
    swept_at: Instant,
    generation: u64,
}

struct Account {
    generation: u64,
    component: ComponentName,
    /// The virtual end of its last poll.
    due_ns: u64,
    /// Of [`ALL_BAD`].
    bad: u64,
    begins: Queue,
    goes_on: Queue,
    /// Those of the former who had waited for too long, the last time that there were any.
    late: Range<u64>,
    is_used: bool,
}

impl Accounts {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            accounts: Vec::new(),
            slots: HashMap::new(),
            free: Vec::new(),
            waiting: BTreeSet::new(),
            now_ns: 0,
            swept_at: now,
            generation: 0,
        }
    }

    /// The account of a component, a new one if need be.
    pub(super) fn open(&mut self, component: &ComponentName) -> Key {
        if let Some(&slot) = self.slots.get(component)
            && let Some(account) = &self.accounts[slot]
        {
            let generation = account.generation;
            return Key { slot, generation };
        }
        self.generation += 1;
        let generation = self.generation;
        let account = Some(Account {
            generation,
            component: component.clone(),
            due_ns: 0,
            bad: 0,
            begins: Queue::default(),
            goes_on: Queue::default(),
            late: 0..0,
            is_used: true,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.accounts[slot] = account;
                slot
            }
            None => {
                self.accounts.push(account);
                self.accounts.len() - 1
            }
        };
        self.slots.insert(component.clone(), slot);
        Key { slot, generation }
    }

    fn account(&self, key: Key) -> Option<&Account> {
        let account = self.accounts.get(key.slot)?.as_ref();
        account.filter(|account| account.generation == key.generation)
    }

    fn account_mut(&mut self, key: Key) -> Option<&mut Account> {
        let account = self.accounts.get_mut(key.slot)?.as_mut();
        account.filter(|account| account.generation == key.generation)
    }

    /// Whether an account is this component's, and not forgotten.
    pub(super) fn has(&self, key: Key, component: &ComponentName) -> bool {
        self.account(key)
            .is_some_and(|account| account.component == *component)
    }

    pub(super) fn component(&self, key: Key) -> Option<&ComponentName> {
        self.account(key).map(|account| &account.component)
    }

    /// When it is due, in virtual time.
    #[cfg(test)]
    pub(super) fn due(&self, component: &ComponentName) -> Duration {
        let slot = self.slots.get(component);
        let account = slot.and_then(|slot| self.accounts[*slot].as_ref());
        Duration::from_nanos(account.map_or(0, |account| account.due_ns))
    }

    /// A poll took so long.
    pub(super) fn charge(&mut self, key: Key, took: Duration, is_waste: bool) {
        let now_ns = self.now_ns;
        let is_alone = self.slots.len() == 1;
        let Some(account) = self.account_mut(key) else {
            return;
        };
        let ns = u64::try_from(took.min(CHARGE_MAX).as_nanos()).unwrap_or(u64::MAX);
        let bad = if is_waste { ALL_BAD } else { account.bad };
        let bad_squared = bad * bad / ALL_BAD;
        let more = ns.saturating_mul(bad_squared * (BAD_FACTOR - 1)) / ALL_BAD;
        let was = account.due_ns;
        let later = was.max(now_ns).saturating_add(ns).saturating_add(more);
        account.due_ns = later.min(now_ns.saturating_add(DEBT_MAX_NS));
        account.is_used = true;
        let is = account.due_ns;
        if self.waiting.remove(&(was, key.slot)) {
            self.waiting.insert((is, key.slot));
        }
        if is_alone {
            self.now_ns = now_ns.max(is);
        }
    }

    /// A request ended.
    pub(super) fn ended(&mut self, key: Key, is_bad: bool) {
        if let Some(account) = self.account_mut(key) {
            account.bad = average(account.bad, if is_bad { ALL_BAD } else { 0 });
        }
    }

    /// Whether it is due later than another one may be, or some of it wait already.
    pub(super) fn is_behind(&self, key: Key) -> bool {
        let is_later = |account: &Account| account.due_ns.saturating_sub(self.now_ns) > AHEAD_NS;
        let account = self.account(key);
        self.slots.len() > 1
            && account.is_some_and(|account| account.has_waiting() || is_later(account))
    }

    /// Puts somebody into a queue of an account.
    pub(super) fn hold(&mut self, key: Key, line: Line, waker: Waker, since: Instant) -> Ticket {
        let Some(account) = self.account_mut(key) else {
            // Nobody is held without one: `is_let_in` says so.
            waker.wake();
            return Ticket { line, number: 0 };
        };
        let number = account.line_mut(line).push(waker, since);
        let due_ns = account.due_ns;
        self.waiting.insert((due_ns, key.slot));
        Ticket { line, number }
    }

    /// Who is let in now is woken by this one.
    pub(super) fn wake_by(&mut self, key: Key, ticket: Ticket, waker: &Waker) {
        let account = self.account_mut(key);
        let waiter = account.and_then(|account| account.line_mut(ticket.line).get(ticket.number));
        if let Some(waiter) = waiter {
            waiter.waker.clone_from(waker);
        }
    }

    /// Takes somebody out of a queue who waits no more.
    pub(super) fn give_up(&mut self, key: Key, ticket: Ticket) {
        if let Some(account) = self.account_mut(key) {
            account.line_mut(ticket.line).leave(ticket.number);
            let (due_ns, has_waiting) = (account.due_ns, account.has_waiting());
            if !has_waiting {
                self.waiting.remove(&(due_ns, key.slot));
            }
        }
    }

    pub(super) fn is_let_in(&self, key: Key, ticket: Ticket) -> bool {
        self.account(key)
            .is_none_or(|account| ticket.number <= account.line(ticket.line).n_left)
    }

    /// Whether it was let in because it had waited for too long.
    pub(super) fn is_late(&self, key: Key, ticket: Ticket) -> bool {
        let account = self.account(key).filter(|_| ticket.line == Line::Begins);
        account.is_some_and(|account| account.late.contains(&ticket.number))
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes the next one out of its queue. Where it is not quiet, somebody else may be ready, and only who is
    /// due by now is let in.
    pub(super) fn let_in(&mut self, is_quiet: bool) -> Option<Waker> {
        let &(due_ns, slot) = self.waiting.first()?;
        if !is_quiet && due_ns > self.now_ns.saturating_add(AHEAD_NS) {
            return None;
        }
        let account = self.accounts[slot].as_mut()?;
        let waker = account.next()?;
        self.now_ns = self.now_ns.max(due_ns);
        if !account.has_waiting() {
            self.waiting.remove(&(due_ns, slot));
        }
        Some(waker)
    }

    /// Takes requests out of their queues that wait to begin since then or longer, whenever they are due: up to
    /// `n_max`.
    pub(super) fn let_in_late(&mut self, since: Instant, n_max: usize) -> Vec<Waker> {
        let mut wakers = Vec::new();
        self.waiting.retain(|&(_, slot)| {
            let Some(account) = &mut self.accounts[slot] else {
                return false;
            };
            let n_left = account.begins.n_left;
            while wakers.len() < n_max
                && account.begins.since().is_some_and(|at| at <= since)
                && let Some(waker) = account.begins.pop()
            {
                wakers.push(waker);
            }
            if account.begins.n_left > n_left {
                account.late = n_left + 1..account.begins.n_left + 1;
            }
            account.has_waiting()
        });
        wakers
    }

    /// Forgets accounts that nobody uses.
    pub(super) fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept_at) < FORGOTTEN_AFTER {
            return;
        }
        self.swept_at = now;
        for slot in 0..self.accounts.len() {
            let Some(account) = &mut self.accounts[slot] else {
                continue;
            };
            let is_used = std::mem::take(&mut account.is_used);
            if !is_used && !account.has_waiting() {
                self.slots.remove(&account.component);
                self.accounts[slot] = None;
                self.free.push(slot);
            }
        }
    }
}

impl Account {
    fn line(&self, line: Line) -> &Queue {
        match line {
            Line::Begins => &self.begins,
            Line::GoesOn => &self.goes_on,
        }
    }

    fn line_mut(&mut self, line: Line) -> &mut Queue {
        match line {
            Line::Begins => &mut self.begins,
            Line::GoesOn => &mut self.goes_on,
        }
    }

    fn has_waiting(&self) -> bool {
        !self.begins.is_empty() || !self.goes_on.is_empty()
    }

    /// Takes out who came first.
    fn next(&mut self) -> Option<Waker> {
        match (self.begins.since(), self.goes_on.since()) {
            (Some(begins), Some(goes_on)) if begins < goes_on => self.begins.pop(),
            (_, Some(_)) => self.goes_on.pop(),
            (_, None) => self.begins.pop(),
        }
    }
}

/// An average with one value more.
fn average(average: u64, value: u64) -> u64 {
    average - (average >> AVERAGE_SHIFT) + (value >> AVERAGE_SHIFT)
}

#[cfg(test)]
pub(super) mod tests;
