//! Core modules of WASI preview 1, made into components that the host can run.
//!
//! [`adapt`] puts the official adapter beside such a module; a component passes as it is. What no
//! adapter makes a component of (threads, WASIX, preview 0, a module without WASI) is refused by
//! name. Pure and total: any bytes give a component or an error, in time linear in their number.
//!
//! Not here: the pin, which stays that of the original bytes; the adapted form is a cache.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasm_encoder::reencode::{Reencode as _, RoundtripReencoder};
use wasmparser::{BinaryReaderError, Parser, Payload, TypeRef, Validator, WasmFeatures};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::BoxError;
use crate::inspect::INSPECT_BYTES_MAX;
use crate::interfaces::shown;

/// Module names of imports, as toolchains write them.
pub(crate) const PREVIEW1: &str = WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
const PREVIEW0: &str = "wasi_unstable";
const THREAD_SPAWN: (&str, &str) = ("wasi", "thread-spawn");
const WASIX: &str = "wasix_";
/// What a command exports.
const START: &str = "_start";
/// How bindings generators write down the world of a core module.
const WORLD_SECTION: &str = "component-type";
/// Foreign imports that an error names.
const FOREIGN_LISTED_MAX: usize = 5;

/// The adapter's `proc_exit` knows success and failure only. The same call with the code itself is
/// `exit-with-code`, which takes the same core arguments: so a module that exits imports that.
const PROC_EXIT: &str = "proc_exit";
const EXIT: (&str, &str) = ("wasi:cli/exit@0.2.12", "exit-with-code");
const EXIT_WIT: &str = "
    package realm:adapted;
    package wasi:cli@0.2.12 {
        interface exit {
            exit: func(status: result);
            exit-with-code: func(status-code: u8);
        }
    }
    world module {
        import wasi:cli/exit@0.2.12;
    }
";

/// Why bytes were not made a component.
#[derive(Debug, thiserror::Error)]
pub enum AdaptError {
    /// Larger than [`INSPECT_BYTES_MAX`].
    #[error("the file has {0} bytes; at most {INSPECT_BYTES_MAX} are read")]
    TooLarge(usize),
    /// Not WebAssembly, or damaged.
    #[error("not a WebAssembly file, or a damaged one")]
    NotWasm(#[source] BinaryReaderError),
    /// It spawns threads, or shares its memory with some.
    #[error(
        "a module with threads (`wasi-threads`), which realm does not run: build it without, for `wasm32-wasip2`"
    )]
    Threads,
    /// It needs WASIX.
    #[error("a WASIX module, which realm does not run: build it for `wasm32-wasip2`")]
    Wasix,
    /// It needs WASI preview 0.
    #[error(
        "a module of WASI preview 0 (`wasi_unstable`), which realm does not run: build it for `wasm32-wasip2`"
    )]
    Preview0,
    /// It imports what neither WASI preview 1 nor an interface is.
    #[error("a module that imports {}, which no host of WASI provides", imports.join(", "))]
    Foreign {
        /// Some of these imports.
        imports: Vec<String>,
    },
    /// It has nothing to do with WASI.
    #[error("a plain module without WASI: realm runs components, and modules of WASI preview 1")]
    NotWasi,
    /// The adapter and the module do not go together.
    #[error("a module of WASI preview 1 that cannot be made a component")]
    Encode(#[source] BoxError),
}

impl AdaptError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too-large",
            Self::NotWasm(_) => "not-wasm",
            Self::Threads => "wasi-threads",
            Self::Wasix => "wasix",
            Self::Preview0 => "wasi-preview0",
            Self::Foreign { .. } => "foreign-import",
            Self::NotWasi => "not-wasi",
            Self::Encode(_) => "adapt-failed",
        }
    }
}

/// A component of these bytes: themselves, or the module of WASI preview 1 with its adapter.
pub fn adapt(bytes: &[u8]) -> Result<Cow<'_, [u8]>, AdaptError> {
    if bytes.len() > INSPECT_BYTES_MAX {
        return Err(AdaptError::TooLarge(bytes.len()));
    }
    if Parser::is_component(bytes) {
        return Ok(Cow::Borrowed(bytes));
    }
    let look = Look::at(bytes)?;
    look.refuse()?;
    // The encoder takes a sound module for granted.
    Validator::new_with_features(WasmFeatures::default())
        .validate_all(bytes)
        .map_err(AdaptError::NotWasm)?;
    // It reads names and sections that the bytes' author chose: a mistake there is a refusal too.
    match catch_unwind(AssertUnwindSafe(|| encode(bytes, &look))) {
        Ok(encoded) => encoded.map(Cow::Owned).map_err(AdaptError::Encode),
        Err(_) => Err(AdaptError::Encode("the encoder failed".into())),
    }
}

fn encode(bytes: &[u8], look: &Look) -> Result<Vec<u8>, BoxError> {
    let exiting;
    let module = if look.exits {
        exiting = exit_with_code(bytes)?;
        &exiting
    } else {
        bytes
    };
    let adapter = if look.starts {
        WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER
    } else {
        WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER
    };
    // Compilation validates the result.
    let mut encoder = ComponentEncoder::default().validate(false).module(module)?;
    if look.preview1 || look.starts {
        encoder = encoder.adapter(PREVIEW1, adapter)?;
    }
    Ok(encoder.encode()?)
}

