//! An authority of ACME that lies at every step of an order. Nothing that it says takes the place of a
//! certificate that is in use, costs much, or keeps the agent from the next order: what was wrong is told, and
//! asked for again later. The authority that does not lie is in `acme`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::{AGENT, Realm, Running, eventually, said};

/// What is a lie, in the order in which the names are ordered, and what is told of it. The account is made
/// after the first two.
const LIES: &[(&str, &str)] = &[
    ("account-elsewhere", "has no `https://` address"),
    ("account-nowhere", "failed to get account URL"),
    ("directory-page", "expected value"),
    ("directory-missing", "it answered 404"),
    ("directory-moved", "it answered 301"),
    ("directory-garbage", "`newNonce` in its directory"),
    ("directory-plain", "`newOrder` in its directory"),
    ("directory-2mib", "length limit exceeded"),
    ("directory-endless", "length limit exceeded"),
    ("nonce-endless", "no nonce found"),
    ("nonce-missing", "no nonce found"),
    ("nonce-refused", "it answered 503"),
    ("nonce-never", "badNonce"),
    ("order-page", "it answered 500"),
    ("order-nowhere", "no order URL"),
    ("order-deep", "failed to (de)serialize JSON"),
    ("order-talks", "no certificate for such a name [2J FAKE"),
    ("order-forgets", "accountDoesNotExist"),
    ("proofs-many", "more than 4 proofs"),
    ("proof-plain", "does not begin with `https://`"),
    (
        "proof-other-kind",
        "offers no challenge of this kind: http-01",
    ),
    ("token-path", "its token has not the form of one"),
    ("token-lines", "its token has not the form of one"),
    ("token-page", "its token has not the form of one"),
    ("token-long", "its token has not the form of one"),
    ("later-a-lot", "timed out"),
    ("later-than-time", "timed out"),
    ("refused", "did not find that the name leads here"),
    ("nothing", "no certificate URL found"),
    ("no-certificate", "there is no certificate in PEM"),
    ("other-name", "is for another name"),
    ("other-key", "the key is not that of the first certificate"),
    ("their-key", "what was given is more than certificates"),
    ("over", "not now, or for too short a time"),
    ("not-yet", "not now, or for too short a time"),
    ("too-long", "is longer than 262144 bytes"),
];
/// The last one.
const HONEST: &str = "honest";
/// However long what an authority says is, of which some is told.
const LINE_BYTES_MAX: usize = 4_000;
/// The least that is waited for before an order is repeated.
const AGAIN_MIN: Duration = Duration::from_secs(60);

struct Liar {
    base: String,
    tls: TlsAcceptor,
    /// Who vouches for its own server.
    root: String,
    said: Mutex<Said>,
}

/// Of the order that is under way, and of all.
#[derive(Default)]
struct Said {
    directories: usize,
    accounts: usize,
    name: String,
    /// The public key that a certificate is wanted for.
    key: Vec<u8>,
    orders: BTreeMap<String, Vec<Instant>>,
}

fn host(lie: &str) -> String {
    format!("{lie}.example.com")
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nReplay-Nonce: nonce\r\nContent-Length: {length}\r\nConnection: close\r\n\
         {headers}\r\n{body}"
    )
    .into_bytes()
}

fn ok(body: &Value) -> Vec<u8> {
    answer("200 OK", "", &body.to_string())
}

fn problem(status: &str, kind: &str, detail: &str) -> Vec<u8> {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let body = json!({"type": kind, "detail": detail});
    answer(status, "", &body.to_string())
}

