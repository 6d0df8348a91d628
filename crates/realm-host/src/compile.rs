//! From a component's bytes to machine code in a file. Meant for a child process with low
//! priority: it takes seconds for large components, and the memory it takes goes with it.
//!
//! Not here: deciding when to compile, and the cache (both belong to the node).

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use realm_model::digest::Digest;
use wasmtime::Engine;

use crate::engine::{Kind, code_settings};
use crate::inspect::names_a_release_of;
use crate::preview1::{AdaptError, adapt};

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a component, and cannot be made one.
    #[error("not a component that realm can compile")]
    Adapt(#[source] AdaptError),
    /// The bytes are not a component, or use what the engine does not support.
    #[error("not a component that realm can compile")]
    Invalid(#[source] wasmtime::Error),
    /// The result could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The destination.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No engine.
    #[error("the compiler could not be started")]
    Engine(#[source] wasmtime::Error),
}

impl CompileError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Write { .. } => "io",
            Self::Adapt(_) | Self::Invalid(_) => "compile-failed",
            Self::Engine(_) => "engine",
        }
    }
}

/// Compiles a component to machine code, which [`crate::Host::load`] takes from a file. A core
/// module of WASI preview 1 becomes a component first.
///
/// `fuel`: whether the code counts fuel. One thread, no progress: for a child process.
pub fn compile(bytes: &[u8], fuel: bool) -> Result<Vec<u8>, CompileError> {
    let component = adapt(bytes).map_err(CompileError::Adapt)?;
    let compile = |concurrent| {
        let kind = Kind { fuel, concurrent };
        let engine = Engine::new(&code_settings(kind)).map_err(CompileError::Engine)?;
        engine
            .precompile_component(&component)
            .map_err(CompileError::Invalid)
    };
    if names_a_release_of(&component, "0.3") {
        return compile(true);
    }
    // Async functions, streams and futures can be used without WASI 0.3. The other engine refuses
    // them before it compiles anything.
    compile(false).or_else(|_| compile(true))
}

/// [`compile`] into the file `destination`, which appears whole or not at all.
pub fn compile_bytes(bytes: &[u8], destination: &Path, fuel: bool) -> Result<(), CompileError> {
    let code = compile(bytes, fuel)?;
    write_whole(destination, &code).map_err(|error| CompileError::Write {
        path: destination.to_owned(),
        source: error,
    })
}

/// Writes a temporary file beside `destination`, syncs it, and renames it.
fn write_whole(destination: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = destination
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(destination).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

static FINGERPRINTS: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];

/// Names the settings and the versions that compiled code depends on: 16 hex digits, the name of
/// a cache folder. Compiled code of another fingerprint is not loaded.
pub fn fingerprint(fuel: bool) -> String {
    let kind = Kind {
        fuel,
        concurrent: false,
    };
    let make = || match Engine::new(&code_settings(kind)) {
        Ok(engine) => fingerprint_of(&engine),
        // Nothing compiles or loads without an engine; the name only has to be stable.
        Err(_) => format!("none-{fuel}"),
    };
    FINGERPRINTS[usize::from(fuel)].get_or_init(make).clone()
}

/// Spares [`fingerprint`] an engine of its own: a start waits for it.
pub(crate) fn remember(kind: Kind, engine: &Engine) {
    if !kind.concurrent {
        // Where it is known already, it is the same.
        let _ = FINGERPRINTS[usize::from(kind.fuel)].set(fingerprint_of(engine));
    }
}

/// The engine for WASI 0.3 differs by settings of realm's own, which its version stands for; wasmtime
/// itself refuses code of other settings, and then it is compiled again.
fn fingerprint_of(engine: &Engine) -> String {
    let mut bytes = Bytes(Vec::new());
    env!("CARGO_PKG_VERSION").hash(&mut bytes);
    engine.precompile_compatibility_hash().hash(&mut bytes);
    Digest::of(&bytes.0).hex()[..16].to_owned()
}

/// A "hasher" that keeps what it is fed, since the standard one promises no stable result.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{HostFacts, Runtime};

    #[test]
    fn fingerprints_are_stable_and_tell_fuel_apart() {
        assert_eq!(fingerprint(false), fingerprint(false));
        assert_ne!(fingerprint(false), fingerprint(true));
        assert_eq!(fingerprint(true).len(), 16);
    }

    #[test]
    fn a_pool_does_not_change_the_fingerprint() {
        for fuel in [false, true] {
            let kind = Kind {
                fuel,
                concurrent: false,
            };
            let mut facts = HostFacts {
                pooling: true,
                pagemap_scan: Err(String::new()),
                instances_max: 10,
            };
            let pooled = Runtime::new(kind, &mut facts).unwrap();
            assert!(facts.pooling);
            let alone = Engine::new(&code_settings(kind)).unwrap();
            assert_eq!(fingerprint_of(&pooled.engine), fingerprint_of(&alone));
        }
    }

    #[test]
    fn what_is_no_component_is_not_compiled() {
        let error = compile(b"not wasm", false).unwrap_err();
        assert_eq!(error.code(), "compile-failed");
    }
}
