//! Places for what lasts on the way to one node, and how many of them one component has: the others find
//! some left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use realm_model::name::ComponentName;

pub(super) struct Places {
    max: usize,
    /// Of one component.
    share_max: usize,
    /// Component → its places; none has 0.
    taken: Mutex<BTreeMap<ComponentName, usize>>,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    component: ComponentName,
}

impl Places {
    /// One component has at most three quarters of them.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            share_max: max - max / 4,
            taken: Mutex::default(),
        })
    }

    /// `None`: all are taken, or all that the component may have.
    pub(super) fn take(self: &Arc<Self>, component: &ComponentName) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.get(component).copied().unwrap_or_default();
        let all: usize = taken.values().sum();
        if all >= self.max || own >= self.share_max {
            return None;
        }
        taken.insert(component.clone(), own + 1);
        Some(Place {
            places: Arc::clone(self),
            component: component.clone(),
        })
    }

    /// Changed by whole entries: a panic cannot leave it torn.
    fn taken(&self) -> MutexGuard<'_, BTreeMap<ComponentName, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.component) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.component);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_leaves_places_to_others_and_all_come_back() {
        let places = Places::new(8);
        let name = |text: &str| text.parse::<ComponentName>().unwrap();
        let (loud, quiet) = (name("loud"), name("quiet"));
        let loud_ones: Vec<Place> = std::iter::from_fn(|| places.take(&loud)).collect();
        assert_eq!(loud_ones.len(), 6);
        let quiet_ones: Vec<Place> = std::iter::from_fn(|| places.take(&quiet)).collect();
        assert_eq!(quiet_ones.len(), 2);
        drop(loud_ones);
        let more: Vec<Place> = std::iter::from_fn(|| places.take(&quiet)).collect();
        assert_eq!(more.len(), 4);
        drop((more, quiet_ones));
        assert!(places.taken().is_empty());
    }
}
