//! A server as a child process: started, asked until it answers, ended with the run.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::http;
use crate::process;

/// The longest that a server may take to answer for the first time, a compilation included.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// The longest that a server may take to end, before it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks at something that takes long.
const PAUSE: Duration = Duration::from_millis(20);

/// A running server, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program with its output in `log`. It may not answer yet.
    pub(crate) fn start(
        name: &str,
        address: SocketAddr,
        mut command: Command,
        log: &Path,
    ) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("`{}`", log.display()))?;
        let child = command
            // With backtraces on, Wasmtime takes one per request.
            .env("RUST_BACKTRACE", "0")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name} does not start: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            address,
            child,
            log: log.to_owned(),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until it answers this question with 200, and gives the body.
    pub(crate) fn answers(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let began = Instant::now();
        loop {
            let said = match http::ask(self.address, method, path, body) {
                Ok(answer) if answer.status == 200 => return Ok(answer.body),
                Ok(answer) => format!("status {}", answer.status),
                Err(error) => format!("{error:#}"),
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}\n{}", self.name, self.last_words());
            }
            if began.elapsed() > START_TIME_MAX {
                bail!(
                    "{} does not answer: {said}\n{}",
                    self.name,
                    self.last_words()
                );
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until it accepts connections, whatever it then answers.
    pub(crate) fn listens(&mut self) -> Result<()> {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}\n{}", self.name, self.last_words());
            }
            if began.elapsed() > START_TIME_MAX {
                bail!("{} does not listen\n{}", self.name, self.last_words());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let tree = process::tree(self.child.id()).unwrap_or_default();
        if let Some(id) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(id, Signal::TERM);
        }
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > END_TIME_MAX {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(PAUSE);
        }
        // Its children, if it left any behind; each was seen to be one of its tree.
        for id in tree
            .into_iter()
            .filter(|id| *id != self.child.id() && process::lives(*id))
        {
            if let Some(id) = Pid::from_raw(id.cast_signed()) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }
}

/// A port of loopback that nobody has at this moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}
