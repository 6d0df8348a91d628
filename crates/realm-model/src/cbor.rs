//! CBOR as tickets, records and messages use it: what is not one whole value is an error, and the ids of
//! this crate have an encoding. Entries, which are signed, have their own reading in `entry`.

use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::digest::Digest;
use crate::entry::RealmId;

/// The bytes of a value.
pub(crate) fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into a Vec does not fail")
}

/// Reads one value and nothing after it; fields that this version does not know are passed over.
pub(crate) fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, String> {
    let mut decoder = Decoder::new(bytes);
    let value = decoder.decode().map_err(|error| error.to_string())?;
    if decoder.position() == bytes.len() {
        Ok(value)
    } else {
        Err("bytes follow it".to_owned())
    }
}

impl<C> Encode<C> for RealmId {
    fn encode<W: Write>(
        &self,
        encoder: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        self.digest().encode(encoder, context)
    }
}

impl<'b, C> Decode<'b, C> for RealmId {
    fn decode(decoder: &mut Decoder<'b>, context: &mut C) -> Result<Self, DecodeError> {
        Digest::decode(decoder, context).map(Self::new)
    }
}
