//! A member of a group of the embedded queue, and what it says of deliveries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use realm_model::cloud::{Answer, CloudError, Deliveries, Delivery, Group, Message, Receipt};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::queue::{Flight, Wish, Wishes};
use super::wants::{Borrowing, Room, Want};
use super::wished;
use crate::messaging::budget::Share;
use crate::messaging::requests::Answering;

/// How long the node's own queue waits where it is another one's turn.
const TURN: Duration = Duration::from_millis(50);

/// A member. Dropped, it gets nothing more, and what it did not look at is back in the queue.
pub(super) struct Taking {
    pub(super) wishes: Wishes,
    pub(super) id: u64,
    pub(super) group: Group,
    pub(super) room: Arc<Room>,
    pub(super) receiver: mpsc::UnboundedReceiver<Handed>,
    pub(super) requests: Answering,
    pub(super) borrowing: Arc<Borrowing>,
}

/// A message on its way to a member.
pub(super) struct Handed {
    pub(super) message: Message,
    pub(super) attempt: u32,
    pub(super) held: Held,
}

/// A delivery that is under way. Dropped without a word, it is back in the queue at once.
pub(super) struct Held {
    wishes: Wishes,
    flight: Flight,
    /// Whether it left the member's channel.
    seen: bool,
    settled: AtomicBool,
    /// The room that the message takes.
    share: Mutex<Option<Share>>,
}

impl Held {
    pub(super) fn new(wishes: Wishes, flight: Flight, share: Share) -> Self {
        Self {
            wishes,
            flight,
            seen: false,
            settled: AtomicBool::new(false),
            share: Mutex::new(Some(share)),
        }
    }

    fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
        self.leave();
    }

    /// Before the queue hears of it, which may hand out the next one then.
    fn leave(&self) {
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        share.take();
    }
}

impl Taking {
    /// The next message, from wherever it comes.
    async fn next(&mut self) -> Result<Delivery, CloudError> {
        loop {
            let is_their_turn =
                self.room.is_turn_of_lent() && self.borrowing.anything_waits(&self.group);
            if !is_their_turn && let Ok(handed) = self.receiver.try_recv() {
                return Ok(handed.delivered());
            }
            let (want, lent) = Want::new(&self.room);
            self.borrowing.push(&self.group, want);
            let receiver = &mut self.receiver;
            let own = async {
                if is_their_turn {
                    sleep(TURN).await;
                }
                receiver.recv().await
            };
            tokio::select! {
                biased;
                lent = lent => {
                    // Where nothing came of it, somebody else may bring something.
                    if let Ok(loan) = lent {
                        return Ok(loan.delivered());
                    }
                }
                handed = own => {
                    let handed = handed.ok_or(CloudError::NotFound("the group"))?;
                    return Ok(handed.delivered());
                }
                asked = self.requests.next() => return asked.ok_or(CloudError::Unavailable),
            }
        }
    }
}

impl Handed {
    fn delivered(mut self) -> Delivery {
        self.held.seen = true;
        Delivery {
            message: self.message,
            attempt: self.attempt,
            receipt: Box::new(self.held),
        }
    }
}

impl Deliveries for Taking {
    fn next(&mut self) -> Answer<'_, Delivery> {
        Box::pin(Self::next(self))
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let _ = self.wishes.send(Wish::Leave(self.id));
    }
}

impl Receipt for Held {
    fn ack(&self) -> Answer<'_, ()> {
        self.settle();
        Box::pin(wished(&self.wishes, |reply| Wish::Ack(self.flight, reply)))
    }

    fn retry<'a>(&'a self, after: Duration, why: &'a str) -> Answer<'a, bool> {
        self.settle();
        Box::pin(wished(&self.wishes, move |reply| Wish::Retry {
            flight: self.flight,
            after,
            why: why.to_owned(),
            reply,
        }))
    }

    fn give_back(&self) -> Answer<'_, ()> {
        self.settle();
        Box::pin(wished(&self.wishes, |reply| Wish::Return {
            flight: self.flight,
            untouched: true,
            reply: Some(reply),
        }))
    }

    fn extend(&self) -> Answer<'_, ()> {
        Box::pin(wished(&self.wishes, |reply| {
            Wish::Extend(self.flight, reply)
        }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
        if !self.settled.load(Ordering::Relaxed) {
            let _ = self.wishes.send(Wish::Return {
                flight: self.flight,
                untouched: !self.seen,
                reply: None,
            });
        }
    }
}
