//! Identifiers and network-order integers. Conversions only, no arithmetic.

/// A 16-bit integer whose bytes lie in network order, as on the wire (a port).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// From the integer that a plain load of the wire's bytes gives.
    #[inline(always)]
    pub const fn from_wire(loaded: u16) -> Self {
        Self(loaded)
    }

    /// The number in host order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The integer whose plain store writes the wire's bytes.
    #[inline(always)]
    pub const fn to_wire(self) -> u16 {
        self.0
    }
}

/// The two versions of a release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Version {
    /// The running, stable version.
    V1 = 0,
    /// The canary.
    V2 = 1,
}

impl Version {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// `v1` or `v2`, as in config, metrics and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Index of a service in the maps: those of the config first, their canary ports' entries behind
/// [`crate::limits::SERVICES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct ServiceId(pub u32);

impl ServiceId {
    /// The entry of this service's canary port.
    #[inline(always)]
    #[must_use]
    pub const fn canary(self) -> Self {
        Self(self.0 + crate::limits::SERVICES_MAX)
    }

    /// Where the pool of one version of this service lies in the map of pools.
    #[inline(always)]
    pub const fn pool(self, version: Version) -> u32 {
        self.0 * 2 + version as u32
    }
}

/// Index of a backend in the maps; never zero, so that zeroed map memory names no backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct BackendId(u16);

impl BackendId {
    /// `None` for zero, which means "no backend".
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    /// The number as it stands in maps.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// One of the disjoint groups of a service's clients (or connections), counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct ShardId(pub u32);
