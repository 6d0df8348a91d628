//! Whether a node is there while requests wait for it: what nobody hears from is asked for a sign of
//! life, and without one is silent until it gives one.
//!
//! The question is a stream, whose other end says at once that it takes it: a node of any version
//! answers, however slow its components are. Not what becomes of the requests: `far`.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use realm_model::name::NodeName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};

use crate::backend::BoxFuture;
use crate::upstream::{Dial, Io};

/// A request waits that long, with nothing heard from the node, until it is asked. Most answers take
/// less, and of those that take longer one question a second is asked for all.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// A node that owes a sign of life for that long gets no new request if another has the component.
const DOUBT_AFTER: Duration = Duration::from_millis(500);
/// And after that it is silent. Two round trips round the world with a lost packet fit in.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(1_500);
/// How often a request that waits looks at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two questions to a node that answers them.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two to one that is silent, and between two attempts to connect with one that is not
/// reached; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// And no longer: a node that is back is to be found.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A question that ends so much later than it should says that this process stood still.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// Times are kept as milliseconds since then, so that a look at them takes no lock.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since this process began to count; never 0, which stands for never.
pub(crate) fn now_ms() -> u64 {
    ms(BEGAN.elapsed()).saturating_add(1)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Signs of life of one node.
pub(crate) struct Pulse {
    node: NodeName,
    dial: Box<dyn Dial>,
    /// When something came from it.
    heard_ms: AtomicU64,
    /// Since when a question is under way.
    asked_ms: AtomicU64,
    /// It is not asked again before.
    quiet_until_ms: AtomicU64,
    /// Questions in a row without an answer.
    unanswered: AtomicU32,
    is_silent: AtomicBool,
    /// No connection could be made.
    is_lost: AtomicBool,
    /// Streams from before the silence are kept somewhere.
    has_stale: AtomicBool,
}

/// What became of a question.
enum Answer {
    Heard,
    Nothing,
    NoWay,
    /// It may be this side that has no room.
    Unclear,
}

impl Pulse {
    pub(crate) fn new(node: NodeName, dial: Box<dyn Dial>) -> Arc<Self> {
        Arc::new(Self {
            node,
            dial,
            heard_ms: AtomicU64::new(0),
            asked_ms: AtomicU64::new(0),
            quiet_until_ms: AtomicU64::new(0),
            unanswered: AtomicU32::new(0),
            is_silent: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            has_stale: AtomicBool::new(false),
        })
    }

    /// Whether it is taken for dead or standing still.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Relaxed)
    }

    /// Whether another node is to be asked, if there is one.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let asked_ms = self.asked_ms.load(Relaxed);
        let owes_ms = match asked_ms {
            0 => 0,
            _ => now_ms().saturating_sub(asked_ms.max(self.heard_ms.load(Relaxed))),
        };
        self.is_silent.load(Relaxed) || owes_ms > ms(DOUBT_AFTER)
    }

    /// Ends when the node is silent; meanwhile it is asked where nothing comes.
    pub(crate) async fn silence(self: &Arc<Self>) {
        let began_ms = now_ms();
        while !self.is_silent.load(Relaxed) {
            let left_ms = self.due_ms(began_ms).saturating_sub(now_ms());
            // Where a question is under way there is nothing to do but to wait for its end.
            sleep(Duration::from_millis(left_ms).max(LOOK_INTERVAL)).await;
            if now_ms() >= self.due_ms(began_ms) {
                self.ask_if_due();
            }
        }
    }

    /// When a request that waits since then wants to know more.
    fn due_ms(&self, began_ms: u64) -> u64 {
        let since_ms = began_ms.max(self.heard_ms.load(Relaxed));
        (since_ms + ms(QUIET_MAX)).max(self.quiet_until_ms.load(Relaxed))
    }

    /// A silent node is asked whether it is back, if it is time.
    pub(crate) fn look_again(self: &Arc<Self>) {
        if self.is_silent.load(Relaxed) {
            self.ask_if_due();
        }
    }

    /// Something says that it is back: it is asked with the next request.
    pub(crate) fn may_be_back(&self) {
        self.quiet_until_ms.store(0, Relaxed);
    }

    /// Whether streams that are kept are of no use, asked once.
    pub(crate) fn took_stale(&self) -> bool {
        self.has_stale.load(Relaxed) && self.has_stale.swap(false, Relaxed)
    }

    fn ask_if_due(self: &Arc<Self>) {
        if self.claim() {
            let pulse = Arc::clone(self);
            tokio::spawn(async move { pulse.ask().await });
        }
    }

    /// One question at a time, and none before its time. Who claims it has to settle it.
    fn claim(&self) -> bool {
        let now = now_ms();
        let is_due = now >= self.quiet_until_ms.load(Relaxed);
        let claimed = || self.asked_ms.compare_exchange(0, now, Relaxed, Relaxed);
        is_due && claimed().is_ok()
    }

    async fn ask(self: Arc<Self>) {
        let _claim = Claim(&self);
        let began_ms = now_ms();
        let answer = timeout(ANSWER_TIME_MAX, self.dial.dial()).await;
        let is_late = now_ms() - began_ms > ms(ANSWER_TIME_MAX + STOOD_STILL);
        let was_heard = self.heard_ms.load(Relaxed) >= began_ms;
        match answer {
            Ok(stream) => self.settle(&Answer::of(&stream)),
            // Not its silence.
            Err(_) if is_late || was_heard => {}
            Err(_) => self.settle(&Answer::Nothing),
        }
    }

    fn settle(&self, answer: &Answer) {
        match answer {
            Answer::Heard => {
                self.heard();
                self.pause(ASK_INTERVAL);
            }
            Answer::Nothing => self.fell_silent(false),
            Answer::NoWay => self.fell_silent(true),
            Answer::Unclear => self.pause(ASK_INTERVAL),
        }
    }

    fn heard(&self) {
        self.heard_ms.store(now_ms(), Relaxed);
        // Most of the time nothing else is to be written.
        if self.is_silent.load(Relaxed) && self.is_silent.swap(false, Relaxed) {
            self.is_lost.store(false, Relaxed);
            self.unanswered.store(0, Relaxed);
            tracing::info!(node = %self.node, "the node gives signs of life again");
        }
    }

    fn fell_silent(&self, is_lost: bool) {
        self.pause(self.next_pause());
        self.unanswered.fetch_add(1, Relaxed);
        self.is_lost.store(is_lost, Relaxed);
        if !self.is_silent.swap(true, Relaxed) {
            self.has_stale.store(true, Relaxed);
            tracing::warn!(node = %self.node, "the node gives no sign of life and is avoided");
        }
    }

    fn next_pause(&self) -> Duration {
        let times = self.unanswered.load(Relaxed);
        PAUSE.saturating_mul(1 << times.min(16)).min(PAUSE_MAX)
    }

    fn pause(&self, time: Duration) {
        self.quiet_until_ms.store(now_ms() + ms(time), Relaxed);
    }
}

