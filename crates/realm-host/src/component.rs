//! A component, with settings and grants of its own over code that it may share, and its replicas:
//! slots that admit calls.
//!
//! Linking happens when code is loaded; a call makes a fresh instance. Not here: what is in memory
//! (`shelf`), which replica takes a request, and what an unhealthy one is.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use realm_model::grants::Grants;
use realm_model::limits::Limits;
use realm_model::manifest::Probe;
use realm_model::name::ComponentName;
use wasmtime::Engine;

use crate::admission::{Admission, Entered};
use crate::cloud::{Operations, Stores};
use crate::dirs::{self, Dir};
use crate::egress::Policy;
use crate::engine::Host;
use crate::fuel::Bucket;
use crate::heavy::Habit;
use crate::kept::Keep;
use crate::loaded::{Handler, Loaded};
use crate::logs::{LogSink, say};
use crate::meter::Meter;
use crate::outcome::Outcome;
use crate::remarks::{Remarks, limit_words};
use crate::replica::Replica;
use crate::room::Tenant;
use crate::shelf::{Code, Occasion};
use crate::term::Term;

/// Imports or exports that one message names.
const NAMES_LISTED_MAX: usize = 10;

/// What a component is run with.
#[derive(Clone)]
pub struct Settings {
    /// Its name.
    pub name: ComponentName,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub grants: Grants,
    /// What the stores that it may open lead to.
    pub stores: Stores,
    /// Whether one instance may serve many requests, one after the other. A command serves one.
    pub reuse: bool,
    /// How its health is asked.
    pub probe: Option<Probe>,
    /// Where its lines go.
    pub log: Arc<dyn LogSink>,
    /// Where its use is counted; shared by all versions of the component.
    pub meter: Arc<Meter>,
}

/// Why a compiled file was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not there, is damaged, or was made by another engine.
    #[error("the compiled file cannot be used: compile it again")]
    BadArtifact(#[source] wasmtime::Error),
    /// It is made of more core instances, memories or tables, or of larger ones, than an instance may have.
    #[error("it is larger than a component may be")]
    TooLarge(#[source] wasmtime::Error),
    /// The file cannot be read at the moment: too many open files, a disk that fails.
    #[error("the compiled file cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// The second engine could not be made.
    #[error("the WebAssembly engine could not be started")]
    Engine(#[source] wasmtime::Error),
    /// It imports what realm does not provide.
    #[error("{}", missing(imports))]
    MissingImports {
        /// Each missing import, and what to do about it.
        imports: Vec<(String, String)>,
    },
    /// It imports an interface that realm provides in another shape.
    #[error("its imports do not fit what realm provides")]
    Link(#[source] wasmtime::Error),
    /// It exports nothing that is called where it is to run.
    #[error("it exports no {}, but {}", wanted.text(), exported(exports))]
    WrongWorld {
        /// What it was to export.
        wanted: Wanted,
        /// What it exports.
        exports: Vec<String>,
    },
    /// The probe is the health export, and there is none.
    #[error("`health` asks for the export `realm:app/health@0.1.0`, which it does not have")]
    NoHealthExport,
    /// The manifest has it called by what happens, and it has nothing to call.
    #[error("`{key}` asks for the export `{export}`, which it does not have")]
    NoHandler {
        /// What it was to export.
        export: &'static str,
        /// The key of the manifest.
        key: &'static str,
    },
    /// A granted directory cannot be opened.
    #[error("the directory `{}` cannot be opened", path.display())]
    Dir {
        /// The directory as granted.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `node.toml` does not allow a granted directory.
    #[error("the directory `{}` is not below one that `guests.dirs` in node.toml names, or it holds or lies in the realm folder", path.display())]
    DirDenied {
        /// The directory, with every link resolved.
        path: PathBuf,
    },
}

/// What a component is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// To answer requests: with its HTTP handler, else as a CGI program.
    Answers,
    /// To run as a program.
    Program,
    /// To be called by what happens, and by no request.
    Worker,
}

impl Wanted {
    const fn text(self) -> &'static str {
        match self {
            Self::Answers => {
                "`wasi:http/incoming-handler@0.2.x`, `wasi:http/handler@0.3.x` or `wasi:cli/run`"
            }
            Self::Program => "`wasi:cli/run@0.2.x` or `wasi:cli/run@0.3.x`",
            Self::Worker => {
                "`wasi:messaging/incoming-handler@0.2.0-draft`, or `wasi:keyvalue/watcher@0.2.0-draft` or `-draft2`"
            }
        }
    }
}

impl LoadError {
    /// A file that is gone is lost; one that cannot be read just then is not.
    pub(crate) fn of_file(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound {
            Self::BadArtifact(error.into())
        } else {
            Self::Unreadable(error)
        }
    }

    /// The same for what wasmtime says of a file that was looked at.
    pub(crate) fn of_mapping(error: wasmtime::Error) -> Self {
        match error.downcast::<std::io::Error>() {
            Ok(error) => Self::of_file(error),
            Err(error) if is_beyond_the_pool(&error) => Self::TooLarge(error),
            Err(error) => Self::BadArtifact(error),
        }
    }

    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BadArtifact(_) => "bad-artifact",
            Self::TooLarge(_) => "too-large",
            Self::Unreadable(_) => "io",
            Self::Engine(_) => "engine",
            Self::MissingImports { .. } => "missing-import",
            Self::Link(_) => "link-failed",
            Self::WrongWorld { .. } => "wrong-world",
            Self::NoHealthExport => "no-health-export",
            Self::NoHandler { .. } => "no-handler",
            Self::Dir { .. } => "dir-unavailable",
            Self::DirDenied { .. } => "dir-denied",
        }
    }
}

