//! The live instances of the host, and which component may take the next one.
//!
//! One rule: half of the instances is promised in equal parts to the loaded components, the rest
//! goes to whoever comes first, and what is promised to one is given to no other. So a component
//! whose guests all wait for something slow cannot shut its neighbours out, and a component that
//! is alone gets every instance. Probes have a few places beyond these.
//!
//! Not here: how many invocations one replica takes (`admission`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Instances beyond `instances_max` that only probes take: most take a millisecond, so a few
/// places serve hundreds of replicas.
pub(crate) const PROBES_MAX: u32 = 16;
/// Of which one component takes so many: one whose health checks hang leaves the others theirs.
const PROBES_PER_COMPONENT_MAX: usize = 2;

/// Every instance of the host that may live at once.
pub(crate) struct Room {
    ledger: Mutex<Ledger>,
    probes: Arc<Semaphore>,
}

struct Ledger {
    total: u32,
    free: u32,
    /// How many of the free ones are promised: the sum of what components hold less than their
    /// part; where there are more components than instances to promise, the first instances of
    /// those that come first.
    promised: u32,
    /// Components that hold any.
    holders: u32,
    tenants: BTreeMap<u64, Account>,
    next_id: u64,
    /// Components for which someone waits, in the order in which they are looked at next.
    queue: VecDeque<u64>,
}

#[derive(Default)]
struct Account {
    held: u32,
    waiting: VecDeque<oneshot::Sender<Place>>,
    /// Whether it is in the queue.
    queued: bool,
}

/// One loaded component, as long as it is loaded.
pub(crate) struct Tenant {
    room: Arc<Room>,
    id: u64,
    probes: Arc<Semaphore>,
}

/// Room for one instance, until it is dropped.
pub(crate) struct Place {
    /// `None`: it was taken back already.
    room: Option<Arc<Room>>,
    id: u64,
}

