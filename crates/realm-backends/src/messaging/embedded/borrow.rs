//! The borrower's end of a stream: members of this node take what waits in another node's queue. Nothing is
//! kept here: what a member says of a message goes back over this stream, or over the next one.
//!
//! Everything that comes is looked at as a stranger's: the lender is another node.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use realm_model::cloud::{
    DEAD_AT, DEAD_DELIVERIES, DEAD_GROUP, DEAD_TOPIC, DEAD_WHY, Group, Message, check_message,
    check_topic, limits, topic_matches,
};
use realm_model::lending_message::{Came as Settled, How, Lent, ToBorrower, ToLender};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::Embedded;
use super::loan::{Loan, Word};
use super::stream::{LendError, OPEN_TIME_MAX, Reader, WRITE_TIME_MAX, write};
use super::wants::{Lender, Taken};
use crate::messaging::budget::{Share, bytes_of};

/// Messages that were asked for and did not come yet.
const ASKED_MAX: usize = 256;
/// Requests of one lender that are answered at once: more than a node answers within their time.
const REQUESTS_MAX: usize = 256;
/// Words of which the lender did not say how it went, before it is looked who waits for that still.
const SETTLING_MAX: usize = 1_024;
/// Words for the lender that wait until the stream takes them.
const COMMANDS_MAX: usize = 64;

/// How long a lender may say nothing at all while it owes an answer to what it was asked, and how long it may
/// take for one: what was asked for keeps a place of a member. As long as it may take to write it.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const ANSWER_TIME_MAX: Duration = WRITE_TIME_MAX;
/// How often a lender may say within a second that something waits, or nothing does: each time comes with a
/// message there, which is written down.
const WAITS_PER_SEC_MAX: u32 = 10_000;

/// What is beside the metadata of a dead letter, once each, and the bytes of each.
const DEAD: [&str; 5] = [DEAD_TOPIC, DEAD_GROUP, DEAD_DELIVERIES, DEAD_WHY, DEAD_AT];
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
    Reply {
        number: u64,
        body: Vec<u8>,
        /// The room that it takes until the stream has it.
        _share: Share,
    },
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
    let is_of_death = |pair: &&(String, String)| DEAD.contains(&&*pair.0);
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
        && of_death.count() <= DEAD.len()
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
    /// Told when something is asked for after nothing was.
    owed: Notify,
    n_tickets: AtomicU64,
    /// Bytes that came.
    n_read: Arc<AtomicU64>,
}

