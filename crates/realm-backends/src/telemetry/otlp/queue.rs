//! What waits to be sent of one signal, by component: bounded, oldest out first, taken in turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use realm_model::cloud::telemetry::Signal;
use tokio::sync::Notify;

use crate::telemetry::{Fate, Guest, held};

/// Items of a component that wait, and bytes of them: some seconds of a busy one.
const ITEMS_MAX: usize = 4_096;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one request: collectors take 4 MiB or more. A single item may be larger than this alone.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Items of one request; what OpenTelemetry's own libraries send at a time.
pub(super) const BATCH_ITEMS_MAX: usize = 512;

pub(super) struct Queue {
    signal: Signal,
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Default)]
struct Waiting {
    by_component: BTreeMap<String, Line>,
    n_items: usize,
    is_closed: bool,
    /// Who was served last.
    last: String,
}

struct Line {
    guest: Arc<Guest>,
    items: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// What is sent in one request, and whose it is.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Vec<u8>>,
    owners: Vec<(Arc<Guest>, u64)>,
}

impl Batch {
    pub(super) fn count(&self, signal: Signal, fate: Fate) {
        for (guest, n_items) in &self.owners {
            guest.count(signal, fate, *n_items);
        }
    }

    /// Some were refused: nobody says whose.
    pub(super) fn count_partly(&self, signal: Signal, n_refused: u64) {
        let mut left = n_refused;
        for (guest, n_items) in &self.owners {
            let refused = left.min(*n_items);
            left -= refused;
            guest.count(signal, Fate::Refused, refused);
            guest.count(signal, Fate::Taken, n_items - refused);
        }
    }
}

impl Queue {
    pub(super) fn new(signal: Signal) -> Self {
        Self {
            signal,
            waiting: Mutex::default(),
            news: Notify::new(),
        }
    }

    pub(super) const fn signal(&self) -> Signal {
        self.signal
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        held(&self.waiting)
    }

    pub(super) fn push(&self, guest: &Arc<Guest>, item: Vec<u8>) {
        let mut dropped = 0;
        {
            let mut waiting = self.waiting();
            let line = waiting
                .by_component
                .entry(guest.component.clone())
                .or_insert_with(|| Line {
                    guest: Arc::clone(guest),
                    items: VecDeque::new(),
                    bytes: 0,
                });
            line.bytes += item.len();
            line.items.push_back(item);
            while line.items.len() > ITEMS_MAX || line.bytes > BYTES_MAX {
                let Some(oldest) = line.items.pop_front() else {
                    break;
                };
                line.bytes -= oldest.len();
                dropped += 1;
            }
            waiting.n_items += 1;
            waiting.n_items -= dropped;
        }
        if dropped > 0 {
            guest.count(self.signal, Fate::Dropped, dropped as u64);
        }
        self.news.notify_one();
    }

    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.news.notify_one();
    }

    /// Waits until there is something; `false`: nothing more will come.
    pub(super) async fn some(&self) -> bool {
        loop {
            {
                let waiting = self.waiting();
                if waiting.n_items > 0 {
                    return true;
                }
                if waiting.is_closed {
                    return false;
                }
            }
            self.news.notified().await;
        }
    }

    /// Waits until there is enough for a request, or nobody adds to it any more.
    pub(super) async fn enough(&self) {
        loop {
            {
                let waiting = self.waiting();
                if waiting.n_items >= BATCH_ITEMS_MAX || waiting.is_closed {
                    return;
                }
            }
            self.news.notified().await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.waiting().is_closed
    }

    /// Takes one of each component in turn, the oldest first, beginning behind who was last.
    pub(super) fn take(&self) -> Batch {
        let mut waiting = self.waiting();
        let mut batch = Batch::default();
        let (mut bytes, mut owners) = (0, BTreeMap::<String, (Arc<Guest>, u64)>::new());
        while batch.items.len() < BATCH_ITEMS_MAX {
            let last = waiting.last.clone();
            let mut behind = waiting.by_component.range_mut::<str, _>((
                std::ops::Bound::Excluded(last.as_str()),
                std::ops::Bound::Unbounded,
            ));
            let next = match behind.next() {
                Some((name, _)) => Some(name.clone()),
                None => waiting.by_component.keys().next().cloned(),
            };
            let Some(name) = next else {
                break;
            };
            let Some(line) = waiting.by_component.get_mut(&name) else {
                break;
            };
            let fits =
                |item: &Vec<u8>| batch.items.is_empty() || bytes + item.len() <= BATCH_BYTES_MAX;
            if !line.items.front().is_some_and(fits) {
                break;
            }
            let Some(item) = line.items.pop_front() else {
                break;
            };
            line.bytes -= item.len();
            bytes += item.len();
            let owner = owners
                .entry(name.clone())
                .or_insert_with(|| (Arc::clone(&line.guest), 0));
            owner.1 += 1;
            let is_empty = line.items.is_empty();
            if is_empty {
                waiting.by_component.remove(&name);
            }
            waiting.n_items -= 1;
            waiting.last = name;
            batch.items.push(item);
        }
        batch.owners = owners.into_values().collect();
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Guests;

    #[test]
    fn a_flood_pushes_out_its_own_and_nobody_elses() {
        let guests = Guests::default();
        let (loud, quiet) = (guests.of("loud"), guests.of("quiet"));
        let queue = Queue::new(Signal::Traces);
        queue.push(&quiet, vec![7]);
        for number in 0..ITEMS_MAX + 100 {
            queue.push(&loud, number.to_be_bytes().to_vec());
        }
        assert_eq!(loud.counted(Signal::Traces, Fate::Dropped), 100);
        assert_eq!(quiet.counted(Signal::Traces, Fate::Dropped), 0);
        let batch = queue.take();
        assert_eq!(batch.items.len(), BATCH_ITEMS_MAX);
        assert!(batch.items[..2].contains(&vec![7]));
        // The oldest that are left.
        assert!(batch.items.contains(&100_usize.to_be_bytes().to_vec()));
        assert!(!batch.items.contains(&99_usize.to_be_bytes().to_vec()));
        batch.count(Signal::Traces, Fate::Taken);
        assert_eq!(quiet.counted(Signal::Traces, Fate::Taken), 1);
        assert_eq!(loud.counted(Signal::Traces, Fate::Taken), 511);
        let mut n_items = batch.items.len();
        loop {
            let batch = queue.take();
            if batch.items.is_empty() {
                break;
            }
            n_items += batch.items.len();
        }
        assert_eq!(n_items, ITEMS_MAX + 1);
    }

    #[test]
    fn large_items_are_bounded_by_their_bytes() {
        let guests = Guests::default();
        let guest = guests.of("large");
        let queue = Queue::new(Signal::Metrics);
        for _ in 0..20 {
            queue.push(&guest, vec![0; BATCH_BYTES_MAX - 1]);
        }
        assert_eq!(guest.counted(Signal::Metrics, Fate::Dropped), 16);
        assert_eq!(queue.take().items.len(), 1);
        // One that is larger than everything has no room at all.
        queue.push(&guest, vec![0; BYTES_MAX + 1]);
        assert_eq!(guest.counted(Signal::Metrics, Fate::Dropped), 20);
        assert!(queue.take().items.is_empty());
    }
}
