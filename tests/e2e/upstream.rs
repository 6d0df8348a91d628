//! Realm in front of what a user already runs: a real php-fpm, and a real HTTP server. What they hear and
//! answer, what happens when they go, and how an app moves away from them piece by piece.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use realm_model::view::ComponentState;
use realm_test_guests as guests;
use reqwest::{Client, Method, redirect};
use tempfile::TempDir;

use crate::realms::Realms;
use crate::support::{Load, PATIENCE, Realm, eventually, get, raw, signal};

/// Tells what it heard, does what it is asked.
const INDEX: &str = r#"<?php
$do = $_GET['do'] ?? '';
if ($do === '304') { http_response_code(304); exit; }
if ($do === '404') { http_response_code(404); echo "nothing here\n"; exit; }
if ($do === 'redirect') { header('Location: /there?x=1'); exit; }
if ($do === 'log') { error_log("one \x1b[31mred line"); echo "logged\n"; exit; }
if ($do === 'die') { exec('kill -9 ' . getmypid()); sleep(60); }
if ($do === 'sleep') { sleep(60); }
if ($do === 'cookies') { setcookie('a', '1'); setcookie('b', '2'); exit; }
if ($do === 'stream') {
  header('Content-Type: text/plain');
  header('X-Accel-Buffering: no');
  while (ob_get_level() > 0) { ob_end_flush(); }
  echo "first\n"; flush();
  while (!file_exists(__DIR__ . '/go')) { usleep(10000); clearstatcache(); }
  echo "last\n"; exit;
}
if ($do === 'php') { header('Content-Type: text/plain'); echo "version php\n"; exit; }
if ($do === 'large') { $line = str_repeat('x', 1024); for ($i = 0; $i < 10240; $i++) { echo $line; } exit; }
header('Content-Type: application/json');
$body = file_get_contents('php://input');
echo json_encode(['server' => $_SERVER, 'bytes' => strlen($body), 'crc' => crc32($body), 'post' => $_POST]);
"#;

/// A php-fpm of a test's own.
pub(crate) struct Php {
    folder: TempDir,
    /// `127.0.0.1` and the port, where it is no socket of its folder.
    port: Option<String>,
    master: Option<Child>,
}

/// Wherever the system has it: its name has a version in it.
fn php_fpm() -> PathBuf {
    let names = std::fs::read_dir("/usr/sbin").unwrap();
    let mut names: Vec<PathBuf> = names.map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.strip_prefix("php-fpm")
            .is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
    });
    names
        .pop()
        .expect("php-fpm: scripts/setup-test.sh brings it")
}

impl Php {
    fn start() -> Self {
        Self::start_at(None)
    }

    /// On a port, or a socket of its own.
    pub(crate) fn start_at(port: Option<u16>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.php"), INDEX).unwrap();
        let port = port.map(|port| format!("127.0.0.1:{port}"));
        let socket = folder.path().join("php.sock").display().to_string();
        let listen = port.as_ref().unwrap_or(&socket);
        let place = folder.path().display();
        let owner = match rustix::process::geteuid().is_root() {
            true => "user = root\n",
            false => "",
        };
        let config = format!(
            "[global]\nerror_log = {place}/fpm.log\ndaemonize = no\n[www]\n{owner}\
             listen = {listen}\npm = static\npm.max_children = 4\npm.max_requests = 50\n\
             ping.path = /ping\nphp_admin_value[post_max_size] = 64M\nphp_admin_flag[log_errors] = on\n\
             php_admin_value[zlib.output_compression] = 0\n"
        );
        std::fs::write(folder.path().join("fpm.conf"), config).unwrap();
        let mut php = Self {
            folder,
            port,
            master: None,
        };
        php.run();
        php
    }

