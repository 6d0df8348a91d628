//! Logs by `wasi:logging/logging`, which some toolchains know without a version.

guests::serve_logging!("../../wit/deps/wasi-logging");
