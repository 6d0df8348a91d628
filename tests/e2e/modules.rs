//! Core modules that no adapter makes a component of: refused by name, before anything is signed.

use realm_test_guests::HELLO;

use crate::support::Realm;

/// A module that imports one function.
fn importing(module: &str, name: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let import = [vec![1], text(module), text(name), vec![0, 0]].concat();
    let head = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02".to_vec();
    [head, vec![u8::try_from(import.len()).unwrap()], import].concat()
}

/// What is refused, the code, and the word that names it.
fn refused() -> [(Vec<u8>, &'static str, &'static str); 4] {
    [
        (importing("wasi", "thread-spawn"), "wasi-threads", "threads"),
        (importing("wasix_32v1", "callback_signal"), "wasix", "WASIX"),
        (
            importing("wasi_unstable", "fd_write"),
            "wasi-preview0",
            "preview 0",
        ),
        (importing("env", "log"), "foreign-import", "`env.log`"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_cannot_be_adapted_is_never_signed() {
    let realm = Realm::new();
    realm.app(HELLO, "");
    let agent = realm.agent();
    for (bytes, code, word) in refused() {
        std::fs::write(realm.path("app.wasm"), bytes).unwrap();
        let said = realm.run(&["apply", "--yes"]).fails(1, code);
        assert!(said.stderr.contains(word), "{}", said.stderr);
        let inspected = realm.run(&["inspect", "app.wasm"]).ok().stdout;
        assert!(inspected.contains("refused: "), "{inspected}");
        assert!(inspected.contains(word), "{inspected}");
    }
    assert!(!realm.path("realm.lock").exists() && !realm.path("realm.toml.sig").exists());
    assert_eq!(realm.heads().await.version, 0);

    realm.guest(HELLO, "app.wasm");
    realm.run(&["apply", "--yes"]).ok();
    let signed = realm.read("realm.toml.sig");
    for (bytes, code, word) in refused() {
        std::fs::write(realm.path("new.wasm"), bytes).unwrap();
        let said = realm.run(&["push", "app", "new.wasm"]).fails(1, code);
        assert!(said.stderr.contains(word), "{}", said.stderr);
    }
    assert_eq!(realm.heads().await.version, 1);
    assert_eq!(realm.read("realm.toml.sig"), signed);
    assert_eq!(crate::support::get(&agent.url("/")).await.0, 200);
}
