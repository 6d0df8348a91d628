//! The thread that owns the file: it takes what callers want, many at a time, does it in one
//! transaction, and answers when that is on the disk.
//!
//! What is under way is known here alone: after a crash nothing is, and everything is delivered again.
//! A commit that only says "this is being delivered" is not waited for; it reaches the disk with the
//! next one, [`FLUSH_AFTER`] later at the latest.

mod lent;
mod letters;
mod steps;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use realm_model::cloud::{CloudError, Group, Letter, Message, Subscription};
use realm_model::lending_message::{Came, How, Lent};
use redb::{Database, Durability};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::Setting;
use super::file;
use super::member::Handed;
use super::tables::{Broken, Sums, Tables};
use super::wants::Room;

/// How long what is not waited for may be missing on the disk.
const FLUSH_AFTER: Duration = Duration::from_millis(10);
/// Callers that are served by one transaction.
const BATCH_MAX: usize = 1_000;
/// Bytes of messages in one transaction, about.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long to wait before the file is opened again, once it could not be used.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// Nothing to do: a look at the clock now and then, which may have been set.
const IDLE: Duration = Duration::from_secs(30);

pub(super) type Reply<T> = oneshot::Sender<Result<T, CloudError>>;

/// Which delivery of which message is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    group: u32,
    message: u64,
    nonce: u64,
}

/// A message that goes to another node.
pub(super) struct Given {
    pub(super) which: Lent,
    pub(super) attempt: u32,
    /// As it is in the file.
    pub(super) body: Vec<u8>,
}

/// What callers want.
pub(super) enum Wish {
    Send {
        topic: String,
        body: Vec<u8>,
        delay: Option<Duration>,
        /// The room that the body takes until it is in the file.
        _room: OwnedSemaphorePermit,
        reply: Reply<()>,
    },
    Join {
        subscription: Arc<Subscription>,
        room: Arc<Room>,
        sender: mpsc::UnboundedSender<Handed>,
        reply: Reply<u64>,
    },
    /// Another node is to get messages of a group, as this subscription says; it is told whether any wait.
    Lend {
        subscription: Arc<Subscription>,
        waits: watch::Sender<bool>,
        reply: Reply<u64>,
    },
    /// So many for another node, if they are there.
    Take {
        lending: u64,
        n: usize,
        reply: Reply<Vec<Given>>,
    },
    /// What another node says of one of them.
    Settle {
        lending: u64,
        which: Lent,
        how: How,
        reply: Reply<Came>,
    },
    /// A member that another node was to serve has room again.
    Look,
    Leave(u64),
    Ack(Flight, Reply<()>),
    Retry {
        flight: Flight,
        after: Duration,
        why: String,
        reply: Reply<bool>,
    },
    /// Back to the queue; `untouched`: nobody looked at it.
    Return {
        flight: Flight,
        untouched: bool,
        reply: Option<Reply<()>>,
    },
    Extend(Flight, Reply<()>),
    Keep(Vec<Group>, Reply<()>),
    Dead(usize, Reply<Vec<Message>>),
    Letters(Reply<Vec<Letter>>),
    Letter(u64, Reply<Option<Letter>>),
    /// A dead letter is to be delivered again, or to be gone: whether it was there.
    SettleLetter {
        number: u64,
        is_retried: bool,
        reply: Reply<bool>,
    },
    Close,
}

/// Where wishes are said. Cheap to clone.
#[derive(Clone)]
pub(super) struct Wishes {
    sender: Sender<Wish>,
    is_to_look: Arc<AtomicBool>,
}

impl Wishes {
    pub(super) fn new() -> (Self, Receiver<Wish>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let is_to_look = Arc::default();
        (Self { sender, is_to_look }, receiver)
    }

    pub(super) fn send(&self, wish: Wish) -> Result<(), SendError<Wish>> {
        self.sender.send(wish)
    }

    /// Somebody has room again. However often it is said, it waits there once.
    pub(super) fn look(&self) {
        if !self.is_to_look.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(Wish::Look);
        }
    }
}

