//! How nodes ask each other for the lease of a singleton, as parts of their records. Not who asks,
//! who grants, and for how long: that is decided in control.

use minicbor::{Decode, Encode};

use super::{KeyBytes, Version};
use crate::name::ComponentName;

/// A singleton that a node wants to run, runs, or ran.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LeaseAsk {
    /// The singleton.
    #[n(0)]
    pub component: ComponentName,
    /// Which ask it is: the start of the agent, and a count of its asks. A later one is greater.
    #[n(1)]
    pub nonce: Version,
    /// How it stands.
    #[n(2)]
    pub state: LeaseState,
    /// How often the set of approved nodes had changed, as far as this node knew when it asked.
    #[n(3)]
    pub members: u64,
}

/// How a lease stands at the node that asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseState {
    /// It waits for a majority.
    Asks,
    /// It has one, and asks for more time.
    Holds,
    /// It gave up this ask and all before it: it runs nothing by them and never will.
    Released,
    /// Something that this version does not know.
    Other,
}

/// A node's word that for the time of a lease it grants the singleton to nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LeaseGrant {
    /// The singleton.
    #[n(0)]
    pub component: ComponentName,
    /// To whom.
    #[n(1)]
    pub holder: KeyBytes,
    /// In answer to which ask.
    #[n(2)]
    pub nonce: Version,
}

impl<C> Encode<C> for LeaseState {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let number = match self {
            Self::Asks => 0,
            Self::Holds => 1,
            Self::Released => 2,
            Self::Other => u32::MAX,
        };
        encoder.u32(number)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for LeaseState {
    fn decode(
        decoder: &mut minicbor::Decoder<'b>,
        _: &mut C,
    ) -> Result<Self, minicbor::decode::Error> {
        Ok(match decoder.u32()? {
            0 => Self::Asks,
            1 => Self::Holds,
            2 => Self::Released,
            _ => Self::Other,
        })
    }
}
