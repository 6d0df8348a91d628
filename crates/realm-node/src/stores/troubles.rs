//! Why backends do not answer, for the operator: the last word of each that is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use realm_backends::Watch;
use realm_model::record::{Alarm, BACKEND_DOWN};

use super::held;

/// What does not answer.
#[derive(Default)]
pub(super) struct Troubles {
    n_told: AtomicU64,
    /// By binding, and by who says so: after a change of a binding its old store is there for a while
    /// beside the new one.
    causes: Mutex<BTreeMap<(String, u64), String>>,
}

impl Troubles {
    /// Keeps the last word of a backend that a binding leads to.
    pub(super) fn of(self: &Arc<Self>, binding: &str) -> Arc<Told> {
        let number = self.n_told.fetch_add(1, Ordering::Relaxed);
        Arc::new(Told {
            own: (binding.to_owned(), number),
            troubles: Arc::clone(self),
        })
    }

    /// One of each binding: what was made last.
    pub(super) fn alarms(&self) -> Vec<Alarm> {
        let causes = held(&self.causes);
        let last: BTreeMap<_, _> = causes
            .iter()
            .map(|((binding, _), cause)| (binding, cause))
            .collect();
        last.into_iter()
            .map(|(binding, cause)| Alarm {
                code: BACKEND_DOWN.to_owned(),
                about: format!("binding `{binding}`: {cause}"),
            })
            .collect()
    }
}

/// Keeps the last word of a backend.
pub(super) struct Told {
    own: (String, u64),
    troubles: Arc<Troubles>,
}

impl Watch for Told {
    fn down(&self, cause: &str) {
        let cause = realm_model::text::one_line(cause, 200);
        let mut causes = held(&self.troubles.causes);
        if causes.insert(self.own.clone(), cause.clone()).is_none() {
            tracing::warn!(binding = %self.own.0, cause, "a backend does not answer");
        }
    }

    fn up(&self) {
        if held(&self.troubles.causes).remove(&self.own).is_some() {
            tracing::info!(binding = %self.own.0, "a backend answers again");
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // Nobody asks it any more: nobody would hear that it is well.
        held(&self.troubles.causes).remove(&self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_store_of_a_binding_takes_no_word_of_the_new_one_with_it() {
        let troubles = Arc::new(Troubles::default());
        let about = || -> Vec<String> {
            let alarms = troubles.alarms();
            alarms.into_iter().map(|alarm| alarm.about).collect()
        };
        let (old, other) = (troubles.of("orders"), troubles.of("other"));
        old.down("as it was");
        other.down("gone");
        let new = troubles.of("orders");
        new.down("no such\nuser");
        let both = ["binding `orders`: no such user", "binding `other`: gone"];
        assert_eq!(about(), both);
        old.up();
        assert_eq!(about(), both);
        drop(old);
        assert_eq!(about(), both);
        new.up();
        drop(other);
        assert_eq!(about(), [""; 0]);
    }
}
