//! What the baseline's maps hold; see `bin/lru.rs`. IPv4 only.

/// Where clients connect to, or where a backend answers from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointKey {
    /// As a plain load gives it.
    pub address: u32,
    /// As a plain load gives it.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u16,
}

/// What owns an endpoint: [`IS_BACKEND`], and a number.
pub type Owner = u32;

/// [`Owner`]: a backend; a service otherwise.
pub const IS_BACKEND: u32 = 1 << 31;

/// A flow's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// The client's address, as a plain load gives it.
    pub address: u32,
    /// The client's port, as a plain load gives it.
    pub port: u16,
    /// The service's number.
    pub service: u16,
}

/// Slots of a Maglev table.
pub const SLOTS: usize = 4093;

/// A Maglev table in one value, for array elements are rounded up to eight bytes.
pub type Slots = [u16; SLOTS + 3];

/// The way to a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hop {
    /// Destination's and source's MAC address.
    pub macs: [u16; 6],
    /// Index of the device.
    pub interface: u32,
}

/// A service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Service {
    /// Key of the hash that places clients.
    pub hash_key: [u64; 2],
    /// The weight's threshold.
    pub threshold: u64,
    /// Its address.
    pub address: u32,
    /// Its port.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
    /// The way to clients.
    pub hop: Hop,
    /// Zero.
    pub reserved_2: [u64; 2],
}

/// A backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Backend {
    /// Its address.
    pub address: u32,
    /// Its port.
    pub port: u16,
    /// The number of its service.
    pub service: u16,
    /// The way to it.
    pub hop: Hop,
    /// Zero.
    pub reserved: u64,
}

/// What is counted of a backend, on each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// To the backend.
    pub packets_in: u64,
    /// To the backend.
    pub bytes_in: u64,
    /// From the backend.
    pub packets_out: u64,
    /// From the backend.
    pub bytes_out: u64,
    /// Flows that began.
    pub new_flows: u64,
    /// Packets in the middle of a flow that was not known.
    pub misses: u64,
}

const _: () = assert!(size_of::<Service>() == 64 && size_of::<Backend>() == 32, "no implicit padding");
