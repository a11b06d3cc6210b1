//! What the kernel knows, as plain data. Pure, and without anything that netlink has invented.

use std::{collections::HashMap, net::IpAddr};

use super::prefix::{Family, Prefix};

/// `RT_TABLE_DEFAULT`, `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` (linux/rtnetlink.h).
pub(super) const TABLE_DEFAULT: u32 = 253;
pub(super) const TABLE_MAIN: u32 = 254;
pub(super) const TABLE_LOCAL: u32 = 255;

/// All that next hops depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tables {
    pub(super) v4: FamilyTables,
    pub(super) v6: FamilyTables,
    /// The interfaces that packets may leave by, as far as they exist.
    pub(super) links: HashMap<u32, Link>,
    pub(super) neighbours: Neighbours,
    /// The kernel's own answer for each backend that it has a route to.
    pub(super) backend_routes: HashMap<IpAddr, KernelRoute>,
}

impl Tables {
    pub(super) const fn of(&self, family: Family) -> &FamilyTables {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Neighbours by device and address.
pub(super) type Neighbours = HashMap<NeighbourKey, Neighbour>;

/// Index of a device, and an address there.
pub(super) type NeighbourKey = (u32, IpAddr);

/// Routes and rules of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FamilyTables {
    pub(super) rules: Rules,
    /// The routes of all tables; `None` if they are too many, or one of them could not be read.
    pub(super) routes: Option<Vec<KernelRoute>>,
}

/// What policy rules make of a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rules {
    /// The kernel's own: first the local table, then main, then default.
    Plain,
    /// Others, but the answer still depends on the destination only.
    ByDestination,
    /// The answer depends on more than the destination, or is not known.
    Other,
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KernelRoute {
    pub(super) table: u32,
    pub(super) destination: Prefix,
    pub(super) scope: Scope,
    /// Of the routes to one network, the lowest wins.
    pub(super) metric: u32,
    pub(super) way: Way,
}

/// Whose packets take a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// All packets to its network.
    All,
    /// Some of them: those of one source, or of one type of service.
    Some,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// To a router.
    Gateway { ifindex: u32, gateway: IpAddr, mtu: Option<u32> },
    /// To a network whose hosts are neighbours.
    OnLink { ifindex: u32, mtu: Option<u32> },
    /// Anywhere else: to this host, nowhere, several ways at once, into a tunnel.
    Unfit,
}

/// A network device that packets may leave by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) state: LinkState,
    /// Longest IPv4 packet in bytes; `None` if IPv4 packets that come in here are not forwarded by the main tables.
    pub(super) mtu_v4: Option<u16>,
    /// The same for IPv6.
    pub(super) mtu_v6: Option<u16>,
}

impl Link {
    pub(super) const fn mtu(&self, family: Family) -> Option<u16> {
        match family {
            Family::V4 => self.mtu_v4,
            Family::V6 => self.mtu_v6,
        }
    }
}

/// Whether frames can be sent out of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkState {
    /// Nothing comes in, nothing goes out.
    Down,
    /// Up, but a frame needs more than two MAC addresses (a VLAN tag), or other ones than Ethernet's.
    Unfit,
    /// Ethernet frames go out as they are, from this address.
    Ethernet { mac: [u8; 6] },
}

/// An address on a device, and who has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Neighbour {
    pub(super) state: NeighbourState,
    pub(super) mac: Option<[u8; 6]>,
}

/// How much the kernel trusts what it knows about a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NeighbourState {
    /// Confirmed, being confirmed, or set by hand.
    Valid,
    /// Good for use, but not confirmed for a while.
    Stale,
    /// Being asked for.
    Resolving,
    /// Does not answer.
    Failed,
}

impl Neighbour {
    /// The address to send frames to.
    pub(super) fn usable_mac(&self) -> Option<[u8; 6]> {
        match self.state {
            NeighbourState::Valid | NeighbourState::Stale => self.mac.filter(|mac| *mac != [0; 6]),
            NeighbourState::Resolving | NeighbourState::Failed => None,
        }
    }
}