/// Room for one probe's instance.
pub(crate) struct ProbePlace {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new(total: u32) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::new(Ledger {
                total,
                free: total,
                promised: 0,
                holders: 0,
                tenants: BTreeMap::new(),
                next_id: 0,
                queue: VecDeque::new(),
            }),
            probes: Arc::new(Semaphore::new(PROBES_MAX as usize)),
        })
    }

    pub(crate) fn tenant(self: &Arc<Self>) -> Tenant {
        let mut ledger = self.lock();
        let id = ledger.next_id;
        ledger.next_id += 1;
        ledger.tenants.insert(id, Account::default());
        ledger.promise();
        // Smaller parts round to less in sum.
        self.serve(&mut ledger);
        Tenant {
            room: Arc::clone(self),
            id,
            probes: Arc::new(Semaphore::new(PROBES_PER_COMPONENT_MAX)),
        }
    }

    fn place(self: &Arc<Self>, id: u64) -> Place {
        Place {
            room: Some(Arc::clone(self)),
            id,
        }
    }

    /// Gives what is free to those who wait, one component after the other.
    fn serve(self: &Arc<Self>, ledger: &mut Ledger) {
        let mut passed_over = 0;
        while passed_over < ledger.queue.len() {
            let Some(id) = ledger.next_in_queue() else {
                continue;
            };
            ledger.queue.push_back(id);
            if !ledger.take(id) {
                passed_over += 1;
                continue;
            }
            passed_over = 0;
            if let Err(mut place) = ledger.hand_over(id, self.place(id)) {
                // Whoever waited has just left. Dropped whole, it would lock the ledger again.
                place.room = None;
                ledger.give_back(id);
            }
        }
    }

    /// Numbers that change together, with no panic in between.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// What is promised to each component.
    fn part(&self) -> u32 {
        let tenants = u32::try_from(self.tenants.len()).unwrap_or(u32::MAX);
        self.total / 2 / tenants.max(1)
    }

    /// Divides the promise anew. Who held what is another's part by now keeps it to its end.
    fn promise(&mut self) {
        let part = self.part();
        let missing = |account: &Account| part.saturating_sub(account.held);
        let holds = |account: &&Account| account.held > 0;
        let holders = self.tenants.values().filter(holds).count();
        self.holders = u32::try_from(holders).unwrap_or(u32::MAX);
        self.promised = match part {
            0 => self.promised_to_the_first(),
            _ => self.tenants.values().map(missing).sum(),
        };
    }

    /// What is left of the promised half where each component can count on one instance at most.
    fn promised_to_the_first(&self) -> u32 {
        (self.total / 2).saturating_sub(self.holders)
    }

    fn take(&mut self, id: u64) -> bool {
        let part = self.part();
        let Some(account) = self.tenants.get_mut(&id) else {
            return false;
        };
        let within_part = account.held < part.max(1);
        let kept = if within_part { 0 } else { self.promised };
        if self.free <= kept {
            return false;
        }
        account.held += 1;
        self.holders += u32::from(account.held == 1);
        self.free -= 1;
        self.promised = match part {
            0 => self.promised_to_the_first(),
            _ => self.promised - u32::from(within_part),
        };
        true
    }

    fn give_back(&mut self, id: u64) {
        let part = self.part();
        self.free += 1;
        // Gone where the component was unloaded in the meantime.
        if let Some(account) = self.tenants.get_mut(&id) {
            account.held -= 1;
            self.holders -= u32::from(account.held == 0);
            self.promised = match part {
                0 => self.promised_to_the_first(),
                _ => self.promised + u32::from(account.held < part),
            };
        }
    }

    /// Whether `other` may have what component `id` gives back. What is within a part is promised
    /// to its component again.
    fn helps(&self, id: u64, other: u64) -> bool {
        let part = self.part().max(1);
        let held = |id| self.tenants.get(&id).map_or(0, |account| account.held);
        id == other || held(id) > part || held(other) < part
    }

    /// Takes the next component out of the queue, if anybody still waits for it.
    fn next_in_queue(&mut self) -> Option<u64> {
        let id = self.queue.pop_front()?;
        let account = self.tenants.get_mut(&id)?;
        account.forget_who_left();
        account.queued = !account.waiting.is_empty();
        account.queued.then_some(id)
    }

    /// To who waits longest.
    fn hand_over(&mut self, id: u64, place: Place) -> Result<(), Place> {
        match self
            .tenants
            .get_mut(&id)
            .and_then(|account| account.waiting.pop_front())
        {
            Some(waiter) => waiter.send(place),
            None => Err(place),
        }
    }

    fn wait(&mut self, id: u64) -> Option<oneshot::Receiver<Place>> {
        let (sender, receiver) = oneshot::channel();
        let account = self.tenants.get_mut(&id)?;
        account.waiting.push_back(sender);
        if !std::mem::replace(&mut account.queued, true) {
            self.queue.push_back(id);
        }
        Some(receiver)
    }
}

impl Account {
    /// All wait equally long at most, so most of those who gave up are in front.
    fn forget_who_left(&mut self) {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
    }
}

impl Tenant {
    /// An instance that is free for this component, unless others wait for it.
    pub(crate) fn try_take(&self) -> Option<Place> {
        let mut ledger = self.room.lock();
        let account = ledger.tenants.get_mut(&self.id)?;
        account.forget_who_left();
        let first = account.waiting.is_empty();
        (first && ledger.take(self.id)).then(|| self.room.place(self.id))
    }

    /// An instance, as soon as there is one.
    pub(crate) async fn take(&self) -> Option<Place> {
        if let Some(place) = self.try_take() {
            return Some(place);
        }
        let receiver = {
            let mut ledger = self.room.lock();
            let receiver = ledger.wait(self.id)?;
            // What became free since the look above woke nobody.
            self.room.serve(&mut ledger);
            receiver
        };
        receiver.await.ok()
    }

    /// A place that only probes take, as soon as there is one.
    pub(crate) async fn take_for_probe(&self) -> Option<ProbePlace> {
        // The own one first: who holds a shared one must not wait for anything.
        let own = Arc::clone(&self.probes).acquire_owned().await.ok()?;
        let shared = Arc::clone(&self.room.probes).acquire_owned().await.ok()?;
        Some(ProbePlace {
            _own: own,
            _shared: shared,
        })
    }
}

