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
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::budget::{Budget, Holder, Share, bytes_of};

/// Requests that wait for one member: more than it answers within any timeout.
const WAITING_MAX: usize = 1_000;
/// Bytes of replies to one request, about.
pub(super) const INBOX_BYTES_MAX: usize = limits::REPLIES_BYTES_MAX;

/// Members and inboxes.
#[derive(Default)]
pub(super) struct Requests {
    state: Mutex<State>,
    n_given: AtomicU64,
    /// Told when members come and go.
    changed: watch::Sender<()>,
    /// Room for requests, from being asked to being answered.
    waiting: Arc<Budget>,
    /// Room for replies, until all of a request are there.
    replies: Arc<Budget>,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    inboxes: HashMap<String, Open>,
}

/// An inbox, for those who reply.
struct Open {
    sender: mpsc::Sender<Reply>,
    holder: Arc<Holder>,
    n_bytes: usize,
}

/// A reply, and the room that it takes.
pub(super) type Reply = (Message, Share);

struct Member {
    id: u64,
    group: Group,
    kind: Kind,
    sender: mpsc::Sender<Asked>,
    holder: Arc<Holder>,
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
    share: Share,
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
    receiver: mpsc::Receiver<Reply>,
    until: Instant,
    n_missing: u32,
}

/// There is nothing to say of a request: it is delivered once. It takes its room until then.
pub(super) struct Once(#[expect(dead_code, reason = "it is there to be dropped")] Share);

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
            holder: Arc::default(),
        });
        self.changed.send_replace(());
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

    /// Told when members come and go.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
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
        let until = Instant::now() + timeout.min(limits::REQUEST_TIME_MAX);
        let n_replies = n_replies.clamp(1, limits::REPLIES_MAX);
        let (inbox, mut receiver) = self.inbox(n_replies);
        let message = Message {
            topic: Some(topic.to_owned()),
            reply_to: Some(inbox.name.clone()),
            ..message
        };
        let is_meant = |group: &Group| topic_matches(&group.topic, topic);
        self.spread(&Kind::BOTH, is_meant, &message, until, n_replies)?;
        drop(message);
        let mut replies: Vec<Reply> = Vec::new();
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
        Ok(replies.into_iter().map(|(reply, _)| reply).collect())
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
        let until = Instant::now() + timeout.min(limits::REQUEST_TIME_MAX);
        let n_missing = n_replies.clamp(1, limits::REPLIES_MAX);
        let (inbox, receiver) = self.inbox(n_missing);
        let message = Message {
            reply_to: Some(inbox.name.clone()),
            ..message
        };
        let is_meant = |one: &Group| one == group;
        let given = self.spread(&[Kind::Here], is_meant, &message, until, n_missing);
        given.is_ok().then_some(Replies {
            _inbox: inbox,
            receiver,
            until,
            n_missing,
        })
    }

    fn inbox(self: &Arc<Self>, n_replies: u32) -> (Inbox, mpsc::Receiver<Reply>) {
        let (sender, receiver) = mpsc::channel(n_replies as usize);
        let inbox = Inbox {
            requests: Arc::clone(self),
            name: format!("inbox.{}", self.give()),
        };
        let open = Open {
            sender,
            holder: Arc::default(),
            n_bytes: 0,
        };
        self.lock().inboxes.insert(inbox.name.clone(), open);
        (inbox, receiver)
    }

    /// Gives a request to one member of each group that is meant, of the first kind that has one. An error:
    /// there is none, or none has room.
    fn spread(
        &self,
        kinds: &[Kind],
        is_meant: impl Fn(&Group) -> bool,
        message: &Message,
        until: Instant,
        n_replies: u32,
    ) -> Result<(), CloudError> {
        let n_bytes = bytes_of(message);
        let mut none = CloudError::NotFound("a subscriber of this topic");
        let mut state = self.lock();
        let mut taken: Vec<Group> = Vec::new();
        let mut last = Vec::new();
        for kind in kinds {
            for (index, member) in state.members.iter().enumerate() {
                let is_next = member.kind == *kind && !taken.contains(&member.group);
                if !is_next || !is_meant(&member.group) {
                    continue;
                }
                none = CloudError::Full("what waits for the subscribers of this topic");
                let Some(share) = self.waiting.take(&member.holder, n_bytes) else {
                    continue;
                };
                let asked = Asked {
                    message: message.clone(),
                    until,
                    n_replies,
                    share,
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
        if taken.is_empty() { Err(none) } else { Ok(()) }
    }

    /// Hands over a reply, if anybody waits for it still. Where an inbox has no room for it, no more is
    /// waited for.
    pub(super) fn reply(&self, name: &str, message: Message) -> Result<(), CloudError> {
        let n_bytes = bytes_of(&message);
        let mut state = self.lock();
        let Some(inbox) = state.inboxes.get_mut(name) else {
            return Ok(());
        };
        let is_within = inbox.n_bytes == 0 || inbox.n_bytes + n_bytes <= INBOX_BYTES_MAX;
        let share = is_within.then(|| self.replies.take(&inbox.holder, n_bytes));
        let Some(share) = share.flatten() else {
            state.inboxes.remove(name);
            return Err(CloudError::Full("what the asker has room for"));
        };
        inbox.n_bytes += n_bytes;
        let _ = inbox.sender.try_send((message, share));
        Ok(())
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
            receipt: Box::new(Once::new(asked.share)),
        })
    }
}

impl Replies {
    /// The next reply that comes in time; `None`: no more are waited for.
    pub(super) async fn next(&mut self) -> Option<Reply> {
        self.n_missing = self.n_missing.checked_sub(1)?;
        timeout_at(self.until, self.receiver.recv()).await.ok()?
    }
}

impl Once {
    pub(super) fn new(share: Share) -> Self {
        Self(share)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let id = self.id;
        self.requests.lock().members.retain(|one| one.id != id);
        self.requests.changed.send_replace(());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_request_waits_for_longer_than_a_minute_whoever_asks() {
        let requests = Arc::<Requests>::default();
        let group = Group {
            topic: "ask".to_owned(),
            name: "w".to_owned(),
        };
        let mut member = requests.join(group.clone(), Kind::Here);
        let days = Duration::from_millis(u32::MAX.into());
        let replies = requests.pass_on(&group, Message::default(), days, 1);
        let asked = member.asked().await.unwrap();
        let minute = Instant::now() + Duration::from_secs(60);
        assert!(asked.until <= minute && replies.unwrap().until <= minute);
    }
}
