//! Bytes of messages that a binding has in memory: bounded, whoever has them and wherever they are on their
//! way. A share of it goes with each message, and is back when that is gone.
//!
//! Who has nothing gets one message whatever the others have: nobody waits behind a handler that keeps all
//! there is. So there may be one message more than fits for each of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use realm_model::cloud::{Message, limits};

/// Bytes of all messages of one kind.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// What the largest message takes.
pub(super) const LARGEST: usize = limits::MESSAGE_BYTES_MAX
    + limits::METADATA_BYTES_MAX
    + limits::METADATA_PAIRS_MAX * PAIR_BYTES
    + 3 * limits::NAME_BYTES_MAX
    + MESSAGE_BYTES;
/// What a message takes beside its texts and bytes, and each pair of its metadata.
const MESSAGE_BYTES: usize = 1_024;
const PAIR_BYTES: usize = size_of::<(String, String)>();

/// Room for messages in memory.
#[derive(Default)]
pub(super) struct Budget {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    n_used: usize,
    /// Somebody found too little.
    is_short: bool,
    /// There is more again than they found.
    is_freed: bool,
}

/// Who has messages: how many.
#[derive(Default)]
pub(super) struct Holder(AtomicUsize);

/// What one message takes, for as long as this is there.
pub(super) struct Share {
    budget: Arc<Budget>,
    holder: Arc<Holder>,
    n_bytes: usize,
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers that are whole after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are left.
    pub(super) fn n_left(&self) -> usize {
        BYTES_MAX.saturating_sub(self.lock().n_used)
    }

    /// Whether there is room for the largest message, or `holder` has none.
    pub(super) fn has_room(&self, holder: &Holder) -> bool {
        let mut state = self.lock();
        let has_room = holder.has_none() || state.n_used + LARGEST <= BYTES_MAX;
        state.is_short |= !has_room;
        has_room
    }

    /// Room for so many bytes; `None`: there is none.
    pub(super) fn take(self: &Arc<Self>, holder: &Arc<Holder>, n_bytes: usize) -> Option<Share> {
        let mut state = self.lock();
        if !holder.has_none() && state.n_used + n_bytes > BYTES_MAX {
            state.is_short = true;
            return None;
        }
        Some(self.taken(&mut state, holder, n_bytes))
    }

    /// The same for a message that is in memory already.
    pub(super) fn count(self: &Arc<Self>, holder: &Arc<Holder>, n_bytes: usize) -> Share {
        self.taken(&mut self.lock(), holder, n_bytes)
    }

    fn taken(self: &Arc<Self>, state: &mut State, holder: &Arc<Holder>, n_bytes: usize) -> Share {
        state.n_used += n_bytes;
        holder.0.fetch_add(1, Ordering::Relaxed);
        Share {
            budget: Arc::clone(self),
            holder: Arc::clone(holder),
            n_bytes,
        }
    }

    /// Whether something came back since somebody found too little: said once.
    pub(super) fn was_freed(&self) -> bool {
        std::mem::take(&mut self.lock().is_freed)
    }

    fn give_back(&self, n_bytes: usize) {
        let mut state = self.lock();
        state.n_used = state.n_used.saturating_sub(n_bytes);
        state.is_freed |= std::mem::take(&mut state.is_short);
    }
}

impl Holder {
    fn has_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Share {
    /// It is known by now how much the message takes.
    pub(super) fn shrink(&mut self, n_bytes: usize) {
        let less = self.n_bytes.saturating_sub(n_bytes);
        self.n_bytes -= less;
        self.budget.give_back(less);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.holder.0.fetch_sub(1, Ordering::Relaxed);
        self.budget.give_back(self.n_bytes);
    }
}

/// What a message takes.
pub(super) fn bytes_of(message: &Message) -> usize {
    let Message {
        topic,
        content_type,
        data,
        metadata,
        reply_to,
    } = message;
    let texts = [topic, content_type, reply_to].map(|text| text.as_ref().map_or(0, String::len));
    let pairs = metadata.iter();
    let pairs = pairs.map(|(key, value)| PAIR_BYTES + key.len() + value.len());
    MESSAGE_BYTES + data.len() + texts.iter().sum::<usize>() + pairs.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_gets_one_and_all_else_has_an_end() {
        let budget = Arc::<Budget>::default();
        let (one, other) = (Arc::<Holder>::default(), Arc::<Holder>::default());
        let mut shares = Vec::new();
        while let Some(share) = budget.take(&one, LARGEST) {
            shares.push(share);
        }
        assert_eq!(shares.len(), BYTES_MAX / LARGEST);
        assert!(!budget.has_room(&one) && budget.has_room(&other));
        assert!(!budget.was_freed());
        let last = budget.take(&other, LARGEST).unwrap();
        assert!(budget.take(&other, LARGEST).is_none());
        shares[0].shrink(1);
        assert!(budget.was_freed() && !budget.was_freed());
        drop((shares, last));
        assert_eq!(budget.n_left(), BYTES_MAX);
        assert!(one.has_none() && other.has_none());
    }

    #[test]
    fn no_message_takes_more_than_the_largest() {
        let pair = ("k".repeat(64), "v".repeat(64));
        let message = Message {
            topic: Some("t".repeat(limits::NAME_BYTES_MAX)),
            content_type: Some("c".repeat(limits::NAME_BYTES_MAX)),
            data: vec![0; limits::MESSAGE_BYTES_MAX],
            metadata: vec![pair; limits::METADATA_PAIRS_MAX],
            reply_to: Some("r".repeat(limits::NAME_BYTES_MAX)),
        };
        realm_model::cloud::check_message(&message).unwrap();
        assert!(bytes_of(&message) <= LARGEST);
    }
}
