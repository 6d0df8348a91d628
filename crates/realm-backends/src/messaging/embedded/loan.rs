//! A message of another node, and what a member says of it: that goes back over the stream to that node, or
//! over the next one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use realm_model::cloud::{Answer, CloudError, Delivery, Group, Message, Receipt, limits};
use realm_model::lending_message::{Came as Settled, How, Lent};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::borrow::Command;
use super::queue::Wishes;
use super::wants::{Borrowing, Lender, Place};

/// Between two looks whether there is a stream to the lender again.
const AGAIN: Duration = Duration::from_millis(100);

/// A message of another node. Dropped without a word, it is back there.
pub(super) struct Loan {
    pub(super) message: Message,
    pub(super) attempt: u32,
    pub(super) word: Word,
}

/// Where a member says how it went.
pub(super) struct Word {
    pub(super) borrowing: Arc<Borrowing>,
    pub(super) lender: Lender,
    pub(super) group: Group,
    pub(super) which: Lent,
    /// Whether it came to the member.
    pub(super) seen: bool,
    pub(super) settled: AtomicBool,
    /// Where the node's own queue hears that there is room again.
    pub(super) wishes: Wishes,
    pub(super) place: Mutex<Option<Place>>,
}

impl Loan {
    pub(super) fn delivered(mut self) -> Delivery {
        self.word.seen = true;
        Delivery {
            message: self.message,
            attempt: self.attempt,
            receipt: Box::new(self.word),
        }
    }
}

impl Word {
    /// Tells the lender, over this stream or the next one; it may hear it twice, and takes it once.
    async fn say(&self, how: How) -> Result<Settled, CloudError> {
        let until = Instant::now() + Duration::from_millis(limits::CALL_TIMEOUT_MS);
        while Instant::now() < until {
            if let Some(came) = self.say_now(how.clone(), until).await {
                return Ok(came);
            }
            sleep(AGAIN).await;
        }
        Err(CloudError::Unavailable)
    }

    /// The same over the stream that there is; `None`: it heard nothing, or was not heard.
    async fn say_now(&self, how: How, until: Instant) -> Option<Settled> {
        let link = self.borrowing.linked(self.lender, &self.group)?;
        let (came, answer) = oneshot::channel();
        let command = Command::Settle {
            which: self.which,
            how,
            came,
        };
        let told = async {
            link.send(command).await.ok()?;
            answer.await.ok()
        };
        timeout_at(until, told).await.ok()?
    }

    async fn settle(&self, how: How) -> Result<bool, CloudError> {
        let came = self.say(how).await;
        self.leave();
        match came? {
            Settled::Well => Ok(false),
            Settled::Dead => Ok(true),
            Settled::Failed => Err(CloudError::NotFound("the delivery")),
        }
    }

    /// The member has room again.
    fn leave(&self) {
        let place = self
            .place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if place.is_some() {
            drop(place);
            self.borrowing.nudge(&self.group);
            self.wishes.look();
        }
    }

    fn settling(&self, how: How) -> Answer<'_, ()> {
        self.settled.store(true, Ordering::Relaxed);
        Box::pin(async move { self.settle(how).await.map(drop) })
    }
}

impl Receipt for Word {
    fn ack(&self) -> Answer<'_, ()> {
        self.settling(How::Done)
    }

    fn retry<'a>(&'a self, after: Duration, why: &'a str) -> Answer<'a, bool> {
        self.settled.store(true, Ordering::Relaxed);
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let why = why.to_owned();
        Box::pin(self.settle(How::Retry { after_ms, why }))
    }

    fn give_back(&self) -> Answer<'_, ()> {
        self.settling(How::Return { untouched: true })
    }

    fn extend(&self) -> Answer<'_, ()> {
        Box::pin(async {
            // It is said again soon; nobody waits for a stream because of it.
            let until = Instant::now() + Duration::from_millis(limits::CALL_TIMEOUT_MS);
            match self.say_now(How::Extend, until).await {
                Some(Settled::Well | Settled::Dead) => Ok(()),
                Some(Settled::Failed) => Err(CloudError::NotFound("the delivery")),
                None => Err(CloudError::Unavailable),
            }
        })
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        if !self.settled.load(Ordering::Relaxed)
            && let Some(link) = self.borrowing.linked(self.lender, &self.group)
        {
            let how = How::Return {
                untouched: !self.seen,
            };
            // What finds no room comes again after a while.
            let _ = link.try_send(Command::Settle {
                which: self.which,
                how,
                came: oneshot::channel().0,
            });
        }
        self.leave();
    }
}
