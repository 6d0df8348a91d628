//! Where answers lie: by what was asked, the least used leave first. Not whether they may be used
//! (`policy`), nor what else takes memory (`budget`).

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use realm_model::name::ComponentName;
use realm_model::observed::Revision;

use super::budget::{Budget, Counts, Full, Taken};
use super::policy::{Policy, Varies, is_alike};

/// Answers to one URI that differ by host spelling, scheme or what they vary by: the one that was not asked for
/// for longest goes.
const VARIANTS_MAX: usize = 32;
/// Where it is counted whether a URI was invalidated while an answer to it came in.
const SLOTS: usize = 65_536;
/// Entries that are looked at for one that leaves: all wait meanwhile.
const LOOKS_MAX: usize = 256;
/// What an entry costs beside its headers and its body.
const ENTRY_BYTES: usize = 1_024;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The app, the host as routes match it, and path and query as they were sent.
    pub(super) uri: Arc<[u8]>,
    /// What else a guest sees of it and nobody says in `Vary`: byte by byte, and the version that answers.
    pub(super) base: Arc<[u8]>,
}

/// One answer.
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) component: ComponentName,
    pub(super) edition: Revision,
    pub(super) varies: Varies,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<Bytes>,
    pub(super) policy: Policy,
    pub(super) was_used: AtomicBool,
    /// When it was, by the looks of all; 0: never.
    pub(super) last_used: AtomicU64,
    pub(super) taken: Taken,
}

pub(super) struct Store {
    pub(super) budget: Arc<Budget>,
    kept: Mutex<Kept>,
    hasher: RandomState,
    slots: Box<[AtomicU64]>,
}

#[derive(Default)]
struct Kept {
    by_uri: HashMap<Arc<[u8]>, Vec<Arc<Entry>>>,
    /// In the order in which they are looked at when there is no room. What is gone is still in it for a while.
    queue: VecDeque<Weak<Entry>>,
    count: usize,
    /// Looks that found something.
    looks: u64,
}

/// How a URI stood when an answer to it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing(usize, u64);

impl Store {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            budget: Arc::new(Budget::new(bytes_max)),
            kept: Mutex::default(),
            hasher: RandomState::new(),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The newest answer that was given to a request like this one.
    pub(super) fn find(&self, key: &Key, request: &HeaderMap) -> Option<Arc<Entry>> {
        let mut kept = self.lock();
        let Kept { by_uri, looks, .. } = &mut *kept;
        let entries = by_uri.get(&*key.uri)?;
        let is_it =
            |entry: &&Arc<Entry>| entry.key.base == key.base && is_alike(&entry.varies, request);
        let found = entries.iter().rev().find(is_it)?;
        if !found.was_used.load(Relaxed) {
            found.was_used.store(true, Relaxed);
        }
        *looks += 1;
        found.last_used.store(*looks, Relaxed);
        Some(Arc::clone(found))
    }

    /// The names of headers by which the newest answer to this varies.
    pub(super) fn varies(&self, key: &Key) -> Option<Varies> {
        let kept = self.lock();
        let entries = kept.by_uri.get(&*key.uri)?;
        let newest = entries
            .iter()
            .rev()
            .find(|entry| entry.key.base == key.base);
        newest.map(|entry| entry.varies.clone())
    }

    pub(super) fn standing(&self, key: &Key) -> Standing {
        let slot = self.slot(&key.uri);
        Standing(slot, self.slots[slot].load(Relaxed))
    }

    /// Whether nothing changed what a URI leads to since then.
    pub(super) fn still_stands(&self, standing: Standing) -> bool {
        self.slots[standing.0].load(Relaxed) == standing.1
    }

    /// Room for so many bytes, for which others leave.
    pub(super) fn take(&self, counts: &Arc<Counts>, bytes: usize) -> Option<Taken> {
        if bytes > self.budget.share() {
            return None;
        }
        loop {
            let of = match self.budget.take(counts, bytes) {
                Ok(taken) => return Some(taken),
                Err(Full::All) => None,
                Err(Full::Share) => Some(counts),
            };
            let gone = self.lock().drop_one(of)?;
            drop(gone);
        }
    }

