//! Who is measured: realm and its peers, each with the settings that it starts with. Every
//! setting that is not a default stands here, and goes into the report.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cli::Args;
use crate::machine;
use crate::realm::{Realm, manifest_of_one};
use crate::server::{Server, free_address};

/// What `wasmtime serve` needs to start the guests at all: Rust's standard library imports
/// wasi:cli.
const WASMTIME_NEEDS: &[&str] = &["-Scli"];
/// As many requests per instance as `wasmtime serve` gives a guest of WASI 0.3 by itself.
pub(crate) const WASMTIME_REUSE: &[&str] = &["--max-instance-reuse-count=128"];
/// The flags with which `wasmtime serve` is fastest with a fresh instance per request.
pub(crate) const WASMTIME_BEST: &[&str] = &[
    "-Opooling-allocator=y",
    "-Opooling-memory-keep-resident=2097152",
    "-Opooling-table-keep-resident=524288",
    "-Opooling-pagemap-scan=y",
];
/// nginx with a process per core, like the others, and temporary files where it runs.
const NGINX_SETTINGS: &str = "\
daemon off;
USER
worker_processes 2;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    default_type text/plain;
    SERVER
}
";
/// A static file server with nothing else to do.
const NGINX_FILES: &str = "server { listen ADDRESS; root files; }";
const WORKERD_SETTINGS: &str = "\
using Workerd = import \"/workerd/workerd.capnp\";
const config :Workerd.Config = (
  services = [(name = \"main\", worker = .hello)],
  sockets = [(name = \"http\", address = \"ADDRESS\", http = (), service = \"main\")],
);
const hello :Workerd.Worker = (
  modules = [(name = \"hello.js\", esModule = embed \"hello.js\")],
  compatibilityDate = \"2026-01-01\",
);
";
const WORKERD_GUEST: &str = "\
export default {
  fetch() {
    return new Response(\"Hello from a component.\\n\", { headers: { \"content-type\": \"text/plain\" } });
  },
};
";

/// One way to answer the requests of a case.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// realm, with lines for the component's table in the manifest.
    Realm(String),
    /// `wasmtime serve` with these flags beside the ones that the guest needs.
    Wasmtime(Vec<&'static str>),
    /// A static file with these bytes: the ceiling.
    Nginx(&'static str),
    /// A JavaScript guest that says the same as the component.
    Workerd,
}

/// A started peer, and what it needs to live.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) server: Server,
    /// The realm's folder goes with it.
    pub(crate) realm: Option<Realm>,
}

/// Where a run keeps its files, and the programs that it starts.
#[derive(Debug)]
pub(crate) struct Tools<'a> {
    pub(crate) args: &'a Args,
    /// The cores that this process might use before it was put on two.
    pub(crate) all_cores: Vec<usize>,
}

impl Tools<'_> {
    /// Versions of everything, and a plain failure if one of them is not there. Cases in which realm
    /// is alone need nothing else.
    pub(crate) fn versions(&self, with_peers: bool) -> Result<Vec<(&'static str, String)>> {
        let args = self.args;
        let found = |what: &'static str, program: &Path, flags: &[&str], hint: &str| {
            machine::version(program, flags)
                .with_context(|| format!("`{what}` is missing\nhint: {hint}"))
                .map(|version| (what, version))
        };
        let wrk = Path::new("wrk");
        let hint = "cargo build --release --bin realm";
        let realm = found("realm", &args.realm, &["version"], hint)?;
        if !with_peers {
            return Ok(vec![realm]);
        }
        Ok(vec![
            realm,
            found(
                "wasmtime",
                &args.wasmtime,
                &["--version"],
                "cargo install --locked wasmtime-cli@48.0.8, or name one in REALM_BENCH_WASMTIME",
            )?,
            found(
                "nginx",
                &args.nginx,
                &["-v"],
                "on Debian: apt-get install nginx",
            )?,
            found(
                "workerd",
                &args.workerd,
                &["--version"],
                "npm ci in bench/peers",
            )?,
            found("wrk", wrk, &["-v"], "on Debian: apt-get install wrk")?,
        ])
    }

    /// A folder below `out`, empty.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.args.out.join("run").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("`{}`", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("`{}`", folder.display()))?;
        // nginx and workerd want absolute paths.
        Ok(fs::canonicalize(&folder)?)
    }

    /// Starts the agent of a new realm, and waits until everything in the manifest runs.
    pub(crate) fn realm(&self, name: &str, manifest: &str) -> Result<Running> {
        let log = self.folder(&name.replace(' ', "-"))?.join("log");
        let realm = Realm::new(&self.args.realm)?;
        let mut server = realm.agent(name, &log)?;
        server.listens()?;
        realm.apply(manifest)?;
        Ok(Running {
            server,
            realm: Some(realm),
        })
    }

    /// nginx in `folder`, with this in its block `http`.
    pub(crate) fn nginx(&self, folder: &Path, server: &str) -> Result<Command> {
        let settings = NGINX_SETTINGS
            .replace("SERVER", server)
            .replace("USER", nginx_user());
        fs::write(folder.join("nginx.conf"), settings)?;
        let mut command = Command::new(&self.args.nginx);
        command
            .arg("-p")
            .arg(folder)
            .args(["-e", "error.log", "-c", "nginx.conf"]);
        Ok(command)
    }

    /// Starts a peer with a guest. It may not answer yet, except realm, whose components run.
    pub(crate) fn start(&self, name: &str, peer: &Peer, guest: &Path) -> Result<Running> {
        let folder = self.folder(&name.replace(' ', "-"))?;
        let log = folder.join("log");
        match peer {
            Peer::Realm(more) => self.realm(name, &manifest_of_one(guest, more)),
            Peer::Wasmtime(flags) => {
                let address = free_address()?;
                let mut command = Command::new(&self.args.wasmtime);
                command.arg("serve").args(WASMTIME_NEEDS).args(flags);
                command.args(["--addr", &address.to_string()]).arg(guest);
                plain(Server::start(name, address, command, &log)?)
            }
            Peer::Nginx(text) => {
                let address = free_address()?;
                fs::create_dir(folder.join("files"))?;
                fs::write(folder.join("files/index.html"), text)?;
                let server = NGINX_FILES.replace("ADDRESS", &address.to_string());
                let command = self.nginx(&folder, &server)?;
                plain(Server::start(name, address, command, &log)?)
            }
            Peer::Workerd => {
                let address = free_address()?;
                let settings = WORKERD_SETTINGS.replace("ADDRESS", &address.to_string());
                fs::write(folder.join("settings.capnp"), settings)?;
                fs::write(folder.join("hello.js"), WORKERD_GUEST)?;
                let mut command = Command::new(&self.args.workerd);
                command.arg("serve").arg(folder.join("settings.capnp"));
                plain(Server::start(name, address, command, &log)?)
            }
        }
    }
}

/// nginx gives up root, and then may not read a folder of root's.
fn nginx_user() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    }
}

fn plain(server: Server) -> Result<Running> {
    Ok(Running {
        server,
        realm: None,
    })
}

impl Peer {
    /// What it starts with, for the report.
    pub(crate) fn settings(&self) -> String {
        match self {
            Self::Realm(more) if more.is_empty() => "defaults".to_owned(),
            Self::Realm(more) => more.trim().replace('\n', ", "),
            Self::Wasmtime(flags) => [WASMTIME_NEEDS, flags].concat().join(" "),
            Self::Nginx(_) => "2 workers, no access log".to_owned(),
            Self::Workerd => "defaults; a JavaScript guest".to_owned(),
        }
    }
}
