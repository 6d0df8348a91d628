//! Records: the eight bytes before each, what they are called, and how bytes are cut into them.
//! Source: the FastCGI specification 1.0, §3.3 and §8. Not what they mean together.

use bytes::{BufMut as _, BytesMut};

/// The only version there is.
pub(super) const VERSION: u8 = 1;
/// Bytes of the head of a record.
pub(super) const HEAD_BYTES: usize = 8;
/// Bytes that one record can carry. What is longer is cut, never cast: a length that wraps lets the
/// rest be read as records.
pub(super) const CONTENT_BYTES_MAX: usize = 0xffff;
/// As much as is cut off at a time: so every record ends on eight bytes, and needs no padding.
const CUT_BYTES: usize = CONTENT_BYTES_MAX & !7;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    BeginRequest,
    AbortRequest,
    EndRequest,
    Params,
    Stdin,
    Stdout,
    Stderr,
    Data,
    GetValues,
    GetValuesResult,
    UnknownType,
    /// None of these.
    Other(u8),
}

impl Kind {
    pub(super) const fn of(byte: u8) -> Self {
        match byte {
            1 => Self::BeginRequest,
            2 => Self::AbortRequest,
            3 => Self::EndRequest,
            4 => Self::Params,
            5 => Self::Stdin,
            6 => Self::Stdout,
            7 => Self::Stderr,
            8 => Self::Data,
            9 => Self::GetValues,
            10 => Self::GetValuesResult,
            11 => Self::UnknownType,
            other => Self::Other(other),
        }
    }

    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::BeginRequest => 1,
            Self::AbortRequest => 2,
            Self::EndRequest => 3,
            Self::Params => 4,
            Self::Stdin => 5,
            Self::Stdout => 6,
            Self::Stderr => 7,
            Self::Data => 8,
            Self::GetValues => 9,
            Self::GetValuesResult => 10,
            Self::UnknownType => 11,
            Self::Other(byte) => byte,
        }
    }
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) version: u8,
    pub(super) kind: Kind,
    /// 0: of the connection and not of a request.
    pub(super) id: u16,
    pub(super) content: u16,
    pub(super) padding: u8,
}

impl Head {
    pub(super) const fn of(bytes: [u8; HEAD_BYTES]) -> Self {
        let [version, kind, id_high, id_low, high, low, padding, _] = bytes;
        Self {
            version,
            kind: Kind::of(kind),
            id: u16::from_be_bytes([id_high, id_low]),
            content: u16::from_be_bytes([high, low]),
            padding,
        }
    }
}

/// Writes one record with all of `content`, which has to fit in.
pub(super) fn put(out: &mut BytesMut, kind: Kind, id: u16, content: &[u8]) {
    let length = u16::try_from(content.len()).expect("what is longer is cut before");
    let padding = (HEAD_BYTES - content.len() % HEAD_BYTES) % HEAD_BYTES;
    out.reserve(HEAD_BYTES + content.len() + padding);
    out.put_u8(VERSION);
    out.put_u8(kind.byte());
    out.put_u16(id);
    out.put_u16(length);
    out.put_u8(u8::try_from(padding).unwrap_or_default());
    out.put_u8(0);
    out.extend_from_slice(content);
    out.put_bytes(0, padding);
}

/// Writes as many records of a stream as its bytes need: none for none, since an empty one is its end.
pub(super) fn put_stream(out: &mut BytesMut, kind: Kind, id: u16, bytes: &[u8]) {
    for part in bytes.chunks(CUT_BYTES) {
        put(out, kind, id, part);
    }
}
