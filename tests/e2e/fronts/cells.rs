//! The cells of the matrix: a request each, through the web server and to the agent itself. Where a server
//! cannot do something, its cell says exactly what it does.

use std::time::{Duration, Instant};

use super::client::{Ask, CLIENT, Got};
use super::servers::{Front, OTHER_HOST, Server};
use super::{HOST, gone};
use crate::support::PATIENCE;

/// Longer than anything between the two halves of a stream takes, so that halves that come together were
/// kept together.
const PAUSE: Duration = Duration::from_secs(3);

/// Bytes of bodies.
const SIZES: [usize; 5] = [0, 1, 64 * 1024, 1024 * 1024, 10 * 1024 * 1024];

type Cell = fn(&Front);

/// Every cell; all that are wrong are told at once.
pub(crate) fn all(front: &Front) {
    let cells: [(&str, Cell); 17] = [
        ("whole answers", whole_answers),
        ("bodies", bodies),
        ("an answer that begins before the request ends", both_ways),
        ("a body of unknown length", unknown_length),
        ("304 and redirects", statuses),
        ("the request as the guest sees it", request),
        ("what clients say of themselves", forged),
        ("other hosts", hosts),
        ("a stream", stream),
        ("components of each kind", kinds),
        ("60 KiB of parameters", large_head),
        ("standard error", stderr),
        ("a client that goes in its request", gone::in_a_request),
        (
            "a client that goes before the answer",
            gone::before_an_answer,
        ),
        ("a client that goes in an answer", gone::in_an_answer),
        ("a client that goes while nothing comes", gone::in_a_pause),
        ("a trap", trap),
    ];
    let mut wrong = Vec::new();
    for (name, cell) in cells {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cell(front)));
        if done.is_err() {
            wrong.push(name);
        }
    }
    assert!(
        wrong.is_empty(),
        "{:?}: {wrong:?}\n{}",
        front.server,
        front.log()
    );
}

impl Front {
    pub(super) fn named(&self, ask: &Ask) -> Ask {
        ask.clone().host(&format!("{HOST}:{}", self.port))
    }

    /// Through the web server.
    fn ask(&self, ask: &Ask) -> Got {
        self.named(ask).send(self.port)
    }

    /// Without it.
    fn direct(&self, ask: &Ask) -> Got {
        self.named(ask).send(self.behind().http_port())
    }

    /// An answer that broke off: the client sees that.
    fn cut_short(&self, got: &Got) {
        if self.server == Server::Caddy {
            // Caddy 2.6 notices, and ends the answer as if it were whole where it has no length.
            let log = self.log();
            assert!(log.contains("aborting with incomplete response"), "{log}");
            return;
        }
        assert!(
            !got.is_whole,
            "{} bytes of {:?}",
            got.body.len(),
            got.headers
        );
    }

    /// Both, which are the same but for what belongs to a connection or a server.
    fn same(&self, ask: &Ask) -> Got {
        let (through, direct) = (self.ask(ask), self.direct(ask));
        assert_eq!(through.status, direct.status, "{through:?}");
        assert!(through.is_whole && direct.is_whole, "{through:?}");
        assert!(
            through.body == direct.body,
            "{} and {} bytes: {}",
            through.body.len(),
            direct.body.len(),
            through.text()
        );
        let mut kept = vec!["content-type", "etag", "location", "x-own", "realm-error"];
        // Nor need it be there (RFC 9110 §15.4.5).
        let leaves_out: &[u16] = match self.server {
            Server::Apache => &[204, 304],
            Server::Caddy => &[304],
            Server::Nginx | Server::Lighttpd | Server::Haproxy | Server::HaproxyMultiplexed => &[],
        };
        if leaves_out.contains(&through.status) {
            kept.remove(0);
        }
        for name in kept {
            assert_eq!(
                through.header(name),
                direct.header(name),
                "{name} of {through:?}"
            );
        }
        through
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 % 251) as u8).collect()
}

fn whole_answers(front: &Front) {
    let got = front.same(&Ask::get("/text?a=b"));
    assert_eq!((got.status, got.text().as_str()), (200, "a text\n"));
    assert_eq!(got.header("x-own"), Some("kept"));
    let got = front.same(&Ask::head("/text"));
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert_eq!(got.header("content-length"), Some("7"));
    let got = front.same(&Ask::get("/other/%2Fa%20b;c?x=%2F&y"));
    assert_eq!(got.status, 200);
    let got = front.ask(&Ask::get("/other?x=%00"));
    // lighttpd takes no control characters, wherever they stand.
    let expected = if front.server == Server::Lighttpd {
        400
    } else {
        200
    };
    assert_eq!(got.status, expected, "{got:?}");
}

