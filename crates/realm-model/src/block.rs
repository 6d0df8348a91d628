//! A block of IP addresses (CIDR): written form and membership. Not what a block is used for.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The addresses that share a prefix, e.g. `10.0.0.0/8` or `fd00::/8`.
///
/// An IPv6 address that only carries an IPv4 one (`::ffff:10.0.0.1`) *is* that IPv4 address here:
/// the operating system connects both to the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// The network address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
}

/// A text is not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The part before `/` is not an IP address.
    #[error("the part before `/` is not an IP address")]
    Address,
    /// The part after `/` is not a prefix length.
    #[error("the part after `/` is not a number from 0 to {max}")]
    Prefix {
        /// 32 or 128.
        max: u8,
    },
    /// Bits below the prefix are set: the author may mean one address or the whole block.
    #[error("bits below the prefix are set; the block is `{block}`")]
    HostBits {
        /// The block that the prefix names.
        block: Block,
    },
}

impl Block {
    /// The block of one address.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            prefix: width(address),
        }
    }

    /// Whether `address` is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address)
            && network(address, self.prefix) == network(self.address, self.prefix)
    }
}

/// Bits of an address.
const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with the bits below the prefix cleared.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

impl FromStr for Block {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BlockError::Address)?;
        let max = width(address);
        let Some(prefix) = prefix else {
            return Ok(Self::of(address));
        };
        // `parse` alone would take `+8` and `008`.
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit())
            && (prefix.len() == 1 || !prefix.starts_with('0'));
        let prefix = prefix
            .parse()
            .ok()
            .filter(|prefix| digits && *prefix <= max)
            .ok_or(BlockError::Prefix { max })?;
        let block = Self {
            address: network(address, prefix),
            prefix,
        };
        if block.address != address {
            return Err(BlockError::HostBits { block });
        }
        Ok(block.canonical())
    }
}

impl Block {
    /// Writes a block of IPv4-mapped addresses as the IPv4 block that it is.
    fn canonical(self) -> Self {
        // ::ffff:0:0/96 holds the mapped addresses.
        const MAPPED_PREFIX: u8 = 96;
        match self.address.to_canonical() {
            IpAddr::V4(address) if width(self.address) == 128 && self.prefix >= MAPPED_PREFIX => {
                Self {
                    address: IpAddr::V4(address),
                    prefix: self.prefix - MAPPED_PREFIX,
                }
            }
            IpAddr::V4(_) | IpAddr::V6(_) => self,
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.prefix != width(self.address) {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(block: &str, address: &str, expected: bool) {
        let parsed: Block = block.parse().expect(block);
        let address = address.parse().expect(address);
        assert_eq!(parsed.contains(address), expected, "{address} in {block}");
    }

    #[test]
    fn a_block_holds_what_shares_its_prefix() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("10.1.2.3", "10.1.2.3", true);
        check("10.1.2.3", "10.1.2.4", false);
        check("0.0.0.0/0", "255.255.255.255", true);
        check("0.0.0.0/0", "::1", false);
        check("fd00::/8", "fdff::1", true);
        check("fd00::/8", "fe00::1", false);
        check("::/0", "2001:db8::1", true);
        check("::1/128", "::1", true);
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        check("10.0.0.0/8", "::ffff:10.0.0.1", true);
        check("::ffff:10.0.0.0/104", "10.0.0.1", true);
        check("::ffff:10.0.0.1", "10.0.0.1", true);
        // A rule for all of IPv6 says nothing of IPv4, however it is spelled.
        check("::/0", "::ffff:127.0.0.1", false);
        check("::/0", "127.0.0.1", false);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "::/129",
            "a/8",
            "10.0.0.1/8",
            "10.0.0.0/8/8",
            "[::1]",
            "010.0.0.0/8",
        ] {
            assert!(text.parse::<Block>().is_err(), "{text}");
        }
        let error = "10.1.2.3/8".parse::<Block>().expect_err("host bits");
        assert!(error.to_string().contains("`10.0.0.0/8`"), "{error}");
    }

    proptest! {
        #[test]
        fn a_block_reads_back_as_written(bits: u128, prefix in 0u8..=128, v4: bool) {
            let address = if v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
            let prefix = if v4 { prefix.min(32) } else { prefix };
            let text = format!("{}/{prefix}", network(address, prefix));
            let block: Block = text.parse().expect("a network address");
            prop_assert_eq!(block.to_string().parse(), Ok(block));
            prop_assert!(block.contains(block.address));
        }
    }
}
