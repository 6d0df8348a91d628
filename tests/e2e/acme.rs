//! Certificates by ACME, from a real authority: Pebble, which Let's Encrypt tests clients with.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

use realm_model::digest::Digest;
use realm_test_guests::ECHO_REQUEST;

use crate::https::Secure;
use crate::realms::Realms;
use crate::support::{Realm, Running, eventually, get, lasting_port};

/// An authority, and a server of names that sends everybody to this machine.
struct Authority {
    _pebble: Running,
    directory: String,
    /// Who vouches for the authority's own server.
    root: PathBuf,
    management: String,
}

/// Ports that the authority looks at, instead of 80 and 443.
struct Ports {
    http: u16,
    https: u16,
}

impl Authority {
    fn start(realm: &Realm, ports: &Ports) -> Self {
        // Five years: what it does by itself.
        Self::start_for(realm, ports, 5 * 365 * 86_400)
    }

    /// The same, and its certificates are good for so many seconds.
    fn start_for(realm: &Realm, ports: &Ports, valid_s: u64) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = rcgen::CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        realm.write("pebble.pem", &certificate.pem());
        realm.write("pebble.key", &key.serialize_pem());
        let (port, management) = (lasting_port(), lasting_port());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": realm.path("pebble.pem"),
            "privateKey": realm.path("pebble.key"),
            "httpPort": ports.http,
            "tlsPort": ports.https,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": valid_s,
        }});
        realm.write("pebble.json", &config.to_string());
        let mut command = Command::new("pebble");
        command
            .args([
                "-config",
                "pebble.json",
                "-dnsserver",
                &names_of_this_machine(),
            ])
            .current_dir(realm.path("."))
            .env("PEBBLE_VA_NOSLEEP", "1");
        let pebble = Running::start(command);
        // It logs there.
        pebble.stdout.after("ACME directory available at");
        Self {
            _pebble: pebble,
            directory: format!("https://localhost:{port}/dir"),
            root: realm.path("pebble.pem"),
            management: format!("https://localhost:{management}"),
        }
    }

    /// The certificate that those which it gives lead to.
    async fn issuer(&self, realm: &Realm) -> PathBuf {
        let trusted = std::fs::read(&self.root).unwrap();
        let trusted = reqwest::Certificate::from_pem(&trusted).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([trusted]);
        let client = client.build().unwrap();
        let root = client.get(format!("{}/roots/0", self.management));
        let root = root.send().await.unwrap().text().await.unwrap();
        realm.write("issuer.pem", &root);
        realm.path("issuer.pem")
    }

    fn settings(&self, more: &str) -> String {
        format!(
            "[tls.acme]\nterms_agreed = true\ncontact = \"ops@shop.example.com\"\n\
             directory = \"{}\"\nroot = \"{}\"\n{more}\n",
            self.directory,
            self.root.display()
        )
    }
}