fn bodies(front: &Front) {
    for length in SIZES {
        let got = front.same(&Ask::post("/length", bytes(length)));
        assert!(got.text().starts_with(&format!("{length} ")), "{got:?}");
    }
    // Above the limit of the component; who says so differs. Caddy reads no answer before it has sent all.
    let got = front.ask(&Ask::post("/length", bytes(17 * 1024 * 1024)));
    assert_eq!(got.status, 413, "{got:?}");
}

/// The answer begins before the request has ended.
fn both_ways(front: &Front) {
    for length in SIZES {
        let got = front.ask(&Ask::post("/echo", bytes(length)));
        // These two read no answer before they have sent all of the request: so far as buffers reach, that
        // goes well, and then the component's time runs out.
        let waits = [Server::Nginx, Server::Caddy].contains(&front.server);
        if waits && length == 10 * 1024 * 1024 {
            front.cut_short(&got);
        } else if !waits || length <= 64 * 1024 {
            let is_same = got.body == bytes(length);
            assert!(
                got.is_whole && is_same,
                "{length}: {} bytes",
                got.body.len()
            );
        }
    }
}

fn unknown_length(front: &Front) {
    for length in [0, 1, 30_000, 1024 * 1024] {
        let ask = Ask::post_chunked("/length", bytes(length));
        let got = match front.server {
            Server::Nginx | Server::Apache | Server::Caddy => front.same(&ask),
            // It must have the end in its buffer.
            Server::Haproxy | Server::HaproxyMultiplexed if length > 64 * 1024 => {
                assert_eq!(front.ask(&ask).status, 400, "{length}");
                continue;
            }
            Server::Haproxy | Server::HaproxyMultiplexed => front.same(&ask),
            // While it passes bodies on as they come it takes those alone that are there at once.
            Server::Lighttpd => {
                let got = front.ask(&ask);
                let may_pass = length < 64 * 1024 && got.status == 200;
                assert!(got.status == 411 || may_pass, "{length}: {got:?}");
                continue;
            }
        };
        assert!(got.text().starts_with(&format!("{length} ")), "{got:?}");
    }
}

fn statuses(front: &Front) {
    let got = front.same(&Ask::get("/status?code=304"));
    assert_eq!((got.status, got.header("etag")), (304, Some("\"one\"")));
    assert_eq!(front.same(&Ask::get("/status?code=204")).status, 204);
    assert_eq!(front.same(&Ask::get("/status?code=418")).status, 418);
    for to in ["/elsewhere?a=b", "https://other.example/x"] {
        let got = front.same(&Ask::get(&format!("/redirect?to={to}")));
        assert_eq!((got.status, got.header("location")), (302, Some(to)));
    }
}

fn request(front: &Front) {
    let ask = Ask::get("/a%20b/request?x=%2F&y")
        .header("cookie", "a=b; c=d")
        .header("authorization", "Bearer token")
        .header("x-own", "kept")
        .header("accept-language", "de");
    let (through, direct) = (front.ask(&ask).json(), front.direct(&ask).json());
    for part in ["scheme", "authority", "target"] {
        assert_eq!(through[part], direct[part], "{part}");
    }
    for name in [
        "host",
        "cookie",
        "authorization",
        "x-own",
        "accept-language",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
    ] {
        assert_eq!(through["headers"][name], direct["headers"][name], "{name}");
    }
    let names: Vec<&String> = through["headers"].as_object().unwrap().keys().collect();
    let is_known = |name: &str| direct["headers"].get(name).is_some();
    let more: Vec<_> = names.iter().filter(|name| !is_known(name)).collect();
    assert!(more.is_empty(), "{more:?} are of nobody");
}

fn forged(front: &Front) {
    let ask = Ask::get("/request")
        .header("X-Realm-Remote-User", "root")
        .header("X_Realm_Remote_User", "root")
        .header("X-Realm-Param-App-Env", "root")
        .header("Remote-User", "root")
        .header("Proxy", "http://evil.example")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-Forwarded-Host", "admin.example")
        .header("X-Forwarded-Proto", "https")
        .header("Forwarded", "for=6.6.6.6;host=admin.example")
        .header("Authorization", "Basic cm9vdDpyb290");
    let got = front.ask(&ask);
    assert_eq!(got.status, 200, "{got:?}");
    let seen = got.json();
    let headers = seen["headers"].as_object().unwrap();
    for (name, value) in headers {
        assert!(
            !name.starts_with("x-realm-") && name != "proxy",
            "{name}: {value}"
        );
        assert!(
            name == "remote-user" || !value.to_string().contains("root"),
            "{name}: {value}"
        );
        assert!(!value.to_string().contains("6.6.6.6"), "{name}: {value}");
        assert!(
            !value.to_string().contains("admin.example"),
            "{name}: {value}"
        );
    }
    assert_eq!(headers["x-forwarded-for"], CLIENT.to_string());
    assert_eq!(seen["scheme"], "Scheme::Http");
}

