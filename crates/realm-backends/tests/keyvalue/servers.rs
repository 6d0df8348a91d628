//! Real servers, each on a port and in a folder of its own, gone with the test.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use realm_model::binding;

/// A server that runs, can be killed, and comes back with what it kept.
pub(crate) struct Server {
    program: String,
    arguments: Vec<String>,
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Server {
    /// Starts one. `arguments` are made of its port and its folder.
    pub(crate) fn start(
        program: &str,
        package: &str,
        arguments: impl Fn(u16, &Path) -> Vec<String>,
    ) -> Self {
        let found = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        assert!(
            found.is_ok(),
            "`{program}` is missing: on Debian: sudo apt-get install {package}"
        );
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Self {
            program: program.to_owned(),
            arguments: arguments(port, folder.path()),
            port,
            folder,
            child: None,
        };
        server.run();
        server
    }

    /// Starts it again, where it was.
    pub(crate) fn run(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        // It ends with this process, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", &self.program])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(20),
                "`{}` does not start: {}",
                self.program,
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops or continues it, as a server that hangs.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        // Each of its threads takes a while to hear of it.
        while signal == "-STOP" && !all_stopped(&id) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As a manifest names it.
    pub(crate) fn at(&self, tls: bool) -> binding::Server {
        binding::Server {
            host: if tls { "localhost" } else { "127.0.0.1" }.to_owned(),
            port: self.port,
            user: None,
            tls,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn all_stopped(id: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    threads.flatten().all(|thread| {
        let text = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // Behind the name, which is in parentheses.
        text.rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

/// Files of a server's TLS, for `localhost`.
pub(crate) struct Tls {
    _folder: tempfile::TempDir,
    pub(crate) authority: PathBuf,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Tls {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut of_authority = rcgen::CertificateParams::new([]).unwrap();
        of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = of_authority.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(of_authority, key);
        let of_server = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()])
            .unwrap()
            .signed_by(&of_server, &issuer)
            .unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let authority = write("authority.pem", authority.pem());
        let certificate = write("certificate.pem", certificate.pem());
        let key = write("key.pem", of_server.serialize_pem());
        Self {
            authority,
            certificate: certificate.display().to_string(),
            key: key.display().to_string(),
            _folder: folder,
        }
    }
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A Redis that keeps everything it acknowledged.
pub(crate) fn redis(more: &[String]) -> Server {
    redis_of("redis-server", more)
}

/// The same of a Valkey, which scripts/setup-test.sh puts beside what is built.
pub(crate) fn valkey() -> Server {
    redis_of(&beside("valkey/valkey-server"), &[])
}

fn redis_of(program: &str, more: &[String]) -> Server {
    Server::start(program, "redis-server", |port, folder| {
        let mut all = words(&format!(
            "--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync always \
             --notify-keyspace-events Kg$xe --dir {}",
            folder.display()
        ));
        all.extend_from_slice(more);
        all
    })
}

/// The same, over TLS alone.
pub(crate) fn redis_tls(tls: &Tls) -> Server {
    Server::start("redis-server", "redis-server", |port, folder| {
        words(&format!(
            "--port 0 --tls-port {port} --bind 127.0.0.1 --tls-auth-clients no --dir {} \
             --tls-cert-file {} --tls-key-file {}",
            folder.display(),
            tls.certificate,
            tls.key
        ))
    })
}

/// A NATS with JetStream that keeps everything it acknowledged, over TLS where files are given.
pub(crate) fn nats(more: &str, tls: Option<&Tls>) -> Server {
    nats_of("nats-server", more, tls)
}

/// The same in a version that can end single keys (2.11 or later), where Debian has an older one:
/// scripts/setup-test.sh puts it beside what is built.
pub(crate) fn newer_nats() -> Server {
    nats_of(&beside("nats/nats-server"), "", None)
}

/// A program that is no package of Debian's.
fn beside(program: &str) -> String {
    let own = std::env::current_exe().unwrap();
    // target/debug/deps/TEST
    let path = own.ancestors().nth(3).unwrap().join(program);
    assert!(
        path.exists(),
        "`{program}` is missing: scripts/setup-test.sh brings it"
    );
    path.display().to_string()
}

fn nats_of(program: &str, more: &str, tls: Option<&Tls>) -> Server {
    let more = words(more);
    Server::start(program, "nats-server", |port, folder| {
        // The configuration alone says when the disk is waited for; older servers do not know it.
        let mut all = words(&format!(
            "-js -a 127.0.0.1 -p {port} -sd {}/js",
            folder.display()
        ));
        all.extend(more.iter().cloned());
        if let Some(tls) = tls {
            all.push("--tls".to_owned());
            all.push(format!("--tlscert={}", tls.certificate));
            all.push(format!("--tlskey={}", tls.key));
        }
        all
    })
}

/// Major and minor number of the server that is installed.
pub(crate) fn nats_version() -> (u32, u32) {
    let output = Command::new("nats-server").arg("--version").output();
    let output = output
        .expect("on Debian: sudo apt-get install nats-server")
        .stdout;
    let text = String::from_utf8(output).unwrap();
    let numbers = text.rsplit_once('v').expect("`nats-server: v2.9.10`").1;
    let mut numbers = numbers.trim().split('.').map(|part| part.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
