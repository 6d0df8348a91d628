//! NATS: a real server with JetStream, and what holds where it goes, comes back or refuses.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use realm_backends::messaging::{Nats, Room};
use realm_backends::{Access, Watch};
use realm_model::cloud::{CloudError, Messaging, limits};
use tempfile::TempDir;

use crate::support::{Bed, SMALL, next, soon, subscription, take, text, words};

const MISSING: &str = "nats-server is missing: apt-get install nats-server";

/// A server on the loopback, which ends with this.
pub(crate) struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
    program: PathBuf,
    more: Vec<String>,
}

impl Server {
    pub(crate) fn start(more: &[&str]) -> Self {
        Self::of("nats-server".into(), more)
    }

    /// A later version than Debian's, which scripts/setup-test.sh puts beside what is built.
    fn newer() -> Self {
        let own = std::env::current_exe().unwrap();
        // target/debug/deps/TEST
        let program = own.ancestors().nth(3).unwrap().join("nats/nats-server");
        assert!(
            program.exists(),
            "a newer `nats-server` is missing: scripts/setup-test.sh brings it"
        );
        Self::of(program, &[])
    }

    fn of(program: PathBuf, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let more: Vec<String> = more.iter().map(|one| (*one).to_owned()).collect();
        let child = spawn(&program, port, folder.path(), &more);
        Self {
            child,
            port,
            folder,
            program,
            more,
        }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As if the machine had lost its power.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.program, self.port, self.folder.path(), &self.more);
    }

    /// Stops it, or lets it go on: one that hangs has its connections open.
    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.unwrap().success());
        // Each of its threads takes a while to hear of it.
        let goes_on = |thread: fs::DirEntry| {
            let text = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // Behind the name, which is in parentheses.
            text.rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with('T'))
        };
        let threads = || fs::read_dir(format!("/proc/{id}/task")).unwrap().flatten();
        while signal == "-STOP" && threads().any(goes_on) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::zombie_processes,
    reason = "a server that does not come up ends the test, and with that itself"
)]
fn spawn(program: &Path, port: u16, folder: &Path, more: &[String]) -> Child {
    // Dies with the test, however that ends.
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(["-js", "-a", "127.0.0.1"])
        .args(["-p", &port.to_string(), "-sd"])
        .arg(folder.join("store"))
        .args(more)
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .expect("setpriv is there: apt-get install util-linux");
    // Its log says when it listens. A try to connect before that could be one to itself, and take the port.
    let began = Instant::now();
    loop {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        if log.contains("Server is ready") {
            return child;
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{MISSING}; or: {log}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn access(prefix: &str) -> Access {
    Access {
        prefix: prefix.to_owned(),
        ..Access::default()
    }
}

fn client(host: &str, access: &Access, room: Room, watch: Arc<dyn Watch>) -> Arc<dyn Messaging> {
    let is_tls = access.authorities.is_some();
    let on_death = Arc::new(|_: &_| {});
    Arc::new(Nats::new(host, is_tls, access, room, watch, on_death, false).unwrap())
}

#[expect(clippy::unused_async, reason = "every bed is awaited")]
pub(crate) async fn bed() -> Bed {
    bed_on(Server::start(&[]))
}

#[expect(clippy::unused_async, reason = "every bed is awaited")]
pub(crate) async fn newer_bed() -> Bed {
    bed_on(Server::newer())
}

fn bed_on(server: Server) -> Bed {
    let of = |prefix, room| {
        client(
            &server.host(),
            &access(prefix),
            room,
            Arc::<Heard>::default(),
        )
    };
    Bed {
        messaging: of("shop.eu", Room::default()),
        small: of("small", SMALL),
        _keep: Box::new(server),
    }
}

/// What an operator is told.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Watch for Heard {
    fn down(&self, why: &str) {
        self.0.lock().unwrap().push(why.to_owned());
    }

    fn up(&self) {
        self.0.lock().unwrap().push("up".to_owned());
    }
}

impl Heard {
    fn all(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_unavailable_in_time_and_used_once_it_is() {
    let mut server = Server::start(&[]);
    server.kill();
    let heard = Arc::new(Heard::default());
    let on = client(
        &server.host(),
        &access("shop"),
        Room::default(),
        heard.clone(),
    );
    for _ in 0..3 {
        let began = Instant::now();
        let sent = soon(on.send("orders", text("a"), None)).await;
        assert_eq!(sent, Err(CloudError::Unavailable));
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
    assert!(heard.all().contains("refused"), "{}", heard.all());
    server.start_again();
    let began = Instant::now();
    while let Err(error) = soon(on.send("orders", text("a"), None)).await {
        assert_eq!(error, CloudError::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(heard.all().ends_with("up"), "{}", heard.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_unavailable_in_time() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = mute.local_addr().unwrap().to_string();
    let heard = Arc::new(Heard::default());
    let on = client(&host, &access("shop"), Room::default(), heard.clone());
    let began = Instant::now();
    let sent = soon(on.send("orders", text("a"), None)).await;
    assert_eq!(sent, Err(CloudError::Unavailable));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert!(!heard.all().is_empty());
}

/// It has the connection, and answers nothing on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_an_error_in_time_and_loses_nothing() {
    let server = Server::start(&[]);
    let on = client(
        &server.host(),
        &access("shop"),
        Room::default(),
        Arc::<Heard>::default(),
    );
    let mut worker = soon(on.subscribe(&subscription("orders", "w", 1)))
        .await
        .unwrap();
    soon(on.send("orders", text("before"), None)).await.unwrap();
    assert_eq!(take(&mut worker).await, "before");
    server.signal("-STOP");
    // A call has so long, and a busy machine some more; one that hangs never ends.
    let longest = 3 * Duration::from_millis(limits::CALL_TIMEOUT_MS);
    let sent = tokio::time::timeout(longest, on.send("orders", text("meanwhile"), None)).await;
    let error = sent.expect("sending ends").unwrap_err();
    let known = |error: &CloudError| matches!(error, CloudError::Timeout | CloudError::Unavailable);
    assert!(known(&error), "{error:?}");
    let asked = on.request("orders", text("?"), Duration::from_secs(2), 1);
    // Who asks and hears nothing has no replies, or an error.
    match tokio::time::timeout(longest, asked)
        .await
        .expect("asking ends")
    {
        Ok(replies) => assert!(replies.is_empty()),
        Err(error) => assert!(known(&error), "{error:?}"),
    }
    server.signal("-CONT");
    let began = Instant::now();
    while on.send("orders", text("after"), None).await.is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it is used again"
        );
    }
    // What was sent meanwhile may have been sent, or asked.
    while take(&mut worker).await != "after" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_to_the_operator_and_not_to_the_guest() {
    let server = Server::start(&["--user", "app", "--pass", "right"]);
    let with = |password: Option<&str>| Access {
        user: Some("app".to_owned()),
        password: password.map(|password| password.to_owned().into()),
        ..access("shop")
    };
    for password in [Some("wrong-secret"), None] {
        let heard = Arc::new(Heard::default());
        let on = client(
            &server.host(),
            &with(password),
            Room::default(),
            heard.clone(),
        );
        let sent = soon(on.send("orders", text("a"), None)).await;
        assert_eq!(sent, Err(CloudError::Unavailable));
        let said = heard.all().to_lowercase();
        assert!(said.contains("authorization violation"), "{said}");
        assert!(!said.contains("wrong-secret"), "{said}");
    }
    let heard = Arc::new(Heard::default());
    let on = client(
        &server.host(),
        &with(Some("right")),
        Room::default(),
        heard.clone(),
    );
    soon(on.send("orders", text("a"), None)).await.unwrap();
    assert_eq!(heard.all(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_loses_nothing_and_members_go_on() {
    let mut server = Server::start(&[]);
    let on = client(
        &server.host(),
        &access("shop"),
        Room::default(),
        Arc::<Heard>::default(),
    );
    let mut worker = soon(on.subscribe(&subscription("orders", "w", 5)))
        .await
        .unwrap();
    let sender = tokio::spawn({
        let on = Arc::clone(&on);
        async move {
            let mut sent = Vec::new();
            for n in 0..300 {
                // What was not answered may have been sent or not.
                if on.send("orders", text(n.to_string()), None).await.is_ok() {
                    sent.push(n.to_string());
                } else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            sent
        }
    });
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..40 {
        let delivery = next(&mut worker).await;
        seen.insert(words(&delivery.message));
        if delivery.receipt.ack().await.is_err() {
            seen.remove(&words(&delivery.message));
        }
        if round == 20 {
            server.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.start_again();
        }
    }
    let sent = soon(sender).await.unwrap();
    assert!(sent.len() > 100, "{}", sent.len());
    while !sent.iter().all(|one| seen.contains(one)) {
        seen.insert(take(&mut worker).await);
    }
    // Requests as well.
    let asked = tokio::spawn({
        let on = Arc::clone(&on);
        async move {
            on.request("orders", text("?"), Duration::from_secs(5), 1)
                .await
        }
    });
    loop {
        let delivery = next(&mut worker).await;
        if let Some(reply_to) = &delivery.message.reply_to {
            on.reply(reply_to, text("here")).await.unwrap();
            break;
        }
        delivery.receipt.ack().await.unwrap();
    }
    assert_eq!(words(&soon(asked).await.unwrap().unwrap()[0]), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_server_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ours, other) = (authority(), authority());
    for (name, pem) in [("ours", &ours.0), ("other", &other.0)] {
        fs::write(path(name), pem).unwrap();
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap();
    let certificate = certificate.signed_by(&key, &ours.1).unwrap();
    fs::write(path("cert"), certificate.pem()).unwrap();
    fs::write(path("key"), key.serialize_pem()).unwrap();
    let (cert, key) = (path("cert"), path("key"));
    let server = Server::start(&["--tls", "--tlscert", &cert, "--tlskey", &key]);
    let trusting = |name: &str| Access {
        authorities: Some(path(name).into()),
        ..access("shop")
    };
    let heard = Arc::new(Heard::default());
    let on = client(
        &server.host(),
        &trusting("other"),
        Room::default(),
        heard.clone(),
    );
    let sent = soon(on.send("orders", text("a"), None)).await;
    assert_eq!(sent, Err(CloudError::Unavailable));
    assert!(heard.all().contains("certificate"), "{}", heard.all());
    let on = client(&server.host(), &trusting("ours"), Room::default(), heard);
    let mut worker = soon(on.subscribe(&subscription("orders", "w", 5)))
        .await
        .unwrap();
    soon(on.send("orders", text("over tls"), None))
        .await
        .unwrap();
    assert_eq!(take(&mut worker).await, "over tls");
}

fn authority() -> (String, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, rcgen::Issuer::new(params, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clients_messages_are_read_and_a_foreign_stream_is_left_alone() {
    let server = Server::start(&[]);
    let on = client(
        &server.host(),
        &access("shop"),
        Room::default(),
        Arc::<Heard>::default(),
    );
    let mut worker = soon(on.subscribe(&subscription("orders", "w", 5)))
        .await
        .unwrap();
    let other = async_nats::connect(server.host()).await.unwrap();
    let jetstream = async_nats::jetstream::new(other.clone());
    let sent = jetstream
        .publish("shop.orders", "from elsewhere".into())
        .await
        .unwrap();
    sent.await.unwrap();
    assert_eq!(take(&mut worker).await, "from elsewhere");
    // A request of a client that knows nothing of realm.
    let asked = tokio::spawn({
        let other = other.clone();
        async move { other.request("shop=request.orders", "?".into()).await }
    });
    let delivery = next(&mut worker).await;
    let reply_to = delivery.message.reply_to.clone().unwrap();
    on.reply(&reply_to, text("yes")).await.unwrap();
    assert_eq!(&soon(asked).await.unwrap().unwrap().payload[..], b"yes");
    // A reply is not written to the server's own subjects, whoever asks for it.
    let api = "$JS.API.STREAM.DELETE.shop";
    other
        .publish_with_reply("shop=request.orders", api, "?".into())
        .await
        .unwrap();
    other.flush().await.unwrap();
    crate::support::nothing_comes(&mut worker).await;

    let foreign = async_nats::jetstream::stream::Config {
        name: "taken".to_owned(),
        subjects: vec!["theirs.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(foreign).await.unwrap();
    let heard = Arc::new(Heard::default());
    let on = client(
        &server.host(),
        &access("taken"),
        Room::default(),
        heard.clone(),
    );
    let sent = soon(on.send("orders", text("a"), None)).await;
    assert_eq!(sent, Err(CloudError::Unavailable));
    assert!(heard.all().contains("`taken`"), "{}", heard.all());
}
