//! `wasi:logging`: lines of a guest in the log of its component, with level and context before them. One
//! implementation for the draft and for bindings without a version.
//!
//! Not here: what becomes of lines (the ring), and what a guest writes to its standard output.

use std::fmt::Write as _;
use std::sync::Arc;

use realm_model::api::LogStream;
use realm_model::text::{one_line, printable, start_of};
use wasmtime::Result;
use wasmtime::component::{HasData, Linker};

use crate::logs::{LINE_BYTES_MAX, LogSink};
use crate::state::State;

/// Characters of a context: the name of a module.
const CONTEXT_CHARS_MAX: usize = 128;
/// Lines of one message: a backtrace. What follows is cut, and said to be.
const LINES_MAX: usize = 100;

/// Who writes into the log of a component.
pub(crate) struct Speaker<'a> {
    pub(crate) sink: &'a Arc<dyn LogSink>,
    pub(crate) slot: u32,
}

struct Has;

impl HasData for Has {
    type Data<'a> = Speaker<'a>;
}

impl Speaker<'_> {
    /// Each line of the message is one of the log, printable, with the level before it: no guest writes a
    /// line that looks like another level's.
    pub(super) fn log(&self, level: &str, context: &str, message: &str) {
        let mut before = level.to_owned();
        if !context.is_empty() {
            let context = one_line(context, CONTEXT_CHARS_MAX);
            // Writing to a String does not fail.
            let _ = write!(before, " [{context}]");
        }
        let mut lines = message.lines();
        // An empty message is said as well.
        let first = lines.next().unwrap_or_default();
        for line in std::iter::once(first).chain(lines.by_ref().take(LINES_MAX - 1)) {
            let room = LINE_BYTES_MAX.saturating_sub(before.len() + 2);
            let shown = printable(&start_of(line, room)).into_owned();
            let cut = if shown.is_empty() { "" } else { " " };
            self.say(format!("{before}:{cut}{shown}"));
        }
        if lines.next().is_some() {
            self.say(format!(
                "{before}: (more than {LINES_MAX} lines: the rest is cut)"
            ));
        }
    }

    /// A line as it is: it has to be printable.
    pub(super) fn say(&self, text: String) {
        self.sink.line(self.slot, LogStream::Stderr, text);
    }
}

macro_rules! version {
    ($name:ident, $path:literal) => {
        mod $name {
            wasmtime::component::bindgen!({ path: $path, world: "imports" });

            pub(super) use wasi::logging::logging::{Host, Level, add_to_linker};
        }

        impl $name::Host for Speaker<'_> {
            fn log(&mut self, level: $name::Level, context: String, message: String) {
                let level = match level {
                    $name::Level::Trace => "trace",
                    $name::Level::Debug => "debug",
                    $name::Level::Info => "info",
                    $name::Level::Warn => "warn",
                    $name::Level::Error => "error",
                    $name::Level::Critical => "critical",
                };
                Speaker::log(self, level, &context, &message);
            }
        }
    };
}

version!(draft, "../../wit/deps/wasi-logging-0.1.0-draft");
version!(unversioned, "../../wit/deps/wasi-logging");

/// Both of them.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    draft::add_to_linker::<_, Has>(linker, State::speaker)?;
    unversioned::add_to_linker::<_, Has>(linker, State::speaker)
}
