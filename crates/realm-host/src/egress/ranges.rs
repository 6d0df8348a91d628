//! Which addresses are open: the public ones, and those that the operator opens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use realm_model::block::Block;

/// IPv4 blocks that are not public, after IANA's registry of special purposes.
const SPECIAL_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Blocks inside 2000::/3 that are not public: protocol assignments (Teredo among them),
/// documentation, 6to4 (which carries IPv4 addresses).
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// NAT64: the last 32 bits are an IPv4 address.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The ranges that the operator opens.
pub(crate) struct Ranges(Vec<Block>);

impl Ranges {
    /// Parses CIDR blocks; the error is the text that is none.
    pub(crate) fn parse(blocks: &[String]) -> Result<Self, String> {
        let parse = |text: &String| text.parse().map_err(|_| text.clone());
        blocks.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a guest whose rules name it may reach this address.
    pub(crate) fn open(&self, address: IpAddr) -> bool {
        is_public(address) || self.0.iter().any(|block| block.contains(address))
    }
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !SPECIAL_V4
            .iter()
            .any(|(network, prefix)| within(address.into(), (*network).into(), *prefix)),
        IpAddr::V6(address) if within(address.into(), NAT64.0.into(), NAT64.1) => {
            let [.., a, b, c, d] = address.octets();
            is_public(IpAddr::from([a, b, c, d]))
        }
        IpAddr::V6(address) => {
            within(address.into(), GLOBAL_V6.0.into(), GLOBAL_V6.1)
                && !SPECIAL_V6
                    .iter()
                    .any(|(network, prefix)| within(address.into(), (*network).into(), *prefix))
        }
    }
}

fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    Block {
        address: network,
        prefix,
    }
    .contains(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_open_by_themselves() {
        let ranges = Ranges::parse(&[]).unwrap();
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::808:808",
        ] {
            assert!(ranges.open(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "fec0::1",
        ] {
            assert!(!ranges.open(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn the_operator_opens_what_he_names() {
        let ranges = Ranges::parse(&["10.1.0.0/16".to_owned()]).unwrap();
        assert!(ranges.open("10.1.2.3".parse().unwrap()));
        assert!(ranges.open("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!ranges.open("10.2.2.3".parse().unwrap()));
        assert!(Ranges::parse(&["ten".to_owned()]).is_err());
    }
}
