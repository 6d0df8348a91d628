//! The node's end of an interactive stream: bytes and signals to some work, its output and its end
//! back. Not what the work is.

use std::time::Duration;

use realm_model::api::ApiError;
use realm_model::frame::{Channel, Frame, Signal};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};

use super::frames::{Feed, Incoming, OUTBOX_FRAMES, TalkError, Task, Window, send, write};

/// Between the work and the connection, per byte stream.
const PIPE_BYTES: usize = 64 * 1024;
/// Signals that wait: a person presses Ctrl-C twice.
const SIGNALS_MAX: usize = 8;
/// Time for the last frames to reach a caller that reads slowly.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(30);

/// The work's end of a session. What it drops is at its end for the caller.
pub(super) struct Ends {
    pub(super) stdin: DuplexStream,
    pub(super) stdout: DuplexStream,
    pub(super) stderr: DuplexStream,
    pub(super) signals: mpsc::Receiver<Signal>,
    pub(super) stop: watch::Receiver<Option<Stop>>,
}

/// Why the work must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The caller hung up.
    Gone,
    /// The caller may not do this any longer.
    Revoked,
}

/// How the work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Exit(u8),
    Error(ApiError),
}

impl Ended {
    pub(super) fn error(code: &str, message: String, hint: Option<&str>) -> Self {
        Self::Error(ApiError {
            code: code.to_owned(),
            message,
            hint: hint.map(str::to_owned),
        })
    }

    /// For the audit.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Exit(code) => code.to_string(),
            Self::Error(error) => error.code.clone(),
        }
    }
}

/// Carries a session until the work has ended. The work is never dropped: it is told to stop.
/// `revoked` ends when the caller may not go on.
pub(super) async fn serve<W: Future<Output = Ended>>(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    revoked: impl Future<Output = ()>,
    work: impl FnOnce(Ends) -> W,
) -> Ended {
    let (reading, writing) = tokio::io::split(io);
    let (outbox, frames) = mpsc::channel(OUTBOX_FRAMES);
    let writer = Task::spawn(write(writing, frames));
    let (stdin_here, stdin) = duplex(PIPE_BYTES);
    let (stdout, stdout_here) = duplex(PIPE_BYTES);
    let (stderr, stderr_here) = duplex(PIPE_BYTES);
    let (signals, wanted_signals) = mpsc::channel(SIGNALS_MAX);
    let (stop, stopping) = watch::channel(None);
    let (feed, feeding) = Feed::new(stdin_here, Channel::Stdin, outbox.clone());
    let windows = [Window::new(), Window::new()];
    let [to_stdout, to_stderr] = windows.clone();
    let ends = Ends {
        stdin,
        stdout,
        stderr,
        signals: wanted_signals,
        stop: stopping,
    };
    let mut incoming = Incoming::new(reading);
    let ended = {
        let outputs = async {
            tokio::join!(
                send(stdout_here, Channel::Stdout, to_stdout, outbox.clone()),
                send(stderr_here, Channel::Stderr, to_stderr, outbox.clone()),
            )
        };
        let work = async { tokio::join!(work(ends), outputs).0 };
        let listen =
            async { tokio::join!(listen(&mut incoming, feed, &signals, &windows), feeding).0 };
        let (mut work, mut listen) = (Box::pin(work), Box::pin(listen));
        let mut revoked = std::pin::pin!(revoked);
        let (mut heard, mut judged) = (false, false);
        loop {
            tokio::select! {
                ended = &mut work => break ended,
                error = &mut listen, if !heard => {
                    heard = true;
                    tracing::debug!(%error, "the caller of a command is gone");
                    stop.send_replace(Some(Stop::Gone));
                    // What it would have read is not waited for.
                    windows.iter().for_each(Window::close);
                }
                () = &mut revoked, if !judged => {
                    judged = true;
                    stop.send_replace(Some(Stop::Revoked));
                }
            }
        }
    };
    let last = match ended.clone() {
        Ended::Exit(code) => Frame::Exit(code),
        Ended::Error(error) => Frame::Error(error),
    };
    tokio::spawn(async move {
        let farewell = async {
            let _ = outbox.send(last).await;
            drop(outbox);
            // An error is a panic of the writer, which has ended as well.
            let _ = writer.ended().await;
            // Closed with bytes unread, a connection would lose the last ones that it carries.
            while incoming.next().await.is_ok() {}
        };
        // Who does not take the last words does not want them.
        let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, farewell).await;
    });
    ended
}

/// Takes the caller's frames, until it is gone.
async fn listen(
    incoming: &mut Incoming<impl AsyncRead + Unpin>,
    mut stdin: Feed,
    signals: &mpsc::Sender<Signal>,
    windows: &[Window; 2],
) -> TalkError {
    loop {
        let taken = match incoming.next().await {
            Ok(Frame::Data(Channel::Stdin, bytes)) => stdin.take(bytes),
            Ok(Frame::StdinEnd) => {
                stdin.end();
                Ok(())
            }
            Ok(Frame::Signal(signal)) => {
                // Who sends more than is taken has sent enough.
                let _ = signals.try_send(signal);
                Ok(())
            }
            Ok(Frame::Window(Channel::Stdout, more)) => windows[0].widen(more),
            Ok(Frame::Window(Channel::Stderr, more)) => windows[1].widen(more),
            Ok(
                Frame::Data(Channel::Stdout | Channel::Stderr, _)
                | Frame::Window(Channel::Stdin, _)
                | Frame::Exit(_)
                | Frame::Error(_),
            ) => Err(TalkError::Protocol("this frame is the node's to send")),
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            return error;
        }
    }
}
