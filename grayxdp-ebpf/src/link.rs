//! The link header (Ethernet and VLAN tags), taken off and put in front again when the packet's start moves.

use crate::{packet::Packet, parse::ETHERNET_LEN};

/// What lies in front of an IP header, but for the Ethernet type.
#[derive(Clone, Copy)]
pub(crate) struct LinkHeader {
    /// Destination and source.
    pub(crate) macs: [u16; 6],
    tags: [u32; 2],
    /// Where the IP header begins: 14, and 4 for each tag.
    ip_offset: usize,
}

impl LinkHeader {
    /// Of the packet as it is.
    #[inline(always)]
    pub(crate) fn read(packet: Packet, ip_offset: usize) -> Option<Self> {
        let ethernet = packet.window::<ETHERNET_LEN>(0)?;
        let macs = [
            ethernet.u16::<0>(),
            ethernet.u16::<2>(),
            ethernet.u16::<4>(),
            ethernet.u16::<6>(),
            ethernet.u16::<8>(),
            ethernet.u16::<10>(),
        ];
        let mut tags = [0; 2];
        if ip_offset >= 18 {
            tags[0] = packet.window::<4>(12)?.u32::<0>();
        }
        if ip_offset >= 22 {
            tags[1] = packet.window::<4>(16)?.u32::<0>();
        }
        Some(Self { macs, tags, ip_offset })
    }

    /// The same, back to where it came from.
    #[inline(always)]
    pub(crate) fn reversed(self) -> Self {
        let [a, b, c, d, e, f] = self.macs;
        Self { macs: [d, e, f, a, b, c], ..self }
    }

    /// To the packet's front; the IP header that follows is of this Ethernet type.
    #[inline(always)]
    pub(crate) fn write(self, packet: Packet, ethertype: u16) -> Option<()> {
        crate::rewrite::macs(packet, self.macs)?;
        if self.ip_offset >= 18 {
            packet.window::<4>(12)?.set_u32::<0>(self.tags[0]);
        }
        if self.ip_offset >= 22 {
            packet.window::<4>(16)?.set_u32::<0>(self.tags[1]);
        }
        packet.window::<2>(self.ip_offset - 2)?.set_u16::<0>(ethertype);
        Some(())
    }
}
