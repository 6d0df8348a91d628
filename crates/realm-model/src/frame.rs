//! Frames of an interactive stream (`exec`, `run`): what both ends say once the connection is theirs.
//!
//! A frame is a kind (1 byte), a length (4 bytes, big endian) and that many bytes. Each of the three
//! byte streams has a window: its reader says how much more it takes. Not here: processes, sockets.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::ApiError;
use crate::digest::Digest;
use crate::name::ComponentName;
use crate::text::cut;

/// The payload of a frame at most.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// What a stream may carry before its reader has said a word.
pub const WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of each text of an error at most: three fit a frame, even where JSON escapes each byte.
const ERROR_TEXT_BYTES_MAX: usize = 2 * 1024;
const HEAD_BYTES: usize = 5;

/// One of the byte streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// From the caller.
    Stdin,
    /// To the caller.
    Stdout,
    /// To the caller.
    Stderr,
}

/// A signal that a caller may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream, at least one.
    Data(Channel, Vec<u8>),
    /// The end of standard input.
    StdinEnd,
    /// A signal for all processes of the command.
    Signal(Signal),
    /// The reader of a stream takes so many bytes more.
    Window(Channel, u32),
    /// The end: the exit code. The last frame.
    Exit(u8),
    /// The end: no exit code, because of this. The last frame.
    Error(ApiError),
}

/// Bytes that are no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No frame has this kind.
    #[error("a frame of kind {0} is not known")]
    Kind(u8),
    /// More than a frame may carry.
    #[error("a frame of {0} bytes, at most {FRAME_BYTES_MAX} are taken")]
    TooLong(u32),
    /// The payload does not fit the kind.
    #[error("the payload of a frame of kind {0} is not understood")]
    Payload(u8),
}

/// Makes frames of bytes as they come.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    start: usize,
}

/// What `POST /v1/exec` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// One word: a line for the node's shell. Several: a program and its arguments.
    pub command: Vec<String>,
}

/// What `POST /v1/run` asks for: a component whose bytes are on the node, and what it may reach and
/// use there. Nothing is granted that is not named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Its first argument, and its name in messages.
    pub name: ComponentName,
    /// Its bytes.
    pub digest: Digest,
    /// Its other arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Rules, as of `allowed_outbound`.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Directories of the node, as of `dirs`.
    #[serde(default)]
    pub dirs: Vec<String>,
    /// MiB of memory.
    #[serde(default)]
    pub memory_max_mb: Option<u64>,
    /// Fuel units per second.
    #[serde(default)]
    pub fuel_per_sec: Option<u64>,
    /// Milliseconds that it may run.
    #[serde(default)]
    pub epoch_timeout_ms: Option<u64>,
    /// Milliseconds that it may take.
    #[serde(default)]
    pub wall_timeout_ms: Option<u64>,
}

const STDIN: u8 = 0;
const STDIN_END: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const SIGNAL: u8 = 4;
const EXIT: u8 = 5;
const WINDOW: u8 = 6;
const ERROR: u8 = 7;

impl Channel {
    const fn kind(self) -> u8 {
        match self {
            Self::Stdin => STDIN,
            Self::Stdout => STDOUT,
            Self::Stderr => STDERR,
        }
    }

    const fn of(kind: u8) -> Option<Self> {
        match kind {
            STDIN => Some(Self::Stdin),
            STDOUT => Some(Self::Stdout),
            STDERR => Some(Self::Stderr),
            _ => None,
        }
    }
}

impl Signal {
    /// Every signal that may be sent.
    pub const ALL: [Self; 5] = [
        Self::Hangup,
        Self::Interrupt,
        Self::Quit,
        Self::Terminate,
        Self::Kill,
    ];

    /// The number that it has on every Unix.
    pub const fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Terminate => "SIGTERM",
            Self::Kill => "SIGKILL",
        })
    }
}

impl Frame {
    /// The bytes of the frame. Data must not be longer than [`FRAME_BYTES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Data(channel, bytes) => encode(channel.kind(), bytes),
            Self::StdinEnd => encode(STDIN_END, &[]),
            Self::Signal(signal) => encode(SIGNAL, &[signal.number()]),
            Self::Exit(code) => encode(EXIT, &[*code]),
            Self::Window(channel, more) => {
                let mut payload = vec![channel.kind()];
                payload.extend_from_slice(&more.to_be_bytes());
                encode(WINDOW, &payload)
            }
            Self::Error(error) => {
                let short = |text: &str| cut(text, ERROR_TEXT_BYTES_MAX).to_owned();
                let error = ApiError {
                    code: short(&error.code),
                    message: short(&error.message),
                    hint: error.hint.as_deref().map(short),
                };
                let text = serde_json::to_vec(&error).expect("strings become JSON");
                encode(ERROR, &text)
            }
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let bad = FrameError::Payload(kind);
        if let Some(channel) = Channel::of(kind) {
            return match payload {
                [] => Err(bad),
                bytes => Ok(Self::Data(channel, bytes.to_vec())),
            };
        }
        match (kind, payload) {
            (STDIN_END, []) => Ok(Self::StdinEnd),
            (SIGNAL, [number]) => Signal::ALL
                .into_iter()
                .find(|signal| signal.number() == *number)
                .map(Self::Signal)
                .ok_or(bad),
            (EXIT, [code]) => Ok(Self::Exit(*code)),
            (WINDOW, [channel, more @ ..]) => {
                let more: [u8; 4] = more.try_into().map_err(|_| bad.clone())?;
                let channel = Channel::of(*channel).ok_or(bad)?;
                Ok(Self::Window(channel, u32::from_be_bytes(more)))
            }
            (ERROR, text) => serde_json::from_slice(text)
                .map(Self::Error)
                .map_err(|_| bad),
            (STDIN_END | SIGNAL | EXIT | WINDOW, _) => Err(bad),
            (kind, _) => Err(FrameError::Kind(kind)),
        }
    }
}

fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= FRAME_BYTES_MAX, "frames are bounded");
    let length = u32::try_from(payload.len()).expect("a frame is short");
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

impl FrameReader {
    /// Takes more bytes. Call [`Self::next`] until it has none before the next ones.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame. After an error there is no next one.
    #[expect(
        clippy::should_implement_trait,
        reason = "no iterator: more bytes may follow `None`"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((head, rest)) = self.bytes[self.start..].split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *head;
        let length = u32::from_be_bytes(length);
        if length as usize > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(payload) = rest.get(..length as usize) else {
            return Ok(None);
        };
        let frame = Frame::decode(kind, payload)?;
        self.start += HEAD_BYTES + payload.len();
        Ok(Some(frame))
    }

    /// Whether a frame has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.start < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let channel = prop::sample::select(vec![Channel::Stdin, Channel::Stdout, Channel::Stderr]);
        prop_oneof![
            (channel.clone(), prop::collection::vec(any::<u8>(), 1..200))
                .prop_map(|(channel, bytes)| Frame::Data(channel, bytes)),
            Just(Frame::StdinEnd),
            prop::sample::select(Signal::ALL.to_vec()).prop_map(Frame::Signal),
            (channel, any::<u32>()).prop_map(|(channel, more)| Frame::Window(channel, more)),
            any::<u8>().prop_map(Frame::Exit),
            ("\\PC{0,20}", "\\PC{0,200}", prop::option::of("\\PC{0,200}")).prop_map(
                |(code, message, hint)| {
                    Frame::Error(ApiError {
                        code,
                        message,
                        hint,
                    })
                }
            ),
        ]
    }

    fn read(pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
        let mut reader = FrameReader::default();
        let mut frames = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(frame) = reader.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Vec<Frame>, FrameError>) {
        assert_eq!(read(&[bytes]), expected);
    }

    #[test]
    fn the_bytes_are_pinned() {
        // Agents and clients of different versions talk to each other.
        check(
            &[2, 0, 0, 0, 2, b'h', b'i'],
            Ok(vec![Frame::Data(Channel::Stdout, b"hi".into())]),
        );
        check(&[1, 0, 0, 0, 0], Ok(vec![Frame::StdinEnd]));
        check(
            &[4, 0, 0, 0, 1, 2],
            Ok(vec![Frame::Signal(Signal::Interrupt)]),
        );
        check(&[5, 0, 0, 0, 1, 130], Ok(vec![Frame::Exit(130)]));
        let window = Frame::Window(Channel::Stdin, 256);
        check(&[6, 0, 0, 0, 5, 0, 0, 0, 1, 0], Ok(vec![window]));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        check(&[8, 0, 0, 0, 0], Err(FrameError::Kind(8)));
        check(&[0, 0, 0, 0, 0], Err(FrameError::Payload(0)));
        check(&[0, 0, 1, 0, 1], Err(FrameError::TooLong(65_537)));
        check(&[4, 0, 0, 0, 1, 19], Err(FrameError::Payload(4)));
        check(&[5, 0, 0, 0, 2, 0, 0], Err(FrameError::Payload(5)));
        check(&[6, 0, 0, 0, 5, 9, 0, 0, 0, 1], Err(FrameError::Payload(6)));
        check(&[7, 0, 0, 0, 1, b'{'], Err(FrameError::Payload(7)));
    }

    #[test]
    fn the_longest_error_fits_a_frame() {
        let long = "\u{1}".repeat(100_000);
        let error = ApiError {
            code: long.clone(),
            message: long.clone(),
            hint: Some(long),
        };
        assert_eq!(
            read(&[&Frame::Error(error).encode()]).map(|frames| frames.len()),
            Ok(1)
        );
    }

    proptest! {
        #[test]
        fn frames_read_back_however_they_are_cut(
            frames in prop::collection::vec(any_frame(), 0..6), cut in any::<prop::sample::Index>(),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let (left, right) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(read(&[left, right]), Ok(frames));
        }

        #[test]
        fn any_bytes_have_an_answer(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = read(&pieces);
        }
    }
}
