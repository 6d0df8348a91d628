//! The PROXY protocol from a real HAProxy, by node.toml: whose each connection is, over HTTP and HTTPS, and
//! who is not heard.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};

use realm_test_guests::ECHO_REQUEST;

use crate::support::{Agent, Realm, ended, eventually, lasting_port, raw, said, signal};

/// A client that is not HAProxy, on this machine all the same.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// An HAProxy that carries connections as they are.
struct Haproxy {
    process: Child,
    /// Without a header, with one of version 1, and of version 2.
    plain: u16,
    first: u16,
    second: u16,
    /// The last one for HTTPS.
    secure: u16,
    _folder: tempfile::TempDir,
}

impl Haproxy {
    async fn before(agent: &Agent, https: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let http: u16 = agent.url.rsplit(':').next().unwrap().parse().unwrap();
        let [plain, first, second, secure] = [(); 4].map(|()| lasting_port());
        let mut config = "global\n    log stdout format raw local0\ndefaults\n    mode tcp\n    \
             timeout connect 20s\n    timeout client 60s\n    timeout server 60s\n"
            .to_owned();
        for (port, to, how) in [
            (plain, http, ""),
            (first, http, "send-proxy"),
            (second, http, "send-proxy-v2"),
            (secure, https, "send-proxy-v2"),
        ] {
            config.push_str(&format!(
                "listen at-{port}\n    bind 127.0.0.1:{port}\n    server realm 127.0.0.1:{to} {how}\n"
            ));
        }
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        command.args(["-db", "-f"]).arg(file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        eventually("HAProxy listens", async || {
            std::net::TcpStream::connect(("127.0.0.1", secure)).ok()
        })
        .await;
        Self {
            process,
            plain,
            first,
            second,
            secure,
            _folder: folder,
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        signal(self.process.id(), "TERM");
        ended(&mut self.process);
    }
}

/// An agent that takes headers from these peers.
fn agent(from: &str) -> (Realm, Agent, u16) {
    let realm = Realm::new();
    realm.app(ECHO_REQUEST, "");
    let https = lasting_port();
    realm.write(
        ".realm/node.toml",
        &format!(
            "[listen]\nhttps = [\"127.0.0.1:{https}\"]\nproxy_protocol_from = [\"{from}\"]\n[tls]\ndev = true\n"
        ),
    );
    let agent = realm.agent();
    realm.run(&["apply", "--yes"]).ok();
    (realm, agent, https)
}

/// Whose the component takes a request for that comes to this port from there; `None` where it gets none.
async fn whose(port: u16, from: Ipv4Addr) -> Option<String> {
    let client = reqwest::Client::builder().local_address(IpAddr::V4(from));
    let client = client.build().unwrap();
    let asked = client.get(format!("http://127.0.0.1:{port}/x"));
    // A client's own story is not believed.
    let asked = asked.header("x-forwarded-for", "6.6.6.6");
    let answer = asked.send().await.ok()?;
    if answer.status() != 200 {
        return None;
    }
    let seen: serde_json::Value = serde_json::from_str(&answer.text().await.ok()?).unwrap();
    forwarded(&seen)
}

fn forwarded(seen: &serde_json::Value) -> Option<String> {
    let mut headers = seen["headers"].as_array()?.iter();
    let header = headers.find(|header| header[0] == "x-forwarded-for")?;
    header[1].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_a_connection_is_haproxy_says_in_both_versions() {
    let (_realm, agent, https) = agent("127.0.0.1");
    let haproxy = Haproxy::before(&agent, https).await;
    let client = Some(CLIENT.to_string());
    for port in [haproxy.first, haproxy.second] {
        assert_eq!(whose(port, CLIENT).await, client);
        // Each connection is its own.
        let other = Ipv4Addr::new(127, 0, 0, 10);
        assert_eq!(whose(port, other).await, Some(other.to_string()));
    }
    // The handshake of TLS comes behind the header.
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--insecure", "--interface"]);
    curl.arg(CLIENT.to_string());
    curl.arg(format!("https://localhost:{}/x", haproxy.secure));
    let answer = said(curl).ok().stdout;
    let seen: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(forwarded(&seen), client, "{answer}");
    assert_eq!(seen["scheme"], "https");
    // Who must send a header and sends none is not served; who need not, is.
    assert_eq!(whose(haproxy.plain, CLIENT).await, None);
    let port = agent.url.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(whose(port, Ipv4Addr::LOCALHOST).await, None);
    assert_eq!(whose(port, CLIENT).await, client);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_whom_nobody_trusts_are_refused() {
    let (_realm, agent, https) = agent("10.9.8.0/24");
    let haproxy = Haproxy::before(&agent, https).await;
    for port in [haproxy.first, haproxy.second] {
        assert_eq!(whose(port, CLIENT).await, None);
    }
    // It is itself that is connected.
    let itself = Some(Ipv4Addr::LOCALHOST.to_string());
    assert_eq!(whose(haproxy.plain, CLIENT).await, itself);
    // Nothing that such a header brings with it is a request.
    let header = "PROXY TCP4 10.9.8.7 127.0.0.1 1 80\r\n";
    let request = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = raw(&agent.url, format!("{header}{request}").as_bytes());
    assert!(
        !answer.contains(" 200 ") && !answer.contains("10.9.8.7"),
        "{answer}"
    );
    // The next one is served.
    assert!(raw(&agent.url, request.as_bytes()).starts_with("HTTP/1.1 200 "));
}
