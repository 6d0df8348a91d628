//! Files of certificates and keys: reading them, and what is to be said of them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use realm_edge::tls::{Certificate, CertificateError};
use realm_model::node_config::{CertificateFiles, NodeConfig};
use realm_store::folder::{FolderError, RealmFolder, read_small};
use zeroize::Zeroizing;

use super::{Clients, EXPIRES_SOON_S, date, folder_of, now_s};
use crate::doctor::{Finding, Level, finding, ok};
use crate::error::with_causes;

/// A chain of ten certificates with a hundred names each has less.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Bits of a mode that let everybody in; a group of those who may read keys is in common use.
const EVERYBODY: u32 = 0o007;

/// Files that do not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("a file cannot be read")]
    Read(#[from] FolderError),
    #[error("`{}` and its key do not do", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
}

impl FilesError {
    /// What a person does next.
    const fn hint(&self) -> &'static str {
        match self {
            Self::Read(_) => {
                "the agent's user must be able to read both files, and to pass every folder above them; `CERTIFICATES::KEY` has two colons"
            }
            Self::Certificate { source, .. } => source.hint(),
        }
    }
}

/// A chain and its key as they lie on the disk.
#[derive(PartialEq, Eq)]
pub(super) struct Bytes {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

/// Reads both files.
pub(super) fn read(files: &CertificateFiles) -> Result<Bytes, FilesError> {
    Ok(Bytes {
        chain: read_bytes(Path::new(&files.chain))?,
        key: Zeroizing::new(read_bytes(Path::new(&files.key))?),
    })
}

pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, FolderError> {
    read_small(path, FILE_BYTES_MAX)
}

/// The certificate in them.
pub(super) fn parse(files: &CertificateFiles, bytes: &Bytes) -> Result<Certificate, FilesError> {
    Certificate::from_pem(&bytes.chain, &bytes.key).map_err(|source| FilesError::Certificate {
        path: PathBuf::from(&files.chain),
        source,
    })
}

/// The mode of a key that everybody may read, or write.
pub(super) fn too_open(key: &str) -> Option<u32> {
    let mode = std::fs::metadata(key).ok()?.mode() & 0o7777;
    (mode & EVERYBODY != 0).then_some(mode)
}

/// What is to be said of when a certificate ends; `None`: nothing yet.
pub(super) fn ends_soon(certificate: &Certificate, now_s: i64) -> Option<String> {
    let validity = certificate.validity();
    let of = certificate
        .names()
        .first()
        .map_or("no name", String::as_str);
    let end = date(validity.not_after_s);
    if now_s >= validity.not_after_s {
        return Some(format!("the certificate of `{of}` expired: {end}"));
    }
    if now_s < validity.not_before_s {
        let begin = date(validity.not_before_s);
        return Some(format!(
            "the certificate of `{of}` is not valid before {begin}"
        ));
    }
    let whole = validity.not_after_s.saturating_sub(validity.not_before_s);
    // Of one that lives for days alone, the last tenth.
    let soon = EXPIRES_SOON_S.min(whole / 10);
    (validity.not_after_s - now_s < soon)
        .then(|| format!("the certificate of `{of}` ends soon: {end}"))
}

/// For `realm doctor`.
pub(crate) fn examine(folder: Option<&RealmFolder>, node: &NodeConfig, found: &mut Vec<Finding>) {
    let mut pairs: Vec<CertificateFiles> = node.tls.certificates.clone();
    if let Some(folder) = folder {
        let own = folder_of(folder);
        let dev = node.tls.dev.then(|| super::dev::leaf_file(&own));
        let ordered = node
            .tls
            .acme
            .is_some()
            .then(|| super::acme::files(&own, None));
        // What is not there yet is made by the agent.
        let both = dev.filter(|path| path.exists()).into_iter();
        pairs.extend(
            both.chain(ordered.into_iter().flatten().map(|(_, path)| path))
                .map(|path| {
                    let path = path.display().to_string();
                    CertificateFiles {
                        chain: path.clone(),
                        key: path,
                    }
                }),
        );
    }
    if node
        .tls
        .acme
        .as_ref()
        .is_some_and(|acme| acme.names.is_empty())
        && let Some(folder) = folder
        && let Ok(ledger) = crate::journal::Journal::read_only(folder)
    {
        let hosts = crate::core::exact_hosts(ledger.desired());
        found.push(
            match hosts
                .iter()
                .filter(|host| super::acme::is_public(host))
                .count()
            {
                0 => finding(
                    "acme",
                    Level::Warning,
                    super::acme::NAMELESS.to_owned(),
                    super::acme::NAMELESS_REMEDY,
                ),
                count => ok(
                    "acme",
                    format!("certificates are ordered for {count} hosts of routes"),
                ),
            },
        );
    }
    for files in &pairs {
        found.push(examine_pair(files));
        if let Some(mode) = too_open(&files.key) {
            found.push(finding(
                "certificate",
                Level::Warning,
                format!(
                    "`{}` has mode {mode:o}: everybody may use this key",
                    files.key
                ),
                "`chmod o-rwx` it; the agent's user, or a group of theirs, must read it",
            ));
        }
    }
    if let Some(path) = &node.tls.client_ca {
        let read = read_bytes(Path::new(path)).map_err(|error| with_causes(&error));
        let read = read.and_then(|bytes| {
            Clients::from_pem(&bytes, false).map_err(|error| with_causes(&error))
        });
        found.push(match read {
            Ok(_) => ok("client-ca", format!("`{path}` is read")),
            Err(why) => finding(
                "client-ca",
                Level::Problem,
                format!("`{path}` does not do: {why}"),
                "nobody comes in over HTTPS until it has certificates of authorities in PEM",
            ),
        });
    }
}

fn examine_pair(files: &CertificateFiles) -> Finding {
    let certificate = read(files).and_then(|bytes| parse(files, &bytes));
    match certificate {
        Err(error) => finding(
            "certificate",
            Level::Problem,
            with_causes(&error),
            error.hint(),
        ),
        Ok(certificate) => match ends_soon(&certificate, now_s()) {
            Some(why) => finding(
                "certificate",
                Level::Warning,
                format!("`{}`: {why}", files.chain),
                "put a new one in its place: a running agent takes it up by itself",
            ),
            None => ok(
                "certificate",
                format!(
                    "`{}` is for {} until {}",
                    files.chain,
                    match certificate.names() {
                        [] => "no name".to_owned(),
                        names => names.join(", "),
                    },
                    date(certificate.validity().not_after_s)
                ),
            ),
        },
    }
}
