//! Those who wait for one thing: who came first goes first, and anybody may leave.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

/// Somebody in a queue.
pub(super) struct Waiter {
    pub(super) waker: Waker,
    since: Instant,
}

/// Each has a number, from 1 on. The first one is always there.
#[derive(Default)]
pub(super) struct Queue {
    waiters: VecDeque<Option<Waiter>>,
    /// All up to this number have left it.
    pub(super) n_left: u64,
}

impl Queue {
    /// The number of one more.
    pub(super) fn push(&mut self, waker: Waker, since: Instant) -> u64 {
        self.waiters.push_back(Some(Waiter { waker, since }));
        self.n_left + u64::try_from(self.waiters.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Since when the first one waits.
    pub(super) fn since(&self) -> Option<Instant> {
        Some(self.waiters.front()?.as_ref()?.since)
    }

    /// Takes out the first one.
    pub(super) fn pop(&mut self) -> Option<Waker> {
        let first = self.waiters.pop_front()?;
        self.n_left += 1;
        self.trim();
        first.map(|waiter| waiter.waker)
    }

    pub(super) fn get(&mut self, number: u64) -> Option<&mut Waiter> {
        self.place(number)?.as_mut()
    }

    /// Takes out anyone.
    pub(super) fn leave(&mut self, number: u64) {
        if let Some(place) = self.place(number) {
            *place = None;
            self.trim();
        }
    }

    fn place(&mut self, number: u64) -> Option<&mut Option<Waiter>> {
        let index = number.checked_sub(self.n_left + 1)?;
        self.waiters.get_mut(usize::try_from(index).ok()?)
    }

    fn trim(&mut self) {
        while self.waiters.pop_front_if(|first| first.is_none()).is_some() {
            self.n_left += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_not_waited_for_and_nobody_loses_a_place() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let mut come = || queue.push(Waker::noop().clone(), now);
        let [first, second, third, fourth] = [come(), come(), come(), come()];
        assert_eq!([first, second, third, fourth], [1, 2, 3, 4]);
        queue.leave(second);
        queue.leave(second);
        assert!(queue.get(second).is_none() && queue.get(third).is_some());
        assert_eq!(queue.n_left, 0);
        assert!(queue.pop().is_some());
        assert_eq!(queue.n_left, second);
        queue.leave(first);
        queue.leave(fourth);
        assert_eq!(queue.push(Waker::noop().clone(), now), 5);
        assert!(queue.pop().is_some());
        assert_eq!(queue.n_left, fourth);
        queue.leave(5);
        assert!(queue.is_empty() && queue.pop().is_none() && queue.since().is_none());
        assert_eq!(queue.push(Waker::noop().clone(), now), 6);
    }
}
