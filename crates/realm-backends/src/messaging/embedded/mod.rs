//! A durable queue in one file: what is sent, taken and done with is on the disk before the answer.
//!
//! One thread owns the file (`queue`); everybody else sends it wishes. Callers at the same time share
//! an fsync. Of one group, messages are handed out in the order in which they were sent; what failed
//! comes again when its time is over, and lets others pass. What waits here may be lent to other nodes
//! (`lend`), and members here take what others lend (`borrow`). Not here: who may send what, and which
//! nodes there are.

mod borrow;
mod file;
mod lend;
mod member;
mod queue;
mod stream;
mod tables;
mod wants;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use realm_model::cloud::{
    Answer, CloudError, Deliveries, Group, Message, Messaging, Subscription, check_message,
    check_pattern, check_topic, limits,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

pub use self::borrow::{decline, offered};
use self::member::Taking;
use self::queue::{Reply, Wish};
pub use self::stream::LendError;
use self::wants::{Borrowing, Room as MemberRoom};
use super::requests::{Kind, Requests};
use super::selective::selective;
use super::{OnDeath, Room};
use crate::Watch;

/// KiB of messages that are on their way to the file at once.
const ON_THE_WAY_KIB_MAX: usize = 64 * 1024;

/// A queue in a file of this node.
pub struct Embedded {
    wishes: Sender<Wish>,
    on_the_way: Semaphore,
    requests: Arc<Requests>,
    borrowing: Arc<Borrowing>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread works with.
struct Setting {
    path: PathBuf,
    room: Room,
    watch: Arc<dyn Watch>,
    on_death: OnDeath,
    borrowing: Arc<Borrowing>,
    /// For what it hands out.
    wishes: Sender<Wish>,
}

impl Embedded {
    /// Opens the queue in a file, which is made if it must; its folder is there.
    ///
    /// # Errors
    ///
    /// The operator's words of why the file cannot be used: another process has it, the disk is full,
    /// it is none of these files.
    pub fn open(
        path: PathBuf,
        room: Room,
        watch: Arc<dyn Watch>,
        on_death: OnDeath,
    ) -> Result<Self, String> {
        let database = file::open(&path).map_err(|error| file::words(&error))?;
        let (wishes, receiver) = mpsc::channel();
        let borrowing = Arc::<Borrowing>::default();
        let setting = Setting {
            path,
            room,
            watch,
            on_death,
            borrowing: Arc::clone(&borrowing),
            wishes: wishes.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("realm-queue".to_owned())
            .spawn(move || queue::run(setting, database, &receiver))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            wishes,
            on_the_way: Semaphore::new(ON_THE_WAY_KIB_MAX),
            requests: Arc::default(),
            borrowing,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The groups that have a member on this node.
    pub fn groups_here(&self) -> BTreeSet<Group> {
        self.requests.here()
    }

    /// Whether a group has a member on this node.
    pub fn has_member(&self, group: &Group) -> bool {
        self.requests.is_here(group)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.wishes.send(Wish::Close);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // Whoever opens the file next finds it free: the thread ends after at most one transaction.
            let _ = thread.join();
        }
    }
}

/// Wishes something and waits for the answer.
async fn wished<T>(
    wishes: &Sender<Wish>,
    wish: impl FnOnce(Reply<T>) -> Wish,
) -> Result<T, CloudError> {
    let (reply, answer) = oneshot::channel();
    let sent = wishes.send(wish(reply));
    sent.map_err(|_| CloudError::Unavailable)?;
    let patience = Duration::from_millis(limits::CALL_TIMEOUT_MS);
    match timeout(patience, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(CloudError::Unavailable),
        Err(_) => Err(CloudError::Timeout),
    }
}

impl Messaging for Embedded {
    fn send<'a>(
        &'a self,
        topic: &'a str,
        mut message: Message,
        delay: Option<Duration>,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            check_topic(topic)?;
            check_message(&message)?;
            message.topic = Some(topic.to_owned());
            message.metadata.sort_by(|one, other| one.0.cmp(&other.0));
            let body = message.to_bytes();
            drop(message);
            let n_kib = u32::try_from(body.len() / 1_024 + 1).unwrap_or(u32::MAX);
            let permit = self.on_the_way.acquire_many(n_kib).await;
            let _permit = permit.map_err(|_| CloudError::Unavailable)?;
            wished(&self.wishes, |reply| Wish::Send {
                topic: topic.to_owned(),
                body,
                delay: delay.filter(|delay| !delay.is_zero()),
                reply,
            })
            .await
        })
    }

    fn request<'a>(
        &'a self,
        topic: &'a str,
        mut message: Message,
        timeout: Duration,
        n_replies: u32,
    ) -> Answer<'a, Vec<Message>> {
        Box::pin(async move {
            check_topic(topic)?;
            check_message(&message)?;
            message.metadata.sort_by(|one, other| one.0.cmp(&other.0));
            self.requests.ask(topic, message, timeout, n_replies).await
        })
    }

    fn reply<'a>(&'a self, reply_to: &'a str, mut message: Message) -> Answer<'a, ()> {
        Box::pin(async move {
            check_message(&message)?;
            message.metadata.sort_by(|one, other| one.0.cmp(&other.0));
            self.requests.reply(reply_to, message);
            Ok(())
        })
    }

    fn subscribe<'a>(&'a self, subscription: &'a Subscription) -> Answer<'a, Box<dyn Deliveries>> {
        Box::pin(async move {
            check_pattern(&subscription.group.topic)?;
            if let Some(topic) = &subscription.dead_letter {
                check_topic(topic)?;
            }
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            let room = Arc::new(MemberRoom::new(subscription.n_in_flight));
            let id = wished(&self.wishes, |reply| Wish::Join {
                subscription: Arc::new(subscription.clone()),
                room: Arc::clone(&room),
                sender,
                reply,
            })
            .await?;
            let taking: Box<dyn Deliveries> = Box::new(Taking {
                wishes: self.wishes.clone(),
                id,
                group: subscription.group.clone(),
                room,
                receiver,
                requests: self.requests.join(subscription.group.clone(), Kind::Here),
                borrowing: Arc::clone(&self.borrowing),
            });
            Ok(selective(taking, subscription))
        })
    }

    fn keep_groups<'a>(&'a self, groups: &'a [Group]) -> Answer<'a, ()> {
        Box::pin(async move {
            for group in groups {
                check_pattern(&group.topic)?;
            }
            wished(&self.wishes, |reply| Wish::Keep(groups.to_vec(), reply)).await
        })
    }

    fn dead(&self, n_max: usize) -> Answer<'_, Vec<Message>> {
        Box::pin(wished(&self.wishes, move |reply| Wish::Dead(n_max, reply)))
    }
}