/// The module with [`EXIT`] in place of [`PROC_EXIT`]; all other sections byte by byte.
fn exit_with_code(bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
    let mut module = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Payload::ImportSection(section) = payload {
            let mut imports = wasm_encoder::ImportSection::new();
            for import in section.into_imports() {
                let import = import?;
                let (from, name) = match (import.module, import.name) {
                    (PREVIEW1, PROC_EXIT) => EXIT,
                    other => other,
                };
                imports.import(from, name, RoundtripReencoder.entity_type(import.ty)?);
            }
            module.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            let data = &bytes[range];
            module.section(&wasm_encoder::RawSection { id, data });
        }
    }
    let mut module = module.finish();
    let mut resolve = Resolve::default();
    let package = resolve.push_source("adapted.wit", EXIT_WIT)?;
    let world = resolve.select_world(&[package], None)?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

/// What decides about a core module.
#[derive(Default)]
struct Look {
    threads: bool,
    wasix: bool,
    preview0: bool,
    preview1: bool,
    exits: bool,
    starts: bool,
    /// It says itself which world it is for.
    world: bool,
    foreign: Vec<String>,
}

impl Look {
    fn at(bytes: &[u8]) -> Result<Self, AdaptError> {
        let mut look = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            look.read(&payload.map_err(AdaptError::NotWasm)?)
                .map_err(AdaptError::NotWasm)?;
        }
        Ok(look)
    }

    fn read(&mut self, payload: &Payload<'_>) -> Result<(), BinaryReaderError> {
        if let Payload::ImportSection(section) = payload {
            for import in section.clone().into_imports() {
                let import = import?;
                self.import(import.module, import.name, import.ty);
            }
        } else if let Payload::MemorySection(section) = payload {
            for memory in section.clone() {
                self.threads |= memory?.shared;
            }
        } else if let Payload::ExportSection(section) = payload {
            for export in section.clone() {
                self.starts |= export?.name == START;
            }
        } else if let Payload::CustomSection(section) = payload {
            self.world |= section.name().starts_with(WORLD_SECTION);
        }
        Ok(())
    }

    fn import(&mut self, module: &str, name: &str, ty: TypeRef) {
        if module == PREVIEW1 {
            self.preview1 = true;
            self.exits |= name == PROC_EXIT;
        } else if module == PREVIEW0 {
            self.preview0 = true;
        } else if module.starts_with(WASIX) {
            self.wasix = true;
        } else if (module, name) == THREAD_SPAWN
            || matches!(ty, TypeRef::Memory(memory) if memory.shared)
        {
            self.threads = true;
        } else if self.foreign.len() < FOREIGN_LISTED_MAX {
            self.foreign
                .push(format!("`{}.{}`", shown(module), shown(name)));
        }
    }

    fn refuse(&self) -> Result<(), AdaptError> {
        if self.wasix {
            // First: such modules have shared memories as well.
            Err(AdaptError::Wasix)
        } else if self.threads {
            Err(AdaptError::Threads)
        } else if self.preview0 {
            Err(AdaptError::Preview0)
        } else if !self.world && !self.foreign.is_empty() {
            // With a world of its own, the encoder knows what such an import is.
            Err(AdaptError::Foreign {
                imports: self.foreign.clone(),
            })
        } else if self.preview1 || self.starts || self.world {
            Ok(())
        } else {
            Err(AdaptError::NotWasi)
        }
    }
}

