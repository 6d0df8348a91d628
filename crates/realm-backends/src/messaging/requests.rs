//! Requests within one process: who may answer, and who waits for replies.
//!
//! A request is for now: it is not kept, not repeated, and nobody begins with it once its time is over.

use std::collections::HashMap;
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
    sender: mpsc::Sender<Asked>,
}

/// A request on its way to a member.
pub(super) struct Asked {
    message: Message,
    until: Instant,
}

/// Where a member's requests come out; dropped, it gets no more.
pub(super) struct Answering {
    requests: Arc<Requests>,
    id: u64,
    receiver: mpsc::Receiver<Asked>,
}

/// An inbox, which is gone with this.
struct Inbox<'a> {
    requests: &'a Requests,
    name: String,
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
    pub(super) fn join(self: &Arc<Self>, group: Group) -> Answering {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let id = self.give();
        self.lock().members.push(Member { id, group, sender });
        Answering {
            requests: Arc::clone(self),
            id,
            receiver,
        }
    }

    /// Asks one member of each group, and waits for replies.
    pub(super) async fn ask(
        &self,
        topic: &str,
        message: Message,
        timeout: Duration,
        n_replies: u32,
    ) -> Result<Vec<Message>, CloudError> {
        let until = Instant::now() + timeout;
        let n_replies = n_replies.clamp(1, limits::REPLIES_MAX) as usize;
        let (sender, mut receiver) = mpsc::channel(n_replies);
        let inbox = Inbox {
            requests: self,
            name: format!("inbox.{}", self.give()),
        };
        self.lock().inboxes.insert(inbox.name.clone(), sender);
        let message = Message {
            topic: Some(topic.to_owned()),
            reply_to: Some(inbox.name.clone()),
            ..message
        };
        if !self.spread(topic, &message, until) {
            return Err(CloudError::NotFound("a subscriber of this topic"));
        }
        let mut replies = Vec::new();
        while replies.len() < n_replies {
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

    /// Gives a request to one member of each group; whether there was any.
    fn spread(&self, topic: &str, message: &Message, until: Instant) -> bool {
        let mut state = self.lock();
        let mut taken: Vec<Group> = Vec::new();
        let mut last = Vec::new();
        for (index, member) in state.members.iter().enumerate() {
            if taken.contains(&member.group) || !topic_matches(&member.group.topic, topic) {
                continue;
            }
            let message = message.clone();
            if member.sender.try_send(Asked { message, until }).is_ok() {
                taken.push(member.group.clone());
                last.push(index);
            }
        }
        // Who was asked goes to the end, so that members take turns.
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

impl Answering {
    /// The next request whose time is not over.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        loop {
            let asked = self.receiver.recv().await?;
            if asked.until > Instant::now() {
                return Some(Delivery {
                    message: asked.message,
                    attempt: 1,
                    receipt: Box::new(Once),
                });
            }
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let id = self.id;
        self.requests.lock().members.retain(|one| one.id != id);
    }
}

impl Drop for Inbox<'_> {
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
