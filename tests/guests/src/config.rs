//! Answers with what `wasi:config/store@0.2.0-rc.1` holds.

guests::serve_config!("../../wit/deps/wasi-config-0.2.0-rc.1");
