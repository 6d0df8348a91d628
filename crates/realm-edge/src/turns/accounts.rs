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

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::task::Waker;
use std::time::{Duration, Instant};

use realm_model::name::ComponentName;

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

/// A place in the queue of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Somebody in it.
struct Waiter {
    waker: Waker,
    since: Instant,
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
    waiting: VecDeque<Waiter>,
    n_held: u64,
    n_let_in: u64,
    /// Those of them who had waited for too long, the last time that there were any.
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
            waiting: VecDeque::new(),
            n_held: 0,
            n_let_in: 0,
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
            && account.is_some_and(|account| !account.waiting.is_empty() || is_later(account))
    }

    /// Puts somebody into the queue of an account.
    pub(super) fn hold(&mut self, key: Key, waker: Waker, since: Instant) -> Ticket {
        let Some(account) = self.account_mut(key) else {
            // Nobody is held without one: `is_let_in` says so.
            waker.wake();
            return Ticket(0);
        };
        account.waiting.push_back(Waiter { waker, since });
        account.n_held += 1;
        let (ticket, due_ns) = (Ticket(account.n_held), account.due_ns);
        self.waiting.insert((due_ns, key.slot));
        ticket
    }

    pub(super) fn is_let_in(&self, key: Key, ticket: Ticket) -> bool {
        self.account(key)
            .is_none_or(|account| ticket.0 <= account.n_let_in)
    }

    /// Whether it was let in because it had waited for too long.
    pub(super) fn is_late(&self, key: Key, ticket: Ticket) -> bool {
        let account = self.account(key);
        account.is_some_and(|account| account.late.contains(&ticket.0))
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
        let waiter = account.waiting.pop_front()?;
        account.n_let_in += 1;
        self.now_ns = self.now_ns.max(due_ns);
        if account.waiting.is_empty() {
            self.waiting.remove(&(due_ns, slot));
        }
        Some(waiter.waker)
    }

    /// Takes those out of their queues who wait since then or longer, whenever they are due: up to `n_max`.
    pub(super) fn let_in_late(&mut self, since: Instant, n_max: usize) -> Vec<Waker> {
        let mut wakers = Vec::new();
        self.waiting.retain(|&(_, slot)| {
            let Some(account) = &mut self.accounts[slot] else {
                return false;
            };
            let first = account.n_let_in + 1;
            while wakers.len() < n_max
                && let Some(late) = account.waiting.pop_front_if(|waiter| waiter.since <= since)
            {
                wakers.push(late.waker);
                account.n_let_in += 1;
            }
            if account.n_let_in >= first {
                account.late = first..account.n_let_in + 1;
            }
            !account.waiting.is_empty()
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
            if !is_used && account.waiting.is_empty() {
                self.slots.remove(&account.component);
                self.accounts[slot] = None;
                self.free.push(slot);
            }
        }
    }
}

/// An average with one value more.
fn average(average: u64, value: u64) -> u64 {
    average - (average >> AVERAGE_SHIFT) + (value >> AVERAGE_SHIFT)
}

#[cfg(test)]
pub(super) mod tests {
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
            .map(|key| accounts.hold(*key, waker.clone(), Instant::now()))
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
            tickets[index] = accounts.hold(keys[index], waker.clone(), Instant::now());
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
                accounts.hold(good, waker.clone(), Instant::now());
                accounts.let_in(true).expect("it waits");
            }
            accounts.charge(good, 50 * US, false);
        }
        // Of which many come at once now.
        for n in 0..20 {
            assert_eq!(accounts.is_behind(greedy), n > 2, "{n}");
            accounts.charge(greedy, 50 * US, false);
        }
        accounts.hold(greedy, waker.clone(), Instant::now());
        let ticket = accounts.hold(good, waker, Instant::now());
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
        accounts.hold(greedy, waker.clone(), Instant::now());
        accounts.charge(good, 300 * US, false);
        let ticket = accounts.hold(good, waker, Instant::now());
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
        let first = accounts.hold(greedy, waker.clone(), Instant::now());
        let second = accounts.hold(greedy, waker, Instant::now());
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
            (key, accounts.hold(key, waker.clone(), Instant::now()))
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
        assert!(accounts.is_let_in(greedy, Ticket(7)));
    }

    #[test]
    fn where_somebody_may_be_ready_only_who_is_due_is_let_in() {
        let (mut accounts, [good, greedy], _) = two();
        let (_, waker) = Count::waker();
        accounts.charge(greedy, 300 * US, false);
        let ticket = accounts.hold(greedy, waker.clone(), Instant::now());
        assert!(accounts.let_in(false).is_none());
        accounts.charge(good, 290 * US, false);
        accounts.hold(good, waker, Instant::now());
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
            accounts.hold(greedy, waker.clone(), since)
        });
        let of_good = accounts.hold(good, waker.clone(), start + 5_000 * US);
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
        accounts.hold(greedy, waker, start + 5_000 * US);
        let later = start + 6_000 * US;
        assert_eq!(accounts.let_in_late(later, 1).len(), 1);
        assert!(accounts.is_late(greedy, young) && !accounts.is_late(greedy, late));
        assert_eq!(accounts.let_in_late(later, 4).len(), 1);
        assert!(!accounts.has_waiting() && accounts.let_in(true).is_none());
    }

    #[test]
    fn an_account_with_somebody_in_its_queue_is_kept() {
        let (mut accounts, [good, _], start) = two();
        let (count, waker) = Count::waker();
        let ticket = accounts.hold(good, waker, Instant::now());
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
}
