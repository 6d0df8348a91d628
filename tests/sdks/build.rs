//! Writes the bindings of the WIT that stands in wasmtime's own crates, where cargo keeps them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A crate, and the module that its interfaces get.
const CRATES: [(&str, &str); 2] = [
    ("wasmtime-wasi-config", "config"),
    ("wasmtime-wasi-keyvalue", "keyvalue"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let metadata = metadata();
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for (package, module) in CRATES {
        let wit = folder_of(&metadata, package).join("wit");
        let code = format!(
            "wit_bindgen::generate!({{ path: {:?}, world: \"wasmtime:wasi-{module}/bindings\", generate_all }});",
            wit.display().to_string()
        );
        fs::write(out_dir.join(format!("{module}.rs")), code).expect("cargo made the folder");
    }
}

fn metadata() -> serde_json::Value {
    let cargo = env::var_os("CARGO").expect("cargo sets it");
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        // The platform whose dependencies they are.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("what cargo says is JSON")
}

fn folder_of(metadata: &serde_json::Value, name: &str) -> PathBuf {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let found = packages.filter(|package| package["name"] == name);
    let mut manifests = found.filter_map(|package| package["manifest_path"].as_str());
    let manifest = manifests.next().expect("Cargo.toml names it");
    Path::new(manifest).parent().expect("a file").to_path_buf()
}
