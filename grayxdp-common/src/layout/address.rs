//! IP addresses and endpoints as the maps hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ids::Be16;

/// An IP address as four words of the wire's bytes; an IPv4 address is IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Address([u32; 4]);

impl Address {
    const V4_PREFIX: u32 = 0xffff_u32.to_be();

    /// No address: `::`.
    pub const NONE: Self = Self([0; 4]);

    /// From the word that a plain load of an IPv4 address's bytes gives.
    #[inline(always)]
    pub const fn from_v4_wire(word: u32) -> Self {
        Self([0, 0, Self::V4_PREFIX, word])
    }

    /// From the words that plain loads of an IPv6 address's bytes give.
    #[inline(always)]
    pub const fn from_v6_wire(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The words of all 16 bytes, as plain stores write them.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// The word of an IPv4 address.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::V4_PREFIX
    }

    /// Equal in all words; without the byte-wise comparison that the derived one may become on the bpf target.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.0[3] == other.0[3] && self.0[0] == other.0[0] && self.0[1] == other.0[1] && self.0[2] == other.0[2]
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes))
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            return Self::V4(Ipv4Addr::from(address.v4_word().to_ne_bytes()));
        }
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(address.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

/// Where a service is met, or where a backend answers from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Endpoint {
    /// VIP or backend address.
    pub address: Address,
    /// Port.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

impl Endpoint {
    /// An endpoint.
    #[inline(always)]
    pub const fn new(address: Address, port: Be16, protocol: u8) -> Self {
        Self { address, port, protocol, reserved: 0 }
    }

    /// Equal in all parts.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.port.to_wire() == other.port.to_wire()
            && self.protocol == other.protocol
            && self.address.is(&other.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_goes_there_and_back() {
        for text in ["203.0.113.10", "0.0.0.0", "2001:db8::1", "::1", "::"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(IpAddr::from(Address::from(address)), address, "{text}");
            assert_eq!(Address::from(address).is_v4(), address.is_ipv4(), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_is_its_wire_word() {
        let address = Address::from(IpAddr::from([203, 0, 113, 10]));
        assert_eq!(address, Address::from_v4_wire(u32::from_ne_bytes([203, 0, 113, 10])));
    }
}
