//! What copies and compares memory in the released program, which is C: here under other names, beside plain loops.

use std::process::Command;

use crate::support::said;

#[cfg(target_arch = "x86_64")]
#[test]
fn memory_is_copied_set_and_compared_as_by_plain_loops() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("memory");
    let root = env!("CARGO_MANIFEST_DIR");
    let mut compiler = Command::new("cc");
    compiler
        // As build.rs has it, but for the names.
        .args(["-O2", "-ffreestanding", "-fno-builtin"])
        .args(["-fno-tree-loop-distribute-patterns", "-Wall", "-Werror"])
        .arg("-DNAME(name)=tested_##name")
        .arg(format!("{root}/src/memory.c"))
        .arg(format!("{root}/tests/e2e/memory.c"))
        .arg("-o")
        .arg(&program);
    said(compiler).ok();
    let said = said(Command::new(&program)).ok().stdout;
    let cases = said.trim().strip_suffix(" cases").unwrap();
    assert!(cases.parse::<u32>().unwrap() > 100_000, "{said}");
}
