//! A CID of IPFS: the name of a block, made of the digest of its bytes. Those that SHA-256 can
//! check, of files and folders; not how a block is fetched, nor what stands in it.

use std::fmt;
use std::str::FromStr;

use cid::Cid;
use serde::{Serialize, Serializer};

use crate::digest::Digest;
use crate::fields::cut;

/// The code of plain bytes.
const RAW: u64 = 0x55;
/// The code of a node with links to others.
const DAG_PB: u64 = 0x70;
/// The code of SHA-256.
const SHA2_256: u64 = 0x12;
/// Characters of a CID: one with a SHA-256 has up to 74, in the widest spelling.
const CHARS_MAX: usize = 128;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Bytes of a file.
    Raw,
    /// A file, a part of one or a folder, with links to other blocks.
    Node,
}

/// The name of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentId(Cid);

/// Not a CID that can be checked here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentIdError {
    /// No CID at all.
    #[error("`{0}` is not a CID")]
    NotACid(String),
    /// One of another hash.
    #[error("`{0}` is not of SHA-256, which is the one that is checked")]
    OtherHash(String),
    /// One of something else than a file or a folder.
    #[error("`{0}` is neither of a file nor of a folder (raw or dag-pb)")]
    OtherKind(String),
}

impl ContentId {
    /// Reads the binary form, as it stands in a link.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ContentIdError> {
        match Cid::try_from(bytes) {
            Ok(cid) => Self::checked(cid),
            Err(_) => Err(ContentIdError::NotACid("a link".to_owned())),
        }
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// The CID of a block with these bytes.
    pub fn of(kind: BlockKind, bytes: &[u8]) -> Self {
        let code = match kind {
            BlockKind::Raw => RAW,
            BlockKind::Node => DAG_PB,
        };
        let digest = Digest::of(bytes);
        let hash = cid::multihash::Multihash::wrap(SHA2_256, digest.as_bytes())
            .expect("32 bytes fit into 64");
        Self(Cid::new_v1(code, hash))
    }

    fn checked(cid: Cid) -> Result<Self, ContentIdError> {
        if cid.hash().code() != SHA2_256 || cid.hash().digest().len() != 32 {
            return Err(ContentIdError::OtherHash(cid.to_string()));
        }
        match cid.codec() {
            RAW | DAG_PB => Ok(Self(cid)),
            _ => Err(ContentIdError::OtherKind(cid.to_string())),
        }
    }

    /// What the block holds.
    pub fn kind(&self) -> BlockKind {
        match self.0.codec() {
            RAW => BlockKind::Raw,
            _ => BlockKind::Node,
        }
    }

    /// The SHA-256 of the block's bytes.
    pub fn digest(&self) -> Digest {
        let bytes = self.0.hash().digest().try_into();
        Digest::from_bytes(bytes.expect("checked when it was read"))
    }
}

impl FromStr for ContentId {
    type Err = ContentIdError;

    fn from_str(text: &str) -> Result<Self, ContentIdError> {
        let not_a_cid = || ContentIdError::NotACid(cut(text));
        // Letters and digits alone: the parser takes a path in front as well.
        if text.len() > CHARS_MAX || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(not_a_cid());
        }
        let cid = Cid::try_from(text).map_err(|_| not_a_cid())?;
        Self::checked(cid)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for ContentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The empty file in each of its spellings, and the digest that stands in it.
    const RAW_EMPTY: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    const NODE_EMPTY_V0: &str = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH";
    const NODE_EMPTY_V1: &str = "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y";

    fn check(text: &str, expected: Result<BlockKind, &str>) {
        match (text.parse::<ContentId>(), expected) {
            (Ok(cid), Ok(kind)) => {
                assert_eq!(cid.kind(), kind, "{text}");
                assert_eq!(ContentId::from_bytes(&cid.to_bytes()), Ok(cid));
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (seen, expected) => panic!("{text}: {seen:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn what_sha_256_can_check_is_taken() {
        check(RAW_EMPTY, Ok(BlockKind::Raw));
        check(NODE_EMPTY_V0, Ok(BlockKind::Node));
        check(NODE_EMPTY_V1, Ok(BlockKind::Node));
        let cid = ContentId::of(BlockKind::Raw, b"");
        assert_eq!(cid.to_string(), RAW_EMPTY);
        assert_eq!(cid.digest(), Digest::of(b""));
        // The same bytes, read from the older spelling.
        let digest = |text: &str| text.parse::<ContentId>().expect(text).digest();
        assert_eq!(digest(NODE_EMPTY_V0), digest(NODE_EMPTY_V1));
    }

    #[test]
    fn others_are_refused_by_what_they_are() {
        check("", Err("not a CID"));
        check("bafy", Err("not a CID"));
        check(
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk",
            Err("not a CID"),
        );
        check(&format!("/ipfs/{RAW_EMPTY}"), Err("not a CID"));
        // blake2b-256, and dag-cbor.
        check(
            "bafk2bzacea73ycjnxe2qov7cvnhx52lzfp6nf5jcblnfus6gqreh6ygganbws",
            Err("not of SHA-256"),
        );
        check(
            "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua",
            Err("neither of a file"),
        );
    }

    proptest! {
        #[test]
        fn any_text_and_any_bytes_give_an_answer(text in "\\PC{0,140}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(cid) = text.parse::<ContentId>() {
                prop_assert_eq!(cid.to_string().parse(), Ok(cid));
            }
            let _ = ContentId::from_bytes(&bytes);
        }

        #[test]
        fn a_cid_is_the_digest_of_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let cid = ContentId::of(BlockKind::Node, &bytes);
            prop_assert_eq!(cid.digest(), Digest::of(&bytes));
            prop_assert_eq!(cid.to_string().parse(), Ok(cid));
        }
    }
}
