//! A realm in a folder of its own, an agent as a child process, and requests against it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use realm_model::api::Heads;
use realm_model::view::{ComponentView, StatusView};
use tempfile::TempDir;

/// The longest that anything here waits; on two busy cores a compilation takes seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An agent on free ports.
pub(crate) const AGENT: [&str; 7] = on_free_ports("agent");

/// A verb that starts an agent, with free ports for it.
pub(crate) const fn on_free_ports(verb: &str) -> [&str; 7] {
    let free = "127.0.0.1:0";
    [verb, "--http", free, "--admin", free, "--p2p", free]
}

/// The build that is tested.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_realm");

/// A folder with a realm in it.
pub(crate) struct Realm {
    folder: TempDir,
    /// Where this process sees the folder, if elsewhere.
    seen: Option<PathBuf>,
    program: PathBuf,
}

/// What a verb printed, and its exit code.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A verb that runs on, and what it prints; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

/// Lines as they come, from a thread that reads them.
pub(crate) struct Lines {
    lines: mpsc::Receiver<String>,
}

/// A running agent.
pub(crate) struct Agent {
    running: Running,
    pub(crate) url: String,
    pub(crate) metrics_url: String,
}

impl Realm {
    /// A folder with a realm of one node, `node-1`.
    pub(crate) fn new() -> Self {
        let realm = Self::empty();
        realm.run(&["init", "--name", "node-1"]).ok();
        realm
    }

    /// A folder without a realm.
    pub(crate) fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            seen: None,
            program: PathBuf::from(PROGRAM),
        }
    }

    /// Its verbs and its agent are those of another build from now on.
    pub(crate) fn by(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.seen
            .as_deref()
            .unwrap_or(self.folder.path())
            .join(name)
    }

    /// Its files are seen here from now on.
    pub(crate) fn see_at(&mut self, folder: PathBuf) {
        self.seen = Some(folder);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Copies a guest to where the manifest says.
    pub(crate) fn guest(&self, guest: &str, name: &str) {
        std::fs::copy(guest, self.path(name)).unwrap();
    }

    /// Writes `realm.toml` for one component `app` at `/...`, with more lines for its table.
    pub(crate) fn app(&self, guest: &str, more: &str) {
        self.guest(guest, "app.wasm");
        self.write("realm.toml", &app_manifest(more));
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("REALM_DIR")
            .env_remove("REALM_NODE")
            .env_remove("REALM_KEY")
            .env_remove("REALM_PASSPHRASE_FILE")
            .env_remove("REALM_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        said(self.command(args))
    }

    /// Starts the agent on free ports and waits until it listens.
    pub(crate) fn agent(&self) -> Agent {
        Agent::start(self.command(&AGENT))
    }

    pub(crate) fn client(&self) -> realm_node::Client {
        realm_node::Client::new(&self.path(".realm/agent.sock"))
    }

    pub(crate) async fn heads(&self) -> Heads {
        self.client().heads().await.unwrap()
    }

    pub(crate) async fn status(&self) -> StatusView {
        self.client().status().await.unwrap()
    }

    pub(crate) async fn component(&self, name: &str) -> ComponentView {
        let status = self.status().await;
        let found = status
            .components
            .into_iter()
            .find(|component| component.name.as_str() == name);
        found.unwrap_or_else(|| panic!("no component `{name}` in the status"))
    }

    /// The owner key, for entries that the CLI would not sign.
    pub(crate) fn owner(&self) -> realm_model::key::SecretKey {
        let text = self.read(".realm/owner.key");
        let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
        realm_model::key::SecretKey::from_text(line).unwrap()
    }
}

/// A manifest with one component `app` at `/...`.
pub(crate) fn app_manifest(more: &str) -> String {
    format!(
        "[components.app]\nsource = \"file:./app.wasm\"\n{more}\n\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n"
    )
}

/// Runs a command to its end.
pub(crate) fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Said {
    /// Asserts exit code 0.
    pub(crate) fn ok(self) -> Self {
        self.code_is(0)
    }

    /// Asserts the exit code.
    pub(crate) fn code_is(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Asserts the exit code, and an error with this code and a hint or cause on stderr.
    pub(crate) fn fails(self, exit: i32, code: &str) -> Self {
        let said = self.code_is(exit);
        let wanted = format!("error[{code}]:");
        assert!(
            said.stderr.contains(&wanted),
            "no `{wanted}` in:\n{}",
            said.stderr
        );
        said
    }
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdout: Lines::of(child.stdout.take().unwrap()),
            stderr: Lines::of(child.stderr.take().unwrap()),
            child,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for the end.
    pub(crate) fn ended(mut self) -> ExitStatus {
        ended(&mut self.child)
    }

    /// Sends SIGINT and waits for the end.
    pub(crate) fn interrupt(self) -> ExitStatus {
        self.signal("INT");
        self.ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    fn of(output: impl std::io::Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test may be over already.
                let _ = sender.send(line);
            }
        });
        Self { lines }
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&self) -> Option<String> {
        self.within(PATIENCE)
    }

    /// The same, of somebody who takes longer.
    pub(crate) fn within(&self, patience: Duration) -> Option<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line within {patience:?}"),
        }
    }

    /// Waits for a line with this text, and returns what follows it.
    pub(crate) fn after(&self, text: &str) -> String {
        let mut seen = Vec::new();
        while let Some(line) = self.next() {
            match line.find(text) {
                Some(at) => return line[at + text.len()..].to_owned(),
                None => seen.push(line),
            }
        }
        panic!("no line with `{text}`; seen:\n{}", seen.join("\n"));
    }
}

