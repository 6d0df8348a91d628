//! A file in IPFS, block by block from a gateway that gives single blocks (`?format=raw`).
//!
//! Every block is checked against the CID that its parent names, so the gateway need not be
//! trusted: what it could do is to give nothing. Not here: looking for who has the blocks, which is
//! the gateway's work.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use realm_model::content_id::ContentId;
use realm_model::digest::Digest;
use realm_model::manifest::IpfsSource;
use realm_model::node_config::IPFS_GATEWAYS_MAX;
use realm_model::text::one_line;
use reqwest::Client;
use reqwest::header::ACCEPT;

use super::unixfs::{BLOCK_BYTES_MAX, Content, DEPTH_MAX, PARTS_MAX, Part, UnixfsError, read};
use super::{Body, FetchError, Origins, Timeouts, collect, http};

/// Blocks that are fetched for one file: as many as its parts may be, and those between.
pub const BLOCKS_MAX: usize = 2 * PARTS_MAX;
/// Names of a folder in a message.
const NAMES_SHOWN_MAX: usize = 5;
/// Characters of such a name.
const NAME_CHARS_MAX: usize = 64;

/// A file as one gateway gives it, for messages.
pub(super) fn name(source: &IpfsSource, gateway: &str) -> String {
    format!("{source} at {}", http::shown(gateway).trim_end_matches('/'))
}

/// All bytes of the file, from the first gateway that has them.
pub(super) async fn resolve(
    source: &IpfsSource,
    origins: &Origins,
    bytes_max: u64,
    timeouts: Timeouts,
) -> Result<Bytes, FetchError> {
    let mut faults = Vec::new();
    for gateway in origins.ipfs_gateways.iter().take(IPFS_GATEWAYS_MAX) {
        let got = match open(source, gateway, 0, bytes_max, timeouts).await {
            Ok(body) => collect(name(source, gateway), body, bytes_max).await,
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) => return Ok(bytes),
            Err(error) => faults.push(error),
        }
    }
    match (faults.len(), faults.pop()) {
        (_, None) => Err(FetchError::Setting {
            what: "list of gateways of IPFS",
            value: String::new(),
        }),
        (1, Some(only)) => Err(only),
        (_, Some(last)) => {
            faults.push(last);
            Err(FetchError::All { faults })
        }
    }
}

/// Opens the file from `offset` on.
pub(super) async fn open(
    source: &IpfsSource,
    gateway: &str,
    offset: u64,
    bytes_max: u64,
    timeouts: Timeouts,
) -> Result<Body<'static>, FetchError> {
    let mut walk = Walk {
        // One connection for all blocks: they are asked for one after the other.
        client: http::pooled(timeouts, 1)?,
        gateway: gateway.trim_end_matches('/').to_owned(),
        name: name(source, gateway),
        blocks: 0,
        skip: offset,
        ahead: Vec::new(),
    };
    let mut cid = source.cid;
    for name in &source.path {
        cid = walk.step(cid, name).await?;
    }
    let (first, length) = walk.begin(cid).await?;
    if length > bytes_max {
        return Err(FetchError::TooLarge {
            from: walk.name,
            bytes_max,
        });
    }
    let rest = stream::try_unfold(walk, |mut walk| async move {
        let piece = walk.next().await?;
        Ok(piece.map(|piece| (piece, walk)))
    });
    Ok(stream::iter([Ok(first)]).chain(rest).boxed())
}

/// The way through a file.
struct Walk {
    client: Client,
    gateway: String,
    name: String,
    /// Blocks that were fetched.
    blocks: usize,
    /// Bytes that are here already.
    skip: u64,
    /// What is to be fetched, the next one last, each with its depth.
    ahead: Vec<(Part, usize)>,
}

