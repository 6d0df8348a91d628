//! The stores, each in a folder of its own, gone when it is dropped.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::server::{Server, free_address};

#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with tests, which do more with it, and end where it does not start"
)]
#[path = "../../../tests/peers/postgres.rs"]
mod postgres;
#[expect(dead_code, reason = "shared with tests, which do more with it")]
#[path = "../../../tests/peers/swift.rs"]
mod swift;

/// A store, for a guest and for a native program.
pub(super) struct Store {
    pub(super) name: &'static str,
    /// In a table.
    pub(super) title: &'static str,
    /// As the manifest names it.
    backend: String,
    /// What a node has to allow.
    pub(super) origin: Option<String>,
    /// What leads to it, for the binding.
    pub(super) secret: Option<String>,
    /// As the native program wants it.
    pub(super) place: String,
    _server: Process,
}

/// What runs behind a store.
#[expect(dead_code, reason = "they end when they are dropped")]
enum Process {
    None,
    One(Server),
    Postgres(postgres::Server),
    Swift(swift::Swift),
}

impl Store {
    pub(super) fn start(name: &'static str, folder: &Path) -> Result<Self> {
        let place = |file: &str| folder.join(file).display().to_string();
        match name {
            "redb" => Ok(embedded(name, "embedded (redb)", place("native.redb"))),
            "folder" => Ok(embedded(name, "embedded (a folder)", place("native"))),
            "sqlite" => Ok(embedded(name, "embedded (SQLite)", place("native.sqlite"))),
            "queue" => Ok(embedded(name, "embedded (redb)", String::new())),
            "redis" => redis(folder),
            "nats" => nats(folder),
            "postgres" => Ok(postgres()),
            "s3" => s3(folder),
            other => bail!("no store `{other}`"),
        }
    }

    pub(super) fn binding(&self, interface: &str) -> String {
        let Self { name, backend, .. } = self;
        let secret = match &self.secret {
            Some(_) => format!("secret = \"{name}\"\n"),
            None => String::new(),
        };
        format!("[bindings.{name}]\ninterface = \"{interface}\"\nbackend = \"{backend}\"\n{secret}")
    }
}

fn embedded(name: &'static str, title: &'static str, place: String) -> Store {
    Store {
        name,
        title,
        backend: "embedded".to_owned(),
        origin: None,
        secret: None,
        place,
        _server: Process::None,
    }
}

/// In memory alone: what it does with a disk is not what is compared.
fn redis(folder: &Path) -> Result<Store> {
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder);
    let mut server = Server::start("redis-server", address, command, &folder.join("redis.log"))
        .context("hint: on Debian: apt-get install redis-server")?;
    server.listens()?;
    let origin = format!("redis://{address}");
    Ok(Store {
        name: "redis",
        title: "Redis",
        backend: origin.clone(),
        origin: Some(origin),
        secret: None,
        place: address.to_string(),
        _server: Process::One(server),
    })
}

fn nats(folder: &Path) -> Result<Store> {
    let address = free_address()?;
    let mut command = Command::new("nats-server");
    command
        .args(["-a", "127.0.0.1", "-p", &address.port().to_string()])
        .arg("-js")
        .arg("-sd")
        .arg(folder.join("jetstream"));
    let mut server = Server::start("nats-server", address, command, &folder.join("nats.log"))
        .context("hint: on Debian: apt-get install nats-server")?;
    server.listens()?;
    let origin = format!("nats://{address}");
    Ok(Store {
        name: "nats",
        title: "NATS JetStream",
        backend: origin.clone(),
        origin: Some(origin),
        secret: None,
        place: address.to_string(),
        _server: Process::One(server),
    })
}

fn postgres() -> Store {
    let server = postgres::Server::start(None, "trust");
    let origin = format!("postgres://127.0.0.1:{}", server.port);
    Store {
        name: "postgres",
        title: "PostgreSQL",
        backend: format!(
            "postgres://{}@127.0.0.1:{}/postgres?sslmode=disable",
            postgres::USER,
            server.port
        ),
        origin: Some(origin),
        secret: None,
        place: server.port.to_string(),
        _server: Process::Postgres(server),
    }
}

fn s3(folder: &Path) -> Result<Store> {
    let folder = folder.join("swift");
    std::fs::create_dir_all(&folder)?;
    let server = swift::Swift::start(&folder, None);
    let endpoint = server.endpoint();
    Ok(Store {
        name: "s3",
        title: "S3 (Swift)",
        backend: format!(
            "s3://{}?region={}&endpoint={endpoint}",
            swift::BUCKET,
            swift::REGION
        ),
        origin: Some(endpoint.clone()),
        secret: Some(swift::Swift::credentials()),
        place: format!(
            "{endpoint} {} {} {} {}",
            swift::BUCKET,
            swift::REGION,
            swift::USER,
            swift::PASSWORD
        ),
        _server: Process::Swift(server),
    })
}