impl Liar {
    async fn start() -> Arc<Self> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let liar = Arc::new(Self {
            base: format!("https://localhost:{port}"),
            tls: TlsAcceptor::from(Arc::new(config)),
            root: certificate.pem(),
            said: Mutex::default(),
        });
        let serving = Arc::clone(&liar);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let liar = Arc::clone(&serving);
                tokio::spawn(async move {
                    let _ = liar.serve(stream).await;
                });
            }
        });
        liar
    }

    /// One question on each connection.
    async fn serve(&self, stream: tokio::net::TcpStream) -> std::io::Result<()> {
        let mut stream = self.tls.accept(stream).await?;
        let mut asked = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        let (head, body) = loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            asked.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&asked);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let mut lengths = head.lines().filter_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse::<usize>()
                        .ok()
                });
                if body.len() >= lengths.next().unwrap_or(0) {
                    break (head.to_owned(), body.to_owned());
                }
            }
        };
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let said = self.say(method, path, &body);
        stream.write_all(&said).await?;
        // What has no end goes on until nobody listens.
        if said.ends_with(b"ENDLESS\r\n") {
            let chunk = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        stream.shutdown().await
    }

    /// The lie of the order that is under way: each begins with the directory.
    fn lie(&self) -> &'static str {
        let directories = self.said.lock().unwrap().directories;
        LIES.get(directories.wrapping_sub(1))
            .map_or(HONEST, |(lie, _)| lie)
    }

    fn say(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        if path == "/dir" {
            self.said.lock().unwrap().directories += 1;
        }
        let lie = self.lie();
        let payload = payload(body);
        match (method, path) {
            ("GET", "/dir") => self.directory(lie),
            ("HEAD", "/nonce") => match lie {
                "nonce-missing" => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
                "nonce-refused" => answer("503 Service Unavailable", "", ""),
                // Behind an answer to HEAD nothing is read.
                "nonce-endless" => {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nENDLESS\r\n"
                        .to_vec()
                }
                _ => answer("200 OK", "", ""),
            },
            ("POST", "/account") => {
                self.said.lock().unwrap().accounts += 1;
                let at = match lie {
                    "account-elsewhere" => "Location: http://elsewhere.example/1\r\n".to_owned(),
                    "account-nowhere" => String::new(),
                    _ => format!("Location: {}/accounts/1\r\n", self.base),
                };
                answer("201 Created", &at, r#"{"status":"valid"}"#)
            }
            ("POST", "/order") => self.order(lie, &payload),
            ("POST", "/proof") => self.proof(lie),
            ("POST", "/challenge") => ok(&json!({
                "type": "http-01", "url": format!("{}/challenge", self.base),
                "token": "token", "status": "processing",
            })),
            ("POST", "/orders/1") => self.state(lie),
            ("POST", "/finalize") => {
                let request = base64url(payload["csr"].as_str().unwrap());
                // A point on P-256, uncompressed, as a string of bits.
                let mark = [3, 66, 0, 4];
                let at = request.windows(4).position(|window| window == mark);
                let at = at.unwrap() + 3;
                self.said.lock().unwrap().key = request[at..at + 65].to_vec();
                self.state(lie)
            }
            ("POST", "/certificate") => answer("200 OK", "", &self.certificate(lie)),
            _ => answer("404 Not Found", "", ""),
        }
    }

    fn directory(&self, lie: &str) -> Vec<u8> {
        let base = &self.base;
        let mut directory = json!({
            "newNonce": format!("{base}/nonce"),
            "newAccount": format!("{base}/account"),
            "newOrder": format!("{base}/order"),
        });
        match lie {
            "directory-page" => return answer("200 OK", "", "<html>"),
            "directory-missing" => return answer("404 Not Found", "", "{}"),
            "directory-moved" => {
                return answer(
                    "301 Moved Permanently",
                    "Location: http://localhost/\r\n",
                    "",
                );
            }
            "directory-2mib" => return answer("200 OK", "", &" ".repeat(2 << 20)),
            "directory-endless" => {
                return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nENDLESS\r\n"
                    .to_vec();
            }
            "directory-garbage" => directory["newNonce"] = "no address\n".into(),
            "directory-plain" => directory["newOrder"] = "http://localhost/order".into(),
            _ => {}
        }
        ok(&directory)
    }

    fn order(&self, lie: &str, payload: &Value) -> Vec<u8> {
        if lie != "nonce-never" {
            let name = payload["identifiers"][0]["value"].as_str().unwrap();
            let mut said = self.said.lock().unwrap();
            name.clone_into(&mut said.name);
            said.key.clear();
            let times = said.orders.entry(name.to_owned()).or_default();
            times.push(Instant::now());
        }
        let base = &self.base;
        let mut proofs = vec![format!("{base}/proof")];
        match lie {
            "nonce-never" => return problem("400 Bad Request", "badNonce", "no"),
            "order-page" => return answer("500 Internal Server Error", "", "<html>"),
            "order-deep" => return answer("201 Created", "", &"[".repeat(100_000)),
            "order-forgets" => {
                return problem("400 Bad Request", "accountDoesNotExist", "who?");
            }
            "order-talks" => {
                let detail = format!(
                    "no certificate\nfor such a name \u{1b}[2J{}",
                    "\nFAKE ".repeat(100_000)
                );
                return problem("403 Forbidden", "rejectedIdentifier", &detail);
            }
            "proofs-many" => proofs = vec![format!("{base}/proof"); 10_000],
            "proof-plain" => proofs = vec!["http://localhost/proof".to_owned()],
            _ => {}
        }
        let at = match lie {
            "order-nowhere" => String::new(),
            _ => format!("Location: {base}/orders/1\r\n"),
        };
        let order = json!({
            "status": "pending", "authorizations": proofs, "finalize": format!("{base}/finalize"),
        });
        answer("201 Created", &at, &order.to_string())
    }

    fn proof(&self, lie: &str) -> Vec<u8> {
        let token = match lie {
            "token-path" => "../../../../etc/passwd".to_owned(),
            "token-lines" => "token\r\nSet-Cookie: a=b".to_owned(),
            "token-page" => "<script>alert(1)</script>".to_owned(),
            "token-long" => "x".repeat(900_000),
            _ => "token".to_owned(),
        };
        let kind = match lie {
            "proof-other-kind" => "dns-01",
            _ => "http-01",
        };
        ok(&json!({
            "identifier": { "type": "dns", "value": self.said.lock().unwrap().name },
            "status": "pending",
            "challenges": [{
                "type": kind, "url": format!("{}/challenge", self.base),
                "token": token, "status": "pending",
            }],
        }))
    }

    /// How it is with the order.
    fn state(&self, lie: &str) -> Vec<u8> {
        let base = &self.base;
        let mut order = json!({
            "status": "ready", "authorizations": [format!("{base}/proof")],
            "finalize": format!("{base}/finalize"),
        });
        let is_final = !self.said.lock().unwrap().key.is_empty();
        if is_final {
            order["status"] = "valid".into();
            if lie != "nothing" {
                order["certificate"] = format!("{base}/certificate").into();
            }
        }
        let after = match lie {
            "later-a-lot" => 999_999_999,
            "later-than-time" => u64::MAX,
            "refused" => {
                order["status"] = "invalid".into();
                0
            }
            _ => 0,
        };
        if after > 0 {
            order["status"] = "processing".into();
        }
        let header = format!("Retry-After: {after}\r\n");
        answer("200 OK", &header, &order.to_string())
    }

    fn certificate(&self, lie: &str) -> String {
        let said = self.said.lock().unwrap();
        let own = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), &own);
        let name = match lie {
            "other-name" => "other.example.com".to_owned(),
            _ => said.name.clone(),
        };
        let mut params = rcgen::CertificateParams::new(vec![name]).unwrap();
        let (from, until) = match lie {
            "over" => (-90, -1),
            "not-yet" => (1, 90),
            _ => (-1, 90),
        };
        last(&mut params, from, until);
        let key = Wanted(said.key.clone());
        match lie {
            "other-key" => params.self_signed(&own).unwrap().pem(),
            "their-key" => params.self_signed(&own).unwrap().pem() + &own.serialize_pem(),
            "no-certificate" => "<html>".to_owned(),
            "too-long" => {
                let mut text = params.signed_by(&key, &issuer).unwrap().pem();
                while text.len() < 300_000 {
                    let _ = writeln!(text, "# What stands between certificates is passed over.");
                }
                text
            }
            _ => params.signed_by(&key, &issuer).unwrap().pem(),
        }
    }
}