impl Place {
    /// Whether somebody waits who would get this one: for the same component, or for any where
    /// this component has more than its part.
    pub(crate) fn is_wanted(&self) -> bool {
        self.room.as_ref().is_some_and(|room| {
            let ledger = room.lock();
            ledger.queue.iter().any(|id| ledger.helps(self.id, *id))
        })
    }

    /// Whether it would be of use to `tenant` if it were given back.
    pub(crate) fn helps(&self, tenant: &Tenant) -> bool {
        let room = self.room.as_ref();
        room.is_some_and(|room| room.lock().helps(self.id, tenant.id))
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let mut ledger = self.room.lock();
        ledger.tenants.remove(&self.id);
        ledger.promise();
        self.room.serve(&mut ledger);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            let mut ledger = room.lock();
            ledger.give_back(self.id);
            room.serve(&mut ledger);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    fn taken(tenant: &Tenant) -> Vec<Place> {
        std::iter::from_fn(|| tenant.try_take()).collect()
    }

    #[test]
    fn one_alone_gets_all() {
        let room = Room::new(5);
        assert_eq!(taken(&room.tenant()).len(), 5);
    }

    #[test]
    fn what_is_promised_to_one_is_given_to_no_other() {
        let room = Room::new(16);
        let [greedy, modest, late] = [(); 3].map(|()| room.tenant());
        // Half of 16 among three: two for each.
        let hoard = taken(&greedy);
        assert_eq!(hoard.len(), 12);
        assert_eq!((taken(&modest).len(), taken(&late).len()), (2, 2));
        drop(late);
        // Among two: four for each, and nothing for who has more.
        assert_eq!(taken(&modest).len(), 4);
        assert_eq!(taken(&greedy).len(), 0);
        drop((hoard, greedy));
        assert_eq!(taken(&modest).len(), 16);
    }

    #[test]
    fn one_of_many_leaves_the_others_their_half() {
        let room = Room::new(8);
        let tenants: Vec<_> = (0..20).map(|_| room.tenant()).collect();
        // More components than there are instances to promise: one each, for those who come first.
        let hoard = taken(&tenants[0]);
        assert_eq!(hoard.len(), 5);
        let others: Vec<_> = tenants[1..].iter().map(taken).collect();
        let counts: Vec<_> = others.iter().map(Vec::len).collect();
        assert_eq!(counts[..4], [1, 1, 1, 0]);
    }

    #[test]
    fn who_waits_is_served_in_turn() {
        let room = Room::new(4);
        let [a, b] = [(); 2].map(|()| room.tenant());
        let mut held = (taken(&a), taken(&b));
        assert_eq!((held.0.len(), held.1.len()), (3, 1));
        let mut first = Box::pin(a.take());
        let mut gone = Box::pin(a.take());
        let mut second = Box::pin(a.take());
        let mut other = Box::pin(b.take());
        for waiting in [&mut first, &mut gone, &mut second, &mut other] {
            assert!(waiting.now_or_never().is_none());
        }
        drop(gone);
        // Only what is beyond the other's promise.
        drop(held.1.pop());
        let own = other.as_mut().now_or_never().unwrap();
        assert!(first.as_mut().now_or_never().is_none());
        drop(held.0.pop());
        let place = first.as_mut().now_or_never().unwrap();
        assert!(second.as_mut().now_or_never().is_none());
        // Not ahead of the one who waits.
        drop(place);
        assert!(a.try_take().is_none());
        assert!(second.as_mut().now_or_never().is_some());
        drop((own, held));
        drop((first, second, other));
        assert_eq!(taken(&a).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_of_one_component_leave_places_for_others() {
        let room = Room::new(1);
        let tenants: Vec<_> = (0..PROBES_MAX).map(|_| room.tenant()).collect();
        let first = tenants[0].take_for_probe().await.unwrap();
        let _second = tenants[0].take_for_probe().await.unwrap();
        assert!(tenants[0].take_for_probe().now_or_never().is_none());
        assert!(tenants[1].take_for_probe().now_or_never().is_some());
        drop(first);
        assert!(tenants[0].take_for_probe().now_or_never().is_some());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Load,
        Unload(usize),
        Take(usize),
        Wait(usize),
        GiveBack(usize),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => Just(Step::Load),
            1 => any::<usize>().prop_map(Step::Unload),
            6 => any::<usize>().prop_map(Step::Take),
            3 => any::<usize>().prop_map(Step::Wait),
            4 => any::<usize>().prop_map(Step::GiveBack),
            2 => any::<usize>().prop_map(Step::Leave),
        ]
    }

    fn pick<T>(of: &mut Vec<T>, index: usize) -> Option<T> {
        (!of.is_empty()).then(|| of.swap_remove(index % of.len()))
    }

    type Waiting = std::pin::Pin<Box<dyn Future<Output = Option<Place>>>>;

    fn waiting(tenant: &Arc<Tenant>) -> Waiting {
        let tenant = Arc::clone(tenant);
        Box::pin(async move { tenant.take().await })
    }

    proptest! {
        #[test]
        fn the_books_balance(total in 1u32..24, steps in proptest::collection::vec(step(), 1..80)) {
            let room = Room::new(total);
            let mut tenants: Vec<Arc<Tenant>> = Vec::new();
            let mut places = Vec::new();
            let mut waits: Vec<Waiting> = Vec::new();
            for step in steps {
                match step {
                    Step::Load => tenants.push(Arc::new(room.tenant())),
                    Step::Unload(index) => drop(pick(&mut tenants, index)),
                    Step::Take(index) if !tenants.is_empty() => {
                        places.extend(tenants[index % tenants.len()].try_take());
                    }
                    Step::Wait(index) if !tenants.is_empty() => {
                        waits.push(waiting(&tenants[index % tenants.len()]));
                    }
                    Step::Take(_) | Step::Wait(_) => {}
                    Step::GiveBack(index) => drop(pick(&mut places, index)),
                    Step::Leave(index) => drop(pick(&mut waits, index)),
                }
                // What one of them does when it is asked may serve another that was asked before it: so
                // each is asked twice before it counts that nobody was served.
                let mut n_left = usize::MAX;
                while n_left != waits.len() {
                    n_left = waits.len();
                    for _ in 0..2 {
                        waits.retain_mut(|wait| match wait.as_mut().now_or_never() {
                            Some(place) => { places.extend(place); false }
                            None => true,
                        });
                    }
                }
                let ledger = room.lock();
                prop_assert_eq!(ledger.free as usize + places.len(), total as usize);
                let part = ledger.part();
                let holders = ledger.tenants.values().filter(|a| a.held > 0).count() as u32;
                prop_assert_eq!(ledger.holders, holders);
                let missing: u32 = match part {
                    0 => (total / 2).saturating_sub(holders),
                    _ => ledger.tenants.values().map(|a| part.saturating_sub(a.held)).sum(),
                };
                prop_assert_eq!(ledger.promised, missing);
                // Nobody waits for what they could have.
                for account in ledger.tenants.values().filter(|account| !account.waiting.is_empty()) {
                    let kept = if account.held < part.max(1) { 0 } else { ledger.promised };
                    let left = account.waiting.iter().all(oneshot::Sender::is_closed);
                    prop_assert!(left || ledger.free <= kept);
                }
            }
            drop((waits, places, tenants));
            prop_assert_eq!(taken(&room.tenant()).len(), total as usize);
        }

        #[test]
        fn everyone_gets_their_part(takes in proptest::collection::vec(0usize..4, 0..60)) {
            let room = Room::new(32);
            let tenants = [(); 4].map(|()| room.tenant());
            let mut held = [const { Vec::new() }; 4];
            for index in takes {
                held[index].extend(tenants[index].try_take());
            }
            for (tenant, held) in tenants.iter().zip(&mut held) {
                held.extend(taken(tenant));
                prop_assert!(held.len() >= 4);
            }
        }
    }
}
