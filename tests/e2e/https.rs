//! HTTPS of a real agent: with the certificate for development, with files that change, and with an
//! authority (`acme`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use realm_test_guests as guests;

use crate::support::{Agent, PATIENCE, Realm, Said, said};

const APP: &str = "";

/// `[listen]` and `[tls]` with a free port.
fn node_toml(tls: &str) -> String {
    format!("[listen]\nhttps = [\"127.0.0.1:0\"]\n{tls}")
}

struct Served {
    realm: Realm,
    agent: Agent,
    port: u16,
}

impl Served {
    /// An agent with a component, and this under `[listen]` and `[tls]`.
    fn new(realm: Realm, toml: &str) -> Self {
        realm.write(".realm/node.toml", toml);
        let agent = realm.agent();
        let url = agent.after("answering on https://");
        let port = url.rsplit_once(':').unwrap().1.trim().parse().unwrap();
        Self { realm, agent, port }
    }

    fn dev(hosts: &[&str], more: &str) -> Self {
        let realm = with_app();
        realm.run(&[&["cert", "dev"], hosts].concat()).ok();
        Self::new(realm, &node_toml(&format!("[tls]\ndev = true\n{more}")))
    }

    fn authority(&self) -> PathBuf {
        self.realm.path(".realm/certificates/dev-ca.pem")
    }

    fn curl(&self, authority: &Path, host: &str, args: &[&str]) -> Said {
        curl(authority, host, self.port, args)
    }
}

fn with_app() -> Realm {
    let realm = Realm::new();
    realm.app(guests::HELLO_P2, APP);
    realm
}

fn curl(authority: &Path, host: &str, port: u16, args: &[&str]) -> Said {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
        .arg(authority)
        .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
        .args(args)
        .arg(format!("https://{host}:{port}/"));
    said(command)
}
