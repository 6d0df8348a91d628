//! What stands in a block of IPFS: bytes of a file, links to its parts, or names in a folder.
//!
//! Pure: the block has been checked against its CID already, which says that it is the one that was
//! asked for, and nothing of what is in it. Not here: folders that are spread over many blocks,
//! symbolic links.

use bytes::Bytes;
use prost::Message;
use realm_model::content_id::{BlockKind, ContentId};

/// Bytes of one block: twice what tools of IPFS pass on.
pub const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Blocks from a file's first one to its last: Kubo makes at most 174 parts of one, so that three
/// are enough for all that is taken; a layout for streams nests deeper.
pub const DEPTH_MAX: usize = 32;
/// Parts that are known and not fetched yet: 256 MiB in pieces of 4 KiB.
pub const PARTS_MAX: usize = 65_536;

/// What a block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A file, or a part of one: its first bytes, and then these parts.
    File {
        /// Bytes that stand in the block itself.
        bytes: Bytes,
        /// The rest, in order.
        parts: Vec<Part>,
    },
    /// A folder, with what each name stands for.
    Folder(Vec<(String, ContentId)>),
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Its first block.
    pub(super) cid: ContentId,
    /// Bytes of the file in it, as its parent says.
    pub(super) size: u64,
}

/// Why a block is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnixfsError {
    #[error("a block is not of the form that its CID says")]
    Malformed,
    #[error("a part of it cannot be checked: {0}")]
    Link(#[from] realm_model::content_id::ContentIdError),
    #[error("a block does not say how long each of its parts is")]
    Lengths,
    #[error("its folder is spread over many blocks, which is not read: name the CID of the file")]
    Sharded,
    #[error("it is neither a file nor a folder")]
    OtherKind,
}

// The messages of dag-pb and UnixFS; the numbers are theirs.
#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(bytes = "bytes", optional, tag = "1")]
    data: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    links: Vec<Link>,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", optional, tag = "1")]
    hash: Option<Vec<u8>>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Data {
    #[prost(uint64, tag = "1")]
    kind: u64,
    #[prost(bytes = "bytes", optional, tag = "2")]
    data: Option<Bytes>,
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    block_sizes: Vec<u64>,
}

const RAW: u64 = 0;
const FOLDER: u64 = 1;
const FILE: u64 = 2;
const SHARD: u64 = 5;

/// Reads a block of this kind.
pub(super) fn read(kind: BlockKind, block: Bytes) -> Result<Content, UnixfsError> {
    match kind {
        BlockKind::Raw => Ok(Content::File {
            bytes: block,
            parts: Vec::new(),
        }),
        BlockKind::Node => read_node(block),
    }
}

