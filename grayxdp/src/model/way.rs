//! Ways to the next hop. The model does not know the kernel's routes: it is told what leads where.

use std::net::IpAddr;

use grayxdp_common::verdict::{Action, Verdict};

use super::{Arrival, Model, world::covers};
use crate::kernel::Network;

/// How packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// By this interface.
    Interface {
        /// Its index.
        index: u32,
        /// Destination and source MAC address.
        macs: [u8; 12],
    },
    /// As the kernel decides: handed to it, or dropped.
    Kernel(Verdict),
}

/// The way to a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// For packets that fit.
    pub exit: Exit,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// What leads where. Backends have ways of their own; clients go by routes, also a client that is a backend of another's.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// By a backend's address; the longest prefix counts.
    pub backends: Vec<(Network, Way)>,
    /// By a client's address.
    pub clients: Vec<(Network, Way)>,
}

/// Whom a packet goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Towards {
    Backend(IpAddr),
    Client(IpAddr),
}

/// The way that one packet takes.
#[derive(Clone, Copy)]
pub(super) struct Departure {
    pub(super) verdict: Verdict,
    /// Where the program sends the packet itself.
    pub(super) macs: Option<[u8; 12]>,
    /// Largest IP packet, in bytes.
    pub(super) mtu: u16,
}

impl Departure {
    /// One less where the program sends the packet itself; else the kernel sees to it.
    pub(super) fn hop_limit(&self, hop_limit: u8) -> Option<u8> {
        self.macs.map(|_| hop_limit.wrapping_sub(1))
    }
}

impl Model {
    /// The way of an IP packet of this length, or why there is none.
    pub(super) fn way(&self, towards: Towards, ip_len: usize, arrival: Arrival<'_>) -> Result<Departure, Verdict> {
        // Where the program sends packets itself, there are no VLAN tags: the kernel must take them off, and is asked.
        let is_tagged = matches!(arrival.frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
        let ways = if is_tagged { &self.ways_of_kernel } else { &self.ways };
        let (to, ways) = match towards {
            Towards::Backend(to) => (to, &ways.backends),
            Towards::Client(to) => (to, &ways.clients),
        };
        let leading = ways.iter().filter(|(network, _)| covers(network, to));
        let nowhere = Way { exit: Exit::Kernel(Verdict::HandedNotForwarded), mtu: u16::MAX };
        let way = leading.max_by_key(|(network, _)| network.prefix_len).map_or(nowhere, |(_, way)| *way);
        if ip_len > usize::from(way.mtu) {
            return Ok(Departure { verdict: Verdict::HandedTooBig, macs: None, mtu: way.mtu });
        }
        let (verdict, macs) = match way.exit {
            Exit::Interface { .. } if is_tagged => (Verdict::HandedInterfaceUnknown, None),
            Exit::Interface { index, macs } if index == arrival.interface => {
                (Verdict::ForwardedSameInterface, Some(macs))
            }
            Exit::Interface { macs, .. } => (Verdict::ForwardedOtherInterface, Some(macs)),
            Exit::Kernel(verdict) if verdict.action() == Action::Drop => return Err(verdict),
            Exit::Kernel(verdict) => (verdict, None),
        };
        Ok(Departure { verdict, macs, mtu: way.mtu })
    }
}
