//! HTTPS of a real agent: with the certificate for development, with files that change, and what a
//! judge of TLS says of it. With an authority: `acme`.

use std::path::{Path, PathBuf};
use std::process::Command;

use realm_test_guests::ECHO_REQUEST;

use crate::support::{Agent, Realm, Said, eventually, said};

/// An agent with an app that says what it was asked, over HTTPS.
pub(crate) struct Secure {
    pub(crate) realm: Realm,
    pub(crate) agent: Agent,
    pub(crate) port: u16,
}

impl Secure {
    /// With this under `[tls]`.
    async fn new(realm: Realm, tls: &str) -> Self {
        realm.app(ECHO_REQUEST, "");
        let toml = format!("[listen]\nhttps = [\"127.0.0.1:0\"]\n[tls]\n{tls}\n");
        realm.write(".realm/node.toml", &toml);
        Self::start(realm).await
    }

    /// With the node.toml that is there, on the ports that it names.
    pub(crate) async fn start_by_file(realm: Realm) -> Self {
        let free = "127.0.0.1:0";
        let agent = realm.command(&["agent", "--admin", free, "--p2p", free]);
        Self::of(realm, Agent::start(agent)).await
    }

    async fn start(realm: Realm) -> Self {
        let agent = realm.agent();
        Self::of(realm, agent).await
    }

    async fn of(realm: Realm, agent: Agent) -> Self {
        realm.run(&["apply", "--yes"]).ok();
        let urls = realm.status().await.urls;
        let url = urls.iter().find_map(|url| url.strip_prefix("https://"));
        let port = url.and_then(|url| url.rsplit_once(':')).unwrap().1;
        let port = port.parse().unwrap();
        Self { realm, agent, port }
    }

    /// Asks for `/path` with this host, and trusts the authorities in a file.
    pub(crate) fn curl(&self, authorities: &Path, host: &str, args: &[&str]) -> Said {
        let port = self.port;
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(authorities)
            .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
            .args(args)
            .arg(format!("https://{host}:{port}/path"));
        said(command)
    }

    fn dev_authority(&self) -> PathBuf {
        self.realm.path(".realm/certificates/dev-ca.pem")
    }

    /// The codes of this node's alarms.
    pub(crate) async fn alarms(&self) -> Vec<String> {
        let alarms = self.realm.status().await.alarms.into_iter();
        alarms.map(|alarm| alarm.code).collect()
    }
}

