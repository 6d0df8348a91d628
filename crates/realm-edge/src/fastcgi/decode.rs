//! What comes from a web server, as events. Source: the FastCGI specification 1.0, §4 to §6.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::{Buf as _, BytesMut};

use super::params::{self, Reader};
use super::record::{self, HEAD_BYTES, Head, Kind, VERSION};
use super::{BadParams, Event, Fault, Limits, ParamsLimits, Role, Status};

/// Questions about this application: there are three, none of which has a longer name.
const QUESTIONS_MAX: usize = 16;
const QUESTION_NAME_BYTES_MAX: usize = 64;

const ROLE_RESPONDER: u16 = 1;
const ROLE_AUTHORIZER: u16 = 2;
const KEEP_CONNECTION: u8 = 1;

/// Reads one connection of a web server.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    requests: BTreeMap<u16, Stream>,
    /// A request came with the demand that its end be that of the connection.
    closes: bool,
    state: State,
}

/// Where in a record.
#[derive(Debug)]
enum State {
    Head,
    /// A body that is taken as a whole.
    Whole {
        head: Head,
    },
    /// Bytes of a stream; so many are left.
    Stream {
        head: Head,
        left: usize,
    },
    /// Bytes that nobody wants.
    Skip {
        left: usize,
    },
}

/// How far a request is.
#[derive(Debug)]
enum Stream {
    Params {
        role: Role,
        reader: Reader,
    },
    Stdin {
        role: Role,
    },
    /// All is said, or what else is said is not wanted.
    Done,
}

