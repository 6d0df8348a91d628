//! The lender's end of a stream: what waits here for a group is worked on by another node. Nothing leaves
//! the file before that node says that it is dealt with.
//!
//! Two loops, one that reads and one that writes, so that neither end ever waits for the other one to
//! read. Not here: which nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use realm_model::cloud::{Group, Message, Subscription, check_message};
use realm_model::lending_message::{Came, How, Lent, ToBorrower, ToLender};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::queue::{Wish, Wishes};
use super::stream::{LendError, OPEN_TIME_MAX, Reader, write};
use super::{Embedded, wished};
use crate::messaging::requests::{Answering, Asked, Kind, Requests};

/// Messages that are read from the file at once: they are in memory until they left.
const AT_ONCE_MAX: usize = 16;
/// Bytes of them, and one message.
pub(super) const AT_ONCE_BYTES_MAX: usize = 1024 * 1024;
/// Messages that a borrower may ask for before it got any: more than the replicas of a node have room for.
const ASKED_MAX: usize = 4_096;
/// Words of a borrower that are being written down: more share an fsync already.
const SETTLING_MAX: usize = 1_024;
/// Messages that a borrower has at once.
const LENT_MAX: usize = 4_096;
/// Answers that wait until the stream takes them.
const ANSWERS_MAX: usize = 64;
/// Requests of which replies may come.
const REQUESTS_MAX: usize = 1_000;

/// What both loops know.
struct Shared<'a> {
    wishes: &'a Wishes,
    requests: &'a Arc<Requests>,
    number: u64,
    group: &'a Group,
    ack_wait: Duration,
    told: Mutex<Told>,
    changed: Notify,
}

struct Told {
    /// When it spoke of a message last.
    heard: Instant,
    /// Messages that it has room for.
    asked: usize,
    /// What it has, and said nothing final of; and when it spoke of it last.
    lent: BTreeMap<Lent, Instant>,
    /// Whether its group has a member at this moment.
    is_there: bool,
    /// Where replies to requests go, and until when.
    inboxes: BTreeMap<u64, (String, Instant)>,
}

/// What a borrower hears of what it said.
struct Answer {
    said: ToBorrower,
    /// What it has no more.
    over: Option<Lent>,
}

/// The place of a borrower in the queue.
struct Place<'a> {
    wishes: &'a Wishes,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let _ = self.wishes.send(Wish::Leave(self.number));
    }
}

impl Embedded {
    /// Lends the messages of a group over a stream, until that breaks. Once `parting` is true nothing more
    /// is lent, and it ends with `Ok` when all that is lent came to an end.
    ///
    /// # Errors
    ///
    /// Why it ended.
    pub async fn lend(
        &self,
        stream: impl AsyncRead + AsyncWrite,
        binding: &str,
        subscription: &Subscription,
        parting: watch::Receiver<bool>,
    ) -> Result<(), LendError> {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = Reader::new(reader);
        let group = &subscription.group;
        let offer = ToBorrower::Offer {
            binding: binding.to_owned(),
            topic: group.topic.clone(),
            group: group.name.clone(),
        };
        write(&mut writer, &offer.to_bytes()).await?;
        let answer = timeout(OPEN_TIME_MAX, reader.next()).await;
        let late = |_| LendError::Wrong("does not answer");
        match ToLender::from_bytes(&answer.map_err(late)??) {
            Some(ToLender::Ready) => {}
            Some(ToLender::NotHere) => return Err(LendError::NotHere),
            Some(ToLender::Take(_) | ToLender::Settle { .. } | ToLender::Reply { .. }) | None => {
                return Err(LendError::Wrong("does not answer what it was asked"));
            }
        }
        let (told, waits) = watch::channel(false);
        let number = wished(&self.wishes, |reply| Wish::Lend {
            subscription: Arc::new(subscription.clone()),
            waits: told,
            reply,
        });
        let number = number.await.map_err(LendError::Queue)?;
        let _place = Place {
            wishes: &self.wishes,
            number,
        };
        let shared = Shared {
            wishes: &self.wishes,
            requests: &self.requests,
            number,
            group,
            ack_wait: subscription.ack_wait,
            told: Mutex::new(Told {
                heard: Instant::now(),
                asked: 0,
                lent: BTreeMap::new(),
                is_there: true,
                inboxes: BTreeMap::new(),
            }),
            changed: Notify::new(),
        };
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let asked = self.requests.join(group.clone(), Kind::Elsewhere);
        tokio::select! {
            ended = shared.hear(&mut reader, answers) => return ended,
            ended = shared.say(&mut writer, answered, waits, asked, parting) => ended?,
        }
        // Until the other end has read the last word: what is dropped before that is not sent.
        let _ = writer.shutdown().await;
        let read = async { while reader.next().await.is_ok() {} };
        let _ = timeout(OPEN_TIME_MAX, read).await;
        Ok(())
    }
}

