//! Many agents of one realm on this machine: real processes on loopback, each with a folder and
//! ports of its own. Founded, invited and approved with the verbs that a person uses. Not here: what
//! is measured of them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::Connection;
use crate::server::free_address;

/// Until an agent answers on its socket.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// The longest that an agent may take to end before it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// Below the numbers that Linux gives to connections.
const PORTS: Range<u16> = 12_000..30_000;
/// Between two looks at something that takes long.
const PAUSE: Duration = Duration::from_millis(50);

/// A realm of many agents; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    program: PathBuf,
    // Goes after the agents in it.
    pub(crate) members: Vec<Member>,
    folder: TempDir,
}

/// One node: its folder outlives its agent.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    p2p: SocketAddr,
    folder: PathBuf,
    starts: u32,
    agent: Option<Child>,
}

impl Crowd {
    /// A realm of `count` nodes that are approved; the agent of the first runs.
    pub(crate) fn found(program: &Path, count: usize) -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for a realm")?;
        let addresses = free_addresses(count)?;
        let member = |(at, p2p): (usize, SocketAddr)| {
            let name = format!("n{at:03}");
            let folder = folder.path().join(&name);
            Member {
                name,
                p2p,
                folder,
                starts: 0,
                agent: None,
            }
        };
        let members = addresses.into_iter().enumerate().map(member).collect();
        let mut crowd = Self {
            program: program.to_owned(),
            members,
            folder,
        };
        crowd.say(0, &["init", "--name", "n000"])?;
        crowd.start(0)?;
        let ticket = crowd.ticket()?;
        for at in 1..count {
            let name = crowd.members[at].name.clone();
            let said = crowd.say(at, &["--json", "join", &ticket, "--name", &name])?;
            let said: Value = serde_json::from_slice(&said).context("what `join` says")?;
            let key = said["node_key"].as_str().context("`join` says no key")?;
            crowd.say(0, &["nodes", "approve", key, "--name", &name, "--yes"])?;
        }
        Ok(crowd)
    }

    /// Starts the agents of all other nodes.
    pub(crate) fn start_others(&mut self) -> Result<()> {
        (1..self.members.len()).try_for_each(|at| self.start(at))
    }

    /// Starts the agent of a node. It may not answer yet.
    pub(crate) fn start(&mut self, at: usize) -> Result<()> {
        let p2p = self.members[at].p2p.to_string();
        let mut command = self.command(at);
        command.args(["agent", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--p2p", &p2p]);
        let member = &mut self.members[at];
        member.starts += 1;
        let log = File::create(member.log(member.starts)).context("no log for an agent")?;
        let child = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        member.agent = Some(child.with_context(|| format!("{} does not start", member.name))?);
        Ok(())
    }

    /// A ticket of the first node, once it listens.
    fn ticket(&self) -> Result<String> {
        let began = Instant::now();
        loop {
            let listens = self.members[0].ask("/v1/invitation").is_ok_and(|said| {
                let addresses = said["addresses"].as_array();
                addresses.is_some_and(|all| all.len() >= 2)
            });
            if listens {
                let said = self.say(0, &["invite"])?;
                return Ok(String::from_utf8(said)?.trim().to_owned());
            }
            if began.elapsed() > START_TIME_MAX {
                bail!("{} does not answer", self.members[0].name);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Lets the first node serve the control API over TCP as well; gives its address and its key, as
    /// `--node` takes them. Its agent starts again.
    pub(crate) fn serve_api(&mut self) -> Result<(SocketAddr, String)> {
        let said = self.say(0, &["key", "show", "--json"])?;
        let said: Value = serde_json::from_slice(&said).context("what `key show` says")?;
        let key = said["node_key"].as_str().context("no key of the node")?;
        let address = free_address()?;
        let settings = self.members[0].folder.join("node.toml");
        let text = fs::read_to_string(&settings).context("`node.toml`")?;
        fs::write(
            &settings,
            format!("{text}\n[listen]\napi = \"{address}\"\n"),
        )
        .context("`node.toml`")?;
        self.members[0].kill()?;
        self.start(0)?;
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            self.members[0].still_runs()?;
            if began.elapsed() > START_TIME_MAX {
                bail!("{} does not serve its API", self.members[0].name);
            }
            std::thread::sleep(PAUSE);
        }
        Ok((address, key.to_owned()))
    }

    /// Where a file beside the realm folders is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file beside the realm folders.
    pub(crate) fn write(&self, name: &str, bytes: &(impl AsRef<[u8]> + ?Sized)) -> Result<()> {
        fs::write(self.path(name), bytes).with_context(|| format!("`{name}`"))
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.path(name)).with_context(|| format!("`{name}`"))
    }

    /// Runs a verb in a node's folder to its end, which must be a good one; gives its stdout.
    pub(crate) fn say(&self, at: usize, args: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(at).args(args).output();
        let output = output.with_context(|| format!("`{}`", self.program.display()))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("`realm {}` failed: {}", args.join(" "), why.trim());
        }
        Ok(output.stdout)
    }

    fn command(&self, at: usize) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--realm")
            .arg(&self.members[at].folder)
            .current_dir(self.folder.path())
            .env_remove("REALM_DIR")
            .env_remove("REALM_LOG")
            .env("NO_COLOR", "1");
        command
    }
}

