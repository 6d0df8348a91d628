//! Built against the WIT in wasmtime's own crate, `wasi:config@0.2.0-rc.1`, as a command, which is what
//! wasmtime tests that crate with.

mod bindings {
    include!(concat!(env!("OUT_DIR"), "/config.rs"));
}

use bindings::wasi::config::store;

fn main() {
    let color = store::get("color").expect("configuration");
    assert_eq!(color.as_deref(), Some("red"));
    assert_eq!(store::get("size").expect("configuration"), None);
    let all = store::get_all().expect("configuration");
    assert_eq!(all, [("color".to_owned(), "red".to_owned())]);
    println!("ok");
}