    /// Starts it, and waits until it listens.
    fn run(&mut self) {
        let mut command = Command::new(php_fpm());
        command
            .arg("--fpm-config")
            .arg(self.folder.path().join("fpm.conf"));
        command.args(["--nodaemonize", "--allow-to-run-as-root"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.master = Some(command.spawn().unwrap());
        let began = std::time::Instant::now();
        let is_there = || match &self.port {
            Some(port) => std::net::TcpStream::connect(port).is_ok(),
            None => std::os::unix::net::UnixStream::connect(self.socket()).is_ok(),
        };
        while !is_there() {
            assert!(began.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it with whatever it does.
    fn end(&mut self) {
        if let Some(mut master) = self.master.take() {
            signal(master.id(), "TERM");
            let _ = master.wait();
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("php.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("fpm.log")).unwrap_or_default()
    }

    pub(crate) fn allow(&self) -> String {
        let rule = match &self.port {
            Some(port) => port.clone(),
            None => format!("unix:{}", self.socket().display()),
        };
        format!("[upstreams]\nallow = [\"{rule}\"]\n")
    }

    /// A component of it, with more lines.
    pub(crate) fn component(&self, name: &str, more: &str) -> String {
        let at = match &self.port {
            Some(port) => format!("//{port}"),
            None => format!("unix:{}", self.socket().display()),
        };
        format!(
            "[components.\"{name}\"]\nupstream = \"fastcgi:{at}\"\nroot = \"{}\"\n{more}\n",
            self.folder.path().display()
        )
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        self.end();
    }
}

/// A node that allows an upstream and has this manifest in force, with `legacy` healthy.
pub(crate) fn node(allow: &str, manifest: &str) -> (Realm, crate::support::Agent) {
    let realm = Realm::new();
    let before = realm.read(".realm/node.toml");
    realm.write(".realm/node.toml", &format!("{before}\n{allow}"));
    realm.write("realm.toml", manifest);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    (realm, agent)
}

pub(crate) fn legacy(component: &str) -> String {
    format!("{component}\n[routing]\n\"*\" = [{{ path = \"/...\", component = \"legacy\" }}]\n")
}

pub(crate) async fn is(realm: &Realm, name: &str, state: ComponentState) {
    let what = format!("{name} is {state:?}");
    eventually(&what, async || {
        (realm.component(name).await.state == state).then_some(())
    })
    .await;
}

fn client() -> Client {
    let client = Client::builder().redirect(redirect::Policy::none());
    client.build().unwrap()
}

async fn json(request: reqwest::RequestBuilder) -> serde_json::Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_php_application_answers_behind_realm() {
    let php = Php::start();
    let more = "max_request_bytes = 33_554_432\nwall_timeout_ms = 5_000\nhealth = \"/ping\"";
    let manifest = legacy(&php.component("legacy", more));
    let (realm, agent) = node(&php.allow(), &manifest);
    is(&realm, "legacy", ComponentState::Healthy).await;
    let (client, url) = (client(), |path: &str| agent.url(path));

    // What PHP takes for the request is what was asked.
    let seen = json(
        client
            .get(url("/index.php/more%20of/it?q=%C3%A4"))
            .header("x-mine", "1")
            .header("proxy", "http://evil.example")
            .header("x_mine", "2")
            .header("x-forwarded-for", "6.6.6.6"),
    )
    .await;
    let server = &seen["server"];
    let root = php.folder.path().to_str().unwrap();
    for (name, expected) in [
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", "/index.php/more%20of/it?q=%C3%A4"),
        ("QUERY_STRING", "q=%C3%A4"),
        ("SCRIPT_NAME", "/index.php"),
        ("PATH_INFO", "/more of/it"),
        ("DOCUMENT_ROOT", root),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("HTTP_X_MINE", "1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
    ] {
        assert_eq!(server[name], expected, "{name}: {server}");
    }
    assert!(server.get("HTTP_PROXY").is_none(), "{server}");
    let front = json(client.get(url("/some/page"))).await;
    assert_eq!(front["server"]["SCRIPT_NAME"], "/index.php");

    // Bodies, with a length and without.
    for length in [0, 64 * 1024, 10 * 1024 * 1024] {
        let body: Vec<u8> = (0..length).map(|at| (at / 7 % 251) as u8).collect();
        let crc = u64::from(crc32(&body));
        let post = client
            .post(url("/index.php"))
            .header("content-type", "application/x-test");
        let seen = json(post.body(body)).await;
        assert_eq!(
            (seen["bytes"].as_u64(), seen["crc"].as_u64()),
            (Some(length), Some(crc))
        );
    }
    let form = client.post(url("/index.php")).body("a=b+c");
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let form = json(form).await;
    assert_eq!(form["post"]["a"], "b c");
    for (chunks, expected) in [(4, "HTTP/1.1 200"), (40, "HTTP/1.1 411")] {
        let chunk = format!("c350\r\n{}\r\n", "x".repeat(50_000)).repeat(chunks);
        let asked = format!(
            "POST /index.php HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{chunk}0\r\n\r\n"
        );
        let answer = raw(&agent.url, asked.as_bytes());
        assert!(answer.starts_with(expected), "{chunks}: {answer}");
        assert!(
            chunks > 4 || answer.contains("\"bytes\":200000"),
            "{answer}"
        );
    }

    // Answers of every kind.
    let head = client
        .request(Method::HEAD, url("/?do=large"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (head.status().as_u16(), head.bytes().await.unwrap().len()),
        (200, 0)
    );
    let large = client.get(url("/?do=large")).send().await.unwrap();
    assert_eq!(large.bytes().await.unwrap().len(), 10 * 1024 * 1024);
    for (what, status) in [("304", 304), ("404", 404), ("redirect", 302)] {
        let answer = client
            .get(url(&format!("/?do={what}")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status);
        if what == "redirect" {
            assert_eq!(answer.headers()["location"], "/there?x=1");
        }
    }
    let cookies = client.get(url("/?do=cookies")).send().await.unwrap();
    assert_eq!(cookies.headers().get_all("set-cookie").iter().count(), 2);
    let mut stream = client.get(url("/?do=stream")).send().await.unwrap();
    assert_eq!(stream.chunk().await.unwrap().unwrap(), "first\n");
    std::fs::write(php.folder.path().join("go"), "").unwrap();
    assert_eq!(stream.text().await.unwrap(), "last\n");

    // What it says for the log is in the component's.
    assert_eq!(get(&url("/?do=log")).await.0, 200);
    eventually("the line is in the log", async || {
        let said = realm.run(&["logs", "legacy"]).ok().stdout;
        (said.contains("red line") && !said.contains('\x1b')).then_some(())
    })
    .await;

    // What goes wrong there is told, and is that request's own.
    let answer = client.get(url("/x%0a.php")).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(
        get(&url("/nothing.php")).await,
        (404, "File not found.\n".to_owned())
    );
    let died = client.post(url("/?do=die")).body("x").send().await.unwrap();
    assert_eq!(died.status(), 502);
    assert_eq!(died.headers()["realm-error"], "no-response");
    let late = client
        .post(url("/?do=sleep"))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(late.status(), 504);
    assert_eq!(late.headers()["realm-error"], "wall-timeout");
    assert_eq!(
        get(&url("/?do=php")).await,
        (200, "version php\n".to_owned())
    );

    // It has no bytes to push, and none to show.
    let view = realm.component("legacy").await;
    assert_eq!(view.digest, None);
    realm.guest(guests::VERSION_A, "app.wasm");
    realm
        .run(&["push", "legacy", "app.wasm"])
        .fails(1, "no-bytes");
}

/// As PHP counts it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_php_loses_no_request_that_may_be_repeated() {
    for keep in [0, 2] {
        let mut php = Php::start();
        let more = format!("keep_connections = {keep}");
        let manifest = legacy(&php.component("legacy", &more));
        let (realm, agent) = node(&php.allow(), &manifest);
        is(&realm, "legacy", ComponentState::Healthy).await;
        // Each of its processes ends after fifty requests, too.
        let good = |status: u16, body: &str| (status, body) == (200, "version php\n");
        let load = Load::start(agent.url("/?do=php"), 4, good);
        load.more(500).await;
        for _ in 0..3 {
            php.end();
            tokio::time::sleep(Duration::from_millis(200)).await;
            php.run();
            load.more(200).await;
        }
        let slowest = load.slowest();
        let (good, bad, first_bad) = load.stop().await;
        assert_eq!(bad, 0, "of {good}, {keep} kept: {first_bad:?}");
        assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_gone_takes_no_requests_until_it_is_back() {
    let mut php = Php::start();
    let more = "health = { path = \"/ping\", interval_ms = 200, timeout_ms = 200, failures = 2 }";
    let manifest = legacy(&php.component("legacy", more));
    let (realm, agent) = node(&php.allow(), &manifest);
    is(&realm, "legacy", ComponentState::Healthy).await;
    php.end();
    is(&realm, "legacy", ComponentState::Backoff).await;
    let (status, _) = get(&agent.url("/?do=php")).await;
    assert_eq!(status, 503);
    let why = realm.run(&["explain", "legacy"]).stdout;
    assert!(
        why.contains("upstream-unreachable") || why.contains("unhealthy"),
        "{why}"
    );
    php.run();
    is(&realm, "legacy", ComponentState::Healthy).await;
    assert_eq!(get(&agent.url("/?do=php")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_moves_from_php_to_wasm_piece_by_piece() {
    let php = Php::start();
    let manifest = format!(
        "{}[components.\"app@wasm\"]\nsource = \"file:app.wasm\"\n[routing]\n\"*\" = [{{ path = \"/...\", component = \"app\", weights = {{ php = 100, wasm = 0 }}, min_ready = \"1s\" }}]\n",
        php.component("app@php", "health = \"/ping\"")
    );
    let realm = Realm::new();
    let before = realm.read(".realm/node.toml");
    realm.write(".realm/node.toml", &format!("{before}\n{}", php.allow()));
    realm.guest(guests::VERSION_A, "app.wasm");
    realm.write("realm.toml", &manifest);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    is(&realm, "app@php", ComponentState::Healthy).await;
    is(&realm, "app@wasm", ComponentState::Healthy).await;
    let url = agent.url("/?do=php");
    let either = |status: u16, body: &str| {
        status == 200 && (body == "version php\n" || body == "version a\n")
    };
    let load = Load::start(url.clone(), 4, either);
    load.more(100).await;
    let of_wasm = async || {
        let mut seen = 0;
        for _ in 0..100 {
            seen += usize::from(get(&url).await.1 == "version a\n");
        }
        seen
    };
    assert_eq!(of_wasm().await, 0);
    realm.run(&["promote", "app@wasm", "--percent", "50"]).ok();
    eventually("half of the requests", async || {
        (30..=70).contains(&of_wasm().await).then_some(())
    })
    .await;
    realm.run(&["promote", "app@wasm"]).ok();
    eventually("all of the requests", async || {
        (of_wasm().await == 100).then_some(())
    })
    .await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_reaches_it_through_the_one_that_may() {
    let php = Php::start();
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    realms.nodes[1].take().terminate();
    realms.nodes[1].node_toml(&php.allow());
    realms.nodes[1].start();
    realms.all_meet().await;
    let there = |node: &str| {
        format!(
            "{}[routing]\n{node} = [{{ path = \"/...\", component = \"legacy\" }}]\n",
            php.component("legacy", "health = \"/ping\"")
        )
    };
    realms.apply(&there("beta"));
    eventually("alpha asks beta", async || {
        let answer = realms.first().get("/?do=php").await;
        (answer == (200, "version php\n".to_owned())).then_some(())
    })
    .await;
    let body = vec![b'x'; 3 << 20];
    let url = realms.first().agent().url("/index.php");
    let seen = json(client().post(url).body(body)).await;
    assert_eq!(seen["bytes"], 3 << 20);
    assert_eq!(seen["server"]["REMOTE_ADDR"], "127.0.0.1");

    // No manifest widens what a machine's operator allows.
    realms.first().realm.write("realm.toml", &there("alpha"));
    realms.first().run(&["apply", "--yes", "--no-wait"]);
    eventually("alpha does not run it", async || {
        let view = realms.first().realm.component("legacy").await;
        let waits = view.waiting_on.iter();
        let mut words = waits.map(|one| one.message.as_str());
        words
            .any(|message| message.contains("upstream-denied"))
            .then_some(())
    })
    .await;
    let why = realms.first().run(&["explain", "legacy"]).stdout;
    assert!(why.contains("no rule of `[upstreams] allow`"), "{why}");
    assert!(why.contains("start the agent again"), "{why}");
}

/// PHP's own web server: one request after the other.
struct Origin {
    server: Child,
    address: String,
    _folder: TempDir,
}

impl Origin {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.php"), INDEX).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut command = Command::new("php");
        command
            .args(["-d", "post_max_size=64M", "-S", &address, "-t"])
            .arg(folder.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = command.spawn().unwrap();
        let began = std::time::Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(began.elapsed() < PATIENCE, "the server listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self {
            server,
            address,
            _folder: folder,
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_server_answers_behind_realm() {
    let origin = Origin::start();
    let named = origin.address.replace("127.0.0.1", "localhost");
    let allow = format!("[upstreams]\nallow = [\"{}\"]\n", origin.address);
    let component = format!(
        "[components.legacy]\nupstream = \"http://{named}\"\nmax_request_bytes = 33_554_432\n\
         max_response_bytes = 1_000_000\n"
    );
    let (realm, agent) = node(&allow, &legacy(&component));
    is(&realm, "legacy", ComponentState::Healthy).await;
    let (client, url) = (client(), |path: &str| agent.url(path));
    let seen = json(client.get(url("/a/b?c=d")).header("host", "shop.example")).await;
    assert_eq!(seen["server"]["REQUEST_URI"], "/a/b?c=d");
    assert_eq!(seen["server"]["HTTP_HOST"], "shop.example");
    assert_eq!(seen["server"]["HTTP_X_FORWARDED_FOR"], "127.0.0.1");
    for length in [0u64, 64 * 1024, 10 * 1024 * 1024] {
        let body = vec![b'x'; usize::try_from(length).unwrap()];
        let post = client
            .post(url("/"))
            .header("content-type", "application/x-test");
        assert_eq!(json(post.body(body)).await["bytes"], length);
    }
    for (what, status) in [("304", 304), ("404", 404), ("redirect", 302)] {
        let answer = client
            .get(url(&format!("/?do={what}")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status);
    }
    let head = client
        .request(Method::HEAD, url("/?do=php"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (head.status().as_u16(), head.bytes().await.unwrap().len()),
        (200, 0)
    );
    // Ten MiB, and no word of that before.
    let large = async { client.get(url("/?do=large")).send().await?.bytes().await };
    assert!(large.await.is_err());
    let good = |status: u16, body: &str| (status, body) == (200, "version php\n");
    let load = Load::start(url("/?do=php"), 4, good);
    load.more(300).await;
    let (good, bad, first_bad) = load.stop().await;
    assert_eq!(bad, 0, "of {good}: {first_bad:?}");
}
