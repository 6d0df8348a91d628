//! Logs by `wasi:logging/logging@0.1.0-draft`.

guests::serve_logging!("../../wit/deps/wasi-logging-0.1.0-draft");
