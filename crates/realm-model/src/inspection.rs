//! What a component's bytes say of themselves: imports, exports, and how realm would invoke it.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::Serve;

/// The result of looking into a WebAssembly file without running it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What the bytes are.
    pub kind: WasmKind,
    /// Imports, e.g. `wasi:http/types@0.2.6`.
    pub imports: Vec<InterfaceUse>,
    /// Exports, e.g. `wasi:http/incoming-handler@0.2.6`.
    pub exports: Vec<String>,
    /// How realm would invoke it; `None` if it exports nothing that realm calls.
    pub serve: Option<Serve>,
    /// Whether it exports a command (`wasi:cli/run`), be it beside an HTTP handler.
    #[serde(default)]
    pub command_export: bool,
    /// What it exports for events to call.
    #[serde(default)]
    pub handlers: HandlerExports,
    /// Whether it exports the health function.
    pub health_export: bool,
    /// Why no version of realm runs it; `None`: it may.
    #[serde(default)]
    pub refused: Option<String>,
}

/// Exports that are called by what happens, and by no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HandlerExports {
    /// Called by messages.
    pub messages: bool,
    /// Called by changes of keys.
    pub changes: bool,
    /// Called by runs of workflows that are due.
    pub workflows: bool,
}

/// What a WebAssembly file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WasmKind {
    /// A component.
    Component,
    /// A core module.
    Module,
}

/// One imported interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceUse {
    /// Name with version.
    pub name: String,
    /// Whether this version of realm provides it.
    pub provided: bool,
    /// The versions that this version of realm provides, e.g. `0.2.x and 0.3.x`; empty: none.
    #[serde(default)]
    pub versions: String,
    /// What the manifest must grant for it to reach anything, or what to do about a missing one.
    pub note: Option<String>,
}
