//! Why a source did not give the bytes, with a stable code for each.

use std::io;
use std::path::PathBuf;

use realm_model::content_id::ContentId;
use realm_model::digest::Digest;

use crate::blobs::BlobError;

/// Why a source did not give the bytes.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A scheme of a later version.
    #[error("`{kind}:` sources are not fetched by this version: `{location}`")]
    Unsupported {
        /// The scheme.
        kind: String,
        /// The source as written.
        location: String,
    },
    /// A file could not be opened or read.
    #[error("failed to read `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A folder, device, pipe or socket.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The TLS library or the certificates of this machine cannot be used.
    #[error("failed to set up https")]
    Setup(#[source] crate::blobs::BoxError),
    /// The server could not be reached, took too long, or broke off.
    #[error("failed to get `{url}`")]
    Http {
        /// The URL, without credentials and query.
        url: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// The server answered something else than 200.
    #[error("`{url}` answered {status}")]
    Status {
        /// The URL, without credentials and query.
        url: String,
        /// The status code.
        status: u16,
    },
    /// The source has more bytes than are taken.
    #[error("`{from}` has more than {bytes_max} bytes")]
    TooLarge {
        /// The source.
        from: String,
        /// The cap.
        bytes_max: u64,
    },
    /// The source has other bytes than were signed.
    #[error("`{from}` has other bytes: expected `{expected}`, got `{got}`")]
    Mismatch {
        /// The source.
        from: String,
        /// The digest that was signed, or that the source names.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// A block of IPFS is not the one that was asked for.
    #[error("`{from}` gave other bytes for the block `{cid}`")]
    WrongBlock {
        /// The gateway.
        from: String,
        /// The block.
        cid: ContentId,
    },
    /// What is there is no component that can be fetched.
    #[error("`{from}` does not do: {why}")]
    Unusable {
        /// The source.
        from: String,
        /// What is wrong.
        why: String,
    },
    /// The pin is the digest of a manifest in the registry, and not of the component.
    #[error("`{from}` is pinned to the digest of a manifest, `{manifest}`")]
    ManifestPin {
        /// The source.
        from: String,
        /// The digest in the source.
        manifest: Digest,
        /// The digest of the component, which would be right.
        component: Digest,
    },
    /// A setting of this machine is none.
    #[error("`{value}` is no {what}")]
    Setting {
        /// What it should be.
        what: &'static str,
        /// What it is, without credentials.
        value: String,
    },
    /// The source names another digest than the pin.
    #[error("`{from}` names `{named}`, but the pin is `{pinned}`")]
    OtherPin {
        /// The source.
        from: String,
        /// The digest in the source.
        named: Digest,
        /// The digest in the pin.
        pinned: Digest,
    },
    /// A peer refused, could not be reached, or broke off.
    #[error("failed to get the bytes from `{from}`")]
    Peer {
        /// The peer.
        from: String,
        /// What happened.
        #[source]
        source: crate::blobs::BoxError,
    },
    /// A peer sent nothing for too long, or took too long in all.
    #[error("`{from}` took too long")]
    Silent {
        /// The peer.
        from: String,
    },
    /// A peer ended before all bytes were there; they may be right as far as they go.
    #[error("`{from}` ended after {bytes} of {pinned} bytes")]
    Short {
        /// The peer.
        from: String,
        /// Bytes that are here.
        bytes: u64,
        /// Bytes of the pin.
        pinned: u64,
    },
    /// Another source gave the right bytes: this one's differ from them.
    #[error("`{from}` gave other bytes, which ended at byte {end}")]
    WrongPart {
        /// The source.
        from: String,
        /// Where what it gave ended.
        end: u64,
    },
    /// Nobody was there to be asked.
    #[error("no node that is reached has `{digest}`")]
    NoSource {
        /// The digest.
        digest: Digest,
    },
    /// Several sources were asked; what each did, in this order.
    #[error("no source gave the bytes: {}", each(faults))]
    All {
        /// At least two.
        faults: Vec<FetchError>,
    },
    /// The bytes came, and could not be kept.
    #[error("failed to keep what `{from}` gave")]
    Keep {
        /// The source.
        from: String,
        /// Why not.
        #[source]
        source: BlobError,
    },
}

impl FetchError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } => "source-unsupported",
            Self::File { .. } | Self::NotAFile { .. } => "source-unreadable",
            Self::Setup(_) => "tls-setup",
            Self::Http { .. }
            | Self::Status { .. }
            | Self::Peer { .. }
            | Self::Silent { .. }
            | Self::Short { .. } => "fetch-failed",
            Self::TooLarge { .. } => "oversized",
            Self::Mismatch { .. }
            | Self::OtherPin { .. }
            | Self::WrongPart { .. }
            | Self::WrongBlock { .. } => "digest-mismatch",
            Self::Unusable { .. } => "source-unusable",
            Self::ManifestPin { .. } => "manifest-pin",
            Self::Setting { .. } => "bad-source-setting",
            Self::NoSource { .. } => "no-source",
            Self::All { faults } => code_of_all(faults),
            Self::Keep { .. } => "store-failed",
        }
    }
}

/// The gravest: wrong bytes are worth more attention than a source that is not there.
fn code_of_all(faults: &[FetchError]) -> &'static str {
    let wrong = |fault: &&FetchError| fault.code() == "digest-mismatch";
    let gravest = faults.iter().find(wrong).or(faults.last());
    gravest.map_or("no-source", FetchError::code)
}

/// Each fault with its causes, since an error has but one source.
fn each(faults: &[FetchError]) -> String {
    let texts = faults.iter().map(|fault| {
        let mut text = fault.to_string();
        let mut cause = std::error::Error::source(fault);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    });
    texts.collect::<Vec<_>>().join("; ")
}
