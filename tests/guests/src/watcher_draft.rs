//! Exports `wasi:keyvalue/watcher@0.2.0-draft`: writes what it hears into its log, and answers a change of
//! `ask` by setting `answer` in the bucket that it is given. A key `trap` traps.

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/deps/wasi-keyvalue-0.2.0-draft",
        world: "watch-service",
    });
}

guests::watch!();
