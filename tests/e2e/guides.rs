//! The guides in docs/guides, walked as a reader walks them: in an empty folder their files are written and
//! their commands are typed, and what they show has to come out.
//!
//! Each has a network of its own: its ports are free there, and no registry is reached. What a guide
//! installs is what `scripts/languages.sh` installed, where that is what the guide names.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::lab::is_root;
use crate::support::{PATIENCE, PROGRAM};

/// What stands for anything that a guide left out.
const LEFT_OUT: &str = "…";
/// What stands for the reader's clone of this repository.
const CLONE: &str = "REALM/";
/// What may be said a moment later than it happened.
const LATER: [&str; 2] = ["realm up", "realm logs"];

/// What a reader does next.
#[derive(Debug, PartialEq)]
enum Step {
    /// A file with this name and text is written.
    Write(String, String),
    /// A command is typed, and these lines come out; none: whatever comes out is not shown.
    Type(String, Vec<String>),
}

/// The blocks of a guide: ```` ```console ```` has commands, and any other is the file that the paragraph
/// before it names first.
fn steps(guide: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut paragraph = "";
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        match line.strip_prefix("```") {
            None if line.is_empty() => {}
            None => paragraph = line,
            Some(language) => {
                let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
                if language == "console" {
                    steps.extend(typed(&block));
                } else {
                    let named = paragraph.strip_prefix('`').and_then(|p| p.split_once("`:"));
                    let (name, _) = named.unwrap_or_else(|| panic!("no file: {paragraph:?}"));
                    steps.push(Step::Write(name.to_owned(), block.join("\n") + "\n"));
                }
            }
        }
    }
    steps
}

fn typed(block: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in block {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step::Type(command.to_owned(), Vec::new())),
            (None, Some(Step::Type(_, shown))) => shown.push((*line).to_owned()),
            (None, _) => panic!("before the first command: {line:?}"),
        }
    }
    steps
}

/// Whether what came out is what is shown.
fn is_shown(shown: &[String], said: &[String]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((first, rest)) if first == LEFT_OUT => {
            (0..=said.len()).any(|left_out| is_shown(rest, &said[left_out..]))
        }
        Some((first, rest)) => said.first() == Some(first) && is_shown(rest, &said[1..]),
    }
}

/// Lines without what differs from one time to the next: times, and ends that nobody sees.
fn lines(text: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(' ') {
        Some((time, rest)) if time.len() == 24 && time.ends_with('Z') => format!("TIME {rest}"),
        _ => line.to_owned(),
    };
    let ends = |text: &str| line(text.trim_end());
    text.lines().map(ends).collect()
}

/// A shell in an empty folder.
struct Shell {
    child: Child,
    /// The shell ends with it, and with the shell what it started.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// What the shell needs; the reader's folder is within.
    folder: tempfile::TempDir,
    number: usize,
}

impl Shell {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--net", "bash"])
            .current_dir(folder.path().join("empty"))
            .env("XDG_DATA_HOME", folder.path().join("none"))
            .env("NO_COLOR", "1")
            // Of a registry there is what was fetched before.
            .env("CARGO_NET_OFFLINE", "true")
            .env("PIP_NO_INDEX", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for name in [
            "REALM_DIR",
            "REALM_NODE",
            "REALM_KEY",
            "REALM_PASSPHRASE_FILE",
            "REALM_LOG",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
        ] {
            command.env_remove(name);
        }
        let mut child = command.spawn().unwrap();
        let mut shell = Self {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            folder,
            number: 0,
        };
        // Debug builds take long to compile the runtime of a language, and two cores may be busy.
        let realm =
            format!("[ \"$1\" != up ] || set -- \"$@\" --timeout 5m\nexec {PROGRAM} \"$@\"");
        shell.tool("realm", &realm);
        let bin = shell.folder.path().join("bin");
        shell.enter("ip link set lo up");
        shell.enter("trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT");
        shell.enter(&format!("PATH={}:$PATH:/usr/sbin:/sbin", bin.display()));
        shell
    }

    /// Puts a command on the path.
    fn tool(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let file = self.folder.path().join("bin").join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Runs a command, and returns where what it says is. It must not fail.
    fn enter(&mut self, command: &str) -> PathBuf {
        self.number += 1;
        let said = self.folder.path().join(format!("said-{}", self.number));
        let errors = said.with_extension("err");
        let entered = format!(
            "{{ {command}\n}} </dev/null >{} 2>{}\necho $?\n",
            said.display(),
            errors.display()
        );
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(entered.as_bytes()).unwrap();
        let mut code = String::new();
        self.stdout.read_line(&mut code).unwrap();
        let read = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
        assert_eq!(
            code.trim(),
            "0",
            "`{command}` failed:\n{}{}",
            read(&said),
            read(&errors)
        );
        said
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write(name, text) => {
                let file = self.folder.path().join("file");
                std::fs::write(&file, text).unwrap();
                self.enter(&format!("cp {} {name}", file.display()));
            }
            Step::Type(command, shown) => self.show(command, &lines(&shown.join("\n"))),
        }
    }