impl Decoder {
    /// For a new connection.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            requests: BTreeMap::new(),
            closes: false,
            state: State::Head,
        }
    }

    /// Requests that have begun and not ended.
    pub fn active(&self) -> usize {
        self.requests.len()
    }

    /// Whether the connection is to be closed as soon as no request is under way.
    pub const fn closes(&self) -> bool {
        self.closes
    }

    /// Whether nothing of a record is expected.
    pub const fn is_between_records(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// The application has ended a request: what else comes of it is nobody's.
    pub fn ended(&mut self, id: u16) {
        self.requests.remove(&id);
        // The rest of a record that was begun belongs to no later request of the same id.
        if let State::Stream { head, left } = &self.state
            && head.id == id
        {
            self.state = State::Skip {
                left: left + usize::from(head.padding),
            };
        }
    }

    /// The next thing that is said in `input`, of which is taken what was understood. `None`: more has to
    /// come. Never keeps more of it than the limits allow.
    ///
    /// # Errors
    /// [`Fault`]: the connection is to be closed; what follows cannot be told apart.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Fault> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = input.first_chunk::<HEAD_BYTES>() else {
                        return Ok(None);
                    };
                    let head = Head::of(*head);
                    // What is no FastCGI is no record with a length.
                    if head.version != VERSION {
                        return Err(Fault::Version(head.version));
                    }
                    input.advance(HEAD_BYTES);
                    self.state = self.of(head)?;
                }
                State::Whole { head } => {
                    let length = usize::from(head.content);
                    if input.len() < length {
                        return Ok(None);
                    }
                    let content = input.split_to(length);
                    self.state = skip(head.padding);
                    if let Some(event) = self.whole(head, &content)? {
                        return Ok(Some(event));
                    }
                }
                State::Stream { head, left: 0 } => {
                    self.state = skip(head.padding);
                    if head.content == 0
                        && let Some(event) = self.end_of_stream(head)?
                    {
                        return Ok(Some(event));
                    }
                }
                State::Stream { head, left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let part = input.split_to(left.min(input.len()));
                    self.state = State::Stream {
                        head,
                        left: left - part.len(),
                    };
                    if let Some(event) = self.part(head, part)? {
                        return Ok(Some(event));
                    }
                }
                State::Skip { left: 0 } => self.state = State::Head,
                State::Skip { left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let taken = left.min(input.len());
                    input.advance(taken);
                    self.state = State::Skip { left: left - taken };
                }
            }
        }
    }

    /// What to do with a record.
    fn of(&self, head: Head) -> Result<State, Fault> {
        // Taken as a whole: the beginning of a request, its end, and questions about this application.
        let whole_bytes_max = self.limits.question_bytes_max;
        let whole = |is_sound: bool| match is_sound {
            true => Ok(State::Whole { head }),
            false => Err(Fault::Length),
        };
        let skipped = State::Skip {
            left: usize::from(head.content) + usize::from(head.padding),
        };
        match (head.id, head.kind) {
            (0, Kind::GetValues) => whole(head.content <= whole_bytes_max),
            (
                0,
                Kind::BeginRequest
                | Kind::AbortRequest
                | Kind::EndRequest
                | Kind::Params
                | Kind::Stdin
                | Kind::Stdout
                | Kind::Stderr
                | Kind::Data,
            ) => Err(Fault::NoId),
            // What is asked of the application in general, and nobody knows.
            (0, Kind::GetValuesResult | Kind::UnknownType | Kind::Other(_)) => {
                whole(head.content <= whole_bytes_max)
            }
            (_, Kind::BeginRequest) => whole(head.content == 8),
            (_, Kind::AbortRequest) => whole(head.content <= whole_bytes_max),
            (id, Kind::Params | Kind::Stdin) if self.requests.contains_key(&id) => {
                Ok(State::Stream {
                    head,
                    left: usize::from(head.content),
                })
            }
            // Of a request that has ended, or was never taken; and what only an application says.
            (
                _,
                Kind::Params
                | Kind::Stdin
                | Kind::EndRequest
                | Kind::Stdout
                | Kind::Stderr
                | Kind::Data
                | Kind::GetValues
                | Kind::GetValuesResult
                | Kind::UnknownType
                | Kind::Other(_),
            ) => Ok(skipped),
        }
    }

    fn whole(&mut self, head: Head, content: &[u8]) -> Result<Option<Event>, Fault> {
        let mut out = BytesMut::new();
        match head.kind {
            Kind::BeginRequest => return self.begin(head.id, content),
            Kind::AbortRequest => {
                let is_active = self.requests.contains_key(&head.id);
                return Ok(is_active.then_some(Event::Abort { id: head.id }));
            }
            Kind::GetValues => {
                let mut values = BytesMut::new();
                for (name, value) in self.answers(content) {
                    params::put(&mut values, name, value.to_string().as_bytes());
                }
                record::put(&mut out, Kind::GetValuesResult, 0, &values);
            }
            Kind::EndRequest
            | Kind::Params
            | Kind::Stdin
            | Kind::Stdout
            | Kind::Stderr
            | Kind::Data
            | Kind::GetValuesResult
            | Kind::UnknownType
            | Kind::Other(_) => {
                let body = [head.kind.byte(), 0, 0, 0, 0, 0, 0, 0];
                record::put(&mut out, Kind::UnknownType, 0, &body);
            }
        }
        Ok(Some(Event::Reply(out.freeze())))
    }

    /// What is known of what is asked, each once.
    fn answers(&self, content: &[u8]) -> BTreeMap<&'static [u8], usize> {
        let mut reader = Reader::default();
        let questions = ParamsLimits {
            bytes_max: usize::from(self.limits.question_bytes_max),
            pairs_max: QUESTIONS_MAX,
            name_bytes_max: QUESTION_NAME_BYTES_MAX,
        };
        let asked = reader.take(content, &questions).and_then(|()| reader.end());
        let asked = asked.unwrap_or_default();
        let requests = self.limits.requests_max;
        let connections = self.limits.connections_told;
        let known: [(&[u8], usize); 3] = [
            (b"FCGI_MAX_CONNS", connections),
            (b"FCGI_MAX_REQS", connections.saturating_mul(requests)),
            (b"FCGI_MPXS_CONNS", usize::from(requests > 1)),
        ];
        let known = known.into_iter();
        known
            .filter(|(name, _)| asked.get(name).is_some())
            .collect()
    }

    fn begin(&mut self, id: u16, content: &[u8]) -> Result<Option<Event>, Fault> {
        let Some([high, low, flags, ..]) = content.first_chunk::<8>() else {
            return Err(Fault::Length);
        };
        self.closes |= flags & KEEP_CONNECTION == 0;
        let active = self.requests.len();
        let place = match self.requests.entry(id) {
            Entry::Occupied(_) => return Err(Fault::Twice),
            Entry::Vacant(place) => place,
        };
        let role = match u16::from_be_bytes([*high, *low]) {
            ROLE_RESPONDER => Ok(Role::Responder),
            ROLE_AUTHORIZER => Ok(Role::Authorizer),
            _ => Err(Status::UnknownRole),
        };
        let role = role.and_then(|role| match active < self.limits.requests_max {
            true => Ok(role),
            false => Err(Status::Overloaded),
        });
        match role {
            Ok(role) => {
                place.insert(Stream::Params {
                    role,
                    reader: Reader::default(),
                });
                Ok(None)
            }
            Err(status) => {
                let mut out = BytesMut::new();
                super::put_end_request(&mut out, id, status, 0);
                Ok(Some(Event::Reply(out.freeze())))
            }
        }
    }

    fn part(&mut self, head: Head, part: BytesMut) -> Result<Option<Event>, Fault> {
        let id = head.id;
        let Some(stream) = self.requests.get_mut(&id) else {
            return Ok(None);
        };
        match (head.kind, &mut *stream) {
            (Kind::Params, Stream::Params { reader, .. }) => {
                match reader.take(&part, &self.limits.params) {
                    Ok(()) => Ok(None),
                    Err(reason) => Ok(Some(bad(stream, id, reason))),
                }
            }
            (
                Kind::Stdin,
                Stream::Stdin {
                    role: Role::Responder,
                },
            ) => Ok(Some(Event::Stdin {
                id,
                bytes: part.freeze(),
            })),
            // An authorizer has no body, and what is bad has none that anybody wants.
            (
                Kind::Stdin,
                Stream::Stdin {
                    role: Role::Authorizer,
                },
            )
            | (_, Stream::Done) => Ok(None),
            (_, Stream::Params { .. } | Stream::Stdin { .. }) => Err(Fault::Order),
        }
    }

    fn end_of_stream(&mut self, head: Head) -> Result<Option<Event>, Fault> {
        let id = head.id;
        let Some(stream) = self.requests.get_mut(&id) else {
            return Ok(None);
        };
        match (head.kind, &mut *stream) {
            (Kind::Params, Stream::Params { role, reader }) => {
                let role = *role;
                match std::mem::take(reader).end() {
                    Ok(params) => {
                        *stream = Stream::Stdin { role };
                        Ok(Some(Event::Request { id, role, params }))
                    }
                    Err(reason) => Ok(Some(bad(stream, id, reason))),
                }
            }
            (Kind::Stdin, Stream::Stdin { .. }) => {
                *stream = Stream::Done;
                Ok(Some(Event::StdinEnd { id }))
            }
            (_, Stream::Done) => Ok(None),
            (_, Stream::Params { .. } | Stream::Stdin { .. }) => Err(Fault::Order),
        }
    }
}

fn bad(stream: &mut Stream, id: u16, reason: BadParams) -> Event {
    *stream = Stream::Done;
    Event::Bad { id, reason }
}

fn skip(padding: u8) -> State {
    State::Skip {
        left: usize::from(padding),
    }
}
