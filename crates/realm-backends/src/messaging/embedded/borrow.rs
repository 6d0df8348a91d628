//! The borrower's end of a stream: members of this node take what waits in another node's queue. Nothing is
//! kept here: what a member says of a message goes back over this stream, or over the next one.
//!
//! Everything that comes is looked at as a stranger's: the lender is another node.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use realm_model::cloud::{
    Answer, CloudError, Delivery, Group, Message, Receipt, check_message, check_topic, limits,
    topic_matches,
};
use realm_model::lending_message::{Came as Settled, How, Lent, ToBorrower, ToLender};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Embedded;
use super::queue::Wish;
use super::stream::{LendError, OPEN_TIME_MAX, Reader, write};
use super::wants::{Borrowing, Lender, Place, Taken};

/// Messages that were asked for and did not come yet.
const ASKED_MAX: usize = 256;
/// Requests of one lender that are answered at once: more than a node answers within their time.
const REQUESTS_MAX: usize = 256;
/// Words for the lender that wait until the stream takes them.
const COMMANDS_MAX: usize = 64;
/// Between two looks whether there is a stream to the lender again.
const AGAIN: Duration = Duration::from_millis(100);

/// What the metadata of a dead letter begin with, how many there are, and the bytes of each.
const DEAD: &str = "realm-dead-";
const DEAD_PAIRS_MAX: usize = 4;
const DEAD_BYTES_MAX: usize = 1_024;

/// What a lender is told.
pub(super) enum Command {
    /// How it went with a message.
    Settle {
        which: Lent,
        how: How,
        came: oneshot::Sender<Settled>,
    },
    /// A reply to a request.
    Reply { number: u64, body: Vec<u8> },
}

/// A message of another node. Dropped without a word, it is back there.
pub(super) struct Loan {
    message: Message,
    attempt: u32,
    word: Word,
}

