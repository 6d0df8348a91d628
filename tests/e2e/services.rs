//! Services beside realm that stand elsewhere than usual, or fail: php over TCP, a server of HTTP on a Unix
//! socket, and what is taken out of the routes while it is ill, and not asked.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use realm_model::view::ComponentState;

use crate::support::{Agent, Load, Realm, ended, eventually, get, lasting_port, signal};
use crate::upstream::{Php, is, legacy, node};

#[tokio::test(flavor = "multi_thread")]
async fn php_answers_over_tcp() {
    let php = Php::start_at(Some(lasting_port()));
    let manifest = legacy(&php.component("legacy", "health = \"/ping\"\nkeep_connections = 2"));
    let (realm, agent) = node(&php.allow(), &manifest);
    is(&realm, "legacy", ComponentState::Healthy).await;
    let client = reqwest::Client::new();
    let post = client.post(agent.url("/index.php/more?q=1"));
    let answer = post.body(vec![b'x'; 3 << 20]).send().await.unwrap();
    let seen: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(seen["bytes"], 3 << 20);
    assert_eq!(seen["server"]["PATH_INFO"], "/more");
    assert_eq!(seen["server"]["REMOTE_ADDR"], "127.0.0.1");
    let large = get(&agent.url("/?do=large")).await;
    assert_eq!((large.0, large.1.len()), (200, 10 * 1024 * 1024));
    // Each of its four processes ends after fifty requests.
    let good = |status: u16, body: &str| (status, body) == (200, "version php\n");
    let load = Load::start(agent.url("/?do=php"), 4, good);
    load.more(400).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
}

