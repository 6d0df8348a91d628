//! Requests within one process: who may answer, and who waits for replies.
//!
//! A request is for now: it is not kept, not repeated, and nobody begins with it once its time is over.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use realm_model::cloud::{
    Answer, CloudError, Delivery, Group, Message, Receipt, limits, topic_matches,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Requests that wait for one member: more than it answers within any timeout.
const WAITING_MAX: usize = 1_000;

/// Members and inboxes.
#[derive(Default)]
pub(super) struct Requests {
    state: Mutex<State>,
    n_given: AtomicU64,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    inboxes: HashMap<String, mpsc::Sender<Message>>,
}

struct Member {
    id: u64,
    group: Group,
    kind: Kind,
    sender: mpsc::Sender<Asked>,
}

/// Where a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In this process.
    Here,
    /// On another node, which is asked where nobody is here.
    Elsewhere,
}

/// A request on its way to a member.
pub(super) struct Asked {
    pub(super) message: Message,
    pub(super) until: Instant,
    /// Replies that are waited for.
    pub(super) n_replies: u32,
}

/// Where a member's requests come out; dropped, it gets no more.
pub(super) struct Answering {
    requests: Arc<Requests>,
    id: u64,
    receiver: mpsc::Receiver<Asked>,
}

/// An inbox, which is gone with this.
struct Inbox {
    requests: Arc<Requests>,
    name: String,
}

/// Replies as they come to a request that another node passed on.
pub(super) struct Replies {
    _inbox: Inbox,
    receiver: mpsc::Receiver<Message>,
    until: Instant,
    n_missing: u32,
}

/// There is nothing to say of a request: it is delivered once.
pub(super) struct Once;

impl Requests {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that nobody else has.
    fn give(&self) -> u64 {
        self.n_given.fetch_add(1, Ordering::Relaxed)
    }

    /// A new member of a group.
    pub(super) fn join(self: &Arc<Self>, group: Group, kind: Kind) -> Answering {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let id = self.give();
        self.lock().members.push(Member {
            id,
            group,
            kind,
            sender,
        });
        Answering {
            requests: Arc::clone(self),
            id,
            receiver,
        }
    }

    /// The groups that have a member in this process.
    pub(super) fn here(&self) -> BTreeSet<Group> {
        let state = self.lock();
        let members = state.members.iter();
        let members = members.filter(|member| member.kind == Kind::Here);
        members.map(|member| member.group.clone()).collect()
    }

    /// Whether a group has a member in this process.
    pub(super) fn is_here(&self, group: &Group) -> bool {
        let state = self.lock();
        let mut members = state.members.iter();
        members.any(|member| member.kind == Kind::Here && member.group == *group)
    }

    /// Asks one member of each group, and waits for replies.
    pub(super) async fn ask(
        self: &Arc<Self>,
        topic: &str,
        message: Message,
        timeout: Duration,
        n_replies: u32,
    ) -> Result<Vec<Message>, CloudError> {
        let until = Instant::now() + timeout;
        let n_replies = n_replies.clamp(1, limits::REPLIES_MAX);
        let (inbox, mut receiver) = self.inbox(n_replies);
        let message = Message {
            topic: Some(topic.to_owned()),
            reply_to: Some(inbox.name.clone()),
            ..message
        };
        let is_meant = |group: &Group| topic_matches(&group.topic, topic);
        if !self.spread(&Kind::BOTH, is_meant, &message, until, n_replies) {
            return Err(CloudError::NotFound("a subscriber of this topic"));
        }
        let mut replies = Vec::new();
        while replies.len() < n_replies as usize {
            match timeout_at(until, receiver.recv()).await {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) | Err(_) => break,
            }
        }
        drop(inbox);
        if replies.is_empty() {
            return Err(CloudError::Timeout);
        }
        Ok(replies)
    }

    /// Gives a request of another node to one member of a group in this process, and to nobody elsewhere:
    /// no request goes round. `None`: there is none, or none has room.
    pub(super) fn pass_on(
        self: &Arc<Self>,
        group: &Group,
        message: Message,
        timeout: Duration,
        n_replies: u32,
    ) -> Option<Replies> {
        let until = Instant::now() + timeout;
        let n_missing = n_replies.clamp(1, limits::REPLIES_MAX);
        let (inbox, receiver) = self.inbox(n_missing);
        let message = Message {
            reply_to: Some(inbox.name.clone()),
            ..message
        };
        let is_meant = |one: &Group| one == group;
        let given = self.spread(&[Kind::Here], is_meant, &message, until, n_missing);
        given.then_some(Replies {
            _inbox: inbox,
            receiver,
            until,
            n_missing,
        })
    }

    fn inbox(self: &Arc<Self>, n_replies: u32) -> (Inbox, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel(n_replies as usize);
        let inbox = Inbox {
            requests: Arc::clone(self),
            name: format!("inbox.{}", self.give()),
        };
        self.lock().inboxes.insert(inbox.name.clone(), sender);
        (inbox, receiver)
    }

    /// Gives a request to one member of each group that is meant, of the first kind that has one; whether
    /// there was any.
    fn spread(
        &self,
        kinds: &[Kind],
        is_meant: impl Fn(&Group) -> bool,
        message: &Message,
        until: Instant,
        n_replies: u32,
    ) -> bool {
        let mut state = self.lock();
        let mut taken: Vec<Group> = Vec::new();
        let mut last = Vec::new();
        for kind in kinds {
            for (index, member) in state.members.iter().enumerate() {
                let is_next = member.kind == *kind && !taken.contains(&member.group);
                if !is_next || !is_meant(&member.group) {
                    continue;
                }
                let asked = Asked {
                    message: message.clone(),
                    until,
                    n_replies,
                };
                if member.sender.try_send(asked).is_ok() {
                    taken.push(member.group.clone());
                    last.push(index);
                }
            }
        }
        // Who was asked goes to the end, so that members take turns.
        last.sort_unstable();
        for index in last.into_iter().rev() {
            let member = state.members.remove(index);
            state.members.push(member);
        }
        !taken.is_empty()
    }

    /// Hands over a reply, if anybody waits for it still.
    pub(super) fn reply(&self, inbox: &str, message: Message) {
        let sender = self.lock().inboxes.get(inbox).cloned();
        if let Some(sender) = sender {
            let _ = sender.try_send(message);
        }
    }
}

impl Kind {
    /// Whoever is here comes first.
    const BOTH: [Self; 2] = [Self::Here, Self::Elsewhere];
}

impl Answering {
    /// The next request whose time is not over.
    pub(super) async fn asked(&mut self) -> Option<Asked> {
        loop {
            let asked = self.receiver.recv().await?;
            if asked.until > Instant::now() {
                return Some(asked);
            }
        }
    }

    /// The same as a delivery.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        let asked = self.asked().await?;
        Some(Delivery {
            message: asked.message,
            attempt: 1,
            receipt: Box::new(Once),
        })
    }
}

impl Replies {
    /// The next reply that comes in time; `None`: no more are waited for.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.n_missing = self.n_missing.checked_sub(1)?;
        timeout_at(self.until, self.receiver.recv()).await.ok()?
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let id = self.id;
        self.requests.lock().members.retain(|one| one.id != id);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.requests.lock().inboxes.remove(&self.name);
    }
}

impl Receipt for Once {
    fn ack(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn retry<'a>(&'a self, _after: Duration, _why: &'a str) -> Answer<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn give_back(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn extend(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