impl Answer {
    fn of(stream: &io::Result<Box<dyn Io>>) -> Self {
        use io::ErrorKind::{HostUnreachable, NotConnected};
        match stream {
            // Who declines is there.
            Ok(_) => Self::Heard,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Self::Heard,
            Err(error) if [NotConnected, HostUnreachable].contains(&error.kind()) => Self::NoWay,
            Err(_) => Self::Unclear,
        }
    }
}

/// A question under way.
struct Claim<'a>(&'a Pulse);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.asked_ms.store(0, Relaxed);
    }
}

/// Makes streams to a node, and listens for its signs of life on them.
pub(crate) struct Listening(pub(crate) Arc<Pulse>);

impl Dial for Listening {
    fn home(&self) -> Option<&tokio::runtime::Handle> {
        self.0.dial.home()
    }

    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async {
            let pulse = &self.0;
            // One that cannot be connected with is not dialled anew for each request.
            let claim = match pulse.is_lost.load(Relaxed) {
                true if !pulse.claim() => return Err(io::ErrorKind::HostUnreachable.into()),
                true => Some(Claim(pulse)),
                false => None,
            };
            if claim.is_some() {
                // Whoever asked may not wait for the end.
                pulse.pause(pulse.next_pause());
            }
            let stream = pulse.dial.dial().await;
            match Answer::of(&stream) {
                Answer::Heard => pulse.heard(),
                Answer::NoWay => pulse.fell_silent(true),
                Answer::Nothing | Answer::Unclear => {}
            }
            drop(claim);
            let pulse = Arc::clone(pulse);
            stream.map(|io| {
                Box::new(Heard {
                    io,
                    pulse,
                    is_blocked: false,
                }) as Box<dyn Io>
            })
        })
    }
}

/// A stream of which each byte that comes is a sign of life.
struct Heard {
    io: Box<dyn Io>,
    pulse: Arc<Pulse>,
    /// Whether what is sent waited for room.
    is_blocked: bool,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pulse.heard();
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        match &polled {
            Poll::Pending => self.is_blocked = true,
            // There was no room and there is: somebody took what was sent before.
            Poll::Ready(Ok(1..)) if self.is_blocked => {
                self.is_blocked = false;
                self.pulse.heard();
            }
            Poll::Ready(_) => {}
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
