//! Keys and values of the maps: plain integers, no padding that is not named. Meanings belong to the other modules.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    ids::{BackendId, Be16, ServiceId},
    limits::MAGLEV_SLOTS,
};

/// An IP address as four words of the wire's bytes; an IPv4 address is IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Address([u32; 4]);

impl Address {
    const V4_PREFIX: u32 = 0xffff_u32.to_be();

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
        let [a, b, c, word] = address.0;
        if [a, b, c] == [0, 0, Address::V4_PREFIX] {
            return Self::V4(Ipv4Addr::from(word.to_ne_bytes()));
        }
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(address.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

/// Key of the endpoint map: where a service is met, or where a backend answers from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct Endpoint {
    /// VIP or backend address.
    pub address: Address,
    /// Port.
    pub port: Be16,
    /// IP protocol number: 6 or 17.
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
}

/// Value of the endpoint map: exactly one of the two is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct EndpointOwner {
    /// [`OWNER_SERVICE`] or [`OWNER_BACKEND`].
    pub kind: u32,
    /// A [`ServiceId`] or a [`BackendId`].
    pub id: u32,
}

/// [`EndpointOwner::kind`]: the id is a service's.
pub const OWNER_SERVICE: u32 = 1;
/// [`EndpointOwner::kind`]: the id is a backend's.
pub const OWNER_BACKEND: u32 = 2;

/// What the program needs to know of a service. Index of the map: [`ServiceId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ServiceEntry {
    /// Key of the hash.
    pub hash_key: [u64; 2],
    /// Where clients connect to.
    pub endpoint: Endpoint,
    /// [`KEY_SOURCE_IP`] or [`KEY_CONNECTION`].
    pub key: u32,
    /// Shards; zero marks an unused entry.
    pub shard_count: u32,
    /// UDP: a conversation idle for longer begins anew; in [`FLOW_TICK_SHIFT`] ticks.
    pub udp_idle_ticks: u32,
}

/// [`ServiceEntry::key`]: the client's address.
pub const KEY_SOURCE_IP: u32 = 1;
/// [`ServiceEntry::key`]: the client's address and port.
pub const KEY_CONNECTION: u32 = 2;

/// What the program needs to know of a backend. Index of the map: [`BackendId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct BackendEntry {
    /// Where it answers. A zero protocol marks an unused entry.
    pub endpoint: Endpoint,
    /// Its [`ServiceId`].
    pub service: u32,
    /// Its [`crate::ids::Version`], as a number.
    pub version: u32,
    /// Non-zero once it has left the config: it keeps its flows, and gets no new ones.
    pub retired: u32,
}

/// Key of the flow map: one entry for both directions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FlowKey {
    /// The client's address.
    pub client: Address,
    /// The client's port.
    pub client_port: Be16,
    /// The [`ServiceId`], which implies VIP, port and protocol.
    pub service: u16,
}

impl FlowKey {
    /// The flow of a client at a service.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "SERVICES_MAX is far below 2^16")]
    pub const fn new(client: Address, client_port: Be16, service: ServiceId) -> Self {
        Self { client, client_port, service: service.0 as u16 }
    }
}

/// A flow tick is 2³⁰ ns, about 1.07 s: a shift where a division would cost on every packet.
pub const FLOW_TICK_SHIFT: u32 = 30;

/// Value of the flow map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FlowEntry {
    /// The [`BackendId`] that the flow began on.
    pub backend: u32,
    /// When a packet was last seen: the kernel's coarse monotonic clock in [`FLOW_TICK_SHIFT`] ticks.
    pub last_seen_ticks: u32,
}

impl FlowEntry {
    /// A flow on a backend.
    #[inline(always)]
    pub const fn new(backend: BackendId, last_seen_ticks: u32) -> Self {
        Self { backend: backend.raw() as u32, last_seen_ticks }
    }
}

/// The backends of one version, spread over the slots of a Maglev table; zero means none.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MaglevTable {
    /// A raw [`BackendId`] for each slot.
    pub slots: [u16; MAGLEV_SLOTS as usize],
    /// Zero.
    pub reserved: [u16; 3],
}

/// Counters of a backend, one set for each CPU. Index of the map: [`BackendId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BackendCounters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, from the IP header on.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, from the IP header on.
    pub bytes_out: u64,
    /// New connections (TCP: SYNs) and conversations (UDP) that were sent here by the weights of their time.
    pub new_flows: u64,
    /// TCP packets that should have had a flow entry and had none: connections that may just have been broken.
    pub flow_misses: u64,
    /// Flows for which the flow map had no place; they go by hash alone.
    pub untracked_flows: u64,
}

impl BackendCounters {
    /// Every counter of both, added.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets_in: self.packets_in.wrapping_add(other.packets_in),
            bytes_in: self.bytes_in.wrapping_add(other.bytes_in),
            packets_out: self.packets_out.wrapping_add(other.packets_out),
            bytes_out: self.bytes_out.wrapping_add(other.bytes_out),
            new_flows: self.new_flows.wrapping_add(other.new_flows),
            flow_misses: self.flow_misses.wrapping_add(other.flow_misses),
            untracked_flows: self.untracked_flows.wrapping_add(other.untracked_flows),
        }
    }
}

/// The one value of the map that says what the pins are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Meta {
    /// [`crate::LAYOUT_VERSION`]; zero until the maps are filled for the first time.
    pub layout_version: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<EndpointOwner>() == 8);
    assert!(size_of::<ServiceEntry>() == 48);
    assert!(size_of::<BackendEntry>() == 32);
    assert!(size_of::<FlowKey>() == 20);
    assert!(size_of::<FlowEntry>() == 8);
    assert!(size_of::<MaglevTable>() == 8192);
    assert!(size_of::<BackendCounters>() == 56);
    assert!(size_of::<Meta>() == 8);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        BackendCounters, BackendEntry, Endpoint, EndpointOwner, FlowEntry, FlowKey, MaglevTable, Meta, ServiceEntry,
    };

    macro_rules! pod {
        ($($layout:ty),+) => {$(
            // SAFETY: `repr(C)`, integers only; the size asserts above leave no room for implicit padding.
            unsafe impl aya::Pod for $layout {}
        )+};
    }
    pod!(BackendCounters, BackendEntry, Endpoint, EndpointOwner, FlowEntry, FlowKey, MaglevTable, Meta, ServiceEntry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_goes_there_and_back() {
        for text in ["203.0.113.10", "0.0.0.0", "2001:db8::1", "::1", "::"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(IpAddr::from(Address::from(address)), address, "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_is_its_wire_word() {
        let address = Address::from(IpAddr::from([203, 0, 113, 10]));
        assert_eq!(address, Address::from_v4_wire(u32::from_ne_bytes([203, 0, 113, 10])));
    }
}
