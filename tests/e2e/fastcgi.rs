//! The agent as a FastCGI application, asked record by record; with real web servers: `fronts`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use realm_test_guests::{CGI_ENV, CGI_EXIT, CHATTY, ECHO_REQUEST, TRAP};

use crate::support::{Agent, Realm, lasting_port};

/// What came of one request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What the end says of the application, and of the protocol; `None`: there was none.
    pub(crate) ended: Option<(u32, u8)>,
    /// Whether there is something in its place that every web server takes for an error.
    pub(crate) is_broken: bool,
}

impl Answer {
    fn body(&self) -> &str {
        let parts = self.stdout.split_once("\r\n\r\n");
        parts.map_or("", |(_, body)| body)
    }
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[1, kind, 0, 1, high, low, 0, 0][..], content].concat()
}

/// One request in a connection of its own, as most web servers make it.
pub(crate) fn asked(params: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = record(1, &[0, 1, 0, 0, 0, 0, 0, 0]);
    let mut pairs = Vec::new();
    let length = body.len().to_string();
    let plain = [
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", "/app/x?y=z"),
        ("HTTP_HOST", "shop.example"),
        ("REMOTE_ADDR", "203.0.113.7"),
        ("CONTENT_LENGTH", &length),
    ];
    for (name, value) in plain.iter().chain(params) {
        for text in [name, value] {
            let length = u32::try_from(text.len()).unwrap() | 0x8000_0000;
            pairs.extend(length.to_be_bytes());
        }
        pairs.extend(name.bytes().chain(value.bytes()));
    }
    for part in pairs.chunks(60_000).chain([&[][..]]) {
        bytes.extend(record(4, part));
    }
    for part in body.chunks(60_000).chain([&[][..]]) {
        bytes.extend(record(5, part));
    }
    bytes
}

fn answer(came: &[u8]) -> Answer {
    let mut answer = Answer::default();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut rest = came;
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        if head[0] == 0 {
            answer.is_broken = true;
            break;
        }
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let content = &after[..length];
        match head[1] {
            3 => {
                let status = u32::from_be_bytes(content[..4].try_into().unwrap());
                answer.ended = Some((status, content[4]));
            }
            6 => stdout.extend_from_slice(content),
            7 => stderr.extend_from_slice(content),
            kind => panic!("a record of kind {kind}"),
        }
        rest = &after[length + usize::from(head[6])..];
    }
    answer.stdout = String::from_utf8(stdout).unwrap();
    answer.stderr = String::from_utf8(stderr).unwrap();
    answer
}

pub(crate) fn ask(socket: &Path, params: &[(&str, &str)]) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(&asked(params, b"")).unwrap();
    read_answer(&mut stream)
}

/// All that comes until the connection ends.
pub(crate) fn read_answer(stream: &mut UnixStream) -> Answer {
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    answer(&came)
}

/// A realm whose agent web servers reach, with `app` below `/app`.
pub(crate) fn reached(guest: &str, keys: &str, more: &str) -> (Realm, Agent) {
    let realm = Realm::new();
    realm.app(guest, keys);
    let manifest = realm.read("realm.toml");
    realm.write("realm.toml", &manifest.replace("/...", "/app/..."));
    listens(&realm, &["unix:fastcgi.sock"], more);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    (realm, agent)
}

