//! Networks of either family, in an order in which each comes right before the networks inside it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address.
    pub(super) const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address of all zeroes.
    pub(super) const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// A network: an address whose bits behind the first `len` are zero.
///
/// The derived order is that of a walk through the tree of networks: whatever lies inside a network follows it, before
/// anything that does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Prefix {
    family: Family,
    /// The address from the highest bit on, for both families.
    bits: u128,
    len: u8,
}

impl Prefix {
    /// The network of that address; a length beyond the address's bits means all of them.
    pub(super) fn new(address: IpAddr, len: u8) -> Self {
        let family = Family::of(address);
        let len = len.min(family.bits());
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        Self { family, bits: bits & mask(len), len }
    }

    /// The network of one address.
    pub(super) fn host(address: IpAddr) -> Self {
        Self::new(address, u8::MAX)
    }

    pub(super) const fn family(self) -> Family {
        self.family
    }

    /// Its first address.
    pub(super) fn address(self) -> IpAddr {
        match self.family {
            Family::V4 => {
                let [a, b, c, d, ..] = self.bits.to_be_bytes();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(self.bits)),
        }
    }

    pub(super) const fn len(self) -> u8 {
        self.len
    }

    /// The only address in it, if there is just one.
    pub(super) fn sole_address(self) -> Option<IpAddr> {
        (self.len == self.family.bits()).then(|| self.address())
    }

    /// Whether the other network is this one, or lies inside it.
    pub(super) fn covers(self, other: Self) -> bool {
        self.family == other.family && self.len <= other.len && (self.bits ^ other.bits) & mask(self.len) == 0
    }
}

/// The highest `len` bits.
fn mask(len: u8) -> u128 {
    let free = 128 - u32::from(len.min(128));
    u128::MAX.checked_shl(free).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), len.parse().unwrap())
    }

    #[test]
    fn a_network_covers_itself_and_what_lies_inside() {
        for (outer, inner, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.0.0.0/8", "10.255.0.0/16", true),
            ("10.0.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "11.0.0.0/16", false),
            ("0.0.0.0/0", "255.255.255.255/32", true),
            ("0.0.0.0/0", "::/0", false),
            ("::/0", "fd00::1/128", true),
            ("fd00::1/128", "fd00::1/128", true),
            ("fd00::/127", "fd00::2/128", false),
        ] {
            assert_eq!(prefix(outer).covers(prefix(inner)), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn bits_behind_the_length_do_not_count() {
        assert_eq!(prefix("10.1.2.3/8"), prefix("10.0.0.0/8"));
        assert_eq!(prefix("10.1.2.3/8").address(), IpAddr::from([10, 0, 0, 0]));
        assert_eq!(Prefix::host("10.1.2.3".parse().unwrap()).sole_address(), Some(IpAddr::from([10, 1, 2, 3])));
        assert_eq!(prefix("fd00::/64").sole_address(), None);
        assert_eq!(prefix("fd00:0:0:1::5/64").address(), "fd00:0:0:1::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn what_lies_inside_a_network_follows_it_at_once() {
        let mut prefixes =
            ["10.0.0.0/8", "11.0.0.0/8", "0.0.0.0/0", "10.0.0.0/16", "10.9.0.0/16", "10.0.0.0/24"].map(prefix);
        prefixes.sort_unstable();
        let expected = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.9.0.0/16", "11.0.0.0/8"];
        assert_eq!(prefixes, expected.map(prefix));
    }
}
