//! TLS that a web server speaks with its clients: what it says of that reaches the guest, and nobody else's
//! word does.

use std::path::PathBuf;
use std::process::Command;

use super::client::CLIENT;
use super::servers::{Door, Front, Server};
use super::{HOST, more};

/// An authority, and what it gave to a server and to a client.
struct Files {
    folder: tempfile::TempDir,
    /// Of the client's certificate, as hexadecimal digits.
    serial: String,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let named = |name: &str, hosts: Vec<String>| {
            let mut params = rcgen::CertificateParams::new(hosts).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            let common_name = rcgen::DnType::CommonName;
            params.distinguished_name.push(common_name, name);
            params
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let mut of_authority = named("the authority", Vec::new());
        of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = of_authority.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(of_authority, key);
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
        };
        write("authority.pem", authority.pem());
        let serial = [0x5a, 0x10, 0x0f];
        for (name, hosts) in [("server", vec![HOST.to_owned()]), ("ann", Vec::new())] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = named(name, hosts);
            params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
            let certificate = params.signed_by(&key, &issuer).unwrap();
            let (certificate, key) = (certificate.pem(), key.serialize_pem());
            write(&format!("{name}.pem"), certificate.clone());
            write(&format!("{name}.key"), key.clone());
            write(&format!("{name}.both"), certificate + &key);
        }
        Self {
            serial: "5A100F".to_owned(),
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The printed configuration with the remarks on TLS taken at their word. `is_required`: a certificate of
    /// each client.
    fn uncommented(&self, server: Server, config: &str, is_required: bool) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let (authority, certificate, key) = (
            path("authority.pem"),
            path("server.pem"),
            path("server.key"),
        );
        let (words, files, required, optional): (&[&str], Vec<_>, _, _) = match server {
            Server::Nginx => (
                &["listen 443", "ssl_"],
                vec![
                    ("ssl_client_certificate FILE", authority),
                    ("ssl_certificate FILE", certificate),
                    ("ssl_certificate_key FILE", key),
                ],
                "ssl_verify_client on",
                "ssl_verify_client optional",
            ),
            Server::Apache => (
                &["SSL"],
                vec![
                    ("SSLCACertificateFile FILE", authority),
                    ("SSLCertificateFile FILE", certificate),
                    ("SSLCertificateKeyFile FILE", key),
                ],
                "SSLVerifyClient require",
                "SSLVerifyClient optional",
            ),
            Server::Haproxy => (
                &["bind :443"],
                vec![
                    ("ca-file FILE", authority),
                    ("crt FILE", path("server.both")),
                ],
                "verify required",
                "verify optional",
            ),
            Server::Lighttpd | Server::Caddy | Server::HaproxyMultiplexed => {
                panic!("{server:?} has no such remark")
            }
        };
        let listens = config.lines().find(|line| {
            let line = line.trim();
            line.starts_with("listen ") || line.starts_with("bind ")
        });
        let mut text = more::uncommented(config, words);
        for (line, file) in files {
            assert!(text.contains(line), "{line} of {text}");
            let word = line.trim_end_matches("FILE");
            text = text.replace(line, &format!("{word}{file}"));
        }
        // Its port, in place of the one without TLS.
        if let Some(listens) = listens {
            text = text.replace(&format!("{listens}\n"), "");
            let at = listens.trim().trim_end_matches(';');
            text = text.replace("listen 443", at).replace("bind :443", at);
        }
        assert!(text.contains(required), "{text}");
        match is_required {
            true => text,
            false => text.replace(required, optional),
        }
    }

    fn ask(&self, front: &Front, more: &[&str]) -> crate::support::Said {
        let port = front.port;
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
            .arg(self.path("authority.pem"))
            .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")])
            .args(["--interface", &CLIENT.to_string()])
            .args(more)
            .arg(format!("https://{HOST}:{port}/request"));
        for forged in [
            "SSL_CLIENT_S_DN: CN=root",
            "SSL-Client-S-DN: CN=root",
            "X-Realm-Ssl-Client-S-Dn: CN=root",
            "X_Realm_Ssl_Client_S_Dn: CN=root",
            "X-Realm-Ssl-Client-Verify: SUCCESS",
            "X-Realm-Ssl-Protocol: root",
        ] {
            command.args(["--header", forged]);
        }
        crate::support::said(command)
    }
}

fn check(server: Server) {
    let files = Files::new();
    let start = |is_required| {
        Front::start_with(server, Door::Unix, &[], |config| {
            files.uncommented(server, &config, is_required)
        })
    };
    let vouched = |said: String| {
        let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(seen["scheme"], "Scheme::Https", "{seen}");
        let headers = seen["headers"].clone();
        assert_eq!(headers["x-forwarded-proto"], "https", "{headers}");
        assert_eq!(headers["x-forwarded-for"], CLIENT.to_string(), "{headers}");
        assert_eq!(headers["x-realm-ssl-protocol"], "TLSv1.3", "{headers}");
        assert_eq!(headers["x-realm-ssl-tls-sni"], HOST, "{headers}");
        let cipher = headers["x-realm-ssl-cipher"].as_str().unwrap_or_default();
        assert!(cipher.starts_with("TLS_"), "{headers}");
        headers
    };
    let (certificate, key) = (files.path("ann.pem"), files.path("ann.key"));
    let with_certificate = [
        "--cert",
        certificate.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    let check_ann = |front: &Front| {
        let said = files.ask(front, &with_certificate);
        assert_eq!(said.code, 0, "{}\n{}", said.stderr, front.log());
        let headers = vouched(said.stdout);
        for (name, expected) in [
            ("x-realm-ssl-client-verify", "SUCCESS"),
            ("x-realm-ssl-client-s-dn", "CN=ann"),
            ("x-realm-ssl-client-i-dn", "CN=the authority"),
            ("x-realm-ssl-client-m-serial", files.serial.as_str()),
        ] {
            assert_eq!(headers[name], expected, "{name} of {headers}");
        }
    };
    let front = start(true);
    check_ann(&front);
    let said = files.ask(&front, &[]);
    assert!(
        said.code != 0 || said.stdout.contains("400"),
        "{}",
        said.stdout
    );
    drop(front);
    let front = start(false);
    check_ann(&front);
    let headers = vouched(files.ask(&front, &[]).ok().stdout);
    assert_eq!(headers["x-realm-ssl-client-verify"], "NONE", "{headers}");
    for name in ["s-dn", "i-dn", "m-serial"] {
        let name = format!("x-realm-ssl-client-{name}");
        assert!(headers.get(&name).is_none(), "{name} of {headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nginx_says_of_tls_reaches_the_guest() {
    check(Server::Nginx);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apache_says_of_tls_reaches_the_guest() {
    check(Server::Apache);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_haproxy_says_of_tls_reaches_the_guest() {
    check(Server::Haproxy);
}