impl Walk {
    /// What a name in a folder stands for.
    async fn step(&mut self, folder: ContentId, name: &str) -> Result<ContentId, FetchError> {
        let Content::Folder(entries) = self.content(folder).await? else {
            return Err(self.unusable(format!("there is no `{name}` in a file")));
        };
        let found = entries.iter().find(|(known, _)| known == name);
        match found {
            Some((_, cid)) => Ok(*cid),
            None => Err(self.unusable(format!(
                "there is no `{name}` in the folder, which has {}",
                shown(&entries)
            ))),
        }
    }

    /// The first bytes of a file, and how long it says that it is.
    async fn begin(&mut self, cid: ContentId) -> Result<(Bytes, u64), FetchError> {
        match self.content(cid).await? {
            Content::File { bytes, parts } => {
                let sizes = parts.iter().map(|part| part.size);
                let length = sizes.fold(bytes.len() as u64, u64::saturating_add);
                Ok((self.enter(bytes, parts, 1)?, length))
            }
            Content::Folder(entries) => {
                let names = shown(&entries);
                Err(self.unusable(format!(
                    "it is a folder: append `/` and a file in it ({names})"
                )))
            }
        }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        while let Some((part, depth)) = self.ahead.pop() {
            if part.size <= self.skip {
                // If the parent lied, the digest of the whole will tell.
                self.skip -= part.size;
                continue;
            }
            if depth > DEPTH_MAX {
                return Err(self.unusable(format!("its parts are nested deeper than {DEPTH_MAX}")));
            }
            let Content::File { bytes, parts } = self.content(part.cid).await? else {
                return Err(self.unusable("a part of it is a folder".to_owned()));
            };
            return self.enter(bytes, parts, depth + 1).map(Some);
        }
        Ok(None)
    }

    /// Goes into a block: its own bytes, and then its parts.
    fn enter(
        &mut self,
        mut bytes: Bytes,
        parts: Vec<Part>,
        depth: usize,
    ) -> Result<Bytes, FetchError> {
        if self.ahead.len() + parts.len() > PARTS_MAX {
            return Err(self.unusable(format!("it has more than {PARTS_MAX} parts")));
        }
        let parts = parts.into_iter().rev();
        self.ahead.extend(parts.map(|part| (part, depth)));
        let here = usize::try_from(self.skip)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        self.skip -= here as u64;
        Ok(bytes.split_off(here))
    }

    async fn content(&mut self, cid: ContentId) -> Result<Content, FetchError> {
        let block = self.block(cid).await?;
        read(cid.kind(), block).map_err(|error: UnixfsError| self.unusable(error.to_string()))
    }

    /// One block, checked.
    async fn block(&mut self, cid: ContentId) -> Result<Bytes, FetchError> {
        self.blocks += 1;
        if self.blocks > BLOCKS_MAX {
            return Err(self.unusable(format!("it has more than {BLOCKS_MAX} blocks")));
        }
        let url = format!("{}/ipfs/{cid}?format=raw", self.gateway);
        let request = self.client.get(&url);
        let request = request.header(ACCEPT, "application/vnd.ipld.raw");
        let response = request.send().await;
        let response = response.map_err(|error| http::failed(&url, error))?;
        let block = http::small(&url, response, BLOCK_BYTES_MAX).await?;
        match Digest::of(&block) == cid.digest() {
            true => Ok(block),
            false => Err(FetchError::WrongBlock {
                from: self.name.clone(),
                cid,
            }),
        }
    }

    fn unusable(&self, why: String) -> FetchError {
        FetchError::Unusable {
            from: self.name.clone(),
            why,
        }
    }
}

/// The first names of a folder, which is of somebody else's making.
fn shown(entries: &[(String, ContentId)]) -> String {
    let names = entries.iter().take(NAMES_SHOWN_MAX);
    let mut names: Vec<String> = names
        .map(|(name, _)| format!("`{}`", one_line(name, NAME_CHARS_MAX)))
        .collect();
    match entries.len() {
        0 => return "nothing".to_owned(),
        count if count > NAMES_SHOWN_MAX => names.push("…".to_owned()),
        _ => {}
    }
    names.join(", ")
}
