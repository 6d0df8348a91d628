//! The caller's end of an interactive stream: its own streams and signals, and the exit code.

use realm_model::api::ApiError;
use realm_model::frame::{Channel, Frame, Signal};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::frames::{Feed, Incoming, OUTBOX_FRAMES, TalkError, Task, Window, send, write};
use crate::client::ClientError;

/// The streams of a caller.
pub struct Terminal<I, O, E> {
    /// Read as the other end asks for it; its end is passed on.
    pub stdin: I,
    /// Written as it comes.
    pub stdout: O,
    /// Written as it comes.
    pub stderr: E,
    /// Passed on.
    pub signals: mpsc::Receiver<Signal>,
}

/// Carries the streams until the other end says how it ended; returns the exit code.
///
/// # Errors
/// [`ClientError::Refused`] where there is no exit code; else the connection broke.
pub async fn attach(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    terminal: Terminal<
        impl AsyncRead + Unpin + Send + 'static,
        impl AsyncWrite + Unpin + Send,
        impl AsyncWrite + Unpin + Send,
    >,
) -> Result<u8, ClientError> {
    let (reading, writing) = tokio::io::split(io);
    let (outbox, frames) = mpsc::channel(OUTBOX_FRAMES);
    let _writer = Task::spawn(write(writing, frames));
    let window = Window::new();
    let _input = Task::spawn({
        let (window, outbox) = (window.clone(), outbox.clone());
        async move {
            send(terminal.stdin, Channel::Stdin, window, outbox.clone()).await;
            // The talk may be over.
            let _ = outbox.send(Frame::StdinEnd).await;
        }
    });
    let _signals = Task::spawn(pass_on(terminal.signals, outbox.clone()));
    let (stdout, writing_stdout) = Feed::new(terminal.stdout, Channel::Stdout, outbox.clone());
    let (stderr, writing_stderr) = Feed::new(terminal.stderr, Channel::Stderr, outbox);
    // Both outputs are written to their end before the end is told.
    let listening = listen(Incoming::new(reading), stdout, stderr, &window);
    match tokio::try_join!(listening, writing_stdout, writing_stderr) {
        Ok((Ok(code), (), ())) => Ok(code),
        Ok((Err(error), (), ())) => Err(ClientError::Refused(error)),
        Err(TalkError::Output(error)) => Err(ClientError::Output(error)),
        Err(error) => Err(ClientError::Connection(error.into())),
    }
}

async fn pass_on(mut signals: mpsc::Receiver<Signal>, outbox: mpsc::Sender<Frame>) {
    while let Some(signal) = signals.recv().await {
        if outbox.send(Frame::Signal(signal)).await.is_err() {
            return;
        }
    }
}

/// Takes the node's frames, to the last one.
async fn listen(
    mut incoming: Incoming<impl AsyncRead + Unpin>,
    stdout: Feed,
    stderr: Feed,
    stdin: &Window,
) -> Result<Result<u8, ApiError>, TalkError> {
    loop {
        match incoming.next().await? {
            Frame::Data(Channel::Stdout, bytes) => stdout.take(bytes)?,
            Frame::Data(Channel::Stderr, bytes) => stderr.take(bytes)?,
            Frame::Window(Channel::Stdin, more) => stdin.widen(more)?,
            Frame::Exit(code) => return Ok(Ok(code)),
            Frame::Error(error) => return Ok(Err(error)),
            Frame::Data(Channel::Stdin, _)
            | Frame::Window(Channel::Stdout | Channel::Stderr, _)
            | Frame::StdinEnd
            | Frame::Signal(_) => {
                return Err(TalkError::Protocol("this frame is the caller's to send"));
            }
        }
    }
}
