//! From a manifest on disk to what would be signed: parsed, every source pinned, compared with
//! what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use realm_control::changes::{Change, changes};
use realm_model::codes;
use realm_model::diagnostic::{Diagnostic, Severity};
use realm_model::entry::ManifestBody;
use realm_model::inspection::{HandlerExports, Inspection, WasmKind};
use realm_model::lock::{Lock, Pin, version_after};
use realm_model::manifest::{ComponentSpec, Manifest, Serve, Source, World};
use realm_model::name::{ComponentName, NodeName};
use realm_model::node_config::SourceSettings;
use realm_store::blobs::BLOB_BYTES_MAX;
use realm_store::fetch::{FetchError, Origins, resolve};
use serde::Serialize;

use crate::diagnostics;
use crate::failure::{Failure, exit};
use crate::files::read_text;
use crate::output;
use crate::sign::Standing;
use crate::upload::Upload;

/// What `apply` would sign, and what that changes.
pub(crate) struct Proposal {
    pub(crate) path: PathBuf,
    pub(crate) body: ManifestBody,
    pub(crate) version: u64,
    pub(crate) changes: Vec<Change>,
    /// Components whose pushed bytes give way to those of their source.
    pub(crate) taken_back: Vec<ComponentName>,
    /// The components to wait for; `None`: all.
    pub(crate) awaited: Option<BTreeSet<ComponentName>>,
    /// Files that the agent must have, since it cannot fetch them itself.
    pub(crate) uploads: Vec<Upload>,
}

/// Lines of a plan that are shown before it is carried out: some screens.
const LINES_SHOWN_MAX: usize = 200;

#[derive(Serialize)]
struct ProblemsJson<'a> {
    file: String,
    problems: &'a [Diagnostic],
}