/// A header as the guest saw it.
fn header(answer: &str, name: &str) -> Option<String> {
    let (_, rest) = answer.split_once(&format!("[\"{name}\",\""))?;
    Some(rest.split_once("\"]")?.0.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_development_takes_one_line() {
    let realm = Realm::new();
    let told = realm.run(&["cert", "dev"]).ok();
    assert!(
        told.stdout.contains("127.0.0.1, ::1, localhost"),
        "{}",
        told.stdout
    );
    let secure = Secure::new(realm, "dev = true").await;
    let authority = secure.dev_authority();
    for (version, host) in [("--http2", "localhost"), ("--http1.1", "127.0.0.1")] {
        let said = secure.curl(&authority, host, &[version]).ok().stdout;
        assert!(said.contains(r#""scheme":"https""#), "{said}");
        for (name, expected) in [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-realm-ssl-protocol", "TLSv1.3"),
        ] {
            assert_eq!(header(&said, name).as_deref(), Some(expected), "{said}");
        }
    }
    // It is nobody's whom others trust.
    let machine = Path::new("/etc/ssl/certs/ca-certificates.crt");
    assert_eq!(secure.curl(machine, "localhost", &[]).code, 60);
    // Another host, while it serves.
    assert_eq!(secure.curl(&authority, "shop.localhost", &[]).code, 60);
    let told = secure
        .realm
        .run(&["--json", "cert", "dev", "shop.localhost"]);
    let told: serde_json::Value = serde_json::from_str(&told.ok().stdout).unwrap();
    assert_eq!(told["hosts"].as_array().unwrap().len(), 4);
    eventually("the new host is shown", async || {
        (secure.curl(&authority, "shop.localhost", &[]).code == 0).then_some(())
    })
    .await;
    secure.curl(&authority, "localhost", &[]).ok();
    let doctor = secure.realm.run(&["doctor"]);
    assert!(
        doctor
            .stdout
            .contains("is for localhost, shop.localhost until"),
        "{}",
        doctor.stdout
    );
    secure
        .realm
        .run(&["cert", "dev", "a b"])
        .fails(1, "bad-host");
    assert!(secure.agent.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_realm_cert_dev_the_agent_makes_one_itself() {
    let secure = Secure::new(Realm::new(), "dev = true").await;
    secure.curl(&secure.dev_authority(), "localhost", &[]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_a_name_is_told() {
    let secure = Secure::new(Realm::new(), "acme = { terms_agreed = true }").await;
    eventually("the alarm", async || {
        (secure.alarms().await == ["acme-nameless"]).then_some(())
    })
    .await;
    let doctor = secure.realm.run(&["doctor"]).ok().stdout;
    assert!(doctor.contains("`[tls.acme]` orders nothing"), "{doctor}");
    assert!(secure.agent.terminate().success());
}

/// A self-signed certificate and its key in one file, for days from 1970 on.
fn write_pem(path: &Path, name: &str, (year, until): (i32, i32)) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(year, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let text = format!("{}{}", certificate.pem(), key.serialize_pem());
    // As a careful tool does.
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

const LIVING: (i32, i32) = (2020, 2100);

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_again_and_broken_ones_are_told() {
    let realm = Realm::new();
    let (one, other) = (realm.path("one.pem"), realm.path("other.pem"));
    write_pem(&one, "one.example", LIVING);
    write_pem(&other, "*.other.example", LIVING);
    let tls = format!(
        "certificates = [\"{}\", \"{}\"]",
        one.display(),
        other.display()
    );
    let secure = Secure::new(realm, &tls).await;
    secure.curl(&one, "one.example", &[]).ok();
    secure.curl(&other, "a.other.example", &[]).ok();
    assert_eq!(secure.alarms().await, Vec::<String>::new());

    let alarm = async |expected: &str| {
        eventually(expected, async || {
            (secure.alarms().await == [expected]).then_some(())
        })
        .await;
    };
    std::fs::write(&other, "nothing").unwrap();
    alarm("certificate-broken").await;
    // Copies, to say whom curl trusts: the file is not what is shown any more.
    let trusted = secure.realm.path("trusted.pem");
    let connects = |host: &str| {
        let mut command = Command::new("curl");
        let port = secure.port;
        command
            .args([
                "-sk",
                "--resolve",
                &format!("{host}:{port}:127.0.0.1"),
                "-w",
                "%{certs}",
            ])
            .arg(format!("https://{host}:{port}/"));
        said(command).code == 0
    };
    assert!(connects("a.other.example"));
    let doctor = secure.realm.run(&["doctor"]).code_is(1);
    assert!(
        doctor.stdout.contains("there is no certificate in PEM"),
        "{}",
        doctor.stdout
    );

    write_pem(&other, "*.other.example", (2020, 2021));
    alarm("certificate-expires").await;
    let doctor = secure.realm.run(&["doctor"]);
    assert!(
        doctor.stdout.contains("expired: 2021-01-01T00:00:00Z"),
        "{}",
        doctor.stdout
    );
    assert_eq!(secure.curl(&other, "a.other.example", &[]).code, 60);

    write_pem(&other, "new.example", LIVING);
    // At once.
    secure.agent.signal("HUP");
    eventually("the new one is shown", async || {
        (secure.curl(&other, "new.example", &[]).code == 0).then_some(())
    })
    .await;
    eventually("all is well", async || {
        secure.alarms().await.is_empty().then_some(())
    })
    .await;
    std::fs::copy(&one, &trusted).unwrap();
    secure.curl(&trusted, "one.example", &[]).ok();
    assert!(secure.agent.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_redirects_and_strictness_are_as_node_toml_says() {
    let realm = Realm::new();
    let server = realm.path("server.pem");
    write_pem(&server, "one.example", LIVING);
    let clients = realm.path("clients.pem");
    let tls = format!(
        "certificates = [\"{}\"]\nclient_ca = \"{}\"\nredirect = true\nhsts = \"365d\"",
        server.display(),
        clients.display()
    );
    // Who may come is not known yet: nobody.
    let secure = Secure::new(realm, &tls).await;
    assert_ne!(secure.curl(&server, "one.example", &[]).code, 0);
    assert_eq!(secure.alarms().await, ["certificate-broken"]);
    write_pem(&clients, "ann.example", LIVING);
    let pem = clients.display().to_string();
    let as_ann = ["--cert", pem.as_str(), "--include"];
    let said = eventually("clients come in", async || {
        let said = secure.curl(&server, "one.example", &as_ann);
        (said.code == 0).then_some(said.stdout)
    })
    .await;
    assert!(
        said.contains("strict-transport-security: max-age=31536000"),
        "{said}"
    );
    assert_eq!(
        header(&said, "x-realm-ssl-client-verify").as_deref(),
        Some("SUCCESS")
    );
    let subject = header(&said, "x-realm-ssl-client-s-dn");
    assert_eq!(subject.as_deref(), Some("CN=rcgen self signed cert"));
    assert_ne!(secure.curl(&server, "one.example", &[]).code, 0);

    let client = reqwest::Client::builder();
    let client = client.redirect(reqwest::redirect::Policy::none());
    let plain = client.build().unwrap().get(secure.agent.url("/a?b"));
    let moved = plain.header("host", "one.example").send().await.unwrap();
    assert_eq!(moved.status(), 308);
    let expected = format!("https://one.example:{}/a?b", secure.port);
    assert_eq!(moved.headers()["location"], expected.as_str());
    assert!(secure.agent.terminate().success());
}

#[test]
fn what_is_missing_is_told_before_the_agent_starts() {
    let realm = Realm::new();
    realm.write(".realm/node.toml", "[listen]\nhttps = [\"127.0.0.1:0\"]\n");
    let refused = realm.run(&["agent"]).fails(1, "invalid-node-config");
    assert!(
        refused.stderr.contains("`https` needs a certificate"),
        "{}",
        refused.stderr
    );
}

/// What a judge of TLS calls worse than low. It says of every server that leaves the order of ciphers to its
/// clients that it has none; all that are offered are strong, and a client knows which its processor is fast at.
#[tokio::test(flavor = "multi_thread")]
async fn a_judge_of_tls_finds_nothing() {
    let secure = Secure::new(Realm::new(), "dev = true\nhsts = \"365d\"").await;
    let report = secure.realm.path("report.json");
    let mut command = Command::new("testssl");
    command
        .args([
            "--quiet",
            "--warnings",
            "off",
            "--color",
            "0",
            "--ip",
            "one",
        ])
        .args(["--protocols", "--std", "--fs", "--vulnerable"])
        .arg("--jsonfile")
        .arg(&report)
        .arg(format!("127.0.0.1:{}", secure.port));
    let judged = said(command);
    let text = std::fs::read_to_string(&report).unwrap();
    let found: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let of = |id: &str| {
        let found = found.iter().find(|one| one["id"] == id);
        found.map(|one| one["finding"].as_str().unwrap().to_owned())
    };
    for (id, expected) in [
        ("SSLv2", "not offered"),
        ("SSLv3", "not offered"),
        ("TLS1", "not offered"),
        ("TLS1_1", "not offered"),
        ("TLS1_2", "offered"),
    ] {
        let said = of(id).unwrap_or_else(|| panic!("no {id}: {}", judged.stdout));
        assert!(said.starts_with(expected), "{id}: {said}");
    }
    let tls13 = of("TLS1_3").unwrap_or_default();
    assert!(tls13.starts_with("offered"), "{tls13}");
    let bad: Vec<_> = found
        .iter()
        .filter(|one| {
            let severity = one["severity"].as_str().unwrap();
            // The second is about the judge's own library, which may lack ciphers of GOST.
            let is_told = ["cipher_order", "engine_problem"]
                .iter()
                .all(|id| one["id"] != *id);
            is_told && !["OK", "INFO", "LOW", "DEBUG"].contains(&severity)
        })
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(found.len() > 40, "it looked at little: {}", found.len());
}
