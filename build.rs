//! How the program is linked, and the one piece of C in it. Nothing is generated here.
//!
//! A program that lies at a random address mends some 65,000 pointers into itself when it starts. As
//! the linker writes them by default they are a list of 1.5 MB, read from the file at each start; packed
//! (`DT_RELR`) they take 20 kB.

use std::env;
use std::process::Command;

/// The first glibc that starts a packed program; musl 1.2.4 does, and Rust brings a later one.
const GLIBC_MIN: (u32, u32) = (2, 36);

/// Copies and compares faster than musl does.
const MEMORY: &str = "src/memory.c";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={MEMORY}");
    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("ENV") == "musl" && target("ARCH") == "x86_64" {
        cc::Build::new()
            .file(MEMORY)
            .opt_level(2)
            .flags([
                "-ffreestanding",
                "-fno-builtin",
                "-fno-tree-loop-distribute-patterns",
            ])
            .compile("realm_memory");
    }
    if starts_packed() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

fn starts_packed() -> bool {
    let variable = |name| env::var(name).unwrap_or_default();
    match variable("CARGO_CFG_TARGET_ENV").as_str() {
        "musl" => true,
        // Only what is built for this very machine: another one may have another glibc.
        "gnu" => variable("TARGET") == variable("HOST") && glibc() >= Some(GLIBC_MIN),
        _ => false,
    }
}

/// The version of this machine's glibc; `None`: it does not say.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    let digits = minor.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, digits.parse().ok()?))
}