impl Proposal {
    /// Reads and resolves the manifest at `path` against what is in force.
    pub(crate) async fn make(
        path: &Path,
        standing: &Standing,
        json: bool,
    ) -> Result<Self, Failure> {
        let (text, manifest) = read_manifest_for(path, json, &standing.nodes)?;
        if let Some(owner) = manifest.owner
            && !standing.owners.contains(&owner)
        {
            return Err(Failure::new(
                "wrong-owner",
                format!(
                    "`{}` names the owner {owner}, this realm has another",
                    path.display()
                ),
            )
            .hint("put the output of `realm key show` into `[owner] pubkey`")
            .exit(exit::REFUSED));
        }
        let before = in_force(standing)?;
        let mut lock = Lock {
            version: next_version(&manifest, standing)?,
            ..Lock::default()
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let known = before.as_ref().map(|(_, lock)| lock);
        let uploads = pin_all(&manifest, folder, known, &mut lock).await?;
        let changes = changes(
            before.as_ref().map(|(manifest, lock)| (manifest, lock)),
            (&manifest, &lock),
        );
        let taken_back = taken_back(standing, before.as_ref(), &lock);
        let proposal = Self {
            path: path.to_owned(),
            body: ManifestBody {
                manifest: text,
                lock: lock.to_text(),
            },
            version: lock.version,
            changes,
            taken_back,
            awaited: standing.awaited(&manifest),
            uploads,
        };
        // The same version is fine for what is in force already, and for nothing else.
        if proposal.version <= standing.version && proposal.differs(standing) {
            return Err(stale(proposal.version, standing.version));
        }
        Ok(proposal)
    }

    /// Whether what would be signed differs from what is in force, be it in a comment.
    pub(crate) fn differs(&self, standing: &Standing) -> bool {
        !self.changes.is_empty()
            || !standing.rolled_back.is_empty()
            || standing.manifest.as_deref() != Some(self.body.manifest.as_str())
    }

    /// Says which pushes the sources undo: nobody who edits a manifest thinks of them.
    pub(crate) fn tell_taken_back(&self) {
        for name in &self.taken_back {
            output::note(&format!(
                "{} `{name}` goes back to the bytes of its `source`: others were put there by `realm push` or `realm rollback`; to keep them, have `source` lead to them",
                output::yellow("warning:")
            ));
        }
    }

    /// The beginning of the plan, for who is asked to agree.
    pub(crate) fn shown(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        // The last line is the summary.
        let rest = lines.len().saturating_sub(LINES_SHOWN_MAX + 1);
        if rest == 0 {
            return text;
        }
        let (shown, summary) = (&lines[..LINES_SHOWN_MAX], lines[lines.len() - 1]);
        format!(
            "{}\n… and {rest} more lines: `realm plan` shows them\n{summary}",
            shown.join("\n")
        )
    }

    /// The whole plan as text.
    pub(crate) fn text(&self) -> String {
        let text = realm_control::changes::render(&self.changes);
        if self.changes.is_empty() {
            return "plan: the text of the manifest changes (comments, order), and nothing that runs".to_owned();
        }
        let lines: Vec<String> = text
            .lines()
            .map(|line| match line.trim_start().chars().next() {
                Some('+') => output::green(line),
                Some('~') => output::yellow(line),
                Some('-') => output::red_plain(line),
                Some(_) | None => line.to_owned(),
            })
            .collect();
        lines.join("\n")
    }
}

/// What was pushed since the last apply, and is not what the manifest's source has.
fn taken_back(
    standing: &Standing,
    in_force: Option<&(Manifest, Lock)>,
    lock: &Lock,
) -> Vec<ComponentName> {
    let now = in_force.map(|(_, lock)| &lock.components);
    let pushed = standing.pushed.iter();
    let differs = pushed.filter(|name| {
        let new = lock.components.get(*name);
        new.is_some() && now.and_then(|now| now.get(*name)) != new
    });
    differs.cloned().collect()
}

/// Reads, parses and validates a manifest; reports every problem.
pub(crate) fn read_manifest(path: &Path, json: bool) -> Result<(String, Manifest), Failure> {
    read_manifest_for(path, json, &BTreeMap::new())
}

/// The same for a realm with these nodes and their tags.
fn read_manifest_for(
    path: &Path,
    json: bool,
    nodes: &BTreeMap<NodeName, Vec<String>>,
) -> Result<(String, Manifest), Failure> {
    let text = read_text(path).map_err(|failure| match failure.is("no-file") {
        true => failure.hint("go to the folder of your manifest, or name the file (`realm plan FILE`); README.md, \"A realm of your own\", has a first one"),
        false => failure,
    })?;
    let (manifest, mut problems) = realm_model::manifest::parse(&text);
    problems.retain(|problem| !is_known(problem, &text, nodes));
    let errors = problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    if json && errors {
        output::json(&ProblemsJson {
            file: path.display().to_string(),
            problems: &problems,
        })?;
    } else {
        diagnostics::report(&path.display().to_string(), &text, &problems);
    }
    match manifest {
        Some(manifest) if !errors => Ok((text, manifest)),
        Some(_) | None => Err(Failure::new(
            "invalid-manifest",
            format!("`{}` has {}", path.display(), diagnostics::count(&problems)),
        )
        .hint("docs/manifest.md describes every key; `realm schema` is for your editor")),
    }
}

/// Whether a warning is about a node, or a tag, that `[nodes]` does not have and the realm does: nothing waits
/// for one there.
fn is_known(problem: &Diagnostic, text: &str, nodes: &BTreeMap<NodeName, Vec<String>>) -> bool {
    let key = text.get(problem.span.clone()).unwrap_or_default();
    let key = key.trim_matches(['"', '\'']);
    match (problem.code, key.strip_prefix("tag:")) {
        (codes::UNLISTED_NODE, _) => nodes.keys().any(|name| name.as_str() == key),
        (codes::UNLISTED_TAG, Some(tag)) => nodes.values().flatten().any(|one| one == tag),
        (_, _) => false,
    }
}

/// The manifest and lock in force.
pub(crate) fn in_force(standing: &Standing) -> Result<Option<(Manifest, Lock)>, Failure> {
    let (Some(manifest), Some(lock)) = (&standing.manifest, &standing.lock) else {
        return Ok(None);
    };
    let lock = Lock::parse(lock).map_err(|error| Failure::from_error("agent-answer", &error))?;
    match realm_model::manifest::parse(manifest).0 {
        Some(manifest) => Ok(Some((manifest, lock))),
        None => Err(Failure::new(
            "agent-answer",
            "the manifest in force is not understood by this version of realm",
        )
        .hint("use the same version of realm here and on the nodes")),
    }
}

fn next_version(manifest: &Manifest, standing: &Standing) -> Result<u64, Failure> {
    let next = version_after(standing.version).ok_or_else(|| {
        Failure::new(
            "stale",
            format!("no version comes after {}", standing.version),
        )
    })?;
    match manifest.version {
        None => Ok(next),
        // The same text again is no new version: the caller finds that nothing changed.
        Some(version) if version == standing.version => Ok(version),
        Some(version) if version > standing.version => Ok(version),
        Some(version) => Err(stale(version, standing.version)),
    }
}

fn stale(version: u64, in_force: u64) -> Failure {
    Failure::new(
        "stale",
        format!("the manifest says `version = {version}`, and version {in_force} is in force"),
    )
    .hint(format!(
        "raise it to {}, or leave `version` out",
        in_force.saturating_add(1)
    ))
    .exit(exit::REFUSED)
}

/// Pins every component; returns what has to be uploaded. Components of one source share one look at
/// it, and its warnings name the first of them.
async fn pin_all(
    manifest: &Manifest,
    folder: &Path,
    known: Option<&Lock>,
    lock: &mut Lock,
) -> Result<Vec<Upload>, Failure> {
    let (mut uploads, mut failures) = (Vec::new(), Vec::new());
    let mut seen: BTreeMap<&Source, Option<Found>> = BTreeMap::new();
    for (name, component) in &manifest.components {
        let found = match seen.get(&component.source) {
            Some(found) => *found,
            None => match pin(name, &component.source, folder, known).await {
                Ok((found, only_here)) => {
                    uploads.extend(only_here.map(|path| Upload {
                        component: name.clone(),
                        pin: found.pin,
                        path,
                    }));
                    Some(found)
                }
                Err(failure) => {
                    failures.push(failure);
                    None
                }
            },
        };
        seen.insert(&component.source, found);
        let Some(Found { pin, exports }) = found else {
            continue;
        };
        failures.extend(exports.and_then(|exports| check_exports(name, component, exports).err()));
        lock.components.insert(name.clone(), pin);
    }
    first_after_reporting(failures)?;
    Ok(uploads)
}

/// What a look at a source gave.
#[derive(Clone, Copy)]
struct Found {
    pin: Pin,
    /// What is called of the bytes, where they were at hand.
    exports: Option<Exports>,
}

/// The pin of a source, and the file that nobody else has, if it is one.
async fn pin(
    name: &ComponentName,
    source: &Source,
    folder: &Path,
    known: Option<&Lock>,
) -> Result<(Found, Option<PathBuf>), Failure> {
    // What has no bytes is pinned by where it is.
    if let Source::Upstream(upstream) = source {
        let (digest, size) = (upstream.pin(), 0);
        let pin = Pin { digest, size };
        return Ok((Found { pin, exports: None }, None));
    }
    // A pinned source names its digest: what is known of it needs no download.
    let known = source.pinned().and_then(|digest| {
        let pin = *known?.components.get(name)?;
        (pin.digest == digest).then_some(pin)
    });
    if let Some(pin) = known {
        return Ok((Found { pin, exports: None }, None));
    }
    // This machine's node.toml is the agent's; a person has the environment.
    let origins = Origins::new(&SourceSettings::default(), |name| std::env::var(name).ok());
    let (pin, bytes) = resolve(source, folder, &origins, BLOB_BYTES_MAX)
        .await
        .map_err(|error| {
            source_failure(&error, "the path is relative to the manifest")
                .context(format!("failed to resolve the source of `{name}`"))
        })?;
    let exports = Some(check_component(name, &bytes)?);
    // Nodes fetch from where they can reach it themselves; a file is only here.
    let only_here = match source {
        Source::File { path } => Some(folder.join(path)),
        Source::Http { .. }
        | Source::Registry(_)
        | Source::S3(_)
        | Source::Ipfs(_)
        | Source::Upstream(_)
        | Source::Later { .. } => None,
    };
    Ok((Found { pin, exports }, only_here))
}

/// A source that gives no bytes, with what to do about it.
pub(crate) fn source_failure(error: &FetchError, relative_to: &str) -> Failure {
    let failure = Failure::from_error(error.code(), error);
    match error {
        FetchError::Unsupported { .. } => {
            failure.hint("use another kind of source: docs/manifest.md names them")
        }
        FetchError::File { .. } | FetchError::NotAFile { .. } => {
            failure.hint(format!("build it first; {relative_to}"))
        }
        FetchError::Mismatch { .. } => failure
            .hint("the bytes there are not those that the manifest pins: ask who publishes them"),
        FetchError::TooLarge { .. } => failure.hint("a component has at most 256 MiB"),
        FetchError::Status {
            status: 401 | 403, ..
        } => failure.hint(
            "credentials are in the environment, not in the manifest: docs/operations.md#sources-of-components",
        ),
        FetchError::ManifestPin { component, .. } => {
            failure.hint(format!("pin the component: `@{component}`"))
        }
        FetchError::WrongBlock { .. } => {
            failure.hint("that gateway is broken or lies: ask another one, with `IPFS_GATEWAY`")
        }
        FetchError::Setting { .. } => {
            failure.hint("it is from the environment: docs/operations.md#sources-of-components")
        }
        FetchError::Unusable { .. } => {
            failure.hint("a source is one component: docs/manifest.md#sources")
        }
        FetchError::Setup(_)
        | FetchError::Http { .. }
        | FetchError::Status { .. }
        | FetchError::OtherPin { .. }
        | FetchError::Peer { .. }
        | FetchError::Silent { .. }
        | FetchError::Short { .. }
        | FetchError::WrongPart { .. }
        | FetchError::NoSource { .. }
        | FetchError::All { .. }
        | FetchError::Keep { .. } => failure,
    }
}

/// What of a component is called.
#[derive(Clone, Copy)]
pub(crate) struct Exports {
    /// What the bytes are for, where they are for one thing alone.
    world: Option<World>,
    handlers: HandlerExports,
}

/// Refuses bytes that no version of realm can run, before they are signed. What this version lacks
/// is only remarked: the nodes may run a newer one. Returns what is called of them.
pub(crate) fn check_component(name: &ComponentName, bytes: &[u8]) -> Result<Exports, Failure> {
    let inspection =
        realm_host::inspect(bytes).map_err(|error| {
            Failure::from_error("not-wasm", &error)
            .context(format!("the bytes of `{name}` are no WebAssembly that realm can read"))
            .hint("build for the target `wasm32-wasip2`; `realm inspect FILE` shows what a file is")
        })?;
    if inspection.kind == WasmKind::Module {
        realm_host::adapt(bytes).map_err(|error| {
            Failure::from_error(error.code(), &error)
                .context(format!("`{name}` is a core module that realm cannot run"))
                .hint("nothing was signed; build a component, for `wasm32-wasip2`, or a module of WASI preview 1")
        })?;
    }
    for import in inspection.imports.iter().filter(|import| !import.provided) {
        output::note(&format!(
            "{} `{name}` imports `{}`, which this version of realm does not provide",
            output::yellow("warning:"),
            import.name
        ));
    }
    if inspection.serve.is_none() {
        output::note(&format!(
            "{} `{name}` exports nothing that realm calls: `realm inspect` shows what it exports",
            output::yellow("warning:")
        ));
    }
    Ok(Exports {
        world: world_of(&inspection),
        handlers: inspection.handlers,
    })
}

/// `None` for bytes that export nothing that realm calls, or both a handler and a command.
fn world_of(inspection: &Inspection) -> Option<World> {
    let answers = inspection.serve == Some(Serve::Http);
    match (answers, inspection.command_export) {
        (true, false) => Some(World::Http),
        (false, true) => Some(World::Command),
        (true, true) | (false, false) => None,
    }
}

/// Refuses bytes that lack what the manifest has called, or are for something else than `serve` and
/// `world` say: the node would find that out after it was signed.
pub(crate) fn check_exports(
    name: &ComponentName,
    spec: &ComponentSpec,
    exports: Exports,
) -> Result<(), Failure> {
    check_handlers(name, spec, exports.handlers)?;
    match exports.world {
        Some(world) => check_world(name, spec, world),
        None => Ok(()),
    }
}

fn check_handlers(
    name: &ComponentName,
    spec: &ComponentSpec,
    exported: HandlerExports,
) -> Result<(), Failure> {
    let triggers = &spec.triggers;
    let wanted = [
        (
            !triggers.watches.is_empty() && !exported.changes,
            "watch",
            "wasi:keyvalue/watcher",
        ),
        (
            !triggers.subscriptions.is_empty() && !exported.messages,
            "subscribe",
            "wasi:messaging/incoming-handler",
        ),
        (
            !triggers.workflows.is_empty() && !exported.workflows,
            "workflows",
            "realm:cloud/workflow-handler",
        ),
    ];
    let Some((_, key, export)) = wanted.into_iter().find(|(lacks, ..)| *lacks) else {
        return Ok(());
    };
    let message =
        format!("`{key}` has `{name}` called by `{export}`, which its bytes do not export");
    Err(Failure::new("no-handler", message).hint(format!(
        "export it, or leave out `{key}`: docs/wasi-cloud.md; `realm inspect FILE` shows what a file exports"
    )))
}

fn check_world(name: &ComponentName, spec: &ComponentSpec, exported: World) -> Result<(), Failure> {
    let by_serve = match spec.serve {
        // Whatever it exports beside the handlers of events is not called.
        Some(Serve::Worker) => return Ok(()),
        Some(Serve::Http) => Some(World::Http),
        Some(Serve::Cgi | Serve::Socket | Serve::Service | Serve::Job) => Some(World::Command),
        None => None,
    };
    let Some(wanted) = by_serve.or(spec.world) else {
        return Ok(());
    };
    let (message, hint) = match (wanted, exported) {
        (World::Http, World::Http) | (World::Command, World::Command) => return Ok(()),
        (World::Http, World::Command) => (
            "is to answer as an HTTP handler, and its bytes are a command (`wasi:cli/run`)",
            "write `serve = \"cgi\"` (a run per request), `\"socket\"`, `\"service\"` or `\"job\"`, and `world = \"wasi:cli/command\"` or none",
        ),
        (World::Command, World::Http) => (
            "is to run as a command, and its bytes are an HTTP handler (`wasi:http`)",
            "write `serve = \"http\"`, or leave out `serve`, `listen`, `schedule` and `world`",
        ),
    };
    Err(Failure::new("wrong-world", format!("`{name}` {message}")).hint(hint))
}

/// Reports all failures and returns one that stands for them.
fn first_after_reporting(mut failures: Vec<Failure>) -> Result<(), Failure> {
    if failures.is_empty() {
        return Ok(());
    }
    let last = failures.remove(failures.len() - 1);
    for failure in failures {
        failure.report();
    }
    Err(last)
}