fn listens(realm: &Realm, addresses: &[&str], more: &str) {
    let folder = realm.path("");
    let addresses = addresses.iter().map(|address| {
        let path = address.strip_prefix("unix:").map(|name| folder.join(name));
        path.map_or_else(
            || format!("{address:?}"),
            |path| format!("\"unix:{}\"", path.display()),
        )
    });
    let addresses: Vec<_> = addresses.collect();
    let config = format!("[listen]\nfastcgi = [{}]\n{more}", addresses.join(", "));
    realm.write(".realm/node.toml", &config);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_the_parameters_as_its_environment() {
    let (realm, _agent) = reached(CGI_ENV, "world = \"wasi:cli/command\"\nserve = \"cgi\"", "");
    let params = [
        ("REMOTE_USER", "ann"),
        ("AUTH_TYPE", "Basic"),
        ("HTTPS", "on"),
        ("SSL_CLIENT_S_DN", "CN=ann"),
        ("APP_ENV", "live"),
        ("HTTP_X_REALM_REMOTE_USER", "root"),
        ("HTTP_X_REALM_PARAM_APP_ENV", "forged"),
        ("HTTP_PROXY", "http://evil.example"),
        ("SCRIPT_FILENAME", "/var/www/index.php"),
    ];
    let came = ask(&realm.path("fastcgi.sock"), &params);
    assert_eq!(came.ended, Some((0, 0)), "{came:?}");
    let said: serde_json::Value = serde_json::from_str(came.body()).unwrap();
    let expected = [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", "/app"),
        ("PATH_INFO", "/x"),
        ("QUERY_STRING", "y=z"),
        ("HTTP_HOST", "shop.example"),
        ("REMOTE_ADDR", "203.0.113.7"),
        ("REMOTE_USER", "ann"),
        ("AUTH_TYPE", "Basic"),
        ("HTTPS", "on"),
        ("SSL_CLIENT_S_DN", "CN=ann"),
        ("APP_ENV", "live"),
    ];
    for (name, value) in expected {
        assert_eq!(said["env"][name], value, "{name} of {said}");
    }
    for name in ["HTTP_PROXY", "HTTP_X_REALM_REMOTE_USER", "SCRIPT_FILENAME"] {
        assert_eq!(said["env"].get(name), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_says_reaches_the_log_of_the_web_server() {
    let (realm, _agent) = reached(CHATTY, "", "[fastcgi]\nstderr_bytes_max = 200\n");
    let say = |uri: &str| ask(&realm.path("fastcgi.sock"), &[("REQUEST_URI", uri)]);
    let came = say("/app/?stream=stderr");
    assert_eq!(
        (came.stderr.as_str(), came.body()),
        ("hello\n", "written\n")
    );
    // Nothing moves a cursor, or forges a line.
    let came = say("/app/control?stream=stderr");
    assert!(
        came.stderr.contains("red") && came.stderr.ends_with(" end\n"),
        "{came:?}"
    );
    let is_plain = |c: char| c == '\n' || !c.is_control();
    assert!(came.stderr.chars().all(is_plain), "{came:?}");
    let came = say("/app/lines?n=1000&stream=stderr");
    assert!(came.stderr.starts_with("line 0\nline 1\n"), "{came:?}");
    assert!(
        came.stderr.ends_with("realm logs)\n") && came.stderr.len() < 250,
        "{came:?}"
    );
    assert!(realm.run(&["logs", "app"]).ok().stdout.contains("line 999"));
    // Nothing is left of it for the next one.
    assert_eq!(say("/app/lines?n=0").stderr, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_an_answer_and_its_cause_is_in_the_log() {
    let (realm, _agent) = reached(TRAP, "", "");
    let came = ask(&realm.path("fastcgi.sock"), &[]);
    assert!(came.stdout.starts_with("Status: 500 "), "{came:?}");
    assert!(came.stderr.contains("trap"), "{came:?}");
    assert_eq!(came.ended, Some((0, 0)));
    let nowhere = ask(&realm.path("fastcgi.sock"), &[("REQUEST_URI", "/other")]);
    assert!(nowhere.stdout.starts_with("Status: 404 "), "{nowhere:?}");
    drop(realm);
    let (realm, _agent) = reached(
        CGI_EXIT,
        "world = \"wasi:cli/command\"\nserve = \"cgi\"",
        "",
    );
    let socket = realm.path("fastcgi.sock");
    let came = ask(&socket, &[("QUERY_STRING", ""), ("REQUEST_URI", "/app")]);
    assert!(came.stdout.starts_with("Status: 500 "), "{came:?}");
    assert!(came.stderr.starts_with("about to fail\n"), "{came:?}");
    // An answer that breaks off has no end: a web server must not take it for whole.
    let came = ask(&socket, &[("REQUEST_URI", "/app?after")]);
    assert!(
        came.stdout.starts_with("Status: 200 ") && came.ended.is_none() && came.is_broken,
        "{came:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_have_their_mode_and_only_who_may_asks_over_tcp() {
    let realm = Realm::new();
    realm.app(ECHO_REQUEST, "");
    let port = lasting_port();
    let tcp = format!("127.0.0.1:{port}");
    let more =
        "[fastcgi]\nsocket_mode = \"0606\"\nsocket_group = \"daemon\"\nallow = [\"10.9.8.7\"]\n";
    listens(&realm, &["unix:a.sock", &tcp], more);
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    let socket = realm.path("a.sock");
    let file = std::fs::metadata(&socket).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o606);
    assert_eq!(file.gid(), 1);
    assert!(ask(&socket, &[]).stdout.starts_with("Status: 200 "));
    let mut refused = TcpStream::connect(&tcp).unwrap();
    refused
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let _ = refused.write_all(&asked(&[], b""));
    let mut came = Vec::new();
    let _ = refused.read_to_end(&mut came);
    assert_eq!(came, b"");
    // The socket of an agent that was killed is replaced, that of one that ends goes with it.
    agent.kill_9();
    assert!(socket.exists());
    listens(&realm, &["unix:a.sock", &tcp], "");
    let agent = realm.agent();
    assert!(ask(&socket, &[]).stdout.starts_with("Status: 200 "));
    let mut allowed = TcpStream::connect(&tcp).unwrap();
    allowed.write_all(&asked(&[], b"")).unwrap();
    allowed.read_to_end(&mut came).unwrap();
    assert!(answer(&came).stdout.starts_with("Status: 200 "));
    assert!(agent.terminate().success());
    assert!(!socket.exists());
    realm.write("a.sock", "somebody's file");
    let said = realm.run(&["agent", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let said = said.fails(1, "cannot-listen");
    assert!(said.stderr.contains("no socket"), "{}", said.stderr);
    assert_eq!(realm.read("a.sock"), "somebody's file");
}