/// The key of a request.
struct Wanted(Vec<u8>);

impl rcgen::PublicKeyData for Wanted {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// What was signed. Who signed it does not matter to a liar.
fn payload(body: &str) -> Value {
    let signed: Value = serde_json::from_str(body).unwrap_or_default();
    let payload = base64url(signed["payload"].as_str().unwrap_or_default());
    serde_json::from_slice(&payload).unwrap_or_default()
}

fn base64url(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = text.bytes().map(|byte| {
        let digit = DIGITS.iter().position(|digit| *digit == byte);
        u32::try_from(digit.unwrap()).unwrap()
    });
    let digits: Vec<u32> = digits.collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let bits = (0..4).fold(0, |bits, at| (bits << 6) | group.get(at).unwrap_or(&0));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// Valid from so many days from now on until then.
fn last(params: &mut rcgen::CertificateParams, from: i64, until: i64) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let on = |days: i64| {
        let seconds = now.saturating_add_signed(days * 86_400);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (on(from), on(until));
}

fn memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.unwrap().trim().trim_end_matches(" kB");
    figure.parse().unwrap()
}

/// A realm whose agent orders certificates for these names there. It has one for each, which is to be renewed.
fn realm_with(names: &[String], directory: &str, root: &str) -> Realm {
    let realm = Realm::new();
    realm.write("root.pem", root);
    let folder = realm.path(".realm/certificates/acme");
    std::fs::create_dir_all(&folder).unwrap();
    for name in names {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.clone()]).unwrap();
        last(&mut params, -89, 1);
        let text = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        std::fs::write(folder.join(format!("{name}.pem")), text).unwrap();
    }
    let toml = format!(
        "[listen]\nhttps = [\"127.0.0.1:0\"]\n[tls.acme]\nterms_agreed = true\nchallenge = \"http-01\"\n\
         directory = \"{directory}\"\nroot = \"{}\"\nnames = {names:?}\n",
        realm.path("root.pem").display()
    );
    realm.write(".realm/node.toml", &toml);
    realm
}

