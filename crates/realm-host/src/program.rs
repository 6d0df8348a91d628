//! A command that runs by itself, with streams of the caller's: jobs, services, `realm run`.
//!
//! The same limits and grants as for requests. Not here: when a program is run again, and a
//! command as the answer to a request (`command`).

use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;

use crate::body::EndOnDrop;
use crate::command::Command;
use crate::component::{Component, LoadError, Settings, Wanted};
use crate::engine::Host;
use crate::guest;
use crate::invocation::{Call, Wall, drive, said, settle};
use crate::loaded::Handler;
use crate::outcome::{CallError, Outcome};
use crate::replica::{Invocation, Kind, Replica};
use crate::stdio::{PipeOptions, PipeReader, PipeWriter, Process, Stdin, pipe};
use crate::term::Term;

/// Time for a program's last words to be written, once it was ended from outside.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// What a wall time stands for that no clock reaches.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A program that is loaded and linked. Cheap to clone.
#[derive(Clone)]
pub struct Program(Replica);

/// One run.
#[derive(Default)]
pub struct Run {
    /// The first argument; `None`: the component's name.
    pub name: Option<String>,
    /// Arguments after the granted ones.
    pub args: Vec<String>,
    /// Variables beside the granted ones, in this order; they win.
    pub env: Vec<(String, String)>,
    /// A port of 127.0.0.1 that it may bind and listen on; `None`: none.
    pub listen: Option<u16>,
    /// Standard input; `None`: empty.
    pub stdin: Option<Input>,
    /// Standard output; `None`: into the component's log.
    pub stdout: Option<Output>,
    /// Standard error; `None`: into the component's log.
    pub stderr: Option<Output>,
}

/// Where standard input comes from. It is read when the program asks.
pub struct Input {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    terminal: bool,
}

/// Where an output goes. A slow one makes the program wait, a closed one breaks its pipe.
pub struct Output {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    terminal: bool,
}

impl Input {
    /// `terminal`: whether the program is told that it is one.
    pub fn new(reader: impl AsyncRead + Send + Unpin + 'static, terminal: bool) -> Self {
        Self {
            reader: Box::new(reader),
            terminal,
        }
    }
}

impl Output {
    /// `terminal`: whether the program is told that it is one.
    pub fn new(writer: impl AsyncWrite + Send + Unpin + 'static, terminal: bool) -> Self {
        Self {
            writer: Box::new(writer),
            terminal,
        }
    }
}

/// Why a run came to no exit code; details of a trap are in the component's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// Stable code: [`Outcome::code`].
    pub code: &'static str,
    /// What happened.
    pub message: String,
}

impl From<Outcome> for RunError {
    fn from(outcome: Outcome) -> Self {
        let CallError { code, message, .. } = outcome.into();
        Self { code, message }
    }
}

impl Host {
    /// Maps a file that [`crate::compile`] made on this machine, and links it as a program.
    ///
    /// # Errors
    /// As [`Host::load`]; `wrong-world` where there is no `wasi:cli/run`.
    pub fn load_program(&self, settings: Settings, compiled: &Path) -> Result<Program, LoadError> {
        let component = Component::load(self, settings, compiled, Wanted::Program)?;
        Ok(Program(component.replica(0)))
    }
}

impl Program {
    /// The same program in another slot, with its own concurrency and its own fuel.
    pub fn replica(&self, slot: u32) -> Self {
        self.replica_until(slot, None)
    }

    /// The same, whose runs all end with `term`.
    pub fn replica_until(&self, slot: u32, term: Option<Term>) -> Self {
        Self(Component(Arc::clone(&self.0.0.component)).replica_until(slot, term))
    }

