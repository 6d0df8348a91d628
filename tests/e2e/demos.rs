//! What `make demo` and its like show, as a newcomer sees it: each checks itself, and its exit code is the
//! verdict.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{PROGRAM, said};

/// A target folder with the program in it, and a cargo that builds anything but what is there: it is what
/// is tested, and would be built again with other features.
pub(crate) struct Demo {
    folder: TempDir,
}

impl Demo {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let demo = Self { folder };
        fs::create_dir_all(demo.target().join("debug")).unwrap();
        symlink(PROGRAM, demo.target().join("debug/realm")).unwrap();
        let bin = demo.folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let cargo = Command::new("sh").args(["-c", "command -v cargo"]).output();
        let cargo = String::from_utf8(cargo.unwrap().stdout).unwrap();
        let stub = format!(
            "#!/bin/sh\ncase \"$*\" in *\"--bin realm\" | *\"--example echo_request\"*) \
             echo \"$*\" >> {}; exit 0;; esac\nexec {} \"$@\"\n",
            demo.folder.path().join("asked").display(),
            cargo.trim()
        );
        fs::write(bin.join("cargo"), stub).unwrap();
        fs::set_permissions(bin.join("cargo"), PermissionsExt::from_mode(0o755)).unwrap();
        demo
    }

    pub(crate) fn target(&self) -> std::path::PathBuf {
        self.folder.path().join("target")
    }

    /// What `make TARGET` prints; it ends well, and leaves nothing behind.
    pub(crate) fn shows(&self, target: &str) -> String {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("make");
        command
            .args(["--silent", target])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .env(
                "PATH",
                format!("{}/bin:{path}", self.folder.path().display()),
            )
            .env("CARGO_TARGET_DIR", self.target())
            .env("TMPDIR", self.folder.path());
        let shown = said(command).ok().stdout;
        let left = fs::read_dir(self.folder.path()).unwrap();
        let left = left.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("realm-demo.")
        });
        assert_eq!(left.count(), 0);
        assert_eq!(self.running(), Vec::<String>::new());
        shown
    }

    /// The command lines of processes that have to do with the demo's folder.
    fn running(&self) -> Vec<String> {
        let folder = self.folder.path().display().to_string();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        // One that ends meanwhile cannot be read.
        let lines = processes.filter_map(|one| fs::read(one.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(&folder)).collect()
    }

    /// How often something was to be built that is there.
    pub(crate) fn n_asked(&self) -> usize {
        let asked = fs::read_to_string(self.folder.path().join("asked"));
        asked.unwrap().lines().count()
    }
}

#[test]
fn make_demo_nodes_pins_components_and_brings_a_killed_node_back_to_its_place() {
    let demo = Demo::new();
    let shown = demo.shows("demo-nodes");
    for line in [
        "$ realm nodes approve beta gamma --yes",
        "   # the agent of beta",
        "echo       degraded  0/1    beta",
        "beta: the node is not reached",
        "beta is back in its place",
    ] {
        assert!(shown.contains(line), "{line} of {shown}");
    }
    assert_eq!(demo.n_asked(), 1);
}

#[test]
fn make_demo_loses_no_request_through_a_death_a_rollout_a_drain_and_a_change_of_colours() {
    let demo = Demo::new();
    let shown = demo.shows("demo");
    for line in [
        "   # the agent of beta",
        "$ realm nodes drain gamma",
        "$ realm promote web@green --percent 50",
        "no request was lost",
    ] {
        assert!(shown.contains(line), "{line} of {shown}");
    }
    assert_eq!(demo.n_asked(), 1);
}
