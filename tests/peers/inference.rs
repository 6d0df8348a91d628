//! Real engines for tests, each with a small model of random weights that is written here: llama.cpp with its
//! own server, and mistral.rs. Included by the tests that need them; scripts/setup-test.sh brings both.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// With this an engine is asked.
pub(crate) const KEY: &str = "hush-hush";

const MODELS: &str = include_str!("inference/models.py");
const LLAMA: &str = include_str!("inference/llama.py");
const MISTRAL: &str = include_str!("inference/mistral.py");

/// An engine that ends with the test.
pub(crate) struct EngineServer {
    child: Option<Child>,
    folder: TempDir,
    program: &'static str,
    pub(crate) port: u16,
}

impl Drop for EngineServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl EngineServer {
    /// llama.cpp with its server: answers and vectors.
    pub(crate) fn llama() -> Self {
        Self::start(LLAMA, |_| ())
    }

    /// The engine of mistral.rs behind a front of the tests: the same.
    pub(crate) fn mistral() -> Self {
        Self::start(MISTRAL, |_| ())
    }

    /// The same, with what is in its folder before it starts: a certificate.
    pub(crate) fn mistral_with(prepare: impl FnOnce(&Path)) -> Self {
        Self::start(MISTRAL, prepare)
    }

    fn start(program: &'static str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path());
        fs::write(folder.path().join("models.py"), MODELS).expect("written");
        fs::write(folder.path().join("engine.py"), program).expect("written");
        let mut server = Self {
            child: None,
            folder,
            program,
            port: 0,
        };
        server.start_again();
        server
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// On the port that it had before, if it had one.
    pub(crate) fn start_again(&mut self) {
        let folder = self.folder.path();
        let log = folder.join("log");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "/usr/bin/python3", "engine.py"])
            .args([folder, Path::new(&self.port.to_string()), Path::new(KEY)])
            .current_dir(folder)
            .env("PYTHONPATH", bundled())
            // Nothing is looked for elsewhere.
            .env("HF_HUB_OFFLINE", "1")
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("setpriv");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("read");
        self.child = Some(child);
        self.port = line.trim().parse().unwrap_or_else(|_| {
            let engine = self.program.lines().next().unwrap_or_default();
            let log = fs::read_to_string(&log).unwrap_or_default();
            panic!("{engine} did not start; scripts/setup-test.sh brings it: {log}")
        });
    }

    /// Where it has its models, and what was put there before it started.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What stands before `/chat/completions`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

/// Where scripts/setup-test.sh puts the engines: beside what is built.
fn bundled() -> PathBuf {
    let own = std::env::current_exe().expect("its own name");
    // target/debug/deps/TEST
    let target = own.ancestors().nth(3).expect("a target folder");
    target.join("inference")
}
