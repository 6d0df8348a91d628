//! A realm in a folder of its own, and its agent: what is measured.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::server::{Server, free_address};

/// Waiting for a thousand compilations takes its time on two cores.
const APPLY_TIMEOUT: &str = "20m";
const SOCKET_TIME_MAX: Duration = Duration::from_secs(10);

/// A realm folder, with the manifest beside it.
#[derive(Debug)]
pub(crate) struct Realm {
    program: PathBuf,
    folder: TempDir,
}

impl Realm {
    /// Makes a realm of one node.
    pub(crate) fn new(program: &Path) -> Result<Self> {
        let realm = Self {
            program: program.to_owned(),
            folder: tempfile::tempdir().context("no folder for a realm")?,
        };
        realm.say(&["init", "--name", "bench"])?;
        Ok(realm)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("realm/agent.sock")
    }

    /// Adds lines to the settings of its node. Before the agent starts.
    pub(crate) fn settings(&self, lines: &str) -> Result<()> {
        let path = self.path("realm/node.toml");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{text}\n{lines}")).context("node.toml cannot be written")
    }

    /// Starts the agent. It may not answer yet.
    pub(crate) fn agent(&self, name: &str, log: &Path) -> Result<Server> {
        let address = free_address()?;
        let mut command = self.command(&["agent", "--admin", "127.0.0.1:0"]);
        command.arg("--http").arg(address.to_string());
        Server::start(name, address, command, log)
    }

    /// Puts a manifest in force, and waits until everything in it runs.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        self.write_manifest(manifest)?;
        self.apply_written()
    }

    /// The same with the manifest as it was written, and changed by verbs since.
    pub(crate) fn apply_written(&self) -> Result<()> {
        // An agent answers requests a moment before it takes orders.
        let began = Instant::now();
        while !self.socket().exists() && began.elapsed() < SOCKET_TIME_MAX {
            sleep(Duration::from_millis(5));
        }
        self.say(&["apply", "realm.toml", "--yes", "--timeout", APPLY_TIMEOUT])
    }

    /// Signs a manifest, and gives the entry instead of handing it over.
    pub(crate) fn sign(&self, manifest: &str) -> Result<Vec<u8>> {
        self.write_manifest(manifest)?;
        self.say(&["apply", "realm.toml", "--yes", "--sign-only", "entry"])?;
        fs::read(self.path("entry")).context("the signed entry does not read")
    }

    pub(crate) fn write_manifest(&self, manifest: &str) -> Result<()> {
        fs::write(self.path("realm.toml"), manifest).context("the manifest cannot be written")
    }

    /// Runs a verb to its end; it must succeed.
    pub(crate) fn say(&self, args: &[&str]) -> Result<()> {
        self.say_with(args, "")
    }

    /// The same with an input.
    pub(crate) fn say_with(&self, args: &[&str], input: &str) -> Result<()> {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("`{}`", self.program.display()))?;
        let mut stdin = child.stdin.take().context("piped")?;
        // A verb that reads nothing may have ended.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("`realm {}` failed: {}", args.join(" "), why.trim());
        }
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--realm")
            .arg(self.path("realm"))
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("REALM_DIR")
            .env_remove("REALM_LOG")
            .env("NO_COLOR", "1");
        command
    }
}

/// A manifest with one component, `app`, that answers every path; `more` are lines of its table.
pub(crate) fn manifest_of_one(component: &Path, more: &str) -> String {
    format!(
        "[components.app]\nsource = \"file:{}\"\n{more}\n\
         [routing]\n\"*\" = [{{ path = \"/...\", component = \"app\" }}]\n",
        component.display()
    )
}
