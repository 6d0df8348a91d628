//! A member of a group of the embedded queue, and what it says of deliveries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use realm_model::cloud::{Answer, CloudError, Deliveries, Delivery, Message, Receipt};
use tokio::sync::mpsc;

use super::queue::{Flight, Wish};
use super::wished;
use crate::messaging::requests::Answering;

/// A member. Dropped, it gets nothing more, and what it did not look at is back in the queue.
pub(super) struct Taking {
    pub(super) wishes: Sender<Wish>,
    pub(super) id: u64,
    pub(super) receiver: mpsc::UnboundedReceiver<Handed>,
    pub(super) requests: Answering,
}

/// A message on its way to a member.
pub(super) struct Handed {
    pub(super) message: Message,
    pub(super) attempt: u32,
    pub(super) held: Held,
}

/// A delivery that is under way. Dropped without a word, it is back in the queue at once.
pub(super) struct Held {
    wishes: Sender<Wish>,
    flight: Flight,
    /// Whether it left the member's channel.
    seen: bool,
    settled: AtomicBool,
}

impl Held {
    pub(super) fn new(wishes: Sender<Wish>, flight: Flight) -> Self {
        Self {
            wishes,
            flight,
            seen: false,
            settled: AtomicBool::new(false),
        }
    }

    fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }
}

impl Deliveries for Taking {
    fn next(&mut self) -> Answer<'_, Delivery> {
        Box::pin(async {
            tokio::select! {
                handed = self.receiver.recv() => {
                    let mut handed = handed.ok_or(CloudError::NotFound("the group"))?;
                    handed.held.seen = true;
                    Ok(Delivery {
                        message: handed.message,
                        attempt: handed.attempt,
                        receipt: Box::new(handed.held),
                    })
                }
                asked = self.requests.next() => asked.ok_or(CloudError::Unavailable),
            }
        })
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
        if !self.settled.load(Ordering::Relaxed) {
            let _ = self.wishes.send(Wish::Return {
                flight: self.flight,
                untouched: !self.seen,
                reply: None,
            });
        }
    }
}