/// Whether the file is sound and its component has no room in the pool. The error has no type of its own.
fn is_beyond_the_pool(error: &wasmtime::Error) -> bool {
    const WORDS: [&str; 4] = [
        "exceeds the configured maximum",
        "exceeds the per-instance limit",
        "exceeds the total tables limit",
        "exceeds the limit of",
    ];
    let why = format!("{error:#}");
    WORDS.into_iter().any(|words| why.contains(words))
}

fn missing(imports: &[(String, String)]) -> String {
    let head = match imports.len() {
        1 => "one of its imports is missing".to_owned(),
        count => format!("{count} of its imports are missing"),
    };
    let imports = imports
        .iter()
        .map(|(name, advice)| format!("`{name}` ({advice})"));
    format!("{head}: {}", listed(imports, "; "))
}

fn exported(exports: &[String]) -> String {
    if exports.is_empty() {
        return "nothing at all".to_owned();
    }
    listed(exports.iter().map(|name| format!("`{name}`")), ", ")
}

/// The first of them, and how many more there are.
fn listed(names: impl ExactSizeIterator<Item = String>, separator: &str) -> String {
    let more = names.len().saturating_sub(NAMES_LISTED_MAX);
    let names: Vec<_> = names.take(NAMES_LISTED_MAX).collect();
    let mut text = names.join(separator);
    if more > 0 {
        text.push_str(&format!("{separator}and {more} more"));
    }
    text
}

/// A component that was loaded and linked, and is loaded again when it must be. Cheap to clone.
#[derive(Clone)]
pub struct Component(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) host: Host,
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    pub(crate) tenant: Arc<Tenant>,
    code: Arc<Code>,
    /// Whether it answers as a command does.
    pub(crate) command: bool,
    pub(crate) dirs: Vec<Dir>,
    pub(crate) vars: Arc<BTreeMap<String, String>>,
    pub(crate) stores: Arc<Stores>,
    /// What its replicas here have together: their number is the manifest's choice, not the guest's.
    operations: Option<Arc<Operations>>,
    pub(crate) egress: Arc<Policy>,
}

impl Component {
    pub(crate) fn load(
        host: &Host,
        settings: Settings,
        compiled: &Path,
        wanted: Wanted,
    ) -> Result<Self, LoadError> {
        let fuel = settings.limits.fuel_per_sec.is_some();
        let code = host.0.shelf.code(compiled, fuel, wanted);
        let loaded = code.load(host, Occasion::Start)?;
        if settings.probe == Some(Probe::Export) && loaded.health.is_none() {
            return Err(LoadError::NoHealthExport);
        }
        let grants = &settings.grants;
        Ok(Self(Arc::new(Inner {
            host: host.clone(),
            engine: loaded.engine.clone(),
            tenant: Arc::new(host.0.room.tenant()),
            command: matches!(loaded.handler, Handler::Command(_)),
            code,
            dirs: dirs::open(
                &grants.dirs,
                &host.0.config.policy.dirs,
                &host.0.config.forbidden_dirs,
            )?,
            vars: Arc::new(grants.vars.clone()),
            stores: Arc::new(settings.stores.clone()),
            operations: settings
                .limits
                .operations_per_sec
                .map(|per_sec| Arc::new(Operations::new(per_sec, Instant::now()))),
            egress: Arc::new(Policy::new(&settings, Arc::clone(&host.0.network))),
            settings,
        })))
    }