/// A port for a server that is started again: no system gives it out for port 0 (Linux begins at
/// 32768), and tests that run beside this one are other processes with other ports.
pub(crate) fn lasting_port() -> u16 {
    const PER_PROCESS: u32 = 8;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let first = 20_000 + std::process::id() % 1_500 * PER_PROCESS;
    let free = |port: &u16| {
        let at = (Ipv4Addr::LOCALHOST, *port);
        TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
    };
    std::iter::repeat_with(|| u16::try_from(first + TAKEN.fetch_add(1, Relaxed)).unwrap())
        .take(PER_PROCESS as usize)
        .find(free)
        .expect("a free port")
}

/// Sends a signal by name.
pub(crate) fn signal(process: u32, name: &str) {
    let signalled = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(signalled.success());
}

/// Waits for the end of a child; one that does not end in time is killed, and that fails the test.
pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    let process = child.id();
    let (done, told) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let late = told.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            signal(process, "KILL");
        }
        late
    });
    let status = child.wait().unwrap();
    drop(done);
    assert!(!watch.join().unwrap(), "it does not end");
    status
}

impl Agent {
    /// Waits for a line of its stderr with this text, and returns what follows it.
    pub(crate) fn after(&self, text: &str) -> String {
        self.running.stderr.after(text)
    }

    /// Starts an agent and waits until it says where it listens.
    pub(crate) fn start(command: Command) -> Self {
        Self::of(Running::start(command))
    }