fn hosts(front: &Front) {
    let authority = |ask: Ask| {
        let got = ask.send(front.port);
        assert_eq!(got.status, 200, "{got:?}");
        got.json()["authority"].as_str().unwrap().to_owned()
    };
    let port = front.port;
    let expected = match front.server {
        // The host of no block is passed on as the client wrote it.
        Server::Lighttpd => "other.example".to_owned(),
        Server::Nginx
        | Server::Apache
        | Server::Caddy
        | Server::Haproxy
        | Server::HaproxyMultiplexed => format!("other.example:{port}"),
    };
    let other = Ask::get("/request").host("other.example");
    assert_eq!(authority(other), expected);
    let upper = Ask::get("/request").host("SHOP.example.com");
    assert_eq!(authority(upper), format!("{HOST}:{port}"));
    // The target of a request wins over `Host` (RFC 9112 §3.2.2): for the web server, and for the guest.
    let absolute = Ask::get(&format!("http://{HOST}:{port}/request")).host("other.example");
    match front.server {
        // They take none that differ.
        Server::Haproxy | Server::HaproxyMultiplexed | Server::Lighttpd => {
            assert_eq!(absolute.send(port).status, 400);
        }
        Server::Nginx | Server::Apache | Server::Caddy => {
            assert_eq!(authority(absolute), format!("{HOST}:{port}"));
        }
    }
}

fn stream(front: &Front) {
    let got = front.ask(&Ask::get(&format!("/stream?ms={}", PAUSE.as_millis())));
    assert_eq!((got.text().as_str(), got.is_whole), ("first\nlast\n", true));
    assert!(
        got.lasted > PAUSE / 2,
        "all of it came at once: {:?}",
        got.lasted
    );
}

fn large_head(front: &Front) {
    let mut ask = Ask::get("/sizes");
    for index in 0..8 {
        ask = ask.header(&format!("X-Big-{index}"), &"x".repeat(7_680));
    }
    let got = front.ask(&ask);
    assert_eq!(
        (got.status, got.text().as_str()),
        (200, "61440\n"),
        "{got:?}"
    );
}

fn stderr(front: &Front) {
    assert_eq!(front.same(&Ask::get("/stderr")).text(), "written\n");
    if front.server == Server::Caddy {
        // Caddy 2.6 reads `capture_stderr`, and writes nothing.
        assert!(
            !front.log().contains("said by the guest"),
            "{}",
            front.log()
        );
        return;
    }
    let deadline = Instant::now() + PATIENCE;
    while !front.log().contains("bell") {
        assert!(
            Instant::now() < deadline,
            "not in the log:\n{}",
            front.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = front.log();
    assert!(
        log.contains("said by the guest") && !log.contains(['\u{1b}', '\u{7}']),
        "{log}"
    );
    // None of what a guest says looks like the server's own: HAProxy's log is as raw as it was told to be.
    let is_raw = [Server::Haproxy, Server::HaproxyMultiplexed].contains(&front.server);
    assert!(
        is_raw || !log.lines().any(|line| line.starts_with("red")),
        "{log}"
    );
}

fn trap(front: &Front) {
    let got = front.same(&Ask::get("/trap"));
    assert_eq!((got.status, got.header("realm-error")), (500, Some("trap")));
    // Cut short, and seen to be.
    front.cut_short(&front.ask(&Ask::get("/late")));
}

/// `wasi:http` 0.3, and a command with the request as its environment; of which one has a host for itself.
fn kinds(front: &Front) {
    // Caddy names a type where the client names none.
    let ask = Ask::post("/three/x", bytes(64 * 1024)).header("content-type", "text/plain");
    let got = front.same(&ask);
    assert!(got.status == 200 && got.body == bytes(64 * 1024), "{got:?}");
    let ask = Ask::get("/script/a%20b?x=%2F&y").header("x-own", "kept");
    let [through, direct] = [front.ask(&ask), front.direct(&ask)].map(|got| got.json());
    assert_eq!(through, direct);
    let is = |seen: &serde_json::Value, name: &str, expected: &str| {
        assert_eq!(seen["env"][name], expected, "{name} of {seen}");
    };
    is(&through, "SCRIPT_NAME", "/script");
    is(&through, "PATH_INFO", "/a b");
    is(&through, "REMOTE_ADDR", &CLIENT.to_string());
    is(&through, "HTTP_X_OWN", "kept");
    let other = format!("{OTHER_HOST}:{}", front.port);
    let got = Ask::get("/text").host(&other).send(front.port);
    is(&got.json(), "HTTP_HOST", &other);
    assert_eq!(front.ask(&Ask::get("/text")).text(), "a text\n");
}
