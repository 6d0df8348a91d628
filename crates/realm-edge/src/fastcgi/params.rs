//! Parameters: pairs of a name and a value in a stream that may be cut anywhere, also in a length.
//! Source: the FastCGI specification 1.0, §3.4. Not what the names mean.

use bytes::{BufMut as _, BytesMut};

use super::ParamsLimits;

/// Bytes of a short pair: those of nginx have thirty on average.
const PAIR_BYTES: usize = 20;

/// The parameters of a request, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// All names and values, one behind the other.
    bytes: Vec<u8>,
    /// Where each name and each value ends.
    ends: Vec<(usize, usize)>,
}

impl Params {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut from = 0;
        self.ends.iter().map(move |(name_end, value_end)| {
            let pair = (
                &self.bytes[from..*name_end],
                &self.bytes[*name_end..*value_end],
            );
            from = *value_end;
            pair
        })
    }

    /// The value of a name; of several the last one, as CGI programs see it in their environment.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let pairs = self.iter().filter(|(one, _)| *one == name);
        pairs.last().map(|(_, value)| value)
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Why a request has no parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BadParams {
    /// More bytes than are taken.
    TooLarge,
    /// More pairs than are taken.
    TooMany,
    /// A longer name than is taken.
    LongName,
    /// The stream ends in the middle of a pair.
    Cut,
}

/// Reads pairs as they come. Holds no more than what came, whatever lengths a peer declares.
#[derive(Debug, Default)]
pub(super) struct Reader {
    params: Params,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In a length: what came of it, and the other one if that is known.
    Length {
        came: [u8; 4],
        count: u8,
        name: Option<usize>,
    },
    Name {
        left: usize,
        value: usize,
    },
    Value {
        left: usize,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Length {
            came: [0; 4],
            count: 0,
            name: None,
        }
    }
}

impl Reader {
    /// Takes the next bytes.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        limits: &ParamsLimits,
    ) -> Result<(), BadParams> {
        // No more than came, and not pair by pair.
        self.params.bytes.reserve(bytes.len());
        self.params.ends.reserve(bytes.len() / PAIR_BYTES);
        while !bytes.is_empty() {
            match self.state {
                State::Length { came, count, name } => {
                    let (first, rest) = bytes.split_first().expect("it is not empty");
                    bytes = rest;
                    self.length(came, count, name, *first, limits)?;
                }
                State::Name { left, value } => {
                    let took = self.copy(&mut bytes, left);
                    self.name(left - took, value);
                }
                State::Value { left } => {
                    let took = self.copy(&mut bytes, left);
                    self.value(left - took);
                }
            }
        }
        Ok(())
    }

    /// All of them, at the end of the stream.
    pub(super) fn end(self) -> Result<Params, BadParams> {
        match self.state {
            State::Length {
                count: 0,
                name: None,
                ..
            } => Ok(self.params),
            State::Length { .. } | State::Name { .. } | State::Value { .. } => Err(BadParams::Cut),
        }
    }

    fn copy(&mut self, bytes: &mut &[u8], left: usize) -> usize {
        let (taken, rest) = bytes.split_at(left.min(bytes.len()));
        self.params.bytes.extend_from_slice(taken);
        *bytes = rest;
        taken.len()
    }

    fn length(
        &mut self,
        mut came: [u8; 4],
        count: u8,
        name: Option<usize>,
        byte: u8,
        limits: &ParamsLimits,
    ) -> Result<(), BadParams> {
        came[usize::from(count)] = byte;
        let is_long = came[0] & 0x80 != 0;
        if is_long && count < 3 {
            self.state = State::Length {
                came,
                count: count + 1,
                name,
            };
            return Ok(());
        }
        let length = match is_long {
            true => u32::from_be_bytes(came) & 0x7fff_ffff,
            false => u32::from(came[0]),
        };
        let length = usize::try_from(length).map_err(|_| BadParams::TooLarge)?;
        let Some(name) = name else {
            if length > limits.name_bytes_max {
                return Err(BadParams::LongName);
            }
            self.state = State::Length {
                came: [0; 4],
                count: 0,
                name: Some(length),
            };
            return Ok(());
        };
        // Neither can be near the end of the range: the sum does not wrap.
        let room = limits.bytes_max.saturating_sub(self.params.bytes.len());
        if length > room || name > room - length {
            return Err(BadParams::TooLarge);
        }
        if self.params.ends.len() >= limits.pairs_max {
            return Err(BadParams::TooMany);
        }
        self.name(name, length);
        Ok(())
    }

    fn name(&mut self, left: usize, value: usize) {
        if left > 0 {
            self.state = State::Name { left, value };
            return;
        }
        let end = self.params.bytes.len();
        self.params.ends.push((end, end));
        self.value(value);
    }

    fn value(&mut self, left: usize) {
        if left > 0 {
            self.state = State::Value { left };
            return;
        }
        let end = self.params.bytes.len();
        self.params.ends.last_mut().expect("its name came before").1 = end;
        self.state = State::default();
    }
}

/// Writes a pair. `false`: it is longer than any length can say, and is not written.
pub(super) fn put(out: &mut BytesMut, name: &[u8], value: &[u8]) -> bool {
    let (Some(name_length), Some(value_length)) = (length(name), length(value)) else {
        return false;
    };
    for length in [name_length, value_length] {
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => out.put_u8(short),
            Ok(_) | Err(_) => out.put_u32(length | 0x8000_0000),
        }
    }
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    true
}

fn length(bytes: &[u8]) -> Option<u32> {
    let length = u32::try_from(bytes.len()).ok();
    length.filter(|length| length & 0x8000_0000 == 0)
}
