//! Backends, next hops and routes.

use super::{Address, Endpoint};
use crate::ids::Version;

/// How a packet reaches its next hop. The agent writes it word by word; `interface` last when it becomes known, and first
/// (to zero) when it changes: a packet between the stores asks the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct NextHop {
    /// The neighbour's MAC address, as 16-bit words of the wire's bytes.
    pub destination_mac: [u16; 3],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// The interface's own MAC address.
    pub source_mac: [u16; 3],
    /// Zero.
    pub reserved: u16,
    /// Index of the interface; zero: not known, the kernel is asked.
    pub interface: u32,
    /// Zero.
    pub reserved_2: u32,
}

/// What the program needs to know of a backend: one cache line. Index of the map: [`crate::ids::BackendId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct BackendEntry {
    /// Where it answers. A zero protocol marks an unused entry.
    pub endpoint: Endpoint,
    /// The [`crate::ids::ServiceId`] that it serves; [`super::NO_SERVICE`] once that has left the config.
    pub service: u16,
    /// Its [`crate::ids::Version`], as a number.
    pub version: u8,
    /// Bits `BACKEND_…`.
    pub flags: u8,
    /// How it is reached.
    pub next_hop: NextHop,
}

/// [`BackendEntry::flags`]: it has left the config; it keeps its flows, and gets no new ones.
pub const BACKEND_RETIRED: u8 = 1;
/// [`BackendEntry::flags`]: its health checks fail: half-open connections and UDP conversations go elsewhere.
pub const BACKEND_DOWN: u8 = 1 << 1;

impl BackendEntry {
    /// Whether it stands for a backend.
    #[inline(always)]
    pub const fn is_used(&self) -> bool {
        self.endpoint.protocol != 0
    }

    /// The version that it serves.
    #[inline(always)]
    pub const fn serves(&self) -> Version {
        if self.version == Version::V2 as u8 { Version::V2 } else { Version::V1 }
    }

    /// Whether its health checks fail.
    #[inline(always)]
    pub const fn is_down(&self) -> bool {
        self.flags & BACKEND_DOWN != 0
    }
}

/// A route for replies. Both families: IPv4 addresses and masks are IPv4-mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Route {
    /// Network.
    pub network: Address,
    /// Mask of the network's bits.
    pub mask: Address,
    /// The way; with an interface of zero, the kernel is asked.
    pub next_hop: NextHop,
}

impl Route {
    /// Whether it leads to an address.
    #[inline(always)]
    pub const fn covers(&self, address: &Address) -> bool {
        let [a, b, c, d] = address.words();
        let [mask_a, mask_b, mask_c, mask_d] = self.mask.words();
        let [net_a, net_b, net_c, net_d] = self.network.words();
        (d ^ net_d) & mask_d == 0 && (c ^ net_c) & mask_c == 0 && (b ^ net_b) & mask_b == 0 && (a ^ net_a) & mask_a == 0
    }
}