    /// A slot that admits calls, with its own concurrency and its own fuel.
    pub fn replica(&self, slot: u32) -> Replica {
        self.replica_until(slot, None)
    }

    /// The same, whose guests all end with `term`.
    pub fn replica_until(&self, slot: u32, term: Option<Term>) -> Replica {
        let limits = &self.0.settings.limits;
        Replica(Arc::new(ReplicaInner {
            admission: Admission::new(limits.max_concurrency, Arc::clone(&self.0.tenant)),
            operations: self.0.operations.clone(),
            bucket: limits
                .fuel_per_sec
                .map(|per_sec| Arc::new(Bucket::new(per_sec, Instant::now()))),
            component: Arc::clone(&self.0),
            slot,
            term,
            in_flight: AtomicU32::new(0),
            habit: Habit::default(),
            keep: Keep::default(),
            remarks: Remarks::new(Instant::now()),
        }))
    }
}

impl Inner {
    /// Its code: mapped again first, where it was unloaded.
    pub(crate) async fn loaded(&self) -> Result<Arc<Loaded>, LoadError> {
        let loaded = self.code.get(&self.host).await?;
        if Engine::same(&loaded.engine, &self.engine) {
            Ok(loaded)
        } else {
            // Nobody compiles the same bytes for another engine; stores are made for this one.
            let error = wasmtime::format_err!("it was compiled for another engine");
            Err(LoadError::BadArtifact(error))
        }
    }
}

pub(crate) struct ReplicaInner {
    pub(crate) component: Arc<Inner>,
    pub(crate) slot: u32,
    /// What ends all guests, if anything does.
    pub(crate) term: Option<Term>,
    pub(crate) admission: Admission,
    pub(crate) bucket: Option<Arc<Bucket>>,
    pub(crate) operations: Option<Arc<Operations>>,
    pub(crate) in_flight: AtomicU32,
    pub(crate) habit: Habit,
    pub(crate) keep: Keep,
    remarks: Remarks,
}

impl ReplicaInner {
    /// Room for a request or a run; `None`: there is none.
    pub(crate) async fn enter(&self) -> Option<Entered> {
        let keepers = &self.component.host.0.keepers;
        self.admission.enter(&self.keep, keepers).await
    }

    /// realm's own words in the component's log.
    pub(crate) fn say(&self, words: impl Display) {
        say(&*self.component.settings.log, self.slot, words);
    }

    /// The same for an end that a client causes: not more often than is good for the log.
    pub(crate) fn remark(&self, outcome: Outcome) {
        let Some(unsaid) = self.remarks.due(outcome, Instant::now()) else {
            return;
        };
        let code = outcome.code();
        let words = limit_words(outcome, None, &self.component.settings.limits).unwrap_or_default();
        match unsaid {
            0 => self.say(format_args!("{code}: {words}")),
            more => self.say(format_args!(
                "{code}: {words} ({more} more since the last such line)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_some_and_counts_the_rest() {
        let imports = |count| vec![("a:b/c".to_owned(), "do x".to_owned()); count];
        assert_eq!(
            missing(&imports(1)),
            "one of its imports is missing: `a:b/c` (do x)"
        );
        let two = "2 of its imports are missing: `a:b/c` (do x); `a:b/c` (do x)";
        assert_eq!(missing(&imports(2)), two);
        let many = missing(&imports(12));
        assert!(many.ends_with("`a:b/c` (do x); and 2 more"), "{many}");
        assert_eq!(exported(&[]), "nothing at all");
        assert_eq!(exported(&["a:b/c".to_owned()]), "`a:b/c`");
    }
}