struct Queue {
    setting: Setting,
    database: Option<Database>,
    sums: Sums,
    groups: BTreeMap<u32, Shared>,
    members: HashMap<u64, Member>,
    lendings: HashMap<u64, Lending>,
    flights: HashMap<(u32, u64), Under>,
    ends: BTreeSet<(Instant, u32, u64)>,
    /// Of other nodes, the last deliveries of which nothing was heard in time.
    unheard: VecDeque<Flight>,
    n_given: u64,
    /// Where this start began to count deliveries.
    n_before: u64,
    /// When a commit that nobody waits for has to be on the disk.
    flush_at: Option<Instant>,
    closed: bool,
}

/// A group, as its members share it.
struct Shared {
    group: Group,
    /// Who is next comes first.
    members: Vec<u64>,
    /// When the first that waits is due, milliseconds since 1970.
    due_ms: Option<u64>,
}

struct Member {
    group: u32,
    subscription: Arc<Subscription>,
    sender: mpsc::UnboundedSender<Handed>,
    room: Arc<Room>,
}

/// Another node that gets messages of a group.
struct Lending {
    group: u32,
    subscription: Arc<Subscription>,
    waits: watch::Sender<bool>,
}

/// A delivery that is under way.
struct Under {
    nonce: u64,
    member: u64,
    subscription: Arc<Subscription>,
    since: Instant,
    until: Instant,
}

/// What is said when the transaction is through.
type Later = Box<dyn FnOnce() + Send>;

