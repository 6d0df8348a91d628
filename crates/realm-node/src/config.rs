//! What a node is started with: the realm folder and the operator's node.toml.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use realm_model::diagnostic::{Diagnostic, Severity};
use realm_model::node_config::{self, NODE_CONFIG_BYTES_MAX, NodeConfig};
use realm_store::folder::{FolderError, RealmFolder, read_small};

/// Everything that [`Node::start`](crate::Node::start) needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The realm folder.
    pub folder: RealmFolder,
    /// The operator's settings.
    pub node: NodeConfig,
    /// The binary that compiles components as a child; it understands [`crate::COMPILE_VERB`].
    pub executable: PathBuf,
    /// What in node.toml does nothing, or not what it looks like.
    pub warnings: Vec<Diagnostic>,
    /// When a compiled file that nobody asks for leaves the memory; `None`: the host's own choice.
    pub unload_after: Option<Duration>,
}

/// node.toml is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: FolderError,
    },
    /// The text has errors.
    #[error("`{}` is not valid", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
        /// Every problem in it.
        problems: Vec<Diagnostic>,
    },
}

impl Config {
    /// Reads node.toml of the folder; a missing file means defaults.
    pub fn load(folder: RealmFolder) -> Result<Self, ConfigError> {
        let path = folder.node_config();
        // A byte more than it may have: the parser says that it is too large.
        let bytes = match read_small(&path, NODE_CONFIG_BYTES_MAX as u64 + 1) {
            Ok(bytes) => bytes,
            Err(FolderError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Vec::new()
            }
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The running binary itself, even if the file was replaced since: the compiler must be of
        // the same version as the engine that loads what it made.
        let executable = PathBuf::from("/proc/self/exe");
        let (node, problems) = node_config::parse(&text);
        let errors = problems
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        match node {
            Some(node) if !errors => Ok(Self {
                folder,
                node,
                executable,
                warnings: problems,
                unload_after: None,
            }),
            Some(_) | None => Err(ConfigError::Invalid {
                path,
                text,
                problems,
            }),
        }
    }
}
