//! A PostgreSQL of a test: its own folder, a free port of this machine, gone when it is dropped.
//!
//! Shared by the tests of the backends and the end-to-end tests.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Who may do everything on it.
pub(crate) const USER: &str = "realm";
/// Its password: with what a URL would have to escape.
pub(crate) const PASSWORD: &str = "s3cret:p@ss/word";

/// Where the programs are in the wheel of `pgserver`.
const BUNDLED: &str = "pgserver/pginstall/bin";

/// A server that runs.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    programs: PathBuf,
    _own_programs: Option<tempfile::TempDir>,
    child: Option<Child>,
    /// Whether it waits for the disk.
    is_durable: bool,
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
}

impl Server {
    /// Starts one that knows its users by `auth`, `scram-sha-256` or `trust`; with `tls` it is a certificate for `localhost` and its key, in PEM.
    pub(crate) fn start(tls: Option<(&str, &str)>, auth: &str) -> Self {
        Self::start_from(tls, auth, folder_of_programs(), None, false)
    }

    /// One that waits for the disk before it acknowledges, and lets everybody in.
    pub(crate) fn durable() -> Self {
        Self::start_from(None, "trust", folder_of_programs(), None, true)
    }

    fn start_from(
        tls: Option<(&str, &str)>,
        auth: &str,
        programs: PathBuf,
        own_programs: Option<tempfile::TempDir>,
        is_durable: bool,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        own(folder.path());
        let data = folder.path().join("data");
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        own(&password);
        let made = command(&programs, "initdb")
            .args([
                &format!("--auth={auth}"),
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .args(["--username", USER, "--pgdata"])
            .arg(&data)
            .arg("--pwfile")
            .arg(&password)
            .output()
            .unwrap();
        succeeded("initdb", &made);
        if let Some((certificate, key)) = tls {
            for (name, pem) in [("server.crt", certificate), ("server.key", key)] {
                let path = data.join(name);
                std::fs::write(&path, pem).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
                own(&path);
            }
            let mut settings = std::fs::OpenOptions::new()
                .append(true)
                .open(data.join("postgresql.conf"))
                .unwrap();
            settings.write_all(b"ssl = on\n").unwrap();
        }
        let mut server = Self {
            folder,
            programs,
            _own_programs: own_programs,
            child: None,
            is_durable,
            port: free_port(),
        };
        server.up();
        server
    }

    /// One that has `pgvector`.
    pub(crate) fn with_vectors() -> Self {
        let (installed, bundled) = (folder_of_programs(), bundled());
        if has_vectors(&installed) {
            return Self::start(None, "trust");
        }
        let missing = "pgvector is missing: scripts/setup-test.sh brings it, or on Debian \
            `sudo apt-get install postgresql-NN-pgvector`";
        assert!(bundled.join(BUNDLED).join("postgres").exists(), "{missing}");
        // Whom the server runs for may not see the folder of who builds.
        let own = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .arg("-r")
            .arg(&bundled)
            .arg(own.path().join("own"))
            .status();
        assert!(copied.unwrap().success());
        std::fs::set_permissions(own.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self::start_from(
            None,
            "trust",
            own.path().join("own").join(BUNDLED),
            Some(own),
            false,
        )
    }

    /// Starts it again, at the same port.
    pub(crate) fn up(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = command(&self.programs, "postgres")
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string()])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args(["-c", "max_connections=60"])
            .args([
                "-c",
                if self.is_durable {
                    "fsync=on"
                } else {
                    "fsync=off"
                },
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        while TcpStream::connect(address).is_err() || !self.is_ready() {
            let child = self.child.as_mut().unwrap();
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < Duration::from_secs(30),
                "{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once, with all connections: as after a loss of power.
    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its own children end when they see that it did; SIGQUIT tells them.
            _ = Command::new("kill")
                .args(["-QUIT", &child.id().to_string()])
                .status();
            _ = child.wait();
        }
    }

    /// Kills all of its processes with SIGKILL, as the kernel does that runs out of memory: none of them
    /// writes a last word, nor closes what it has open.
    pub(crate) fn kill_9(&mut self) {
        let mut child = self.child.take().unwrap();
        let mut all = children(child.id());
        child.kill().unwrap();
        // One that was made meanwhile ends by itself; none is left when it is started again.
        all.extend(children(child.id()));
        for id in &all {
            _ = Command::new("kill").args(["-9", id]).status();
        }
        child.wait().unwrap();
        while all.iter().any(|id| is_alive(id)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops all of its processes, or lets them go on: the kernel keeps its connections meanwhile.
    pub(crate) fn signal(&self, signal: &str) {
        let own = self.child.as_ref().unwrap().id();
        // First the one that makes others.
        let mut all = vec![own.to_string()];
        let sent = |id: &String| Command::new("kill").args([signal, id]).status().unwrap();
        assert!(sent(&own.to_string()).success());
        all.extend(children(own));
        for id in &all[1..] {
            // It may have ended by itself.
            sent(id);
        }
        let goes_on = |id: &String| {
            let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // Behind the name, which is in parentheses.
            text.rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with(['T', 'Z']))
        };
        while signal == "-STOP" && all.iter().any(goes_on) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_ready(&self) -> bool {
        self.log().contains("ready to accept connections")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs SQL as who may do everything.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let output = command(&self.programs, "psql")
            .env("PGPASSWORD", PASSWORD)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER])
            .args(["-d", database, "-v", "ON_ERROR_STOP=1", "-qAtc", sql])
            .output()
            .unwrap();
        succeeded("psql", &output);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}

/// The processes that this one made.
fn children(id: u32) -> Vec<String> {
    let path = format!("/proc/{id}/task/{id}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// One that has ended and that nobody has asked for is none.
fn is_alive(id: &str) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // Behind the name, which is in parentheses.
    text.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn succeeded(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
}

/// A program of PostgreSQL, as somebody whom it runs for: it refuses root. It ends with this process.
fn command(programs: &Path, name: &str) -> Command {
    let program = programs.join(name);
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "QUIT", "--"])
        .arg(program)
        .current_dir("/");
    if let Some((user, group)) = somebody() {
        command.uid(user).gid(group);
    }
    command
}

/// Debian has them in a folder for each version.
fn folder_of_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders: Vec<_> = versions.map(|entry| entry.path().join("bin")).collect();
    folders.retain(|folder| folder.join("initdb").exists());
    folders.sort();
    let missing = "PostgreSQL is missing: on Debian `sudo apt-get install postgresql`";
    folders.pop().unwrap_or_else(|| panic!("{missing}"))
}

/// Where scripts/setup-test.sh puts a PostgreSQL with `pgvector`, where Debian has none: beside what is
/// built.
fn bundled() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // target/debug/deps/TEST
    own.ancestors().nth(3).unwrap().join("pgvector")
}

/// Whether Debian's `postgresql-NN-pgvector` is there.
fn has_vectors(programs: &Path) -> bool {
    let version = programs
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default();
    let extensions = Path::new("/usr/share/postgresql")
        .join(version)
        .join("extension");
    extensions.join("vector.control").exists()
}

/// Gives a file to whom the server runs for.
fn own(path: &Path) {
    if let Some((user, group)) = somebody() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}

/// Where this is root: `postgres`, whom the package brings.
fn somebody() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .unwrap();
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
