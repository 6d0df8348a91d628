//! Devices that speak MQTT 3.1.1 with a nats-server: what they publish comes to groups, and what is sent
//! comes to them. The devices are mosquitto's, and one that sends what no library would.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use realm_backends::messaging::{Nats, Room};
use realm_backends::{Access, Watch};
use realm_model::cloud::Messaging;

use crate::nats::Server;
use crate::support::{next, nothing_comes, soon, subscription, take, text, words};

const MISSING: &str = "mosquitto's clients are missing: apt-get install mosquitto-clients";

/// A server with a port for devices.
struct Devices {
    server: Server,
    port: u16,
    _folder: tempfile::TempDir,
}

struct Unwatched;

impl Watch for Unwatched {
    fn down(&self, _: &str) {}
    fn up(&self) {}
}

type Deaths = Arc<Mutex<Vec<String>>>;

impl Devices {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = folder.path().join("config");
        let text = format!(
            "server_name: \"one\"\nmqtt {{ host: \"127.0.0.1\", port: {port}, ack_wait: \"2s\" }}\n"
        );
        std::fs::write(&config, text).unwrap();
        Self {
            server: Server::start(&["-c", config.to_str().unwrap()]),
            port,
            _folder: folder,
        }
    }

    /// The binding, and the names of what died.
    fn messaging(&self, devices: bool) -> (Arc<dyn Messaging>, Deaths) {
        let access = Access {
            prefix: "iot".to_owned(),
            ..Access::default()
        };
        let deaths = Deaths::default();
        let seen = Arc::clone(&deaths);
        let on_death = Arc::new(move |death: &realm_backends::messaging::Death| {
            let line = format!("{:?}: {}", death.topic, death.why);
            seen.lock().unwrap().push(line);
        });
        let host = self.server.host();
        let (room, watch) = (Room::default(), Arc::new(Unwatched));
        let nats = Nats::new(&host, false, &access, room, watch, on_death, devices);
        (Arc::new(nats.unwrap()), deaths)
    }

    fn command(&self, program: &str, id: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "stdbuf", "-oL", program])
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-i", id])
            .stdin(Stdio::null());
        command
    }

    /// A device publishes; with a quality of service of 1 until the server has it.
    fn publish(&self, topic: &str, message: &str, quality: &str) {
        let mut command = self.command("mosquitto_pub", "publisher");
        command.args(["-t", topic, "-m", message, "-q", quality]);
        let done = command.output().expect(MISSING);
        assert!(done.status.success(), "{MISSING}; or: {done:?}");
    }

    /// A device that subscribes, and is there once this returns.
    fn subscribed(&self, id: &str, more: &[&str]) -> Subscribed {
        let mut device = self.connected(id, more);
        device.after("Subscribed");
        device
    }

    /// The same, and it is not waited for: what came while it was away comes at once.
    fn connected(&self, id: &str, more: &[&str]) -> Subscribed {
        let mut command = self.command("mosquitto_sub", id);
        command.args(["-t", "iot/down/#", "-d", "-F", "> %t %q %p"]);
        command.args(more).stdout(Stdio::piped());
        let mut child = command.spawn().expect(MISSING);
        let lines = BufReader::new(child.stdout.take().unwrap());
        Subscribed { child, lines }
    }

    /// A device that takes no care of what it sends.
    fn publish_raw(&self, topic: &[u8], message: &[u8]) {
        let text = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            [&length[..], bytes].concat()
        };
        let packet = |kind: u8, body: Vec<u8>| {
            let length = u8::try_from(body.len()).unwrap();
            [vec![kind, length], body].concat()
        };
        let hello = [text(b"MQTT"), vec![4, 2, 0, 0], text(b"careless")].concat();
        let sent = [text(topic), vec![0, 7], message.to_vec()].concat();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(&packet(0x10, hello)).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        stream.write_all(&packet(0x32, sent)).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x40, 2, 0, 7], "the server took it");
    }
}

