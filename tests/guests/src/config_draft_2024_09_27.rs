//! Answers with what `wasi:config/store@0.2.0-draft-2024-09-27` holds.

guests::serve_config!("../../wit/deps/wasi-config-0.2.0-draft-2024-09-27");
