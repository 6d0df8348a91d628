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

use super::borrow::Command;
use super::loan::Loan;
use crate::messaging::budget::{Budget, Holder, LARGEST, Share};

/// Who lends: the key of a node, of which nothing else is known here.
pub(super) type Lender = [u8; 32];

/// The room of a member.
pub(super) struct Room {
    n_max: u32,
    used: Mutex<Used>,
    /// What it has takes bytes of the budget.
    pub(super) holder: Arc<Holder>,
}

#[derive(Default)]
struct Used {
    own: u32,
    lent: u32,
    /// Asked of another node, which did not answer yet.
    asked: u32,
    /// Whether the last one came from the own queue.
    was_own: bool,
    /// Whether the own queue has something that there is no room for.
    is_own_due: bool,
}

impl Used {
    fn n(&self) -> u32 {
        self.own + self.lent + self.asked
    }
}

impl Room {
    pub(super) fn new(n_max: u32) -> Self {
        Self {
            n_max: n_max.max(1),
            used: Mutex::default(),
            holder: Arc::default(),
        }
    }

    /// Whether the own queue may hand something out. `lent_waits`: another node has something as well.
    pub(super) fn is_for_own(&self, lent_waits: bool) -> bool {
        let used = held(&self.used);
        used.n() < self.n_max && !(lent_waits && used.was_own)
    }

    /// Whether there is room, and it is the turn of another node.
    pub(super) fn is_turn_of_lent(&self) -> bool {
        let used = held(&self.used);
        used.n() < self.n_max && used.was_own
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

    /// The own queue has something, or nothing, that there is no room for.
    pub(super) fn say_due(&self, is_due: bool) {
        held(&self.used).is_own_due = is_due;
    }

    /// Room for a message that another node is asked for; `None`: there is none.
    ///
    /// What was asked for takes one place at the most, since the other node may never answer; and where the
    /// own queue waits, one place stays for that. Where there is a single place, it is theirs in turns.
    fn take_lent(self: &Arc<Self>, budget: &Arc<Budget>) -> Option<Place> {
        let mut used = held(&self.used);
        let n_lent_max = match used.is_own_due {
            true => (self.n_max - 1).max(1),
            false => self.n_max,
        };
        if used.n() >= self.n_max || used.asked > 0 || used.lent >= n_lent_max {
            return None;
        }
        let share = budget.take(&self.holder, LARGEST)?;
        used.asked += 1;
        used.was_own = false;
        Some(Place {
            room: Arc::clone(self),
            has_come: false,
            share,
        })
    }
}

/// A message of another node takes this room, from being asked for until it is done with.
pub(super) struct Place {
    room: Arc<Room>,
    has_come: bool,
    share: Share,
}

impl Place {
    /// The message is here, and takes so many bytes.
    pub(super) fn come(&mut self, n_bytes: usize) {
        let mut used = held(&self.room.used);
        used.asked = used.asked.saturating_sub(1);
        used.lent += 1;
        self.has_come = true;
        self.share.shrink(n_bytes);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut used = held(&self.room.used);
        match self.has_come {
            true => used.lent = used.lent.saturating_sub(1),
            false => used.asked = used.asked.saturating_sub(1),
        }
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
    /// For what members get, from wherever it comes.
    pub(super) budget: Arc<Budget>,
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
            let place =
                (taken.len() < n_max && want.is_open()).then(|| want.room.take_lent(&self.budget));
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
            room: Arc::clone(&place.room),
            bring,
        };
        drop(place);
        hungry.wants.push_front(want);
        hungry.changed.send_replace(());
    }

    /// There is room again: those who lend for a group look at what it wants.
    pub(super) fn nudge(&self, group: &Group) {
        if let Some(hungry) = held(&self.groups).get(group) {
            hungry.changed.send_replace(());
        }
    }

    /// The same for all groups, where there was too little for what they want.
    pub(super) fn nudge_if_freed(&self) {
        if self.budget.was_freed() {
            for hungry in held(&self.groups).values() {
                hungry.changed.send_replace(());
            }
        }
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
