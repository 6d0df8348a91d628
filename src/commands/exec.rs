//! `realm exec`: a command of a node's machine, for who may.

use std::process::ExitCode;

use realm_model::frame::{ExecRequest, Signal};
use realm_node::{Terminal, attach};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::failure::Failure;
use crate::reach;

/// Interrupts that are passed on. One more, and the caller gives up on the node.
const INTERRUPTS_MAX: u32 = 2;
/// Signals on their way.
const SIGNALS_MAX: usize = 8;

/// Run a command on a node
///
/// The request is signed with the owner's key (or that of --key), for this node, once and soon. The
/// node runs nothing unless `[exec] allow` in its node.toml says so, and writes down who ran what.
/// Streams and exit code pass through; Ctrl-C interrupts the command there. There is no terminal:
/// what needs one (an editor, `top`) does not work. Whatever is left of the command ends with it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node: its name, or `HOST:PORT#KEY`
    #[arg(value_name = "NODE")]
    at: String,

    /// One word: a line for the node's shell; several: a program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    context.on_small_runtime(async {
        let asked = ExecRequest {
            command: args.command,
        };
        let client = reach::client_of(context, &args.at).await?;
        let signer = client.signer(context.owner_key().await?).await?;
        let stream = client.exec(&signer, &asked).await?;
        talk(stream).await
    })
}

/// Carries the streams of this process and its signals; the exit code is the other end's.
pub(crate) async fn talk(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
) -> Result<ExitCode, Failure> {
    let (signals, passed_on) = mpsc::channel(SIGNALS_MAX);
    let terminal = Terminal {
        stdin: tokio::io::stdin(),
        stdout: tokio::io::stdout(),
        stderr: tokio::io::stderr(),
        signals: passed_on,
    };
    tokio::select! {
        biased;
        code = attach(stream, terminal) => Ok(ExitCode::from(code?)),
        gave_up = pass_on(signals) => Err(gave_up?),
    }
}

/// Passes signals on; ends when the person does not want to wait any longer.
async fn pass_on(signals: mpsc::Sender<Signal>) -> Result<Failure, Failure> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut quits = signal(SignalKind::quit())?;
    let mut count = 0;
    loop {
        let signal = tokio::select! {
            _ = interrupts.recv() => {
                count += 1;
                Signal::Interrupt
            }
            _ = terminations.recv() => Signal::Terminate,
            _ = quits.recv() => Signal::Quit,
        };
        if count > INTERRUPTS_MAX {
            return Ok(Failure::interrupted());
        }
        // A node that takes none is not waited for: the next interrupts count as well.
        let _ = signals.try_send(signal);
    }
}