impl Shared<'_> {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Whole values come and go: a panic leaves nothing torn.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the borrower says.
    async fn hear<R: AsyncRead + Unpin>(
        &self,
        reader: &mut Reader<R>,
        answers: mpsc::Sender<Answer>,
    ) -> Result<(), LendError> {
        let mut settling = FuturesUnordered::new();
        loop {
            let bytes = tokio::select! {
                bytes = reader.next(), if settling.len() < SETTLING_MAX => bytes?,
                Some(()) = settling.next(), if !settling.is_empty() => continue,
            };
            match ToLender::from_bytes(&bytes) {
                Some(ToLender::Take(n)) => {
                    let mut told = self.told();
                    told.asked = told.asked.saturating_add(n as usize);
                    if told.asked > ASKED_MAX {
                        return Err(LendError::Wrong("asks for more than it may"));
                    }
                    drop(told);
                    self.changed.notify_one();
                }
                Some(ToLender::Settle { ticket, which, how }) => {
                    settling.push(self.settle(&answers, ticket, which, how));
                }
                Some(ToLender::Reply { number, body }) => self.reply(number, &body)?,
                Some(ToLender::Ready) if !self.told().is_there => self.is_there(true),
                Some(ToLender::NotHere) if self.told().is_there => self.is_there(false),
                Some(ToLender::Ready | ToLender::NotHere) | None => {
                    return Err(LendError::Wrong("says what means nothing"));
                }
            }
        }
    }

    /// Its group has a member again, or none for the moment.
    fn is_there(&self, is_there: bool) {
        self.told().is_there = is_there;
        self.changed.notify_one();
    }

    async fn settle(&self, answers: &mpsc::Sender<Answer>, ticket: u64, which: Lent, how: How) {
        let is_final = match &how {
            How::Done | How::Retry { .. } | How::Return { .. } => true,
            How::Extend => false,
        };
        self.heard_of(which);
        let lending = self.number;
        let came = wished(self.wishes, |reply| Wish::Settle {
            lending,
            which,
            how,
            reply,
        });
        let came = came.await.unwrap_or(Came::Failed);
        let answer = Answer {
            said: ToBorrower::Settled { ticket, came },
            over: (is_final && came != Came::Failed).then_some(which),
        };
        // The other loop is gone with the stream.
        let _ = answers.send(answer).await;
    }

    fn heard_of(&self, which: Lent) {
        let now = Instant::now();
        let mut told = self.told();
        told.heard = now;
        told.lent.entry(which).and_modify(|heard| *heard = now);
    }

    fn reply(&self, number: u64, body: &[u8]) -> Result<(), LendError> {
        let inbox = self.told().inboxes.get(&number).cloned();
        let Some((inbox, _)) = inbox else {
            // Its time is over.
            return Ok(());
        };
        let message = Message::from_bytes(body).filter(|one| check_message(one).is_ok());
        let mut message = message.ok_or(LendError::Wrong("replies with what is no message"))?;
        message.topic = None;
        // Where there is no room for it, the asker hears of it.
        let _ = self.requests.reply(&inbox, message);
        Ok(())
    }

    /// Says what there is.
    async fn say<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        mut answered: mpsc::Receiver<Answer>,
        mut waits: watch::Receiver<bool>,
        asked: Answering,
        mut parting: watch::Receiver<bool>,
    ) -> Result<(), LendError> {
        let mut asked = Some(asked);
        let mut told = false;
        let mut n_requests = 0;
        loop {
            // Whoever could say so later is gone: nothing more is lent either.
            let is_parting = *parting.borrow() || parting.has_changed().is_err();
            let is_there = self.told().is_there;
            if is_parting || !is_there {
                asked = None;
            } else if asked.is_none() {
                asked = Some(self.requests.join(self.group.clone(), Kind::Elsewhere));
            }
            let waits_here = *waits.borrow_and_update();
            let waiting = waits_here && !is_parting && self.has_room();
            if waiting != told {
                told = waiting;
                write(writer, &ToBorrower::Waits(told).to_bytes()).await?;
            }
            // What it says nothing of any more is to come again.
            let until = self.told().heard + self.ack_wait;
            if is_parting && (self.told().lent.is_empty() || until <= Instant::now()) {
                return Ok(());
            }
            tokio::select! {
                answer = answered.recv() => {
                    if let Some(Answer { said, over }) = answer {
                        write(writer, &said.to_bytes()).await?;
                        // Not before: with the last of them a stream that parts ends.
                        over.map(|which| self.told().lent.remove(&which));
                    }
                }
                () = self.changed.notified() => {
                    // Who got nothing though something waited is told again that it does.
                    told &= self.give(writer, is_parting).await?;
                }
                changed = waits.changed() => {
                    let gone = |_| LendError::Queue(realm_model::cloud::CloudError::NotFound("the group"));
                    changed.map_err(gone)?;
                }
                one = next(&mut asked) => {
                    n_requests += 1;
                    self.ask(writer, n_requests, one).await?;
                }
                () = async { drop(parting.wait_for(|parting| *parting).await) }, if !is_parting => {}
                () = sleep_until(until), if is_parting => {}
            }
        }
    }

    /// Gives what was asked for, as far as it is there: whether all of it was.
    async fn give<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        is_parting: bool,
    ) -> Result<bool, LendError> {
        loop {
            let n = self.told().asked.min(AT_ONCE_MAX);
            if n == 0 {
                return Ok(true);
            }
            self.told().asked -= n;
            let lending = self.number;
            let given = match is_parting || !self.has_room() {
                true => Vec::new(),
                false => {
                    let given = wished(self.wishes, |reply| Wish::Take { lending, n, reply });
                    given.await.map_err(LendError::Queue)?
                }
            };
            let now = Instant::now();
            let which = given.iter().map(|one| (one.which, now));
            self.told().lent.extend(which);
            let mut missing = n - given.len();
            let n_bytes: usize = given.iter().map(|one| one.body.len()).sum();
            if n_bytes >= AT_ONCE_BYTES_MAX {
                // There may be more: it is asked for once these have left.
                self.told().asked += std::mem::take(&mut missing);
            }
            for one in given {
                let said = ToBorrower::Given {
                    which: one.which,
                    attempt: one.attempt,
                    body: one.body,
                };
                write(writer, &said.to_bytes()).await?;
            }
            if missing > 0 {
                let missing = missing + std::mem::take(&mut self.told().asked);
                let missing = u32::try_from(missing).unwrap_or(u32::MAX);
                write(writer, &ToBorrower::Nothing(missing).to_bytes()).await?;
                return Ok(false);
            }
        }
    }

    /// Whether it has fewer than it may. What it says nothing of is not its any more.
    fn has_room(&self) -> bool {
        let mut told = self.told();
        if told.lent.len() >= LENT_MAX
            && let Some(since) = Instant::now().checked_sub(self.ack_wait)
        {
            told.lent.retain(|_, heard| *heard > since);
        }
        told.lent.len() < LENT_MAX
    }

    async fn ask<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        number: u64,
        asked: Asked,
    ) -> Result<(), LendError> {
        let now = Instant::now();
        let left = asked.until.saturating_duration_since(now).as_millis();
        if let Some(inbox) = &asked.message.reply_to {
            let mut told = self.told();
            told.inboxes.retain(|_, (_, until)| *until > now);
            if told.inboxes.len() >= REQUESTS_MAX {
                // Nobody hears of it, and its time ends.
                return Ok(());
            }
            told.inboxes.insert(number, (inbox.clone(), asked.until));
        }
        let said = ToBorrower::Asked {
            number,
            timeout_ms: u32::try_from(left).unwrap_or(u32::MAX),
            n_replies: asked.n_replies,
            body: asked.message.to_bytes(),
        };
        write(writer, &said.to_bytes()).await
    }
}

/// The next request; none while it parts.
async fn next(asked: &mut Option<Answering>) -> Asked {
    if let Some(asked) = asked
        && let Some(one) = asked.asked().await
    {
        return one;
    }
    std::future::pending().await
}
