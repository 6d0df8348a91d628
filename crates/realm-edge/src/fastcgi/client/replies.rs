//! What an application says, as events: the other half of `decode`. Source: the FastCGI specification
//! 1.0, §5 and §6.

use bytes::{Buf as _, Bytes, BytesMut};

use super::super::record::{HEAD_BYTES, Head, Kind, VERSION};

/// The one request of a connection.
pub(super) const ID: u16 = 1;
/// Records about the connection that are passed over: nobody asked for one.
const OTHERS_MAX: u32 = 16;
/// Bytes of the end of a request.
const END_BYTES: usize = 8;

/// What an application said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Of its answer, head and body; at least one byte.
    Stdout(Bytes),
    /// For the log; at least one byte.
    Stderr(Bytes),
    /// It has done.
    End(End),
}

/// How it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With this status of its own: 0 is a good one.
    Complete(u32),
    /// It has no room for the request, which it has not looked at.
    Overloaded,
    /// It does not answer requests.
    UnknownRole,
}

/// Why what comes is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nonsense {
    #[error("a record of version {0}: what listens there does not speak FastCGI 1.0")]
    Version(u8),
    #[error("a record is of request {0}, and none has that number")]
    Id(u16),
    #[error("a record of kind {0}, which no application sends")]
    Kind(u8),
    #[error("the end of the request is none")]
    End,
    #[error("too many records that are no answer")]
    Others,
    #[error("more comes after the end of the answer")]
    After,
}

/// Reads the answer to one request.
#[derive(Debug, Default)]
pub(super) struct Replies {
    state: State,
    others: u32,
    /// The answer has ended, and only its status is missing.
    closed: bool,
    ended: bool,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Head,
    Stream {
        is_log: bool,
        left: usize,
        padding: usize,
    },
    End {
        left: usize,
        padding: usize,
    },
    Skip(usize),
}

impl Replies {
    /// The next thing that is said in `input`, of which is taken what was understood. `None`: more has to
    /// come. Bytes of a stream are told as they come, whatever length their record has.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, Nonsense> {
        loop {
            match self.state {
                State::Head => {
                    if self.ended {
                        return match input.is_empty() {
                            true => Ok(None),
                            false => Err(Nonsense::After),
                        };
                    }
                    let Some(head) = input.first_chunk::<HEAD_BYTES>() else {
                        // What is no FastCGI may be shorter than a head, and say no more.
                        return match input.first() {
                            Some(&version) if version != VERSION => Err(Nonsense::Version(version)),
                            Some(_) | None => Ok(None),
                        };
                    };
                    let head = Head::of(*head);
                    input.advance(HEAD_BYTES);
                    self.state = self.begin(head)?;
                }
                State::Stream {
                    left: 0, padding, ..
                } => self.state = State::Skip(padding),
                State::Stream {
                    is_log,
                    left,
                    padding,
                } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let bytes = input.split_to(left.min(input.len())).freeze();
                    let left = left - bytes.len();
                    self.state = State::Stream {
                        is_log,
                        left,
                        padding,
                    };
                    return Ok(Some(match is_log {
                        false => Reply::Stdout(bytes),
                        true => Reply::Stderr(bytes),
                    }));
                }
                State::End { left, padding } => {
                    if input.len() < left {
                        return Ok(None);
                    }
                    let body = input.split_to(left);
                    self.ended = true;
                    self.state = State::Skip(padding);
                    return end(&body).map(|end| Some(Reply::End(end)));
                }
                State::Skip(0) => self.state = State::Head,
                State::Skip(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let skipped = left.min(input.len());
                    input.advance(skipped);
                    self.state = State::Skip(left - skipped);
                }
            }
        }
    }

    /// Whether the connection is where another request may begin.
    pub(super) fn is_between(&self) -> bool {
        self.ended && matches!(self.state, State::Head | State::Skip(0))
    }

    fn begin(&mut self, head: Head) -> Result<State, Nonsense> {
        if head.version != VERSION {
            return Err(Nonsense::Version(head.version));
        }
        let (left, padding) = (usize::from(head.content), usize::from(head.padding));
        if head.id == 0 {
            self.others += 1;
            return match self.others > OTHERS_MAX {
                true => Err(Nonsense::Others),
                false => Ok(State::Skip(left + padding)),
            };
        }
        if head.id != ID {
            return Err(Nonsense::Id(head.id));
        }
        match head.kind {
            Kind::Stdout if left > 0 && self.closed => Err(Nonsense::After),
            Kind::Stdout | Kind::Stderr => {
                if left == 0 {
                    self.closed |= head.kind == Kind::Stdout;
                    self.others += 1;
                    // Empty records tell nothing, and may come without end.
                    if self.others > OTHERS_MAX {
                        return Err(Nonsense::Others);
                    }
                }
                Ok(State::Stream {
                    is_log: head.kind == Kind::Stderr,
                    left,
                    padding,
                })
            }
            Kind::EndRequest if left == END_BYTES => Ok(State::End { left, padding }),
            Kind::EndRequest => Err(Nonsense::End),
            kind @ (Kind::BeginRequest
            | Kind::AbortRequest
            | Kind::Params
            | Kind::Stdin
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult
            | Kind::UnknownType
            | Kind::Other(_)) => Err(Nonsense::Kind(kind.byte())),
        }
    }
}

fn end(body: &[u8]) -> Result<End, Nonsense> {
    let Some((status, rest)) = body.split_first_chunk::<4>() else {
        return Err(Nonsense::End);
    };
    match rest.first() {
        Some(0) => Ok(End::Complete(u32::from_be_bytes(*status))),
        // It takes one request per connection, and one is what it got: as good as no room.
        Some(1 | 2) => Ok(End::Overloaded),
        Some(3) => Ok(End::UnknownRole),
        Some(_) | None => Err(Nonsense::End),
    }
}
