//! Networks as people write them (`10.0.0.0/8`), and ranges of addresses as the fewest networks that make them up. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network: its first address, and how many of its leading bits count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Network {
    /// All bits behind the prefix are zero.
    address: IpAddr,
    /// 0 to 32, or to 128.
    prefix_len: u8,
}

/// Why a text or an address is no network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor an address with a prefix length.
    #[error("this is no network: write one such as 198.51.100.0/24, 2001:db8::/32, or a single address")]
    Unreadable,
    /// Longer than the address.
    #[error("an {family} prefix has at most {prefix_len_max} bits")]
    PrefixTooLong {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// 32 or 128.
        prefix_len_max: u8,
    },
    /// The address has bits behind the prefix.
    #[error("the address has bits behind its prefix: do you mean {0}?")]
    HostBits(Network),
    /// An IPv4 network in IPv6 clothes.
    #[error("this is an IPv4 network written as an IPv6 one: write it as IPv4, such as 198.51.100.0/24")]
    Mapped,
}

impl Network {
    /// The network of these leading bits of an address; the others must be zero.
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<Self, NetworkError> {
        let (family, prefix_len_max) = (family(address), bits(address));
        if prefix_len > prefix_len_max {
            return Err(NetworkError::PrefixTooLong { family, prefix_len_max });
        }
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(NetworkError::Mapped);
        }
        let network = Self::around(address, prefix_len);
        if network.address == address { Ok(network) } else { Err(NetworkError::HostBits(network)) }
    }

    /// The network of one address.
    pub fn of_address(address: IpAddr) -> Self {
        Self { address, prefix_len: bits(address) }
    }

    /// Its first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many leading bits count: 0 to 32, or to 128.
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Whether it is one of IPv4.
    pub const fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && Self::around(address, self.prefix_len) == self
    }

    /// The prefix must fit.
    fn around(address: IpAddr, prefix_len: u8) -> Self {
        let host_bits = u32::from(bits(address) - prefix_len);
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Self { address: from_number(number(address) & mask, address), prefix_len }
    }
}

impl fmt::Display for Network {
    /// `10.0.0.0/8`; a single address too has its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// A network, or a single address.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(prefix_len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Unreadable)?;
        let prefix_len = match prefix_len {
            Some(text) if text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| NetworkError::Unreadable)?
            }
            Some(_) => return Err(NetworkError::Unreadable),
            None => bits(address),
        };
        Self::new(address, prefix_len)
    }
}

/// The fewest networks that hold exactly the addresses from the first to the last, in ascending order. Empty where the
/// first lies behind the last, or in another family.
pub fn networks_of_range(first: IpAddr, last: IpAddr) -> Vec<Network> {
    let mut networks = Vec::new();
    if first.is_ipv4() != last.is_ipv4() {
        return networks;
    }
    let (mut next, end, bits) = (number(first), number(last), bits(first));
    while next <= end {
        // The largest block that begins here: aligned, and not longer than what is left.
        let aligned = next.trailing_zeros().min(u32::from(bits));
        let host_bits = match (end - next).checked_add(1) {
            Some(left) => aligned.min(left.ilog2()),
            None => aligned,
        };
        let prefix_len = bits - u8::try_from(host_bits).unwrap_or(bits);
        networks.push(Network { address: from_number(next, first), prefix_len });
        let Some(behind) = 1u128.checked_shl(host_bits).and_then(|length| next.checked_add(length)) else { break };
        next = behind;
    }
    networks
}

/// `IPv4` or `IPv6`.
pub const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// In the family of `like`.
fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        // Never more than 32 bits: such numbers come from IPv4 addresses.
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_are_written_like_this() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(text.parse::<Network>().map(|network| network.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for (text, part) in [
            ("", "no network"),
            ("10.0.0/8", "no network"),
            ("10.0.0.0/", "no network"),
            ("10.0.0.0/+8", "no network"),
            ("10.0.0.0/8/8", "no network"),
            ("10.0.0.0/33", "at most 32"),
            ("2001:db8::/129", "at most 128"),
            ("10.1.0.0/8", "do you mean 10.0.0.0/8?"),
            ("2001:db8::1/64", "do you mean 2001:db8::/64?"),
            ("::ffff:10.0.0.0/104", "as IPv4"),
        ] {
            let error = text.parse::<Network>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ranges_are_these_networks() {
        for (first, last, expected) in [
            ("192.0.2.1", "192.0.2.9", "192.0.2.1/32 192.0.2.2/31 192.0.2.4/30 192.0.2.8/31"),
            ("10.0.0.0", "10.255.255.255", "10.0.0.0/8"),
            ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),
            ("255.255.255.255", "255.255.255.255", "255.255.255.255/32"),
            ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"),
            ("2001:db8::fffe", "2001:db8::1:1", "2001:db8::fffe/127 2001:db8::1:0/127"),
            ("192.0.2.9", "192.0.2.1", ""),
            ("192.0.2.9", "2001:db8::", ""),
        ] {
            let parse = |text: &str| text.parse().expect("an address");
            let found: Vec<String> =
                networks_of_range(parse(first), parse(last)).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{first}-{last}");
        }
    }

    fn size(network: Network) -> u128 {
        1 << (bits(network.address) - network.prefix_len)
    }

    proptest! {
        #[test]
        fn a_network_survives_its_text(bits in any::<u128>(), v4 in any::<bool>(), prefix_len in 0..=128u8) {
            let address: IpAddr =
                if v4 { Ipv4Addr::from_bits(u32::try_from(bits >> 96).expect("32 bits")).into() } else { Ipv6Addr::from_bits(bits).into() };
            let network = Network::around(address, prefix_len.min(super::bits(address)));
            prop_assume!(!matches!(network.address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()));
            prop_assert_eq!(network.to_string().parse(), Ok(network));
            prop_assert!(network.contains(address));
        }

        /// They follow each other without a gap from end to end, and no two of them could be one.
        #[test]
        fn the_networks_of_a_range_are_exact_and_the_fewest(a in any::<u128>(), length in any::<u128>(), shift in 0..128u32, v4 in any::<bool>()) {
            let most = if v4 { u128::from(u32::MAX) } else { u128::MAX };
            let first = if v4 { a >> 96 } else { a };
            let last = first.saturating_add(length >> shift).min(most);
            let like: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let networks = networks_of_range(from_number(first, like), from_number(last, like));
            prop_assume!((first, last) != (0, u128::MAX));
            let mut next = Some(first);
            for network in &networks {
                prop_assert_eq!(Some(number(network.address)), next);
                prop_assert_eq!(Network::around(network.address, network.prefix_len), *network);
                next = number(network.address).checked_add(size(*network));
            }
            prop_assert_eq!(next, last.checked_add(1));
            for pair in networks.windows(2) {
                let together = Network::around(pair[0].address, pair[0].prefix_len.saturating_sub(1));
                let mergeable = pair[0].prefix_len == pair[1].prefix_len && together.contains(pair[1].address);
                prop_assert!(!mergeable, "{} {}", pair[0], pair[1]);
            }
            prop_assert!(networks.len() <= 2 * usize::from(bits(like)));
        }
    }
}
