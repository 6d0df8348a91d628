//! Members that have room for a message of another node, which lends it, and how they divide their room
//! between that and the node's own queue.
//!
//! The own queue hands out ahead of time, as much as a member has room for; what is lent is asked for when
//! the member waits, since it could be worked on elsewhere meanwhile. Where both have something they take
//! turns.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use realm_model::cloud::Group;
use tokio::sync::{mpsc, oneshot, watch};

use super::borrow::{Command, Loan};

/// Who lends: the key of a node, of which nothing else is known here.
pub(super) type Lender = [u8; 32];

/// The room of a member.
pub(super) struct Room {
    n_max: u32,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    own: u32,
    lent: u32,
    /// Whether the last one came from the own queue.
    was_own: bool,
}

impl Room {
    pub(super) fn new(n_max: u32) -> Self {
        Self {
            n_max: n_max.max(1),
            used: Mutex::default(),
        }
    }

    /// Whether the own queue may hand something out. `lent_waits`: another node has something as well.
    pub(super) fn is_for_own(&self, lent_waits: bool) -> bool {
        let used = held(&self.used);
        used.own + used.lent < self.n_max && !(lent_waits && used.was_own)
    }

    /// Whether there is room, and it is the turn of another node.
    pub(super) fn is_turn_of_lent(&self) -> bool {
        let used = held(&self.used);
        used.own + used.lent < self.n_max && used.was_own
    }

    /// The own queue hands something out.
    pub(super) fn take_own(&self) {
        let mut used = held(&self.used);
        used.own += 1;
        used.was_own = true;
    }

    pub(super) fn leave_own(&self) {
        let mut used = held(&self.used);
        used.own = used.own.saturating_sub(1);
    }

    /// Nothing of the own queue is under way.
    pub(super) fn clear_own(&self) {
        held(&self.used).own = 0;
    }

    /// Room for a message of another node; `None`: there is none.
    fn take_lent(self: &Arc<Self>) -> Option<Place> {
        let mut used = held(&self.used);
        if used.own + used.lent >= self.n_max {
            return None;
        }
        used.lent += 1;
        used.was_own = false;
        Some(Place(Arc::clone(self)))
    }
}

/// A message of another node takes this room, until it is done with.
pub(super) struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut used = held(&self.0.used);
        used.lent = used.lent.saturating_sub(1);
    }
}

/// A member that waits for a message.
pub(super) struct Want {
    room: Arc<Room>,
    bring: oneshot::Sender<Loan>,
}

/// A member that is about to get one.
pub(super) struct Taken {
    pub(super) place: Place,
    bring: oneshot::Sender<Loan>,
}

impl Want {
    pub(super) fn new(room: &Arc<Room>) -> (Self, oneshot::Receiver<Loan>) {
        let (bring, came) = oneshot::channel();
        let room = Arc::clone(room);
        (Self { room, bring }, came)
    }

    /// Whether the member still waits.
    fn is_open(&self) -> bool {
        !self.bring.is_closed()
    }
}

impl Taken {
    /// The room in which the message will be, and the way to the member.
    pub(super) fn parts(self) -> (Place, oneshot::Sender<Loan>) {
        (self.place, self.bring)
    }
}

/// Wants that nodes which lend may take, and the streams of those nodes.
#[derive(Default)]
pub(super) struct Borrowing {
    groups: Mutex<BTreeMap<Group, Hungry>>,
    links: Mutex<HashMap<(Lender, Group), mpsc::Sender<Command>>>,
}

/// The wants of a group.
struct Hungry {
    wants: VecDeque<Want>,
    /// Lenders that have something for it.
    n_waiting: usize,
    changed: watch::Sender<()>,
}

impl Default for Hungry {
    fn default() -> Self {
        Self {
            wants: VecDeque::new(),
            n_waiting: 0,
            changed: watch::channel(()).0,
        }
    }
}

impl Borrowing {
    /// A member wants a message.
    pub(super) fn push(&self, group: &Group, want: Want) {
        let mut groups = held(&self.groups);
        let hungry = groups.entry(group.clone()).or_default();
        // One for each member: what it did not wait for any more goes.
        hungry.wants.retain(Want::is_open);
        hungry.wants.push_back(want);
        hungry.changed.send_replace(());
    }

    /// Takes wants of a group, those first that wait longest.
    pub(super) fn take(&self, group: &Group, n_max: usize) -> Vec<Taken> {
        let mut groups = held(&self.groups);
        let Some(hungry) = groups.get_mut(group) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        for _ in 0..hungry.wants.len() {
            let Some(want) = hungry.wants.pop_front() else {
                break;
            };
            let place = (taken.len() < n_max && want.is_open()).then(|| want.room.take_lent());
            match place.flatten() {
                Some(place) => taken.push(Taken {
                    place,
                    bring: want.bring,
                }),
                None if want.is_open() => hungry.wants.push_back(want),
                None => {}
            }
        }
        taken
    }

    pub(super) fn put_back(&self, group: &Group, taken: Taken) {
        let mut groups = held(&self.groups);
        let hungry = groups.entry(group.clone()).or_default();
        let (place, bring) = taken.parts();
        let want = Want {
            room: Arc::clone(&place.0),
            bring,
        };
        drop(place);
        hungry.wants.push_front(want);
        hungry.changed.send_replace(());
    }

    /// Told with each new want.
    pub(super) fn watch(&self, group: &Group) -> watch::Receiver<()> {
        let mut groups = held(&self.groups);
        let hungry = groups.entry(group.clone()).or_default();
        hungry.changed.subscribe()
    }

    /// A lender has something for a group, or has nothing more.
    pub(super) fn waits(&self, group: &Group, waits: bool) {
        let mut groups = held(&self.groups);
        let hungry = groups.entry(group.clone()).or_default();
        hungry.n_waiting = match waits {
            true => hungry.n_waiting + 1,
            false => hungry.n_waiting.saturating_sub(1),
        };
    }

    /// Whether a lender has something for a group.
    pub(super) fn anything_waits(&self, group: &Group) -> bool {
        held(&self.groups)
            .get(group)
            .is_some_and(|hungry| hungry.n_waiting > 0)
    }

    /// Says where a lender hears of a group's messages.
    pub(super) fn link(&self, lender: Lender, group: &Group, commands: mpsc::Sender<Command>) {
        held(&self.links).insert((lender, group.clone()), commands);
    }

    /// It hears nothing there any more.
    pub(super) fn unlink(&self, lender: Lender, group: &Group, commands: &mpsc::Sender<Command>) {
        let mut links = held(&self.links);
        let key = (lender, group.clone());
        if links
            .get(&key)
            .is_some_and(|one| one.same_channel(commands))
        {
            links.remove(&key);
        }
    }

    /// Where a lender hears of a group's messages; `None`: nowhere, at this moment.
    pub(super) fn linked(&self, lender: Lender, group: &Group) -> Option<mpsc::Sender<Command>> {
        held(&self.links).get(&(lender, group.clone())).cloned()
    }
}

/// What is in there is whole after each statement: a panic leaves nothing torn.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