fn certificate_of(realm: &Realm, name: &str) -> String {
    realm.read(&format!(".realm/certificates/acme/{name}.pem"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_lies_harms_nobody() {
    let liar = Liar::start().await;
    let lies = LIES.iter().map(|(lie, _)| *lie);
    let names: Vec<String> = lies.chain([HONEST]).map(host).collect();
    let realm = realm_with(&names, &format!("{}/dir", liar.base), &liar.root);
    let before: Vec<String> = names
        .iter()
        .map(|name| certificate_of(&realm, name))
        .collect();
    let agent = Running::start(realm.command(&AGENT));
    let reading = tokio::task::spawn_blocking(move || {
        let (mut told, mut listens) = (Vec::new(), None);
        while let Some(line) = agent.stderr.next() {
            if let Some((_, port)) = line.split_once("answering on https://127.0.0.1:") {
                listens = Some((port.to_owned(), memory_kib(agent.id())));
            }
            if line.contains("a certificate was given") && line.contains(HONEST) {
                return (agent, told, listens.unwrap());
            }
            told.push(line);
        }
        panic!("the agent ended: {told:?}");
    });
    let (agent, told, (port, began_kib)) = reading.await.unwrap();
    let bad = |line: &&String| line.contains("panicked") || line.len() > LINE_BYTES_MAX;
    let mut wrong: Vec<_> = told
        .iter()
        .filter(bad)
        .map(|line| ("the log", Some(line)))
        .collect();
    for (lie, expected) in LIES {
        let about = format!("no certificate for `{}` could be ordered: ", host(lie));
        let mut of_it = told.iter().filter(|line| line.contains(&about));
        let line = of_it.next();
        if !line.is_some_and(|line| line.contains("acme-failed") && line.contains(expected)) {
            wrong.push((*lie, line));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What was there is there, and shown.
    for (name, before) in names.iter().zip(&before) {
        let is_new = certificate_of(&realm, name) != *before;
        assert_eq!(is_new, *name == host(HONEST), "{name}");
    }
    let mut curl = Command::new("curl");
    let name = host("over");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
        .arg(realm.path(&format!(".realm/certificates/acme/{name}.pem")))
        .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
        .arg(format!("https://{name}:{port}/"));
    said(curl).ok();
    let more_kib = memory_kib(agent.id()).saturating_sub(began_kib);
    assert!(more_kib < 64 * 1024, "{more_kib} KiB more");
    // Orders without a pause would come at once, and the last one is over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    {
        let said = liar.said.lock().unwrap();
        for (name, times) in &said.orders {
            let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(
                pauses.min().is_none_or(|least| least >= AGAIN_MIN),
                "{name}"
            );
        }
        // Two that came to nothing, one, and another one when that was forgotten.
        assert_eq!(said.accounts, 4);
    }
    assert!(agent.interrupt().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_silent_is_not_waited_for() {
    // It takes connections, and says nothing on them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let root = Liar::start().await.root.clone();
    let name = host("silent");
    let directory = format!("https://localhost:{port}/dir");
    let realm = realm_with(std::slice::from_ref(&name), &directory, &root);
    let before = certificate_of(&realm, &name);
    let agent = realm.agent();
    let about = eventually("the alarm", async || {
        let alarms = realm.status().await.alarms.into_iter();
        let mut failed = alarms.filter(|alarm| alarm.code == "acme-failed");
        failed.next().map(|alarm| alarm.message)
    })
    .await;
    assert!(about.contains("it does not answer in time"), "{about}");
    assert_eq!(certificate_of(&realm, &name), before);
    assert!(agent.terminate().success());
}