fn read_node(block: Bytes) -> Result<Content, UnixfsError> {
    let node = Node::decode(block).map_err(|_| UnixfsError::Malformed)?;
    let data = node.data.ok_or(UnixfsError::Malformed)?;
    let data = Data::decode(data).map_err(|_| UnixfsError::Malformed)?;
    let cid = |link: &Link| {
        let hash = link.hash.as_deref().unwrap_or_default();
        ContentId::from_bytes(hash).map_err(UnixfsError::from)
    };
    match data.kind {
        RAW | FILE => {
            if data.block_sizes.len() != node.links.len() {
                return Err(UnixfsError::Lengths);
            }
            let parts = node.links.iter().zip(&data.block_sizes);
            let parts = parts.map(|(link, size)| {
                Ok(Part {
                    cid: cid(link)?,
                    size: *size,
                })
            });
            Ok(Content::File {
                bytes: data.data.unwrap_or_default(),
                parts: parts.collect::<Result<_, UnixfsError>>()?,
            })
        }
        FOLDER => {
            // A folder may hold what cannot be checked, beside what is asked for.
            let entries = node.links.iter().filter_map(|link| {
                let name = link.name.clone().unwrap_or_default();
                Some((name, cid(link).ok()?))
            });
            Ok(Content::Folder(entries.collect()))
        }
        SHARD => Err(UnixfsError::Sharded),
        _ => Err(UnixfsError::OtherKind),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The block of a file with these parts.
    pub(in super::super) fn file(bytes: &[u8], parts: &[Part]) -> Bytes {
        let data = Data {
            kind: FILE,
            data: Some(Bytes::copy_from_slice(bytes)),
            block_sizes: parts.iter().map(|part| part.size).collect(),
        };
        let links = parts.iter().map(|part| (String::new(), part.cid));
        node(&data, links)
    }

    /// The block of a folder.
    pub(in super::super) fn folder(entries: &[(&str, ContentId)]) -> Bytes {
        let data = Data {
            kind: FOLDER,
            ..Data::default()
        };
        node(
            &data,
            entries.iter().map(|(name, cid)| ((*name).to_owned(), *cid)),
        )
    }

    /// A block of another kind.
    pub(super) fn other(kind: u64) -> Bytes {
        let data = Data {
            kind,
            ..Data::default()
        };
        node(&data, std::iter::empty())
    }

    fn node(data: &Data, links: impl Iterator<Item = (String, ContentId)>) -> Bytes {
        let links = links.map(|(name, cid)| Link {
            hash: Some(cid.to_bytes()),
            name: Some(name),
        });
        let node = Node {
            data: Some(data.encode_to_vec().into()),
            links: links.collect(),
        };
        node.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(bytes: &[u8]) -> Part {
        Part {
            cid: ContentId::of(BlockKind::Raw, bytes),
            size: bytes.len() as u64,
        }
    }

    fn check(block: Bytes, expected: Result<Content, UnixfsError>) {
        assert_eq!(read(BlockKind::Node, block), expected);
    }

    #[test]
    fn files_and_folders_are_read() {
        let whole = Content::File {
            bytes: Bytes::from_static(b"abc"),
            parts: Vec::new(),
        };
        assert_eq!(
            read(BlockKind::Raw, Bytes::from_static(b"abc")),
            Ok(whole.clone())
        );
        check(testing::file(b"abc", &[]), Ok(whole));
        let parts = vec![part(b"one"), part(b"three")];
        check(
            testing::file(b"", &parts),
            Ok(Content::File {
                bytes: Bytes::new(),
                parts,
            }),
        );
        let (one, two) = (part(b"one").cid, part(b"two").cid);
        check(
            testing::folder(&[("a.wasm", one), ("b", two)]),
            Ok(Content::Folder(vec![
                ("a.wasm".to_owned(), one),
                ("b".to_owned(), two),
            ])),
        );
    }

    #[test]
    fn what_is_no_file_is_told() {
        check(Bytes::new(), Err(UnixfsError::Malformed));
        check(Bytes::from_static(b"\xff\xff"), Err(UnixfsError::Malformed));
        check(testing::other(SHARD), Err(UnixfsError::Sharded));
        // A symbolic link.
        check(testing::other(4), Err(UnixfsError::OtherKind));
        let two = testing::file(b"", &[part(b"a"), part(b"b")]);
        let mut node = Node::decode(two).expect("ours");
        node.links.pop();
        check(node.encode_to_vec().into(), Err(UnixfsError::Lengths));
        node.links[0].hash = Some(b"no".to_vec());
        node.links.push(node.links[0].clone());
        let read = read(BlockKind::Node, node.encode_to_vec().into());
        assert!(matches!(read, Err(UnixfsError::Link(_))), "{read:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(BlockKind::Node, bytes.into());
        }

        #[test]
        fn a_changed_block_gives_an_answer(at in 0usize..120, with in any::<u8>()) {
            let mut bytes = testing::file(b"abc", &[part(b"one"), part(b"two")]).to_vec();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = read(BlockKind::Node, bytes.into());
        }
    }
}
