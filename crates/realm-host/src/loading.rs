//! The one place with `unsafe`: mapping compiled code.

use std::path::Path;

use wasmtime::component::Component;
use wasmtime::{Engine, Result};

/// Maps a compiled component.
///
/// The file must have been made by [`crate::compile`] on this machine, in a folder that only the
/// agent can write, and must not change while it is mapped: the node never loads compiled code
/// from anywhere else, and replaces such files only by rename.
pub(crate) fn map(engine: &Engine, compiled: &Path) -> Result<Component> {
    #[expect(
        unsafe_code,
        reason = "compiled code is trusted by contract: realm made it itself, from verified bytes, in a folder only the agent writes; wasmtime checks version and settings, not the code"
    )]
    // SAFETY: see the reason above; the callers' duty is in the doc comment.
    unsafe {
        Component::deserialize_file(engine, compiled)
    }
}
