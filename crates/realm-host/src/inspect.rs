//! What a WebAssembly file imports and exports, read without running or compiling it.
//!
//! Total: any bytes give an answer or an error, in time that is linear in their number.

use realm_model::digest::Digest;
use realm_model::inspection::{HandlerExports, Inspection, InterfaceUse, WasmKind};
use realm_model::manifest::Serve;
use realm_model::text::printable;
use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload};

use crate::interfaces::{self, Name, shown};
use crate::preview1::{self, AdaptError, PREVIEW1};

/// Files larger than this are refused unread: the largest components in the field (a language
/// runtime with its libraries) have tens of megabytes.
pub const INSPECT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Imports and exports that are listed: more than any real component has.
const NAMES_MAX: usize = 4_096;

/// Why bytes could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Larger than [`INSPECT_BYTES_MAX`].
    #[error("the file has {0} bytes; at most {INSPECT_BYTES_MAX} are read")]
    TooLarge(usize),
    /// Not WebAssembly, or damaged.
    #[error("not a WebAssembly file, or a damaged one")]
    NotWasm(#[source] wasmparser::BinaryReaderError),
    /// More names than any real component has.
    #[error("more than {NAMES_MAX} imports and exports")]
    TooManyNames,
}

impl InspectError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too-large",
            Self::NotWasm(_) => "not-wasm",
            Self::TooManyNames => "too-many-names",
        }
    }
}

/// Inspects the bytes of a component or a core module.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    if bytes.len() > INSPECT_BYTES_MAX {
        return Err(InspectError::TooLarge(bytes.len()));
    }
    let Names {
        kind,
        imports,
        exports,
    } = names(bytes)?;
    let adapted = match kind {
        WasmKind::Component => None,
        // How a module is run is decided by the component that becomes of it.
        WasmKind::Module => Some(adapted_exports(bytes)),
    };
    let refused = adapted
        .as_ref()
        .and_then(|adapted| adapted.as_ref().err())
        .map(ToString::to_string);
    let called = match &adapted {
        None => exports.as_slice(),
        Some(adapted) => adapted.as_deref().unwrap_or_default(),
    };
    let named = |test: fn(&Name<'_>) -> bool| {
        called
            .iter()
            .filter_map(|name| Name::parse(name))
            .any(|name| test(&name))
    };
    let handlers = HandlerExports {
        messages: named(is_message_handler),
        changes: named(is_watcher),
        workflows: named(is_workflow_handler),
    };
    let command_export = named(|name| is_run(name).is_some());
    let serve = if named(|name| is_http(name).is_some()) {
        Some(Serve::Http)
    } else if command_export {
        Some(Serve::Cgi)
    } else if handlers != HandlerExports::default() {
        Some(Serve::Worker)
    } else {
        None
    };
    let health_export = named(is_health);
    Ok(Inspection {
        refused: refused.clone(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        kind,
        imports: imports
            .into_iter()
            .map(|name| {
                let mut import = import(kind, name, refused.as_deref());
                // Names are a stranger's words, and this is where people look at strangers' files.
                import.name = printable(&import.name).into_owned();
                import.note = import.note.map(|note| printable(&note).into_owned());
                import
            })
            .collect(),
        serve,
        command_export,
        handlers,
        health_export,
        exports: exports
            .iter()
            .map(|name| printable(name).into_owned())
            .collect(),
    })
}