/// An nginx of a test's own that answers on a Unix socket.
struct Nginx {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Nginx {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {place}/{kind};\n"));
        let config = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/log;\nevents {{}}\n\
             http {{\naccess_log off;\nclient_max_body_size 64m;\n{}server {{\nlisten unix:{place}/app.sock;\n\
             location / {{\nreturn 200 \"$request_method $request_uri $http_host $http_x_forwarded_for\\n\";\n}}\n\
             location /up {{\nproxy_pass http://unix:{place}/app.sock:/;\n}}\n}}\n}}\n",
            temporary.concat()
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        Self {
            folder,
            process: None,
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("app.sock")
    }

    async fn run(&mut self) {
        // nginx leaves it where it was killed, and does not take its place.
        let _ = std::fs::remove_file(self.socket());
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-e", "stderr", "-p"]).arg(self.folder.path());
        command.arg("-c").arg(self.folder.path().join("nginx.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(Stdio::null()).spawn().unwrap();
        self.process = Some(process);
        eventually("nginx listens", async || {
            std::os::unix::net::UnixStream::connect(self.socket()).ok()
        })
        .await;
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal(process.id(), "TERM");
            ended(&mut process);
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.end();
    }
}

/// The code of an answer that no service gave.
async fn code(agent: &Agent) -> (u16, Option<String>) {
    let answer = reqwest::get(agent.url("/page")).await.unwrap();
    let code = answer.headers().get("realm-error");
    let code = code.map(|code| code.to_str().unwrap().to_owned());
    (answer.status().as_u16(), code)
}

/// What is said of a component of which no replica is in the routes; one that is asked and not there is
/// `not-listening`.
async fn is_out(agent: &Agent) -> bool {
    code(agent).await == (503, Some("no-backend".to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_on_a_unix_socket_answers_and_is_missed_without_a_health_path() {
    let mut nginx = Nginx::new();
    nginx.run().await;
    let socket = nginx.socket();
    let allow = format!("[upstreams]\nallow = [\"unix:{}\"]\n", socket.display());
    let component = format!(
        "[components.legacy]\nupstream = \"http:unix:{}\"\nmax_request_bytes = 33_554_432\n",
        socket.display()
    );
    let (realm, agent) = node(&allow, &legacy(&component));
    is(&realm, "legacy", ComponentState::Healthy).await;
    let client = reqwest::Client::new();
    let asked = client
        .get(agent.url("/a/b?c=d"))
        .header("host", "shop.example");
    let answer = asked.send().await.unwrap().text().await.unwrap();
    assert_eq!(answer, "GET /a/b?c=d shop.example 127.0.0.1\n");
    let post = client.post(agent.url("/up")).body(vec![b'x'; 5 << 20]);
    let answer = post.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().starts_with("POST / "));
    let good = |status: u16, body: &str| status == 200 && body.starts_with("GET /x ");
    let load = Load::start(agent.url("/x"), 4, good);
    load.more(300).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
    // Nobody is asked for its health by a path: three connections that fail are enough.
    nginx.end();
    let _ = std::fs::remove_file(nginx.socket());
    assert_eq!(code(&agent).await, (503, Some("not-listening".to_owned())));
    is(&realm, "legacy", ComponentState::Backoff).await;
    eventually("it is out of the routes", async || {
        is_out(&agent).await.then_some(())
    })
    .await;
    nginx.run().await;
    is(&realm, "legacy", ComponentState::Healthy).await;
    eventually("it is asked again", async || {
        (get(&agent.url("/back")).await.0 == 200).then_some(())
    })
    .await;
}

/// What a service of a test's own heard, and what it says of its health.
#[derive(Default)]
struct Service {
    is_ill: AtomicBool,
    asked: AtomicU32,
    probed: AtomicU32,
}

impl Service {
    /// What it answers to `head`, in which the path stands.
    fn answer(&self, head: &[u8]) -> (u16, &'static str) {
        let is_probe = head.windows(6).any(|part| part == b"/probe");
        let is_ill = self.is_ill.load(Relaxed);
        match (is_probe, is_ill) {
            (true, true) => {
                self.probed.fetch_add(1, Relaxed);
                (500, "ill")
            }
            (true, false) => (200, "well"),
            // Whoever asks gets an answer, well or ill: so one that should not have been asked is seen.
            (false, _) => {
                self.asked.fetch_add(1, Relaxed);
                (200, "served")
            }
        }
    }

    /// Serves FastCGI, a connection after the other.
    fn fastcgi(self: &Arc<Self>, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let service = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut heard = Vec::new();
                // Its last record is the empty one of a body.
                while !heard.ends_with(&[1, 5, 0, 1, 0, 0, 0, 0]) {
                    let mut part = [0; 4096];
                    match stream.read(&mut part) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => heard.extend_from_slice(&part[..count]),
                    }
                }
                if heard.is_empty() {
                    continue;
                }
                let (status, body) = service.answer(&heard);
                let body = format!("Status: {status} x\r\nContent-Type: text/plain\r\n\r\n{body}");
                let length = u8::try_from(body.len()).unwrap();
                let said = [
                    &[1, 6, 0, 1, 0, length, 0, 0][..],
                    body.as_bytes(),
                    &[1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ];
                let _ = stream.write_all(&said.concat());
            }
        });
    }

    /// The same over HTTP.
    fn http(self: &Arc<Self>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"\r\n\r\n") {
                    let mut part = [0; 4096];
                    match stream.read(&mut part) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => heard.extend_from_slice(&part[..count]),
                    }
                }
                if heard.is_empty() {
                    continue;
                }
                let (status, body) = service.answer(&heard);
                let said = format!(
                    "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(said.as_bytes());
            }
        });
        port
    }
}

/// Taken out of the routes it is asked for its health, and for nothing else, until it is well.
async fn is_left_alone_while_it_is_ill(service: &Service, realm: &Realm, agent: &Agent) {
    is(realm, "legacy", ComponentState::Healthy).await;
    assert_eq!(get(&agent.url("/page")).await, (200, "served".to_owned()));
    service.is_ill.store(true, Relaxed);
    eventually("it is out of the routes", async || {
        is_out(agent).await.then_some(())
    })
    .await;
    let asked = service.asked.load(Relaxed);
    let probed = service.probed.load(Relaxed);
    let mut refused = 0;
    // For as long as it takes to look at it a few times more.
    eventually("it is looked at", async || {
        assert!(is_out(agent).await);
        refused += 1;
        (refused >= 50 && service.probed.load(Relaxed) > probed).then_some(())
    })
    .await;
    assert_eq!(service.asked.load(Relaxed), asked, "of {refused} requests");
    service.is_ill.store(false, Relaxed);
    is(realm, "legacy", ComponentState::Healthy).await;
    eventually("it is asked again", async || {
        (get(&agent.url("/page")).await == (200, "served".to_owned())).then_some(())
    })
    .await;
    assert!(service.asked.load(Relaxed) > asked);
}

const HEALTH: &str =
    "health = { path = \"/probe\", interval_ms = 500, timeout_ms = 500, failures = 2 }";

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_ill_is_asked_for_its_health_alone() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("app.sock");
    let service = Arc::<Service>::default();
    service.fastcgi(&socket);
    let at = socket.display();
    let allow = format!("[upstreams]\nallow = [\"unix:{at}\"]\n");
    let component = format!(
        "[components.legacy]\nupstream = \"fastcgi:unix:{at}\"\nroot = \"/srv\"\nindex = \"/index.php\"\n{HEALTH}\n"
    );
    let (realm, agent) = node(&allow, &legacy(&component));
    is_left_alone_while_it_is_ill(&service, &realm, &agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_ill_is_asked_for_its_health_alone() {
    let service = Arc::<Service>::default();
    let port = service.http();
    let allow = format!("[upstreams]\nallow = [\"127.0.0.1:{port}\"]\n");
    let component =
        format!("[components.legacy]\nupstream = \"http://127.0.0.1:{port}\"\n{HEALTH}\n");
    let (realm, agent) = node(&allow, &legacy(&component));
    is_left_alone_while_it_is_ill(&service, &realm, &agent).await;
}
