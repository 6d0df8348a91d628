//! Compiling a component in a child process of low priority, one at a time.
//!
//! The child runs the same binary with a hidden verb. It checks the digest of what it reads, so
//! that a byte that flipped on the disk is found before it runs. Not here: when to compile.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use realm_model::digest::Digest;
use realm_model::observed::Artifact;
use realm_store::blobs::BLOB_BYTES_MAX;
use realm_store::folder::RealmFolder;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::error::{REASON_CHARS_MAX, with_causes};

/// The hidden verb of the binary that compiles.
pub const COMPILE_VERB: &str = "compile-component";

/// A compiler that takes longer than this will not end: 100 MB of wasm take about a minute on an old core.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(600);
/// The weakest priority that is not "only when idle": a busy node still deploys.
const NICENESS: i32 = 10;
/// What is kept of the child's words: a reason of [`REASON_CHARS_MAX`] characters has at most 4 bytes
/// each, or 6 where JSON escapes them, and the fields around it.
const WORDS_BYTES_MAX: usize = 6 * REASON_CHARS_MAX + 1_024;

/// Why a component was not compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileFailure {
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// Whether the same bytes fail again.
    pub permanent: bool,
}

/// Compiles into the cache; cheap to clone.
#[derive(Clone)]
pub(crate) struct Compiler {
    executable: PathBuf,
    folder: RealmFolder,
    // One at a time: a second compiler would take the core that serves.
    turn: Arc<Semaphore>,
}

impl Compiler {
    pub(crate) fn new(executable: PathBuf, folder: RealmFolder) -> Self {
        Self {
            executable,
            folder,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Where the compiled form of an artifact is, once it is there.
    pub(crate) fn path(&self, artifact: Artifact) -> PathBuf {
        self.folder
            .compiled(fingerprint(artifact.fuel))
            .join(format!("{}.cwasm", artifact.digest.hex()))
    }

    /// Whether the compiled form is in the cache.
    pub(crate) fn has(&self, artifact: Artifact) -> bool {
        let path = self.path(artifact);
        // The checksum comes last: without it the file may be anything.
        path.is_file() && checksum_path(&path).is_file()
    }

    /// Compiles `source` into the cache; `began` is told when its turn has come.
    pub(crate) async fn compile(
        &self,
        artifact: Artifact,
        source: PathBuf,
        began: impl AsyncFnOnce(),
    ) -> Result<(), CompileFailure> {
        let _turn = self.turn.acquire().await;
        began().await;
        let destination = self.path(artifact);
        self.folder
            .create_compiled(fingerprint(artifact.fuel))
            .map_err(|error| temporary("cache-not-writable", with_causes(&error)))?;
        let mut command = Command::new(&self.executable);
        command
            .arg(COMPILE_VERB)
            .arg("--source")
            .arg(&source)
            .arg("--digest")
            .arg(artifact.digest.to_string())
            .arg("--destination")
            .arg(&destination)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env_clear()
            .kill_on_drop(true);
        if artifact.fuel {
            command.arg("--fuel");
        }
        let (status, words) = tokio::time::timeout(COMPILE_TIMEOUT, run(command))
            .await
            .map_err(|_| temporary("compile-timeout", "the compiler did not end".to_owned()))?
            .map_err(|error| temporary("compile-not-started", error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        Err(failure(&words, &status.to_string()))
    }
}

/// The body of the hidden verb: lowers the priority, checks the digest, compiles. An error is also
/// printed to stderr as one line of JSON, for the agent.
pub fn compile_child(
    source: &Path,
    digest: &Digest,
    destination: &Path,
    fuel: bool,
) -> Result<(), CompileFailure> {
    // A kernel that refuses compiles at ordinary priority: slower for others, not wrong.
    let _ = rustix::process::nice(NICENESS);
    let result = compile_checked(source, digest, destination, fuel);
    if let Err(failure) = &result {
        let line = serde_json::to_string(failure).unwrap_or_default();
        // An agent that no longer listens needs no reason.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    result
}

fn compile_checked(
    source: &Path,
    digest: &Digest,
    destination: &Path,
    fuel: bool,
) -> Result<(), CompileFailure> {
    let mut bytes = Vec::new();
    // A longer file has another digest.
    File::open(source)
        .and_then(|file| file.take(BLOB_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| temporary("fetch-lost", error.to_string()))?;
    let found = Digest::of(&bytes);
    if found != *digest {
        return Err(temporary(
            "digest-mismatch",
            format!("the stored bytes of {digest} have become {found}"),
        ));
    }
    realm_host::compile_bytes(&bytes, destination, fuel).map_err(|error| CompileFailure {
        code: error.code().to_owned(),
        message: with_causes(&error),
        permanent: error.code() == "compile-failed",
    })?;
    write_checksum(destination).map_err(|error| temporary("cache-not-writable", error.to_string()))
}

/// Writes down the SHA-256 of a compiled file beside it.
pub(crate) fn write_checksum(compiled: &Path) -> std::io::Result<()> {
    let digest = Digest::of(&std::fs::read(compiled)?);
    realm_store::folder::write_atomic(&checksum_path(compiled), digest.to_string().as_bytes())
        .map_err(std::io::Error::other)
}

/// Whether a compiled file is what was compiled: machine code that the disk damaged must not run,
/// it would take the agent with it.
pub(crate) fn is_sound(compiled: &Path) -> std::io::Result<bool> {
    let written = std::fs::read_to_string(checksum_path(compiled))?;
    Ok(Digest::of(&std::fs::read(compiled)?).to_string() == written)
}

fn checksum_path(compiled: &Path) -> PathBuf {
    compiled.with_extension("sha256")
}

/// Runs the child to its end; returns the last of its words.
async fn run(mut command: Command) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let mut child = command.spawn()?;
    let mut words = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        let mut chunk = [0; 4 * 1024];
        loop {
            let read = stderr.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            words.extend_from_slice(&chunk[..read]);
            // The line that counts is the last one.
            let surplus = words.len().saturating_sub(WORDS_BYTES_MAX);
            words.drain(..surplus);
        }
    }
    Ok((child.wait().await?, words))
}

fn failure(words: &[u8], status: &str) -> CompileFailure {
    let text = String::from_utf8_lossy(words);
    text.lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        // No line of JSON: the child was killed, by the kernel for want of memory most often.
        .unwrap_or_else(|| temporary("compile-died", format!("the compiler ended with {status}")))
}

fn temporary(code: &str, message: String) -> CompileFailure {
    CompileFailure {
        code: code.to_owned(),
        message,
        permanent: false,
    }
}

/// The engine's fingerprint; asked once, since the answer costs an engine.
fn fingerprint(fuel: bool) -> &'static str {
    use std::sync::OnceLock;
    static WITH: OnceLock<String> = OnceLock::new();
    static WITHOUT: OnceLock<String> = OnceLock::new();
    let cell = if fuel { &WITH } else { &WITHOUT };
    cell.get_or_init(|| realm_host::fingerprint(fuel))
}