    /// What an entry takes beside its body.
    pub(super) fn head_bytes(key: &Key, headers: &HeaderMap, varies: &Varies) -> usize {
        let fields = headers.iter();
        let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 64);
        let lines = varies.iter().flat_map(|(_, lines)| lines);
        let lines = lines.map(|line| line.len() + 64);
        ENTRY_BYTES
            + key.uri.len()
            + key.base.len()
            + fields.sum::<usize>()
            + lines.sum::<usize>()
            + varies.len() * 64
    }

    /// Keeps an answer in place of those to requests like its own, unless its URI was invalidated since it
    /// was asked for.
    pub(super) fn put(&self, entry: Entry, standing: Standing) -> Option<Arc<Entry>> {
        let entry = Arc::new(entry);
        let mut kept = self.lock();
        if !self.still_stands(standing) {
            return None;
        }
        let uri = Arc::clone(&entry.key.uri);
        let entries = kept.by_uri.entry(uri).or_default();
        let before = entries.len();
        let mut gone: Vec<Arc<Entry>> = entries
            .extract_if(.., |known| {
                known.key.base == entry.key.base && known.varies == entry.varies
            })
            .collect();
        let last_used = |known: &Arc<Entry>| known.last_used.load(Relaxed);
        let inherited = gone.iter().map(last_used).max();
        entry
            .last_used
            .store(inherited.unwrap_or_default(), Relaxed);
        if entries.len() >= VARIANTS_MAX {
            let ages = entries.iter().map(last_used).enumerate();
            let oldest = ages.min_by_key(|(_, used)| *used);
            gone.push(entries.remove(oldest.map_or(0, |(at, _)| at)));
        }
        entries.push(Arc::clone(&entry));
        let after = entries.len();
        kept.count = (kept.count + after).saturating_sub(before);
        kept.queue.push_back(Arc::downgrade(&entry));
        if kept.queue.len() > 2 * kept.count + 64 {
            kept.queue.retain(|entry| entry.strong_count() > 0);
        }
        drop(kept);
        drop(gone);
        Some(entry)
    }

    /// Forgets an answer that is of no use any more.
    pub(super) fn forget(&self, entry: &Arc<Entry>) {
        let gone = self.lock().remove(entry);
        drop(gone);
    }

    /// Forgets all answers to a URI, those that are on their way included.
    pub(super) fn invalidate(&self, uri: &[u8]) {
        let mut kept = self.lock();
        self.slots[self.slot(uri)].fetch_add(1, Relaxed);
        let gone = kept.by_uri.remove(uri);
        kept.count -= gone.as_ref().map_or(0, Vec::len);
        drop(kept);
        drop(gone);
    }

    /// Forgets all others.
    pub(super) fn retain(&self, is_kept: impl Fn(&Entry) -> bool) {
        let mut gone = Vec::new();
        let mut kept = self.lock();
        kept.by_uri.retain(|_, entries| {
            gone.extend(entries.extract_if(.., |entry| !is_kept(entry)));
            !entries.is_empty()
        });
        kept.count -= gone.len();
        drop(kept);
        drop(gone);
    }

    fn slot(&self, uri: &[u8]) -> usize {
        let hash = self.hasher.hash_one(uri);
        usize::try_from(hash % self.slots.len() as u64).unwrap_or(0)
    }

    /// Whole changes alone: a panic cannot leave it torn.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The first one, of this component if it has its share, that was not used since it was looked at last,
    /// and that nobody reads: as long as somebody does, its bytes would not be free. Who comes next goes on
    /// where this one looked last.
    fn drop_one(&mut self, of: Option<&Arc<Counts>>) -> Option<Arc<Entry>> {
        for _ in 0..LOOKS_MAX.min(2 * self.queue.len()) {
            let next = self.queue.pop_front()?;
            let Some(entry) = next.upgrade() else {
                continue;
            };
            // The map's, and this one.
            let is_read = Arc::strong_count(&entry) > 2;
            let is_others = of.is_some_and(|counts| !entry.taken.is_of(counts));
            if is_others || entry.was_used.swap(false, Relaxed) || is_read {
                self.queue.push_back(next);
                continue;
            }
            return self.remove(&entry).or(Some(entry));
        }
        None
    }

    fn remove(&mut self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let entries = self.by_uri.get_mut(&*entry.key.uri)?;
        let at = entries.iter().position(|known| Arc::ptr_eq(known, entry))?;
        let gone = entries.remove(at);
        if entries.is_empty() {
            self.by_uri.remove(&*entry.key.uri);
        }
        self.count -= 1;
        Some(gone)
    }
}

#[cfg(test)]
mod tests;