/// The line of `wasi:http` whose handler this export is.
pub(crate) fn is_http(name: &Name<'_>) -> Option<&'static str> {
    if name.is("wasi:http/incoming-handler", "0.2") {
        Some("0.2")
    } else if name.is("wasi:http/handler", "0.3") {
        Some("0.3")
    } else {
        None
    }
}

/// The line of `wasi:cli` whose command this export is.
pub(crate) fn is_run(name: &Name<'_>) -> Option<&'static str> {
    ["0.2", "0.3"]
        .into_iter()
        .find(|line| name.is("wasi:cli/run", line))
}

/// Whether this export is called by messages.
pub(crate) fn is_message_handler(name: &Name<'_>) -> bool {
    (name.package, name.interface) == ("wasi:messaging", "incoming-handler")
        && name.version == "0.2.0-draft"
}

/// Whether this export is called by changes of keys.
pub(crate) fn is_watcher(name: &Name<'_>) -> bool {
    (name.package, name.interface) == ("wasi:keyvalue", "watcher")
        && matches!(name.version, "0.2.0-draft" | "0.2.0-draft2")
}

/// Whether this export is called by runs of workflows that are due.
pub(crate) fn is_workflow_handler(name: &Name<'_>) -> bool {
    (name.package, name.interface, name.version) == ("realm:cloud", "workflow-handler", "0.1.0")
}

/// Whether this export is realm's health interface.
pub(crate) fn is_health(name: &Name<'_>) -> bool {
    name.is("realm:app/health", "0.1")
}

/// Whether a component imports or exports an interface of WASI in a release of `line`; `false`
/// where the bytes cannot be read, which whoever compiles them finds.
pub(crate) fn names_a_release_of(component: &[u8], line: &str) -> bool {
    let Ok(Names {
        imports, exports, ..
    }) = names(component)
    else {
        return false;
    };
    imports.iter().chain(&exports).any(|name| {
        Name::parse(name).is_some_and(|name| {
            name.package.starts_with("wasi:") && interfaces::is_release_of(name.version, line)
        })
    })
}

/// What the component that becomes of a module exports.
fn adapted_exports(bytes: &[u8]) -> Result<Vec<String>, AdaptError> {
    let component = preview1::adapt(bytes)?;
    // The encoder's own work: it has no more names than the module, and is sound.
    Ok(names(&component).map_or_else(|_| Vec::new(), |names| names.exports))
}

fn import(kind: WasmKind, name: String, refused: Option<&str>) -> InterfaceUse {
    if kind == WasmKind::Module {
        let note = match (refused, name.strip_prefix(PREVIEW1)) {
            (Some(why), _) => why.to_owned(),
            (None, Some(function)) => preview1::grant(function.trim_start_matches('.')).to_owned(),
            (None, None) => "of the world that the module names".to_owned(),
        };
        return InterfaceUse {
            name,
            provided: refused.is_none(),
            versions: String::new(),
            note: Some(note),
        };
    }
    let provided = interfaces::provided(&name);
    let note = if provided {
        interfaces::grant(&name).map(str::to_owned)
    } else {
        Some(interfaces::advice(&name))
    };
    InterfaceUse {
        versions: interfaces::versions(&name),
        name,
        provided,
        note,
    }
}

struct Names {
    kind: WasmKind,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// The names at the outermost level; what is nested inside a component is its own affair.
fn names(bytes: &[u8]) -> Result<Names, InspectError> {
    let mut names = Names {
        kind: WasmKind::Module,
        imports: Vec::new(),
        exports: Vec::new(),
    };
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(InspectError::NotWasm)?;
        if let Payload::Version { encoding, .. } = &payload {
            if depth == 0 && *encoding == Encoding::Component {
                names.kind = WasmKind::Component;
            }
            depth += 1;
        } else if let Payload::End(_) = payload {
            depth = depth.saturating_sub(1);
        } else if depth == 1 {
            names.read(&payload)?;
        }
    }
    Ok(names)
}

impl Names {
    fn read(&mut self, payload: &Payload<'_>) -> Result<(), InspectError> {
        if let Payload::ImportSection(section) = payload {
            for import in section.clone().into_imports() {
                let import = import.map_err(InspectError::NotWasm)?;
                // Of preview 1 each function, of others only where they come from.
                let name = if import.module == PREVIEW1 {
                    shown(&format!("{PREVIEW1}.{}", import.name))
                } else {
                    shown(import.module)
                };
                if !self.imports.contains(&name) {
                    self.imports.push(name);
                }
                self.bounded()?;
            }
        } else if let Payload::ExportSection(section) = payload {
            for export in section.clone() {
                let export = export.map_err(InspectError::NotWasm)?;
                self.exports.push(shown(export.name));
                self.bounded()?;
            }
        } else if let Payload::ComponentImportSection(section) = payload {
            for import in section.clone() {
                let import = import.map_err(InspectError::NotWasm)?;
                // A type import names a type of an interface that is imported as well.
                if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                    self.imports.push(shown(import.name.name));
                }
                self.bounded()?;
            }
        } else if let Payload::ComponentExportSection(section) = payload {
            for export in section.clone() {
                let export = export.map_err(InspectError::NotWasm)?;
                self.exports.push(shown(export.name.name));
                self.bounded()?;
            }
        }
        Ok(())
    }

    /// A section may claim billions of names: stop while they are read.
    fn bounded(&self) -> Result<(), InspectError> {
        if self.imports.len() + self.exports.len() > NAMES_MAX {
            return Err(InspectError::TooManyNames);
        }
        Ok(())
    }
}