    fn show(&mut self, command: &str, shown: &[String]) {
        let clone = format!("{}/", env!("CARGO_MANIFEST_DIR"));
        let command = command.replace(CLONE, &clone);
        let started = Instant::now();
        let mut file = self.enter(&command);
        loop {
            let said = lines(&std::fs::read_to_string(&file).unwrap());
            if shown.is_empty() || is_shown(shown, &said) {
                return;
            }
            let (later, patience) = match LATER.iter().find(|later| command.starts_with(*later)) {
                Some(&"realm up") => (true, 5 * PATIENCE),
                Some(_) => (true, PATIENCE),
                None => (false, PATIENCE),
            };
            if !later || started.elapsed() > patience {
                let errors = std::fs::read_to_string(file.with_extension("err"));
                panic!(
                    "`{command}` says\n{}\nand the guide shows\n{}\nbeside errors\n{}",
                    said.join("\n"),
                    shown.join("\n"),
                    errors.unwrap()
                );
            }
            // A pause between looks, not a guess of how long something takes.
            std::thread::sleep(std::time::Duration::from_millis(50));
            if !command.ends_with('&') {
                file = self.enter(&command);
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.stdin = None;
        // It may have ended already.
        let _ = self.child.wait();
    }
}

/// Where `scripts/languages.sh` has a tool.
pub(crate) struct Tools(String);

impl Tools {
    pub(crate) fn of(language: &str) -> Self {
        let mut command = Command::new("scripts/languages.sh");
        command.args(["--tools", language]).stderr(Stdio::inherit());
        let told = command.output().unwrap();
        assert!(told.status.success());
        Self(String::from_utf8(told.stdout).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> &str {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(called, _)| *called == name).unwrap().1
    }
}

fn walk(guide: &str, mut shell: Shell) {
    let file = Path::new("docs/guides").join(guide);
    let steps = steps(&std::fs::read_to_string(file).unwrap());
    let typed = steps.iter().filter(|step| matches!(step, Step::Type(..)));
    assert!(typed.count() > 5, "{steps:?}");
    for step in &steps {
        shell.take(step);
    }
}

#[test]
fn the_guide_for_rust_leads_to_a_component_with_a_store() {
    walk("rust.md", Shell::new());
}

#[test]
fn the_guide_for_javascript_leads_to_a_component_with_a_store() {
    const SAME: &str = r#"
const [asked, had] = process.argv.slice(1).map((name) => JSON.parse(require("fs").readFileSync(name)));
for (const key of ["devDependencies", "overrides"]) require("assert").deepStrictEqual(asked[key], had[key]);
"#;
    let tools = Tools::of("javascript");
    let shell = Shell::new();
    let node = tools.path("node");
    shell.tool("node", &format!("exec {node} \"$@\""));
    let had = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/javascript/package.json");
    shell.tool(
        "npm",
        &format!(
            "set -e\n[ \"$*\" = install ]\n{node} -e '{SAME}' package.json {}\nln -s {} node_modules",
            had.display(),
            tools.path("node_modules")
        ),
    );
    walk("javascript.md", shell);
}

#[test]
fn the_guide_for_python_leads_to_a_component_with_a_store() {
    let tools = Tools::of("python");
    let shell = Shell::new();
    // Its `pip` finds nothing to install, or fails.
    let venv = tools.path("venv");
    shell.tool(
        "python3",
        &format!("[ \"$*\" = '-m venv venv' ] && ln -s {venv} venv"),
    );
    walk("python.md", shell);
}

#[test]
fn the_guide_for_c_leads_to_a_component_with_a_store() {
    let tools = Tools::of("c");
    let shell = Shell::new();
    let bindgen = tools.path("wit-bindgen");
    shell.tool("wit-bindgen", &format!("exec {bindgen} \"$@\""));
    // `wit-bindgen-cli 0.62.0`
    let same = format!(
        "[ \"$*\" = \"install --locked --no-default-features --features c $({bindgen} --version | tr ' ' @)\" ]"
    );
    shell.tool("cargo", &same);
    walk("c.md", shell);
}

#[test]
fn every_guide_is_walked() {
    let mut names: Vec<_> = std::fs::read_dir("docs/guides")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["c.md", "javascript.md", "python.md", "rust.md"]);
}

#[test]
fn what_a_guide_shows_has_to_come_out() {
    let guide = "Text.\n\n`a/b.txt`: a file.\n\n```text\none\n\n```\n\n```console\n$ first\n$ second\nout\n```\n";
    let expected = [
        Step::Write("a/b.txt".into(), "one\n\n".into()),
        Step::Type("first".into(), vec![]),
        Step::Type("second".into(), vec!["out".into()]),
    ];
    assert_eq!(steps(guide), expected);
    for (shown, said, fits) in [
        ("one", "one\r\n", true),
        ("one", "two\n", false),
        ("one", "one\ntwo\n", false),
        ("one\ntwo", "one\n", false),
        ("…\ntwo\n…", "one\ntwo\nthree\n", true),
        ("one\n…", "one\n", true),
        ("…\ntwo", "one\ntwo\nthree\n", false),
        (
            "2026-11-22T17:05:21.402Z out one",
            "2027-01-01T00:00:00.000Z out one\n",
            true,
        ),
    ] {
        assert_eq!(
            is_shown(&lines(shown), &lines(said)),
            fits,
            "{shown:?} {said:?}"
        );
    }
}