/// Where a member says how it went.
struct Word {
    borrowing: Arc<Borrowing>,
    lender: Lender,
    group: Group,
    which: Lent,
    /// Whether it came to the member.
    seen: bool,
    settled: AtomicBool,
    /// Where the node's own queue hears that there is room again.
    wishes: Sender<Wish>,
    place: Mutex<Option<Place>>,
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
            let _ = self.wishes.send(Wish::Look);
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

/// Reads what a stream is about.
///
/// # Errors
///
/// It broke, or says nothing of the kind in time.
pub async fn offered(stream: &mut (impl AsyncRead + Unpin)) -> Result<(String, Group), LendError> {
    // Nothing follows before it is answered.
    let mut reader = Reader::new(stream);
    let offer = timeout(OPEN_TIME_MAX, reader.next()).await;
    let late = |_| LendError::Wrong("does not say what it offers");
    match ToBorrower::from_bytes(&offer.map_err(late)??) {
        Some(ToBorrower::Offer {
            binding,
            topic,
            group,
        }) => Ok((binding, Group { topic, name: group })),
        Some(
            ToBorrower::Waits(_)
            | ToBorrower::Given { .. }
            | ToBorrower::Nothing(_)
            | ToBorrower::Settled { .. }
            | ToBorrower::Asked { .. },
        )
        | None => Err(LendError::Wrong("does not say what it offers")),
    }
}

/// Says that nobody here takes what is offered.
///
/// # Errors
///
/// It broke.
pub async fn decline(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), LendError> {
    write(stream, &ToLender::NotHere.to_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// Whether a queue could have it: what a guest sent, and beside that what it says if it is a dead letter.
fn is_well(message: &Message) -> bool {
    let is_of_death = |pair: &&(String, String)| pair.0.starts_with(DEAD);
    let of_death = message.metadata.iter().filter(is_of_death);
    let within = of_death
        .clone()
        .all(|(_, value)| value.len() <= DEAD_BYTES_MAX && !value.contains(char::is_control));
    let own = message.metadata.iter().filter(|pair| !is_of_death(pair));
    let sent = Message {
        content_type: message.content_type.clone(),
        metadata: own.cloned().collect(),
        ..Message::default()
    };
    within
        && of_death.count() <= DEAD_PAIRS_MAX
        && message.data.len() <= limits::MESSAGE_BYTES_MAX
        && check_message(&sent).is_ok()
}

/// What both loops know.
struct Shared<'a> {
    queue: &'a Embedded,
    lender: Lender,
    group: &'a Group,
    commands: mpsc::Sender<Command>,
    told: Mutex<Told>,
    changed: Notify,
    n_tickets: AtomicU64,
}

#[derive(Default)]
struct Told {
    /// Whether the lender has something.
    waits: bool,
    /// Members for which a message was asked, in this order.
    asked: VecDeque<Taken>,
    /// Who waits for an answer about a message.
    settling: HashMap<u64, oneshot::Sender<Settled>>,
}

impl Embedded {
    /// Lets members of a group here take what another node offered, until the stream breaks. Where the group
    /// has none that is said, and it ends.
    ///
    /// # Errors
    ///
    /// Why it ended.
    pub async fn borrow(
        &self,
        stream: impl AsyncRead + AsyncWrite,
        lender: Lender,
        group: &Group,
    ) -> Result<(), LendError> {
        let (reader, mut writer) = tokio::io::split(stream);
        if !self.has_member(group) {
            decline(&mut writer).await?;
            return Err(LendError::NotHere);
        }
        write(&mut writer, &ToLender::Ready.to_bytes()).await?;
        let (commands, told) = mpsc::channel(COMMANDS_MAX);
        let shared = Shared {
            queue: self,
            lender,
            group,
            commands: commands.clone(),
            told: Mutex::default(),
            changed: Notify::new(),
            n_tickets: AtomicU64::new(0),
        };
        self.borrowing.link(lender, group, commands);
        let hungry = self.borrowing.watch(group);
        let mut reader = Reader::new(reader);
        tokio::select! {
            ended = shared.hear(&mut reader) => ended,
            ended = shared.say(&mut writer, told, hungry) => ended,
        }
    }
}

impl Shared<'_> {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Whole values come and go: a panic leaves nothing torn.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the lender says. It never waits for the other loop.
    async fn hear<R: AsyncRead + Unpin>(&self, reader: &mut Reader<R>) -> Result<(), LendError> {
        let mut answering = JoinSet::new();
        loop {
            let bytes = reader.next().await?;
            match ToBorrower::from_bytes(&bytes) {
                Some(ToBorrower::Waits(waits)) => self.wait(waits),
                Some(ToBorrower::Given {
                    which,
                    attempt,
                    body,
                }) => self.bring(which, attempt, &body)?,
                Some(ToBorrower::Nothing(n)) => self.nothing(n as usize)?,
                Some(ToBorrower::Settled { ticket, came }) => {
                    let settling = self.told().settling.remove(&ticket);
                    if let Some(settling) = settling {
                        let _ = settling.send(came);
                    }
                }
                Some(ToBorrower::Asked {
                    number,
                    timeout_ms,
                    n_replies,
                    body,
                }) => {
                    while answering.try_join_next().is_some() {}
                    let message = self.read(&body)?;
                    if answering.len() < REQUESTS_MAX {
                        let timeout = Duration::from_millis(timeout_ms.into());
                        self.answer(&mut answering, number, message, timeout, n_replies);
                    }
                }
                Some(ToBorrower::Offer { .. }) | None => {
                    return Err(LendError::Wrong("says what means nothing"));
                }
            }
        }
    }

    fn wait(&self, waits: bool) {
        let mut told = self.told();
        if told.waits != waits {
            told.waits = waits;
            self.queue.borrowing.waits(self.group, waits);
            if !waits {
                let _ = self.queue.wishes.send(Wish::Look);
            }
        }
        drop(told);
        self.changed.notify_one();
    }

    /// A message as it came, if it is one of this group.
    fn read(&self, body: &[u8]) -> Result<Message, LendError> {
        let message = Message::from_bytes(body).filter(|message| {
            let topic = message.topic.as_deref().unwrap_or_default();
            is_well(message)
                && check_topic(topic).is_ok()
                && topic_matches(&self.group.topic, topic)
        });
        message.ok_or(LendError::Wrong("lends what is no message of the group"))
    }

    fn bring(&self, which: Lent, attempt: u32, body: &[u8]) -> Result<(), LendError> {
        let taken = self.told().asked.pop_front();
        let taken = taken.ok_or(LendError::Wrong("lends what nobody asked for"))?;
        let (place, bring) = taken.parts();
        let message = self.read(body)?;
        let word = Word {
            borrowing: Arc::clone(&self.queue.borrowing),
            lender: self.lender,
            group: self.group.clone(),
            which,
            seen: false,
            settled: AtomicBool::new(false),
            wishes: self.queue.wishes.clone(),
            place: Mutex::new(Some(place)),
        };
        // A member that left meanwhile drops it, which brings it back.
        let _ = bring.send(Loan {
            message,
            attempt,
            word,
        });
        Ok(())
    }

    /// What was asked for is not there: members may get something from somebody else.
    fn nothing(&self, n: usize) -> Result<(), LendError> {
        self.wait(false);
        let mut told = self.told();
        if n > told.asked.len() {
            return Err(LendError::Wrong("misses more than was asked for"));
        }
        let back: Vec<Taken> = told.asked.drain(..n).collect();
        drop(told);
        self.put_back(back);
        Ok(())
    }

    fn put_back(&self, back: Vec<Taken>) {
        for taken in back.into_iter().rev() {
            self.queue.borrowing.put_back(self.group, taken);
        }
        let _ = self.queue.wishes.send(Wish::Look);
    }

    /// Gives a request to a member here, and its replies back.
    fn answer(
        &self,
        answering: &mut JoinSet<()>,
        number: u64,
        message: Message,
        timeout: Duration,
        n_replies: u32,
    ) {
        let requests = &self.queue.requests;
        let Some(mut replies) = requests.pass_on(self.group, message, timeout, n_replies) else {
            return;
        };
        let commands = self.commands.clone();
        answering.spawn(async move {
            while let Some(reply) = replies.next().await {
                let body = reply.to_bytes();
                if commands
                    .send(Command::Reply { number, body })
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }

    /// Asks for as many as members here have room for, and says how it went.
    async fn say<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        mut commands: mpsc::Receiver<Command>,
        mut hungry: watch::Receiver<()>,
    ) -> Result<(), LendError> {
        loop {
            hungry.mark_unchanged();
            let (waits, n_asked) = {
                let told = self.told();
                (told.waits, told.asked.len())
            };
            if waits {
                let n_max = ASKED_MAX.saturating_sub(n_asked);
                let taken = self.queue.borrowing.take(self.group, n_max);
                if !taken.is_empty() {
                    let n = u32::try_from(taken.len()).unwrap_or(u32::MAX);
                    // Before it is asked for: the answer may be here before this goes on.
                    self.told().asked.extend(taken);
                    write(writer, &ToLender::Take(n).to_bytes()).await?;
                }
            }
            tokio::select! {
                command = commands.recv() => {
                    if let Some(command) = command {
                        self.tell(writer, command).await?;
                    }
                }
                () = self.changed.notified() => {}
                changed = hungry.changed(), if waits => {
                    // The sender is there as long as the queue is.
                    let _ = changed;
                }
            }
        }
    }

    async fn tell<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        command: Command,
    ) -> Result<(), LendError> {
        let said = match command {
            Command::Settle { which, how, came } => {
                let ticket = self.n_tickets.fetch_add(1, Ordering::Relaxed);
                if !came.is_closed() {
                    self.told().settling.insert(ticket, came);
                }
                ToLender::Settle { ticket, which, how }
            }
            Command::Reply { number, body } => ToLender::Reply { number, body },
        };
        write(writer, &said.to_bytes()).await
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let (lender, group) = (self.lender, self.group);
        self.queue.borrowing.unlink(lender, group, &self.commands);
        self.wait(false);
        let back: Vec<Taken> = self.told().asked.drain(..).collect();
        self.put_back(back);
    }
}