impl Member {
    /// The process of its agent; 0: none runs.
    pub(crate) fn id(&self) -> u32 {
        self.agent.as_ref().map_or(0, Child::id)
    }

    /// Fails if its agent has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        let ended = self.agent.as_mut().map(Child::try_wait).transpose()?;
        match ended.flatten() {
            Some(status) => bail!("{} ended with {status}\n{}", self.name, self.log_text()?),
            None => Ok(()),
        }
    }

    /// What its agent answers on the socket of its folder.
    pub(crate) fn ask(&self, path: &str) -> Result<Value> {
        let answer = self.send("GET", path, b"")?;
        Ok(serde_json::from_slice(&answer)?)
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut socket = Connection::open_socket(&self.folder.join("agent.sock"))?;
        let answer = socket.ask(method, path, body)?;
        if answer.status != 200 {
            let why = String::from_utf8_lossy(&answer.body);
            bail!("{} answers {}: {why}", self.name, answer.status);
        }
        Ok(answer.body)
    }

    /// The log of the agent that runs.
    pub(crate) fn log_text(&self) -> Result<String> {
        let log = self.log(self.starts);
        fs::read_to_string(&log).with_context(|| format!("`{}`", log.display()))
    }

    fn log(&self, start: u32) -> PathBuf {
        self.folder.with_extension(format!("{start}.log"))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(self.id().cast_signed()).context("no agent runs")?;
        kill_process(id, signal).with_context(|| format!("{} takes no signal", self.name))
    }

    /// Ends its agent as a power cut would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    /// Bytes on the disk below its folder, in whole blocks.
    pub(crate) fn disk_kb(&self) -> u64 {
        fn below(folder: &Path) -> u64 {
            use std::os::unix::fs::MetadataExt as _;
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let size = |entry: fs::DirEntry| match entry.metadata() {
                Ok(found) if found.is_dir() => below(&entry.path()),
                Ok(found) => found.blocks() / 2,
                Err(_) => 0,
            };
            entries.map(size).sum()
        }
        below(&self.folder)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for member in &self.members {
            // One that stands still ends as well.
            let _ = member.signal(Signal::TERM);
            let _ = member.signal(Signal::CONT);
        }
        let began = Instant::now();
        for agent in self.members.iter_mut().filter_map(|one| one.agent.as_mut()) {
            while matches!(agent.try_wait(), Ok(None)) {
                if began.elapsed() > END_TIME_MAX {
                    let _ = agent.kill();
                    let _ = agent.wait();
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Numbers that nobody has at this moment, for UDP and TCP alike, and that the system gives to nobody
/// who asks for any: a node that comes back is found where it was.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    // Two runs at once begin at different places.
    let offset = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start))?;
    let around = (PORTS.start + offset..PORTS.end).chain(PORTS.start..PORTS.start + offset);
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let is_free = |address: &SocketAddr| {
        UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    };
    let free: Vec<_> = around.map(address).filter(is_free).take(count).collect();
    if free.len() < count {
        bail!("only {} ports of {count} are free", free.len());
    }
    Ok(free)
}
