//! Readers that wait for the end of a stream, and what wakes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Who waits, by the key of a stream.
#[derive(Default)]
pub(super) struct Heard(Arc<Mutex<Waiting>>);

type Waiting = HashMap<String, (usize, watch::Sender<()>)>;

/// A reader that hears of each append from here on.
pub(super) struct Hearing {
    all: Arc<Mutex<Waiting>>,
    key: String,
    appended: watch::Receiver<()>,
}

fn held(all: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // Whole entries come and go: a panic leaves nothing torn.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heard {
    pub(super) fn listen(&self, key: String) -> Hearing {
        let mut all = held(&self.0);
        let (n_waiting, sender) = all
            .entry(key.clone())
            .or_insert_with(|| (0, watch::channel(()).0));
        *n_waiting += 1;
        Hearing {
            all: Arc::clone(&self.0),
            key,
            appended: sender.subscribe(),
        }
    }

    /// Something was appended to these.
    pub(super) fn tell<'k>(&self, keys: impl Iterator<Item = &'k String>) {
        let all = held(&self.0);
        for key in keys {
            if let Some((_, sender)) = all.get(key) {
                sender.send_replace(());
            }
        }
    }
}

impl Hearing {
    /// Once something was appended since the last time.
    pub(super) async fn appended(&mut self) {
        // The sender is there for as long as this is.
        let _ = self.appended.changed().await;
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        let mut all = held(&self.all);
        let is_last = all.get_mut(&self.key).is_some_and(|(n_waiting, _)| {
            *n_waiting -= 1;
            *n_waiting == 0
        });
        if is_last {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_and_forgotten() {
        let heard = Heard::default();
        let (mut one, other) = (heard.listen("a".to_owned()), heard.listen("a".to_owned()));
        heard.tell(["a".to_owned(), "b".to_owned()].iter());
        one.appended().await;
        drop(one);
        assert_eq!(held(&heard.0).len(), 1);
        drop(other);
        assert!(held(&heard.0).is_empty());
    }
}