/// What the manifest must grant so that a function of preview 1 reaches anything.
pub(crate) fn grant(function: &str) -> &'static str {
    match function {
        "environ_get" | "environ_sizes_get" => "holds only what `env` names",
        "args_get" | "args_sizes_get" => "holds only what `args` names",
        "clock_time_get" | "clock_res_get" => "1 ms resolution unless `clock` says otherwise",
        name if name.starts_with("path_") || name.starts_with("fd_prestat") => {
            "reaches only what `dirs` names"
        }
        name if name.starts_with("sock_") => "always fails: preview 1 has no sockets of its own",
        _ => "adapted to WASI 0.2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::inspect::inspect;
    use realm_model::inspection::WasmKind;
    use realm_model::manifest::Serve;

    const HELLO: &str = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\0a")
        (func (export "_start")
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))"#;

    #[track_caller]
    fn check(text: &str, expected: Result<Option<Serve>, &str>) {
        let bytes = wat::parse_str(text).unwrap();
        let adapted = adapt(&bytes).map(|component| inspect(&component).unwrap());
        match (adapted, expected) {
            (Ok(seen), Ok(serve)) => {
                assert_eq!((seen.kind, seen.serve), (WasmKind::Component, serve));
                assert!(
                    seen.imports.iter().all(|import| import.provided),
                    "{seen:?}"
                );
                compile(&bytes, false).unwrap();
                // Of the module itself the same is said.
                let seen = inspect(&bytes).unwrap();
                assert_eq!((seen.kind, seen.serve), (WasmKind::Module, serve));
            }
            (Err(error), Err(code)) => assert_eq!(error.code(), code, "{error}"),
            (adapted, expected) => panic!("{adapted:?}, expected {expected:?}: {text}"),
        }
    }

    #[test]
    fn modules_are_told_apart() {
        check(HELLO, Ok(Some(Serve::Cgi)));
        check(
            r#"(module (memory (export "memory") 1) (func (export "_start")))"#,
            Ok(Some(Serve::Cgi)),
        );
        let import = |from: &str, ty: &str| {
            format!(
                r#"(module (import "{}" "{}" {ty}) (memory (export "memory") 1))"#,
                from.split_once('.').unwrap().0,
                from.split_once('.').unwrap().1
            )
        };
        let thread = "(func (param i32) (result i32))";
        check(
            &import(
                "wasi_snapshot_preview1.random_get",
                "(func (param i32 i32) (result i32))",
            ),
            Ok(None),
        );
        check(&import("wasi.thread-spawn", thread), Err("wasi-threads"));
        check(
            r#"(module (import "env" "memory" (memory 1 1 shared)))"#,
            Err("wasi-threads"),
        );
        check("(module (memory 1 1 shared))", Err("wasi-threads"));
        check(&import("wasix_32v1.thread_spawn", thread), Err("wasix"));
        check(
            &import("wasi_unstable.fd_close", thread),
            Err("wasi-preview0"),
        );
        check(&import("env.log", "(func)"), Err("foreign-import"));
        check("(module)", Err("not-wasi"));
        check(
            r#"(module (func (export "add") (result i32) i32.const 1))"#,
            Err("not-wasi"),
        );
        // An import that the adapter does not have, and one of another type.
        for name in ["fd_nonsense", "fd_write"] {
            let import = import(&format!("wasi_snapshot_preview1.{name}"), "(func)");
            check(&import, Err("adapt-failed"));
        }
    }

    #[test]
    fn a_module_with_a_world_of_its_own_becomes_that() {
        let mut bytes = wat::parse_str(
            r#"(module
                (import "wasi_snapshot_preview1" "random_get"
                    (func (param i32 i32) (result i32)))
                (memory (export "memory") 1)
                (func (export "wasi:cli/run@0.2.0#run") (result i32) i32.const 0))"#,
        )
        .unwrap();
        let mut resolve = Resolve::default();
        let wit = "package a:b;
            package wasi:cli@0.2.0 { interface run { run: func() -> result; } }
            world w { export wasi:cli/run@0.2.0; }";
        let package = resolve.push_source("w.wit", wit).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8).unwrap();
        assert_eq!(inspect(&bytes).unwrap().serve, Some(Serve::Cgi));
        compile(&bytes, false).unwrap();
    }

    #[test]
    fn an_inspection_shows_functions_and_refusals() {
        let seen = |text: &str| {
            let seen = inspect(&wat::parse_str(text).unwrap()).unwrap();
            let import = seen.imports.into_iter().next().unwrap();
            (import.name, import.provided, import.note.unwrap())
        };
        let (name, provided, _) = seen(HELLO);
        assert_eq!(
            (&*name, provided),
            ("wasi_snapshot_preview1.fd_write", true)
        );
        let environ = HELLO.replace("fd_write", "environ_get");
        // Of another type: what it would be is refused as a whole.
        let (name, provided, note) = seen(&environ);
        assert_eq!(
            (&*name, provided),
            ("wasi_snapshot_preview1.environ_get", false)
        );
        assert!(note.contains("cannot be made a component"), "{note}");
        let (name, provided, note) =
            seen(r#"(module (import "wasi" "thread-spawn" (func (param i32) (result i32))))"#);
        assert_eq!((&*name, provided), ("wasi", false));
        assert!(note.contains("threads"), "{note}");
        assert!(grant("path_open").contains("`dirs`"));
        assert!(grant("sock_accept").contains("no sockets"));
    }

    #[test]
    fn a_component_stays_as_it_is() {
        let bytes = wat::parse_str("(component)").unwrap();
        assert!(matches!(adapt(&bytes), Ok(Cow::Borrowed(same)) if same == bytes));
    }

    #[test]
    fn what_is_no_wasm_is_refused() {
        let large = vec![0; INSPECT_BYTES_MAX + 1];
        assert_eq!(adapt(&large).unwrap_err().code(), "too-large");
        assert_eq!(adapt(b"").unwrap_err().code(), "not-wasm");
        // Well-formed, but it adds what is not there.
        let unsound = wat::parse_str(HELLO.replace("(drop", "i32.add (drop")).unwrap();
        assert!(matches!(adapt(&unsound), Err(AdaptError::NotWasm(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(tail: Vec<u8>, head in 0usize..3) {
            let head: &[u8] = [&b""[..], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"][head];
            let _ = adapt(&[head, &tail].concat());
        }

        #[test]
        fn changed_bytes_give_an_answer(
            changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 1..4),
        ) {
            let mut bytes = wat::parse_str(HELLO).unwrap();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = adapt(&bytes);
        }
    }
}