    /// Waits until an agent that was started says where it listens.
    pub(crate) fn of(running: Running) -> Self {
        let url = running.stderr.after("answering on ").trim().to_owned();
        let metrics_url = running.stderr.after("metrics on ").trim().to_owned();
        Self {
            running,
            url,
            metrics_url,
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.running.id()
    }

    /// What it says.
    pub(crate) fn lines(&self) -> &Lines {
        &self.running.stderr
    }

    /// What it prints on its standard output.
    pub(crate) fn printed(&self) -> &Lines {
        &self.running.stdout
    }

    /// Kills the agent with SIGKILL, and waits until the system has taken it away.
    pub(crate) fn kill_9(self) {
        self.signal("KILL");
        self.running.ended();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.signal("TERM");
        self.running.ended()
    }

    /// Waits for the end.
    pub(crate) fn ended(self) -> ExitStatus {
        self.running.ended()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        self.running.signal(name);
    }

    /// Waits until an invocation of `app` runs.
    pub(crate) async fn in_flight(&self) {
        self.in_flight_of("app").await;
    }

    /// Waits until an invocation of this component runs, by the memory that it holds.
    pub(crate) async fn in_flight_of(&self, name: &str) {
        let series = format!("mem_current_bytes{{component=\"{name}\"}}");
        eventually("a request is in flight", async || {
            let page = get(&self.metrics_url).await.1;
            (figure(&page, &series) > 0.0).then_some(())
        })
        .await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

/// The value of a series on the metrics page; 0 where it is not there yet.
pub(crate) fn figure(page: &str, series: &str) -> f64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// GETs a URL; (status, body).
pub(crate) async fn get(url: &str) -> (u16, String) {
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Waits until `check` gives a value.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        // A pause between looks, not a guess of how long something takes.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Load from some connections that counts every answer, until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

/// What a load saw.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) good: AtomicU64,
    pub(crate) bad: AtomicU64,
    /// The longest that a client waited for an answer.
    pub(crate) slowest_ms: AtomicU64,
    first_bad: std::sync::Mutex<Option<String>>,
}

impl Load {
    /// `connections` clients that GET `url` one request after the other; `good` judges each answer.
    pub(crate) fn start(url: String, connections: usize, good: fn(u16, &str) -> bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let clients = (0..connections).map(|_| {
            let (url, stop, counts) = (url.clone(), Arc::clone(&stop), Arc::clone(&counts));
            tokio::spawn(async move {
                // A client of its own: a connection of its own, kept alive.
                let client = reqwest::Client::builder()
                    .timeout(PATIENCE)
                    .build()
                    .unwrap();
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    let answer = async {
                        let response = client.get(&url).send().await?;
                        Ok::<_, reqwest::Error>((
                            response.status().as_u16(),
                            response.text().await?,
                        ))
                    };
                    let answer = answer.await;
                    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
                    counts.slowest_ms.fetch_max(took_ms, Relaxed);
                    match answer {
                        Ok((status, body)) if good(status, &body) => {
                            counts.good.fetch_add(1, Relaxed)
                        }
                        other => {
                            let mut first = counts.first_bad.lock().unwrap();
                            first.get_or_insert_with(|| format!("{other:?}"));
                            counts.bad.fetch_add(1, Relaxed)
                        }
                    };
                }
            })
        });
        let clients = clients.collect();
        Self {
            stop,
            counts,
            clients,
        }
    }

    /// Waits until this many more answers were good.
    pub(crate) async fn more(&self, answers: u64) {
        let target = self.counts.good.load(Relaxed) + answers;
        eventually("the load goes on", async || {
            (self.counts.good.load(Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// The longest that a client has waited for an answer so far.
    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_millis(self.counts.slowest_ms.load(Relaxed))
    }

    /// Stops, and returns (good, bad, the first bad answer).
    pub(crate) async fn stop(self) -> (u64, u64, Option<String>) {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let first_bad = self.counts.first_bad.lock().unwrap().clone();
        (
            self.counts.good.load(Relaxed),
            self.counts.bad.load(Relaxed),
            first_bad,
        )
    }
}

/// The first bytes that a raw connection answers.
pub(crate) fn raw(address: &str, bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    // A reset after the answer is no matter.
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Sends a head, waits for the first head that comes back, sends the body; (that head, the rest).
pub(crate) fn raw_after_head(address: &str, head: &[u8], body: &[u8]) -> (String, String) {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head).unwrap();
    let mut first = Vec::new();
    while !first.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        first.extend_from_slice(&byte);
    }
    stream.write_all(body).unwrap();
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest);
    (String::from_utf8(first).unwrap(), rest)
}

/// The mode bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The processor time that a process has used, to a hundredth of a second.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name, in brackets, may hold anything.
    let (_, figures) = stat.rsplit_once(") ").unwrap();
    let ticks = figures.split(' ').skip(11).take(2);
    f64::from(ticks.map(|one| one.parse::<u32>().unwrap()).sum::<u32>()) / 100.0
}
