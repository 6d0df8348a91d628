//! What `run` and `serve` share: a file, and what the command line grants and bounds.

use std::collections::BTreeMap;
use std::env::VarError;
use std::path::PathBuf;

use realm_model::digest::Digest;
use realm_model::frame::RunRequest;
use realm_model::grants::{ClockGrant, DirGrant, Grants, OutboundRule};
use realm_model::limits::{self, Limits};
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

    /// Give it an environment variable, of this shell's value where none stands here; repeatable
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = parse_env)]
    env: Vec<(String, String)>,

    /// Give it a directory, to write as well unless it ends in `::ro`, under its own name where
    /// none is given; repeatable
    #[arg(long, value_name = "HOST[::GUEST[::ro]]")]
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
        let dirs = self.dirs()?;
        let dirs = dirs.iter().map(Dir::here).collect::<Result<_, _>>()?;
        let options = Options {
            name: self.name(),
            file: self.file_name(),
            env: self.ordered_env(),
            grants: Grants {
                allowed_outbound: self.allow.clone(),
                env: self.env.iter().cloned().collect::<BTreeMap<_, _>>(),
                vars: self.var.iter().cloned().collect::<BTreeMap<_, _>>(),
                dirs,
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
        let dirs = self.dirs()?.iter().map(Dir::there).collect();
        let asked = RunRequest {
            name: self.name(),
            digest: Digest::of(&bytes),
            args,
            env: self.env.iter().cloned().collect(),
            allow: self.allow.iter().map(ToString::to_string).collect(),
            dirs,
            memory_max_mb: self.memory_max_mb,
            fuel_per_sec: self.fuel_per_sec,
            epoch_timeout_ms: self.epoch_timeout_ms,
            wall_timeout_ms: self.wall_timeout_ms,
        };
        Ok((bytes, asked))
    }

    fn dirs(&self) -> Result<Vec<Dir<'_>>, Failure> {
        let mut dirs: Vec<Dir<'_>> = Vec::with_capacity(self.dir.len());
        for text in &self.dir {
            let dir = Dir::parse(text)?;
            // A guest that finds one name twice opens either.
            if dirs.iter().any(|known| known.guest == dir.guest) {
                let twice = format!("two directories are called `{}` in the guest", dir.guest);
                return Err(Failure::new("usage", twice)
                    .hint("give one of them another name: `HOST::GUEST`")
                    .exit(exit::USAGE));
            }
            dirs.push(dir);
        }
        Ok(dirs)
    }

    /// As a program is told its name: without the folder.
    fn file_name(&self) -> String {
        let name = self.file.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The variables in the order of the command line: of one that is given twice the last value, in its first place.
    fn ordered_env(&self) -> Vec<(String, String)> {
        let mut ordered: Vec<(String, String)> = Vec::with_capacity(self.env.len());
        for (name, value) in &self.env {
            match ordered.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.clone_from(value),
                None => ordered.push((name.clone(), value.clone())),
            }
        }
        ordered
    }

    /// The component's name: that of the file, where it can be one.
    fn name(&self) -> ComponentName {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let unnamed = || "component".parse().expect("`component` is a name");
        stem.parse().unwrap_or_else(|_| unnamed())
    }
}

/// A directory of the command line.
struct Dir<'a> {
    host: &'a str,
    guest: &'a str,
    writable: bool,
}

impl<'a> Dir<'a> {
    /// It may be written to, unless it says otherwise.
    fn parse(text: &'a str) -> Result<Self, Failure> {
        let usage = |why: &str| {
            Failure::new("usage", format!("`{text}` is not a directory grant: {why}"))
                .hint("write `HOST::GUEST`, e.g. `./data::/data`, and `::ro` after it to let it only read")
                .exit(exit::USAGE)
        };
        let parts: Vec<&str> = text.split("::").collect();
        let (host, guest, mode) = match parts.as_slice() {
            [host] => (*host, *host, "rw"),
            // Who writes `data::ro` does not mean a directory that the guest may write.
            [_, "ro" | "rw"] => return Err(usage("it names no directory of the guest")),
            [host, guest] => (*host, *guest, "rw"),
            [host, guest, mode @ ("ro" | "rw")] => (*host, *guest, *mode),
            [_, _, _] => return Err(usage("after the second `::` comes `ro` or `rw`")),
            _ => return Err(usage("expected two directories with `::` between them")),
        };
        if host.is_empty() || guest.is_empty() {
            return Err(usage("a directory has no name"));
        }
        Ok(Self {
            host,
            guest,
            writable: mode == "rw",
        })
    }

    /// On this machine, relative to here. A guest takes any name: many programs look for `.`, or for
    /// what they are told.
    fn here(&self) -> Result<DirGrant, Failure> {
        Ok(DirGrant {
            host: std::path::absolute(self.host)?.display().to_string(),
            guest: self.guest.to_owned(),
            writable: self.writable,
        })
    }

    /// On a node, which has the last word.
    fn there(&self) -> String {
        let mode = if self.writable { "rw" } else { "ro" };
        format!("{}::{}::{mode}", self.host, self.guest)
    }
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write `NAME=VALUE`".to_owned()),
    }
}

/// A variable of the environment; without a value, that of this process.
fn parse_env(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return parse_variable(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(VarError::NotPresent) => Err(format!("there is no `{text}` here: write `NAME=VALUE`")),
        Err(VarError::NotUnicode(_)) => Err(format!("the value of `{text}` here is no text")),
    }
}