    /// Runs it once, to its exit code. Dropping the future ends the program.
    ///
    /// `epoch_timeout_ms` and `wall_timeout_ms` hold as for requests; where they are `u64::MAX`
    /// the program is only made to yield.
    ///
    /// # Errors
    /// Where the program did not come to an end of its own: a limit, a trap, no room.
    pub async fn run(&self, run: Run) -> Result<u8, RunError> {
        let settings = &self.0.0.component.settings;
        let wall = Wall::of_a_run(deadline(settings.limits.wall_timeout_ms));
        let Some((admitted, _)) = self.0.0.enter().await else {
            self.0.refuse(Outcome::Overloaded);
            return Err(Outcome::Overloaded.into());
        };
        let invocation = Invocation::begin(&self.0.0, Kind::Run, admitted);
        let shared = Arc::clone(&invocation.shared);
        let (process, outputs) = process(run);
        let (sender, code) = oneshot::channel();
        let task = tokio::spawn({
            let host = self.0.0.component.host.clone();
            let shared = Arc::clone(&shared);
            let term = self.0.0.term.clone();
            async move {
                let call = async move {
                    let code = to_the_end(&invocation, process).await;
                    // First: who asked for the code finds the run counted.
                    drop(invocation);
                    if let Some(code) = code {
                        // Who asked may have gone: then the code is for nobody.
                        let _ = sender.send(code);
                    }
                };
                let ticked = Ticked {
                    host: host.clone(),
                    call: Box::pin(call),
                };
                drive(shared, wall, &host, false, Box::pin(ticked), term).await;
            }
        });
        let _end = EndOnDrop::new(Some(task.abort_handle()), Arc::clone(&shared));
        let mut pumping = Box::pin(pump_all(outputs));
        let mut code = Box::pin(said(code, task, &shared));
        let mut pumped = false;
        let code = loop {
            tokio::select! {
                code = &mut code => break code,
                () = &mut pumping, if !pumped => pumped = true,
            }
        };
        match code {
            Some(code) => {
                // The program is done: what it wrote is worth any wait.
                if !pumped {
                    pumping.await;
                }
                Ok(code)
            }
            None => {
                if !pumped {
                    // Either way the run has failed; its words may be lost where nobody reads.
                    let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, pumping).await;
                }
                Err(shared.failure().unwrap_or(Outcome::StartFailed).into())
            }
        }
    }
}

/// A guest's call that keeps the epoch ticking only while it is polled: a program that waits for
/// days wakes nobody.
struct Ticked {
    host: Host,
    call: Call,
}

impl Future for Ticked {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let _ticking = self.host.0.ticker.begin();
        self.call.as_mut().poll(context)
    }
}

fn deadline(wall_timeout_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(wall_timeout_ms).min(NEVER)
}

/// Runs the program inside the guest's task; `None`: the outcome says why there is no exit code.
async fn to_the_end(invocation: &Invocation, process: Process) -> Option<u8> {
    let component = &invocation.replica.component;
    if let Some(bucket) = &invocation.replica.bucket {
        settle(bucket, &component.settings.meter).await;
    }
    match exit_code(invocation, process).await {
        Ok(code) => {
            let outcome = if code == 0 {
                Outcome::Ok
            } else {
                Outcome::Exit
            };
            invocation.shared.conclude(outcome);
            Some(code)
        }
        Err(error) => {
            guest::conclude(invocation, Err(error));
            None
        }
    }
}

/// The code stays in memory for as long as the program runs.
async fn exit_code(invocation: &Invocation, process: Process) -> wasmtime::Result<u8> {
    let loaded = guest::loaded(invocation).await?;
    let Some(command) = command(&loaded.handler) else {
        return Err(wasmtime::format_err!("loaded for requests"));
    };
    let mut store = guest::store(invocation, Some(process))?;
    command.run(invocation, &mut store).await
}

fn command(handler: &Handler) -> Option<&Command> {
    match handler {
        Handler::Command(command) => Some(command),
        Handler::Http(_) | Handler::None => None,
    }
}

/// The other ends of a program's outputs.
type Outputs = [Option<(PipeReader, Output)>; 2];

fn process(run: Run) -> (Process, Outputs) {
    let (stdout, out) = output(run.stdout);
    let (stderr, err) = output(run.stderr);
    let process = Process {
        name: run.name,
        env: run.env,
        args: run.args,
        listen: run.listen,
        stdin: run
            .stdin
            .map(|stdin| Stdin::reading(stdin.reader, stdin.terminal)),
        stdout,
        stderr,
    };
    (process, [out, err])
}

fn output(output: Option<Output>) -> (Option<PipeWriter>, Option<(PipeReader, Output)>) {
    let Some(output) = output else {
        return (None, None);
    };
    let (writer, reader) = pipe(&PipeOptions {
        // Both outputs may be one terminal, where the order of lines is what a person sees.
        flush_waits: true,
        terminal: output.terminal,
    });
    (Some(writer), Some((reader, output)))
}

async fn pump_all([out, err]: Outputs) {
    tokio::join!(pump(out), pump(err));
}

/// Ends with the program, or with the one who reads what it writes.
async fn pump(output: Option<(PipeReader, Output)>) {
    let Some((reader, mut output)) = output else {
        return;
    };
    while let Some(bytes) = poll_fn(|context| reader.poll_take(context)).await {
        let written = async {
            output.writer.write_all(&bytes).await?;
            output.writer.flush().await
        };
        if written.await.is_err() {
            return;
        }
    }
}
