//! What a WebAssembly file imports and exports, read without running or compiling it.
//!
//! Total: any bytes give an answer or an error, in time that is linear in their number.

use realm_model::digest::Digest;
use realm_model::inspection::{Inspection, InterfaceUse, WasmKind};
use realm_model::manifest::Serve;
use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload};

use crate::interfaces::{self, Name, shown};

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
    let component = kind == WasmKind::Component;
    let named = |test: fn(&Name<'_>) -> bool| {
        component
            && exports
                .iter()
                .filter_map(|name| Name::parse(name))
                .any(|name| test(&name))
    };
    let serve = if named(|name| is_http(name).is_some()) {
        Some(Serve::Http)
    } else if named(|name| name.is("wasi:cli/run", "0.2") || name.is("wasi:cli/run", "0.3")) {
        Some(Serve::Cgi)
    } else {
        None
    };
    Ok(Inspection {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        kind,
        imports: imports.into_iter().map(|name| import(kind, name)).collect(),
        serve,
        health_export: named(is_health),
        exports,
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

/// Whether this export is realm's health interface.
pub(crate) fn is_health(name: &Name<'_>) -> bool {
    name.is("realm:app/health", "0.1")
}

fn import(kind: WasmKind, name: String) -> InterfaceUse {
    if kind == WasmKind::Module {
        let note = if name.starts_with("wasi_snapshot_preview1") {
            "a core module of WASI preview 1: build it for `wasm32-wasip2`, or make it a component with `wasm-tools component new --adapt`"
        } else {
            "a core module: realm runs components"
        };
        return InterfaceUse {
            name,
            provided: false,
            note: Some(note.to_owned()),
        };
    }
    let provided = interfaces::provided(&name);
    let note = if provided {
        interfaces::grant(&name).map(str::to_owned)
    } else {
        Some(interfaces::advice(&name))
    };
    InterfaceUse {
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
                let module = shown(import.module);
                if !self.imports.contains(&module) {
                    self.imports.push(module);
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
