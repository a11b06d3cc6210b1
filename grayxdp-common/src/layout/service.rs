//! Services, their pins, pools and shards.

use super::{Address, Endpoint};
use crate::{
    ids::{Be16, ServiceId, Version},
    weight::KeyHash,
};

/// What the program needs to know of a service. Index of the map: [`ServiceId`].
///
/// A service with a `canary_port` has two entries, one for each port; both use the shards and pools of the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct ServiceEntry {
    /// Where clients connect to.
    pub endpoint: Endpoint,
    /// One of `MODE_…`.
    pub mode: u8,
    /// One of `KEY_…`.
    pub key: u8,
    /// One of `METHOD_…`; zero marks an unused entry.
    pub method: u8,
    /// `PIN_NONE`, or the version (plus one) that every new flow goes to.
    pub pinned: u8,
    /// Key of the hash.
    pub hash_key: [u64; 2],
    /// Its shards' weights: the first one's index in the map of weights.
    pub shard_first: u32,
    /// Its shards: 1 to [`crate::limits::SHARDS_PER_SERVICE_MAX`].
    pub shard_count: u32,
    /// The [`ServiceId`] whose pools it uses: its own, or that of the entry that it is the canary port of.
    pub pools: u16,
    /// The [`ServiceId`] of its canary port's entry; [`NO_SERVICE`] where there is none.
    pub canary: u16,
    /// UDP: a conversation idle for longer begins anew; in flow ticks.
    pub udp_idle_ticks: u16,
    /// Bits `SERVICE_…`.
    pub flags: u16,
    /// DSCP values (bit n: value n) pinned to v1 and to v2.
    pub dscp_pins: [u64; 2],
    /// `full-nat`: the first of its source addresses' indices.
    pub source_first: u16,
    /// `full-nat`: how many source addresses it has.
    pub source_count: u16,
    /// `ipip`: how many leading bits of the outer source address are fixed; the others come from the flow.
    pub outer_prefix_len: u16,
    /// `ipip`: the same for backends of the other family (IPv4 in IPv6).
    pub outer_prefix_len_v6: u16,
    /// `ipip`: the outer source address in front of an IPv4 backend.
    pub outer_source: Address,
    /// `ipip`: the outer source address in front of an IPv6 backend.
    pub outer_source_v6: Address,
    /// Failures of v2 within a window that blow the fuse; zero: there is no fuse.
    pub fuse_failures: u32,
    /// Length of that window, in flow ticks.
    pub fuse_window_ticks: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// [`ServiceEntry::canary`]: none.
pub const NO_SERVICE: u16 = u16::MAX;

/// [`ServiceEntry::mode`]: destination rewritten, replies rewritten back.
pub const MODE_NAT: u8 = 1;
/// [`ServiceEntry::mode`]: source rewritten too.
pub const MODE_FULL_NAT: u8 = 2;
/// [`ServiceEntry::mode`]: only the MAC addresses are rewritten.
pub const MODE_DSR: u8 = 3;
/// [`ServiceEntry::mode`]: IP in IP.
pub const MODE_IPIP: u8 = 4;

/// [`ServiceEntry::key`]: the client's address.
pub const KEY_SOURCE_IP: u8 = 1;
/// [`ServiceEntry::key`]: the client's address and port.
pub const KEY_CONNECTION: u8 = 2;

/// [`ServiceEntry::method`]: shards by the key's hash.
pub const METHOD_HASH: u8 = 1;
/// [`ServiceEntry::method`]: shards by the client's address, from the map of ranges; shard 0 is the default one.
pub const METHOD_RANGE: u8 = 2;
/// [`ServiceEntry::method`]: one shard; the version of each new flow is drawn.
pub const METHOD_RANDOM: u8 = 3;

/// [`ServiceEntry::pinned`]: to no version.
pub const PIN_NONE: u8 = 0;

