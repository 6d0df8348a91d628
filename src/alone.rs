//! What `run` and `serve` share: a file, and what the command line grants and bounds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use realm_model::digest::Digest;
use realm_model::frame::RunRequest;
use realm_model::grants::{ClockGrant, DirGrant, Grants, OutboundRule};
use realm_model::limits::{self, Limits};
use realm_model::manifest::parse_dir;
use realm_model::name::ComponentName;
use realm_node::standalone::{Options, StandaloneError};
use realm_store::blobs::BLOB_BYTES_MAX;

use crate::failure::{Failure, exit};
use crate::files;

/// A component without a realm.
#[derive(Debug, clap::Args)]
pub(crate) struct Alone {
    /// The WebAssembly file
    file: PathBuf,

    /// Give it an environment variable; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,

    /// Give it a directory, to write as well unless it ends in `::ro`; repeatable
    #[arg(long, value_name = "HOST::GUEST[::ro]")]
    dir: Vec<String>,

    /// Let it reach this target, as a rule of `allowed_outbound`; repeatable
    #[arg(long, value_name = "RULE")]
    allow: Vec<OutboundRule>,

    /// Let it use the network as this program can: connect, look names up, bind, listen
    #[arg(long)]
    inherit_network: bool,

    /// Give it a variable of `wasi:config`; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    var: Vec<(String, String)>,

    #[arg(long, help = help("MiB of memory of one instance", &limits::MEMORY_MAX_MB))]
    #[arg(value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=4096))]
    memory_max_mb: Option<u64>,

    #[arg(long, help = help("Fuel units per second; it is slowed down to that", &"not metered"))]
    #[arg(value_name = "UNITS", value_parser = clap::value_parser!(u64).range(1..))]
    fuel_per_sec: Option<u64>,

    #[arg(long, help = help("Milliseconds that one request may run, waiting not counted", &limits::EPOCH_TIMEOUT_MS))]
    #[arg(value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    epoch_timeout_ms: Option<u64>,

    #[arg(long, help = help("Milliseconds that one request may take, waiting included", &limits::WALL_TIMEOUT_MS))]
    #[arg(value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    wall_timeout_ms: Option<u64>,
}

impl Alone {
    /// The bytes of the file, and the options as meant.
    pub(crate) fn options(
        &self,
        defaults: Limits,
        clock: ClockGrant,
    ) -> Result<(Vec<u8>, Options), Failure> {
        let bytes = files::read(&self.file, BLOB_BYTES_MAX)?;
        let dirs: Result<Vec<DirGrant>, Failure> = self.dir.iter().map(|dir| grant(dir)).collect();
        let options = Options {
            name: self.name(),
            grants: Grants {
                allowed_outbound: self.allow.clone(),
                env: self.env.iter().cloned().collect::<BTreeMap<_, _>>(),
                vars: self.var.iter().cloned().collect::<BTreeMap<_, _>>(),
                dirs: dirs?,
                clock,
                ..Grants::default()
            },
            limits: Limits {
                memory_max_mb: self.memory_max_mb.unwrap_or(defaults.memory_max_mb),
                fuel_per_sec: self.fuel_per_sec.or(defaults.fuel_per_sec),
                epoch_timeout_ms: self.epoch_timeout_ms.unwrap_or(defaults.epoch_timeout_ms),
                wall_timeout_ms: self.wall_timeout_ms.unwrap_or(defaults.wall_timeout_ms),
                ..defaults
            },
            inherit_network: self.inherit_network,
            reuse: false,
        };
        Ok((bytes, options))
    }
}

/// Why a component does not run; `hint` says what else to do with one of another world.
pub(crate) fn failure(error: StandaloneError, hint: &str) -> Failure {
    let of_world = error.code == "wrong-world";
    let failure = Failure::new(error.code, error.message);
    if of_world {
        failure.hint(hint)
    } else {
        failure
    }
}

/// The help of a limit, with what holds where it is not given.
pub(crate) fn help(what: &str, absent: &dyn std::fmt::Display) -> String {
    format!("{what} [default: {absent}]")
}

impl Alone {
    /// The bytes of the file, and what is asked of a node.
    pub(crate) fn for_node(&self, args: Vec<String>) -> Result<(Vec<u8>, RunRequest), Failure> {
        if self.inherit_network {
            let message = "`--inherit-network` is for this machine alone";
            return Err(Failure::new("usage", message)
                .hint("`--allow RULE` names what it may reach on the node")
                .exit(exit::USAGE));
        }
        let bytes = files::read(&self.file, BLOB_BYTES_MAX)?;
        let asked = RunRequest {
            name: self.name(),
            digest: Digest::of(&bytes),
            args,
            env: self.env.iter().cloned().collect(),
            allow: self.allow.iter().map(ToString::to_string).collect(),
            dirs: self.dir.iter().map(|dir| with_mode(dir)).collect(),
            memory_max_mb: self.memory_max_mb,
            fuel_per_sec: self.fuel_per_sec,
            epoch_timeout_ms: self.epoch_timeout_ms,
            wall_timeout_ms: self.wall_timeout_ms,
        };
        Ok((bytes, asked))
    }

    /// The component's name: that of the file, where it can be one.
    fn name(&self) -> ComponentName {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let unnamed = || "component".parse().expect("`component` is a name");
        stem.parse().unwrap_or_else(|_| unnamed())
    }
}

/// A directory of the command line: relative to here, and writable unless it says otherwise.
fn grant(text: &str) -> Result<DirGrant, Failure> {
    let usage = |message: String| {
        Failure::new("usage", message)
            .hint("write `HOST::GUEST`, e.g. `./data::/data`, and `::ro` after it to let it only read")
            .exit(exit::USAGE)
    };
    let Some((host, rest)) = text.split_once("::") else {
        return Err(usage(format!("`{text}` names no directory of the guest")));
    };
    let host = std::path::absolute(host)?;
    let text = with_mode(&format!("{}::{rest}", host.display()));
    parse_dir(&text).map_err(|error| usage(error.message))
}

/// On the command line a directory may be written to, unless it says otherwise.
fn with_mode(dir: &str) -> String {
    if dir.ends_with("::ro") || dir.ends_with("::rw") {
        dir.to_owned()
    } else {
        format!("{dir}::rw")
    }
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write `NAME=VALUE`".to_owned()),
    }
}