#[derive(Default)]
struct Told {
    /// Whether the lender has something.
    waits: bool,
    /// Members for which a message was asked, in this order.
    asked: VecDeque<Taken>,
    /// Since when there is one, or when the lender answered last.
    owes_since: Option<Instant>,
    /// How often it said that something waits or nothing does, in the second since then.
    said: Option<(Instant, u32)>,
    /// What it answered of what was said of messages.
    n_answers: u64,
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
            owed: Notify::new(),
            n_tickets: AtomicU64::new(0),
            n_read: Arc::default(),
        };
        self.borrowing.link(lender, group, commands);
        let hungry = self.borrowing.watch(group);
        let mut reader = Reader::counting(reader, Arc::clone(&shared.n_read));
        tokio::select! {
            ended = shared.hear(&mut reader) => ended,
            ended = shared.say(&mut writer, told, hungry) => ended,
            late = shared.wait_for_answers() => Err(late),
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
                Some(ToBorrower::Waits(waits)) => self.said_to_wait(waits)?,
                Some(ToBorrower::Given {
                    which,
                    attempt,
                    body,
                }) => self.bring(which, attempt, &body)?,
                Some(ToBorrower::Nothing(n)) => self.nothing(n as usize)?,
                Some(ToBorrower::Settled { ticket, came }) => {
                    let settling = {
                        let mut told = self.told();
                        told.n_answers += 1;
                        if told.n_answers > self.n_tickets.load(Ordering::Relaxed) {
                            return Err(LendError::Wrong("answers what nobody said"));
                        }
                        told.settling.remove(&ticket)
                    };
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

    /// The lender says whether anything waits, where that is another thing than before.
    fn said_to_wait(&self, waits: bool) -> Result<(), LendError> {
        let now = Instant::now();
        let mut told = self.told();
        let (since, n) = told
            .said
            .filter(|(since, _)| *since + Duration::from_secs(1) > now)
            .unwrap_or((now, 0));
        told.said = Some((since, n + 1));
        if told.waits == waits || n >= WAITS_PER_SEC_MAX {
            return Err(LendError::Wrong(
                "says without an end whether anything waits",
            ));
        }
        drop(told);
        self.wait(waits);
        Ok(())
    }

    fn wait(&self, waits: bool) {
        let mut told = self.told();
        if told.waits != waits {
            told.waits = waits;
            self.queue.borrowing.waits(self.group, waits);
            if !waits {
                self.queue.wishes.look();
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
        let taken = self.told().answered();
        let taken = taken.ok_or(LendError::Wrong("lends what nobody asked for"))?;
        let (mut place, bring) = taken.parts();
        let message = self.read(body)?;
        place.come(bytes_of(&message));
        // It takes less than what was kept for it, and others may wait for the rest.
        self.queue.wishes.look();
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
        let mut told = self.told();
        if n == 0 || n > told.asked.len() {
            return Err(LendError::Wrong("misses what nobody asked for"));
        }
        let back: Vec<Taken> = (0..n).filter_map(|_| told.answered()).collect();
        drop(told);
        self.wait(false);
        self.put_back(back);
        Ok(())
    }

    fn put_back(&self, back: Vec<Taken>) {
        for taken in back.into_iter().rev() {
            self.queue.borrowing.put_back(self.group, taken);
        }
        self.queue.wishes.look();
    }

    /// Until the lender owes an answer for too long.
    async fn wait_for_answers(&self) -> LendError {
        loop {
            let Some(since) = self.told().owes_since else {
                self.owed.notified().await;
                continue;
            };
            let n_read = self.n_read.load(Ordering::Relaxed);
            let until = since + ANSWER_TIME_MAX;
            sleep_until((Instant::now() + SILENCE_MAX).min(until)).await;
            let is_owed = self.told().owes_since == Some(since);
            let is_silent = self.n_read.load(Ordering::Relaxed) == n_read;
            if is_owed && (is_silent || until <= Instant::now()) {
                return LendError::Wrong("gives nothing of what it says that it has");
            }
        }
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
            while let Some((reply, share)) = replies.next().await {
                let reply = Command::Reply {
                    number,
                    body: reply.to_bytes(),
                    _share: share,
                };
                if commands.send(reply).await.is_err() {
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
        let mut members = self.queue.requests.watch();
        let mut is_here = true;
        loop {
            hungry.mark_unchanged();
            members.mark_unchanged();
            if self.queue.has_member(self.group) != is_here {
                is_here = !is_here;
                // What members here have still is dealt with over this stream.
                let said = match is_here {
                    true => ToLender::Ready,
                    false => ToLender::NotHere,
                };
                write(writer, &said.to_bytes()).await?;
            }
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
                    self.told().ask(taken);
                    self.owed.notify_one();
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
                changed = members.changed() => {
                    let _ = changed;
                }
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
                    let mut told = self.told();
                    if told.settling.len() >= SETTLING_MAX {
                        told.settling.retain(|_, came| !came.is_closed());
                    }
                    told.settling.insert(ticket, came);
                }
                ToLender::Settle { ticket, which, how }
            }
            Command::Reply {
                number,
                body,
                _share,
            } => ToLender::Reply { number, body },
        };
        write(writer, &said.to_bytes()).await
    }
}

impl Told {
    fn ask(&mut self, taken: Vec<Taken>) {
        self.owes_since.get_or_insert_with(Instant::now);
        self.asked.extend(taken);
    }

    /// For whom an answer is that came.
    fn answered(&mut self) -> Option<Taken> {
        let taken = self.asked.pop_front();
        self.owes_since = (!self.asked.is_empty()).then(Instant::now);
        taken
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