/// [`ServiceEntry::flags`]: some source networks are pinned.
pub const SERVICE_CIDR_PINS: u16 = 1;
/// [`ServiceEntry::flags`]: some DSCP values are pinned.
pub const SERVICE_DSCP_PINS: u16 = 1 << 1;

/// [`ServiceEntry::flags`]: its flows are watched for signals.
pub const SERVICE_SIGNALS: u16 = 1 << 2;
/// [`ServiceEntry::flags`]: responses are looked into for an HTTP/1 status.
pub const SERVICE_PEEK_HTTP1: u16 = 1 << 3;
/// [`ServiceEntry::flags`]: first responses are looked into for a TLS record.
pub const SERVICE_PEEK_TLS: u16 = 1 << 4;
/// [`ServiceEntry::flags`]: responses are looked into for a DNS code.
pub const SERVICE_PEEK_DNS: u16 = 1 << 5;

impl ServiceEntry {
    /// Whether it belongs to a service of the config.
    #[inline(always)]
    pub const fn is_used(&self) -> bool {
        self.method != 0
    }

    /// The hash of a client's key.
    #[inline(always)]
    pub const fn key_hash(&self, client: Address, client_port: Be16) -> KeyHash {
        crate::hash::key_hash(self.hash_key, self.key, client, client_port)
    }

    /// The version that everything on this port is pinned to.
    #[inline(always)]
    pub const fn port_pin(&self) -> Option<Version> {
        match self.pinned {
            PIN_NONE => None,
            1 => Some(Version::V1),
            _ => Some(Version::V2),
        }
    }

    /// The version that a DSCP value (0 to 63) is pinned to.
    #[inline(always)]
    pub const fn dscp_pin(&self, dscp: u8) -> Option<Version> {
        let [v1, v2] = self.dscp_pins;
        let bit = 1 << (dscp & 63);
        if v2 & bit != 0 {
            Some(Version::V2)
        } else if v1 & bit != 0 {
            Some(Version::V1)
        } else {
            None
        }
    }

    /// Where the pool of a version lies in the map of pools.
    #[inline(always)]
    pub const fn pool(&self, version: Version) -> u32 {
        ServiceId(self.pools as u32).pool(version)
    }

    /// Whether replies pass through this host.
    #[inline(always)]
    pub const fn sees_replies(&self) -> bool {
        self.mode == MODE_NAT || self.mode == MODE_FULL_NAT
    }
}

/// The Maglev table of a pool: where it begins in the map of slots, and how many it has (zero: no backend). One word,
/// swapped by one store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct PoolTable(pub u64);

impl PoolTable {
    /// `first` counts groups of four slots.
    #[inline(always)]
    pub const fn new(first: u32, slots: u32) -> Self {
        Self((first as u64) << 32 | slots as u64)
    }

    /// The first group.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How many slots.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    pub const fn slots(self) -> u32 {
        self.0 as u32
    }
}

/// Four slots of a Maglev table: raw [`crate::ids::BackendId`]s. Array elements are rounded up to eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct MaglevSlots(pub u64);

impl MaglevSlots {
    /// From four slots.
    #[inline(always)]
    pub const fn new(slots: [u16; 4]) -> Self {
        let [a, b, c, d] = slots;
        Self(a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48)
    }

    /// One of the four.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "shifted to the 16 bits that are wanted")]
    pub const fn slot(self, index: u32) -> u16 {
        (self.0 >> ((index & 3) * 16)) as u16
    }
}

/// Data of the keys of both longest-prefix maps, pins and ranges: the prefix covers the service and then the address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct NetworkKey {
    /// A [`ServiceId`].
    pub service: u32,
    /// IPv4 addresses are IPv4-mapped.
    pub address: Address,
}

impl NetworkKey {
    /// Length of the prefix that matches one address.
    pub const WHOLE: u32 = 160;

    /// Length of the prefix in the map, for a network's own prefix length.
    pub const fn prefix_len(address: &Address, network_prefix_len: u8) -> u32 {
        let mapped = if address.is_v4() { 96 } else { 0 };
        32 + mapped + network_prefix_len as u32
    }
}