struct Subscribed {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Subscribed {
    /// The next line that begins with these words, without them.
    fn after(&mut self, words: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.lines.read_line(&mut line).unwrap();
            assert!(count > 0, "the device ended; {MISSING}");
            if let Some(rest) = line.strip_prefix(words) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_publishes_comes_to_a_group_and_what_is_sent_to_the_device() {
    let devices = Devices::start();
    let (on, _) = devices.messaging(false);
    let mut group = soon(on.subscribe(&subscription("up.*.>", "w", 5)))
        .await
        .unwrap();
    for (topic, expected) in [
        ("iot/up/d1/reading", "up.d1.reading"),
        ("iot/up/d1/a=b/$c", "up.d1.a=b.$c"),
        ("iot/up/d1/größe", "up.d1.größe"),
        // Levels without a name, which NATS has not.
        ("iot/up//x/", "up./.x./"),
    ] {
        for quality in ["0", "1"] {
            devices.publish(topic, "21.5 °C", quality);
            let delivery = next(&mut group).await;
            delivery.receipt.ack().await.unwrap();
            let message = delivery.message;
            assert_eq!(message.topic.as_deref(), Some(expected));
            assert_eq!(words(&message), "21.5 °C");
            assert_eq!((message.metadata, message.content_type), (vec![], None));
        }
    }
    let mut device = devices.subscribed("d1", &["-q", "1"]);
    let mut message = text("open the valve");
    message.content_type = Some("text/plain".to_owned());
    // What would be the server's own word is a guest's like any other.
    message.metadata = vec![("nmqtt-pub".to_owned(), "1".to_owned())];
    soon(on.send("down.d1.do", message, None)).await.unwrap();
    assert_eq!(device.after("> "), "iot/down/d1/do 0 open the valve");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_away_gets_what_was_sent_once_it_is_back() {
    let devices = Devices::start();
    let (on, _) = devices.messaging(true);
    // Nobody was ever there.
    soon(on.send("down.d1.do", text("nobody"), None))
        .await
        .unwrap();
    let lasting = ["-c", "-q", "1"];
    drop(devices.subscribed("lasting", &lasting));
    for n in 0..3 {
        soon(on.send("down.d1.do", text(format!("away {n}")), None))
            .await
            .unwrap();
    }
    let delay = Some(Duration::from_millis(50));
    soon(on.send("down.d1.do", text("later"), delay))
        .await
        .unwrap();
    let mut back = devices.connected("lasting", &lasting);
    let mut seen: Vec<String> = (0..4).map(|_| back.after("> ")).collect();
    seen.sort();
    let expected = ["away 0", "away 1", "away 2", "later"];
    assert_eq!(
        seen,
        expected.map(|words| format!("iot/down/d1/do 1 {words}"))
    );
    // Who is there gets each once, whatever it asked for.
    let mut plain = devices.subscribed("plain", &["-q", "0"]);
    for words in ["one", "two"] {
        soon(on.send("down.d1.do", text(words), None))
            .await
            .unwrap();
    }
    for words in ["one", "two"] {
        assert_eq!(back.after("> "), format!("iot/down/d1/do 1 {words}"));
        assert_eq!(plain.after("> "), format!("iot/down/d1/do 0 {words}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_sends_odd_names_stops_nobody() {
    let devices = Devices::start();
    let (on, deaths) = devices.messaging(false);
    let mut wanted = subscription("up.>", "w", 20);
    wanted.ack_wait = Duration::from_secs(2);
    let mut group = soon(on.subscribe(&wanted)).await.unwrap();
    let odd: [&[u8]; 6] = [
        b"iot/up/a\tb",
        b"iot/up/\xff\xfe",
        "iot/up/a\u{a0}b".as_bytes(),
        b"iot/up/\x01",
        b"iot/up/>",
        b"iot/up/*",
    ];
    for (n, name) in odd.iter().enumerate() {
        devices.publish_raw(name, b"odd");
        devices.publish("iot/up/d1", &format!("good {n}"), "1");
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < odd.len() {
        let words = take(&mut group).await;
        assert!(words.starts_with("good "), "{words}");
        seen.insert(words);
    }
    let began = Instant::now();
    while deaths.lock().unwrap().len() < odd.len() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{:?}",
            deaths.lock().unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nothing is left that comes again.
    nothing_comes(&mut group).await;
    let deaths = deaths.lock().unwrap().clone();
    assert_eq!(deaths.len(), odd.len(), "{deaths:?}");
    let unreadable = deaths.iter().filter(|line| line.contains("no text"));
    assert_eq!(unreadable.count(), 3, "{deaths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_client_can_read_is_found_however_many_were_delivered_since() {
    const MANY: usize = 2_600;
    let devices = Devices::start();
    let (on, deaths) = devices.messaging(false);
    let mut wanted = subscription("up.>", "w", 200);
    wanted.ack_wait = Duration::from_secs(2);
    on.keep_groups(std::slice::from_ref(&wanted.group))
        .await
        .unwrap();
    let other = async_nats::connect(devices.server.host()).await.unwrap();
    let jetstream = async_nats::jetstream::new(other.clone());
    let well = async |n: usize| {
        let sent = (0..n).map(|_| jetstream.publish("iot.up.d1", "good".into()));
        for sent in futures_util::future::join_all(sent).await {
            sent.unwrap().await.unwrap();
        }
    };
    // It is neither the oldest nor the newest.
    well(10).await;
    devices.publish_raw(b"iot/up/a\tb", b"odd");
    well(MANY).await;
    // Another node has all of it, which is as careless, and says nothing of it.
    let mut node = TcpStream::connect(devices.server.host()).unwrap();
    let mut stream = jetstream.get_stream("iot").await.unwrap();
    let consumer = stream.consumer_names();
    let consumer: Vec<_> = consumer.try_collect().await.unwrap();
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.iot.{}", consumer[0]);
    let ask = format!(r#"{{"batch":{}}}"#, MANY + 11);
    let words = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB theirs 1\r\nPUB {subject} theirs {}\r\n{ask}\r\n",
        ask.len()
    );
    node.write_all(words.as_bytes()).unwrap();
    std::thread::spawn(move || std::io::copy(&mut node, &mut std::io::sink()));
    let began = Instant::now();
    loop {
        let consumer = stream.consumer_info(&consumer[0]).await.unwrap();
        if consumer.delivered.stream_sequence == (MANY + 11) as u64 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{consumer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut group = soon(on.subscribe(&wanted)).await.unwrap();
    let taking = tokio::spawn(async move {
        loop {
            let delivery = group.next().await.unwrap();
            let _ = delivery.receipt.ack().await;
        }
    });
    let began = Instant::now();
    loop {
        let left = stream.info().await.unwrap().state.messages;
        let dead = deaths.lock().unwrap().clone();
        if left == 0 && dead.len() == 1 && dead[0].contains("no text") {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{left} left, {dead:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    taking.abort();
}