/// A server that says of each name that it is this machine (RFC 1035 §4.1): all that an authority asks.
fn names_of_this_machine() -> String {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 1_500];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let question = &buffer[..count];
            // The name ends with an empty label; its type and class follow.
            let Some(end) = question.iter().skip(12).position(|byte| *byte == 0) else {
                continue;
            };
            let end = 12 + end + 5;
            let is_address = question.get(end - 4..end - 2) == Some(&[0, 1]);
            let mut answer = question[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
            answer.extend(&question[12..end]);
            if is_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

/// A realm with an app for one host, and an agent whose ports are those.
async fn served(more: &str, valid_s: u64) -> (Authority, Secure) {
    let realm = Realm::new();
    realm.guest(ECHO_REQUEST, "app.wasm");
    realm.write(
        "realm.toml",
        "[components.app]\nsource = \"file:./app.wasm\"\n[routing]\n\"*\" = [\n\
         { host = \"shop.example.com\", path = \"/...\", component = \"app\" },\n\
         { host = \"shop.localhost\", path = \"/...\", component = \"app\" },\n]\n",
    );
    let ports = Ports {
        http: lasting_port(),
        https: lasting_port(),
    };
    let authority = Authority::start_for(&realm, &ports, valid_s);
    let toml = format!(
        "[listen]\nhttp = [\"127.0.0.1:{}\"]\nhttps = [\"127.0.0.1:{}\"]\n[tls]\nredirect = true\n{}",
        ports.http,
        ports.https,
        authority.settings(more)
    );
    realm.write(".realm/node.toml", &toml);
    let secure = Secure::start_by_file(realm).await;
    (authority, secure)
}

/// Waits for the certificate, and uses it.
async fn check(more: &str) -> (Authority, Secure) {
    let (authority, secure) = served(more, 5 * 365 * 86_400).await;
    let issuer = authority.issuer(&secure.realm).await;
    eventually("a certificate was given", async || {
        let alarms = secure.realm.status().await.alarms;
        assert!(alarms.is_empty(), "{alarms:?}");
        (secure.curl(&issuer, "shop.example.com", &[]).code == 0).then_some(())
    })
    .await;
    let own = secure.realm.path(".realm/certificates");
    let mode = |path: PathBuf| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(own.join("acme/shop.example.com.pem")), 0o600);
    let mut files = std::fs::read_dir(&own).unwrap();
    let account = files.find_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("acme-account-").then(|| path.clone())
    });
    assert_eq!(mode(account.expect("an account")), 0o600);
    // A name that nobody else knows is not asked for.
    assert!(!own.join("acme/shop.localhost.pem").exists());
    assert_eq!(secure.alarms().await, Vec::<String>::new());
    (authority, secure)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_gives_certificates_for_the_hosts_of_routes() {
    let (authority, secure) = check("").await;
    // A new start takes what is there, and orders nothing.
    let Secure { realm, agent, .. } = secure;
    let file = realm.path(".realm/certificates/acme/shop.example.com.pem");
    let before = std::fs::read(&file).unwrap();
    assert!(agent.terminate().success());
    let secure = Secure::start_by_file(realm).await;
    let issuer = authority.issuer(&secure.realm).await;
    secure.curl(&issuer, "shop.example.com", &[]).ok();
    assert_eq!(std::fs::read(&file).unwrap(), before);
    // Without its file another one is ordered, with the same account.
    std::fs::remove_file(&file).unwrap();
    let Secure { realm, agent, .. } = secure;
    assert!(agent.terminate().success());
    let secure = Secure::start_by_file(realm).await;
    eventually("another one was given", async || {
        std::fs::read(&file).ok().filter(|bytes| *bytes != before)
    })
    .await;
    let page = get(&secure.agent.metrics_url).await.0;
    assert_eq!(page, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_looks_by_a_handshake() {
    check("challenge = \"tls-alpn-01\"").await;
}

/// One of a minute: the next one is there with the last third of it, and nobody is without one meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_its_end() {
    let (authority, secure) = served("", 60).await;
    let issuer = authority.issuer(&secure.realm).await;
    let file = secure
        .realm
        .path(".realm/certificates/acme/shop.example.com.pem");
    let first = eventually("a certificate", async || std::fs::read(&file).ok()).await;
    std::fs::write(secure.realm.path("first.pem"), &first).unwrap();
    eventually("it is shown", async || {
        (secure.curl(&issuer, "shop.example.com", &[]).code == 0).then_some(())
    })
    .await;
    let second = eventually("the next one", async || {
        // Whichever it is, it is good.
        secure.curl(&issuer, "shop.example.com", &[]).ok();
        std::fs::read(&file).ok().filter(|bytes| *bytes != first)
    })
    .await;
    let is_good = |name: &str| {
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-checkend", "0", "-in"]);
        openssl.arg(secure.realm.path(name));
        crate::support::said(openssl).code == 0
    };
    assert!(
        is_good("first.pem"),
        "it had not ended when the next one came"
    );
    let shown = eventually("the next one is shown", async || {
        secure.curl(&issuer, "shop.example.com", &[]).ok();
        let mut openssl = Command::new("openssl");
        let address = format!("127.0.0.1:{}", secure.port);
        openssl.args(["s_client", "-servername", "shop.example.com", "-connect"]);
        openssl.arg(address).stdin(std::process::Stdio::null());
        let told = crate::support::said(openssl).stdout;
        let from = told.find("-----BEGIN CERTIFICATE-----")?;
        let leaf = told[from..]
            .split_inclusive("-----END CERTIFICATE-----")
            .next()?;
        let second = String::from_utf8_lossy(&second);
        second.contains(leaf).then(|| leaf.to_owned())
    })
    .await;
    secure.realm.write("second.pem", &shown);
    eventually("the first one ends", async || {
        (!is_good("first.pem")).then_some(())
    })
    .await;
    secure.curl(&issuer, "shop.example.com", &[]).ok();
    assert_eq!(secure.alarms().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_authority_refuses_is_told() {
    // A name that leads elsewhere: nobody answers for it on these ports.
    let realm = Realm::new();
    let ports = Ports {
        http: lasting_port(),
        https: lasting_port(),
    };
    let authority = Authority::start(&realm, &ports);
    let settings = authority.settings("names = [\"shop.example.com\"]");
    let toml = format!("[listen]\nhttps = [\"127.0.0.1:0\"]\n{settings}");
    realm.write(".realm/node.toml", &toml);
    let agent = realm.agent();
    let about = eventually("the alarm", async || {
        let alarms = realm.status().await.alarms.into_iter();
        let mut failed = alarms.filter(|alarm| alarm.code == "acme-failed");
        failed.next().map(|alarm| alarm.message)
    })
    .await;
    assert!(
        about.contains("did not find that the name leads here"),
        "{about}"
    );
    assert!(about.contains("/.well-known/acme-challenge/"), "{about}");
    // It waits before it asks again, and goes on serving.
    assert_eq!(get(&agent.url("/")).await.0, 404);
    assert!(agent.terminate().success());
}

/// One node orders, the authority looks at the other one, and both show one certificate.
async fn check_shared(challenge: &str) {
    let mut realms = Realms::meet(&["alpha", "beta"]).await;
    // Both start at one moment later on, and must find each other again.
    let port = lasting_port();
    let alpha = &mut realms.nodes[0];
    alpha.p2p = format!("127.0.0.1:{port}");
    assert!(alpha.take().terminate().success());
    alpha.start();
    let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
    realms.as_owner(1, &["peer", "add", &address]).ok();
    realms.all_meet().await;
    let keys = [0, 1].map(|at| realms.nodes[at].key().public());
    // The name for which alpha comes first.
    let rank = |name: &str, at: usize| Digest::of(&[name.as_bytes(), keys[at].as_bytes()].concat());
    let mut names = (0..).map(|number| format!("shop-{number}.example.com"));
    let name = names.find(|name| rank(name, 0) < rank(name, 1)).unwrap();
    let ports = Ports {
        http: lasting_port(),
        https: lasting_port(),
    };
    let authority = Authority::start(&realms.first().realm, &ports);
    let more = format!("names = [\"{name}\"]\nchallenge = \"{challenge}\"");
    let settings = authority.settings(&more);
    let listens = [("127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()), {
        let at = |port: u16| format!("127.0.0.1:{port}");
        (at(ports.http), at(ports.https))
    }];
    for (at, (http, https)) in listens.iter().enumerate() {
        let node = &mut realms.nodes[at];
        node.node_toml(&format!(
            "[listen]\nhttp = [\"{http}\"]\nhttps = [\"{https}\"]\n{settings}"
        ));
        assert!(node.take().terminate().success());
    }
    for node in &mut realms.nodes {
        let args = [
            "agent",
            "--admin",
            "127.0.0.1:0",
            "--p2p",
            node.p2p.as_str(),
        ];
        let running = Running::start(node.command(&args));
        node.runs(running);
    }
    let file = format!(".realm/certificates/acme/{name}.pem");
    let mut given = Vec::new();
    for node in &realms.nodes {
        let path = node.realm.path(&file);
        let text = eventually("a certificate", async || {
            let alarms = node.status().await.alarms;
            assert!(
                alarms.iter().all(|one| one.code != "acme-failed"),
                "{alarms:?}"
            );
            std::fs::read(&path).ok()
        });
        given.push(text.await);
    }
    assert!(given[0] == given[1], "one certificate for both");
    let has_account = |at: usize| {
        let folder = realms.nodes[at].realm.path(".realm/certificates");
        let mut entries = std::fs::read_dir(folder).unwrap();
        entries.any(|entry| {
            let name = entry.unwrap().file_name();
            name.to_str().unwrap().starts_with("acme-account-")
        })
    };
    assert!(has_account(0) && !has_account(1), "alpha alone has ordered");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_a_certificate_and_its_proofs_over_http() {
    check_shared("http-01").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_a_certificate_and_its_proofs_by_handshake() {
    check_shared("tls-alpn-01").await;
}