/// Serves wishes until it is told to close, or nobody can wish any more.
pub(super) fn run(setting: Setting, database: Database, wishes: &Receiver<Wish>) {
    let mut queue = Queue::new(setting);
    queue.adopt(database);
    while !queue.closed {
        let mut batch = Vec::new();
        match wishes.recv_timeout(queue.patience()) {
            Ok(wish) => batch.push(wish),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => queue.closed = true,
        }
        let mut n_bytes = 0;
        while batch.len() < BATCH_MAX && n_bytes < BATCH_BYTES_MAX {
            let Ok(wish) = wishes.try_recv() else { break };
            if let Wish::Send { body, .. } = &wish {
                n_bytes += body.len();
            }
            batch.push(wish);
        }
        queue.turn(batch);
    }
    queue.end();
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn after_ms(delay: Duration) -> u64 {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    now_ms().saturating_add(delay_ms)
}

impl Queue {
    fn new(setting: Setting) -> Self {
        // What another node says of a delivery that an earlier start gave is not taken for one of this.
        let n_before = now_ms() << 20;
        Self {
            setting,
            database: None,
            sums: Sums::default(),
            groups: BTreeMap::new(),
            members: HashMap::new(),
            lendings: HashMap::new(),
            flights: HashMap::new(),
            ends: BTreeSet::new(),
            unheard: VecDeque::new(),
            n_given: n_before,
            n_before,
            flush_at: None,
            closed: false,
        }
    }

    /// Takes an open file into use: nothing of it is under way.
    fn adopt(&mut self, database: Database) {
        self.flights.clear();
        self.ends.clear();
        self.unheard.clear();
        self.n_before = self.n_given;
        for member in self.members.values() {
            member.room.clear_own();
        }
        let recovered = (|| -> Result<_, Broken> {
            let transaction = begin(&database)?;
            let mut tables = Tables::open(&transaction, Sums::default())?;
            let groups = tables.recover()?;
            let mut found = Vec::new();
            for (number, group) in groups {
                let due_ms = tables.first(number)?.map(|(key, _)| key.1);
                found.push((number, group, due_ms));
            }
            let sums = tables.close()?;
            commit(transaction)?;
            Ok((found, sums))
        })();
        match recovered {
            Ok((found, sums)) => {
                self.sums = sums;
                // A group whose making did not reach the disk: its members hear that it is gone.
                let there = |number| found.iter().any(|(one, _, _)| *one == number);
                self.members.retain(|_, member| there(member.group));
                self.lendings.retain(|_, lending| there(lending.group));
                let mut old = std::mem::take(&mut self.groups);
                for (number, group, due_ms) in found {
                    let members = old.remove(&number).map(|old| old.members);
                    let shared = Shared {
                        group,
                        members: members.unwrap_or_default(),
                        due_ms,
                    };
                    self.groups.insert(number, shared);
                }
                self.database = Some(database);
                self.setting.watch.up();
            }
            Err(error) => self.setting.watch.down(&file::words(&error)),
        }
    }

    /// How long there is nothing to do if nobody wishes anything.
    fn patience(&self) -> Duration {
        if self.database.is_none() {
            return REOPEN_AFTER;
        }
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        let mut patience = IDLE;
        if let Some(at) = self.flush_at {
            patience = patience.min(until(at));
        }
        if let Some((at, _, _)) = self.ends.first() {
            patience = patience.min(until(*at));
        }
        let now_ms = now_ms();
        for (number, shared) in &self.groups {
            let Some(due_ms) = shared.due_ms else {
                continue;
            };
            // A node that was told of something due takes it when it has room.
            let is_to_tell = || {
                let mut lendings = self.lendings.values();
                lendings.any(|one| one.group == *number && !*one.waits.borrow())
            };
            if self.free(shared).is_some() || is_to_tell() {
                let wait = Duration::from_millis(due_ms.saturating_sub(now_ms));
                patience = patience.min(wait);
            }
        }
        patience
    }

    /// The member of a group that is next, and where it stands among them.
    fn free(&self, shared: &Shared) -> Option<(usize, u64)> {
        let lent_waits = self.setting.borrowing.anything_waits(&shared.group);
        shared.members.iter().enumerate().find_map(|(at, id)| {
            let member = self.members.get(id)?;
            let room = &member.room;
            let is_for_own =
                room.is_for_own(lent_waits) && self.setting.borrowing.budget.has_room(&room.holder);
            is_for_own.then_some((at, *id))
        })
    }

    /// One transaction: what is wished, what timed out, what can be delivered.
    fn turn(&mut self, batch: Vec<Wish>) {
        let is_look = |wish: &Wish| matches!(wish, Wish::Look);
        if batch.iter().any(is_look) {
            let wishes = &self.setting.wishes;
            wishes.is_to_look.store(false, Ordering::Release);
        }
        self.setting.borrowing.nudge_if_freed();
        let is_idle = || self.database.is_some() && !self.patience().is_zero();
        if !batch.is_empty() && batch.iter().all(is_look) && is_idle() {
            self.say_due();
            return;
        }
        let Some(database) = self.database.take() else {
            self.refuse(batch);
            if let Ok(database) = file::open(&self.setting.path) {
                self.adopt(database);
            }
            return;
        };
        let durable = batch.iter().any(Wish::is_to_last)
            || self.flush_at.is_some_and(|at| at <= Instant::now());
        let done = (|| -> Result<_, Broken> {
            let mut transaction = begin(&database)?;
            if !durable {
                let set = transaction.set_durability(Durability::None);
                set.map_err(|error| Broken::from(redb::Error::from(error)))?;
            }
            let mut tables = Tables::open(&transaction, self.sums)?;
            let mut later = Vec::new();
            for wish in batch {
                self.grant(&mut tables, wish, &mut later)?;
            }
            // Afterwards: who was done in time waited here for a disk that was busy.
            self.expire(&mut tables)?;
            self.deliver(&mut tables, &mut later)?;
            self.tell_lendings(&tables, &mut later)?;
            let sums = tables.close()?;
            commit(transaction)?;
            Ok((sums, later))
        })();
        match done {
            Ok((sums, later)) => {
                self.sums = sums;
                self.flush_at = if durable {
                    None
                } else {
                    self.flush_at.or(Some(Instant::now() + FLUSH_AFTER))
                };
                self.database = Some(database);
                for say in later {
                    say();
                }
            }
            Err(error) => {
                // Whose answers were in `later` hears nothing but that the channel is closed.
                drop(database);
                self.setting.watch.down(&file::words(&error));
            }
        }
    }

    fn refuse(&mut self, batch: Vec<Wish>) {
        for wish in batch {
            match wish {
                Wish::Close => self.closed = true,
                Wish::Leave(id) => self.leave(id),
                Wish::Send { .. }
                | Wish::Join { .. }
                | Wish::Lend { .. }
                | Wish::Take { .. }
                | Wish::Settle { .. }
                | Wish::Look
                | Wish::Ack(..)
                | Wish::Retry { .. }
                | Wish::Return { .. }
                | Wish::Extend(..)
                | Wish::Keep(..)
                | Wish::Dead(..)
                | Wish::Letters(_)
                | Wish::Letter(..)
                | Wish::SettleLetter { .. } => {}
            }
        }
    }

    /// What is under way waits again, and all is on the disk.
    fn end(mut self) {
        let Some(database) = self.database.take() else {
            return;
        };
        self.members.clear();
        let _ = begin(&database).and_then(commit);
    }
}

impl Wish {
    /// Whether it changes what has to be on the disk before the answer.
    const fn is_to_last(&self) -> bool {
        match self {
            Self::Send { .. }
            | Self::Join { .. }
            | Self::Lend { .. }
            | Self::Ack(..)
            | Self::Retry { .. }
            | Self::Return { .. }
            | Self::Keep(..)
            | Self::SettleLetter { .. }
            | Self::Close => true,
            Self::Settle { how, .. } => !matches!(how, How::Extend),
            Self::Take { .. }
            | Self::Look
            | Self::Leave(_)
            | Self::Extend(..)
            | Self::Dead(..)
            | Self::Letters(_)
            | Self::Letter(..) => false,
        }
    }
}

fn begin(database: &Database) -> Result<redb::WriteTransaction, Broken> {
    let begun = database.begin_write();
    begun.map_err(|error| Broken::from(redb::Error::from(error)))
}

fn commit(transaction: redb::WriteTransaction) -> Result<(), Broken> {
    let done = transaction.commit();
    done.map_err(|error| Broken::from(redb::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unwatched;
    use crate::messaging::Room as QueueRoom;

    #[test]
    fn who_leaves_while_the_file_cannot_be_used_is_gone_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue");
        let database = file::open(&path).unwrap();
        let (wishes, receiver) = Wishes::new();
        let setting = Setting {
            path: folder.path().join("missing/queue"),
            room: QueueRoom::default(),
            watch: Arc::new(Unwatched),
            on_death: Arc::new(|_| {}),
            borrowing: Arc::default(),
            wishes,
        };
        let mut queue = Queue::new(setting);
        queue.adopt(database);
        let subscription = Arc::new(Subscription {
            group: Group {
                topic: "orders".to_owned(),
                name: "w".to_owned(),
            },
            n_in_flight: 1,
            ack_wait: Duration::from_secs(1),
            n_deliveries: 1,
            dead_letter: None,
            wanted: None,
        });
        let (sender, _handed) = mpsc::unbounded_channel();
        let (reply, mut joined) = oneshot::channel();
        queue.turn(vec![Wish::Join {
            subscription: Arc::clone(&subscription),
            room: Arc::new(Room::new(1)),
            sender,
            reply,
        }]);
        let member = joined.try_recv().unwrap().unwrap();
        let (reply, mut lent) = oneshot::channel();
        let waits = watch::channel(false).0;
        queue.turn(vec![Wish::Lend {
            subscription,
            waits,
            reply,
        }]);
        let lending = lent.try_recv().unwrap().unwrap();
        queue.database = None;
        queue.turn(vec![Wish::Leave(member), Wish::Leave(lending)]);
        assert!(queue.members.is_empty() && queue.lendings.is_empty());
        assert!(queue.groups.values().all(|group| group.members.is_empty()));
        drop(receiver);
    }
}
