//! A compiled file, mapped and linked: what every component of the same file shares.
//!
//! It knows nothing of grants, limits or names: those are a component's own. Not here: when a file
//! is mapped, and for how long it stays (`shelf`).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::{ComponentExportIndex, InstancePre, types::ComponentItem};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::command::Command;
use crate::component::{LoadError, Wanted};
use crate::engine::{Host, Kind, Runtime};
use crate::inspect::{is_health, is_http, is_run};
use crate::interfaces::{self, Name, shown};
use crate::loading;
use crate::state::State;
use crate::trigger::Handlers;

/// Code in memory, ready to make instances of.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) instance: InstancePre<State>,
    pub(crate) handler: Handler,
    pub(crate) handlers: Handlers,
    pub(crate) health: Option<ComponentExportIndex>,
    /// The file that is mapped.
    pub(crate) identity: Identity,
}

/// The export that is called.
pub(crate) enum Handler {
    /// An HTTP handler.
    Http(HttpHandler),
    /// `wasi:cli/run`.
    Command(Command),
    /// None that is for requests or runs.
    None,
}

/// The exported HTTP handler.
pub(crate) enum HttpHandler {
    /// `wasi:http/incoming-handler@0.2.x`.
    Proxy(ProxyPre<State>),
    /// `wasi:http/handler@0.3.x`.
    Service(ServicePre<State>),
}

/// Which file a path leads to, and whether it was written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl Identity {
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            changed_s: file.mtime(),
            changed_ns: file.mtime_nsec(),
        })
    }
}

impl Loaded {
    /// Reads the disk.
    pub(crate) fn map(
        host: &Host,
        compiled: &Path,
        fuel: bool,
        wanted: Wanted,
        identity: Identity,
    ) -> Result<Self, LoadError> {
        let (runtime, component) = map(host, compiled, fuel)?;
        let engine = &runtime.engine;
        check_imports(engine, &component)?;
        let instance = runtime.link(&component).map_err(LoadError::Link)?;
        let handlers = Handlers::find(&exports(engine, &component), &instance);
        let handlers = handlers.map_err(LoadError::Link)?;
        Ok(Self {
            engine: engine.clone(),
            handler: handler(engine, &component, &instance, &handlers, wanted)?,
            handlers,
            health: health(engine, &component),
            instance,
            identity,
        })
    }
}

/// Maps a file with the engine that it was compiled for.
fn map<'a>(
    host: &'a Host,
    compiled: &Path,
    fuel: bool,
) -> Result<(&'a Runtime, wasmtime::component::Component), LoadError> {
    let with = |concurrent| {
        let kind = Kind { fuel, concurrent };
        let runtime = host.0.runtime(kind).map_err(LoadError::Engine)?;
        loading::map(&runtime.engine, compiled)
            .map(|component| (runtime, component))
            .map_err(LoadError::of_mapping)
    };
    // The settings of its engine stand at the head of the file: the wrong one refuses it at once.
    with(false).or_else(|plain| {
        with(true).map_err(|concurrent| match is_of_another_engine(&concurrent) {
            true => plain,
            false => concurrent,
        })
    })
}

/// Whether a file is refused for its settings alone: then the engine that it is for knows more.
fn is_of_another_engine(error: &LoadError) -> bool {
    matches!(error, LoadError::BadArtifact(cause) if format!("{cause:#}").contains("concurrency support"))
}

/// All that is missing at once: the linker itself reports the first only.
fn check_imports(
    engine: &Engine,
    component: &wasmtime::component::Component,
) -> Result<(), LoadError> {
    let imports: Vec<_> = component
        .component_type()
        .imports(engine)
        .filter(|(_, import)| {
            !matches!(
                import.ty,
                ComponentItem::Type(_) | ComponentItem::Resource(_)
            )
        })
        .filter(|(name, _)| !interfaces::provided(name))
        .map(|(name, _)| (shown(name), interfaces::advice(name)))
        .collect();
    if imports.is_empty() {
        Ok(())
    } else {
        Err(LoadError::MissingImports { imports })
    }
}

fn handler(
    engine: &Engine,
    component: &wasmtime::component::Component,
    instance: &InstancePre<State>,
    handlers: &Handlers,
    wanted: Wanted,
) -> Result<Handler, LoadError> {
    let exports = exports(engine, component);
    if wanted == Wanted::Worker {
        if handlers.are_none() {
            return Err(LoadError::WrongWorld { wanted, exports });
        }
        return Ok(Handler::None);
    }
    let first = |line_of: fn(&Name<'_>) -> Option<&'static str>| {
        exports.iter().find_map(|name| line_of(&Name::parse(name)?))
    };
    let http = match wanted {
        Wanted::Answers => first(is_http),
        Wanted::Program | Wanted::Worker => None,
    };
    // The first one counts, should a component export several.
    let linked = match (http, first(is_run)) {
        (Some("0.2"), _) => {
            ProxyPre::new(instance.clone()).map(|proxy| Handler::Http(HttpHandler::Proxy(proxy)))
        }
        (Some(_), _) => ServicePre::new(instance.clone())
            .map(|service| Handler::Http(HttpHandler::Service(service))),
        (None, Some(line)) => Command::new(line, instance).map(Handler::Command),
        (None, None) => return Err(LoadError::WrongWorld { wanted, exports }),
    };
    linked.map_err(LoadError::Link)
}

fn health(
    engine: &Engine,
    component: &wasmtime::component::Component,
) -> Option<ComponentExportIndex> {
    let exports = exports(engine, component);
    let name = exports
        .iter()
        .find(|name| Name::parse(name).is_some_and(|name| is_health(&name)))?;
    let interface = component.get_export_index(None, name)?;
    component.get_export_index(Some(&interface), "check")
}

fn exports(engine: &Engine, component: &wasmtime::component::Component) -> Vec<String> {
    component
        .component_type()
        .exports(engine)
        .map(|(name, _)| shown(name))
        .collect()
}
