//! What the headers of a plain packet become (`fast.rs`): one end or both, hop limit, MAC addresses; every checksum once.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    csum::ChecksumDelta,
    ids::Be16,
    layout::{Address, Endpoint},
};

use crate::{
    fast::{Head, L4_V4, L4_V6},
    packet::{Packet, Window},
    parse::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, TCP_LEN, UDP_LEN},
    rewrite::{self, End},
    route::Way,
};

/// Another address and port of an end.
#[derive(Clone, Copy)]
pub(crate) struct NewEnd<'a> {
    pub(crate) address: &'a Address,
    pub(crate) port: Be16,
}

/// What the ends of a packet become; `None` for one that stays as it is.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) source: Option<NewEnd<'a>>,
    pub(crate) destination: Option<NewEnd<'a>>,
}

impl Ends<'_> {
    /// As they are.
    pub(crate) const KEPT: Self = Self { source: None, destination: None };
}

impl<'a> NewEnd<'a> {
    #[inline(always)]
    pub(crate) fn of(endpoint: &'a Endpoint) -> Self {
        Self { address: &endpoint.address, port: endpoint.port }
    }
}

/// The packet's ends, hop limit and MAC addresses.
#[inline(always)]
pub(crate) fn rewrite<const IS_V4: bool>(context: &XdpContext, head: &Head, new: Ends, way: &Way) -> Option<()> {
    let packet = Packet::new(context);
    rewrite::macs(packet, way.macs)?;
    let addresses = if IS_V4 {
        let ip = packet.window::<IPV4_LEN>(ETHERNET_LEN)?;
        let delta =
            each(head, new, |end, old, new| rewrite::v4_word(ip, end, old.address.v4_word(), new.address.v4_word()));
        // The hop limit is the low byte of its word. Stored as the word that was loaded, or the next load would wait.
        let hops = ip.u16::<8>();
        ip.set_u16::<8>(hops.wrapping_sub(1));
        ip.set_u16::<10>(delta.half(hops, hops.wrapping_sub(1)).apply(ip.u16::<10>()));
        delta
    } else {
        let ip = packet.window::<IPV6_LEN>(ETHERNET_LEN)?;
        ip.set_u8::<7>(head.hop_limit.wrapping_sub(1));
        each(head, new, |end, old, new| rewrite::set_v6_words(ip, end, &old.address, new.address))
    };
    if new.source.is_none() && new.destination.is_none() {
        return Some(());
    }
    let at = if IS_V4 { L4_V4 } else { L4_V6 };
    if head.destination.protocol == PROTOCOL_TCP {
        let tcp = packet.window::<TCP_LEN>(at)?;
        rewrite::tcp(tcp, addresses.and(ports(head, new, tcp.prefix())));
    } else {
        let udp = packet.window::<UDP_LEN>(at)?;
        rewrite::udp(udp, addresses.and(ports(head, new, udp.prefix())));
    }
    Some(())
}

/// The source alone, checksums included; the rest is as it is to be.
#[inline(always)]
pub(crate) fn rewrite_source<const IS_V4: bool>(packet: Packet, old: &Endpoint, new: NewEnd) -> Option<()> {
    let addresses = if IS_V4 {
        let ip = packet.window::<IPV4_LEN>(ETHERNET_LEN)?;
        let delta = rewrite::v4_word(ip, End::Source, old.address.v4_word(), new.address.v4_word());
        ip.set_u16::<10>(delta.apply(ip.u16::<10>()));
        delta
    } else {
        rewrite::set_v6_words(packet.window(ETHERNET_LEN)?, End::Source, &old.address, new.address)
    };
    let delta = addresses.half(old.port.to_wire(), new.port.to_wire());
    let at = if IS_V4 { L4_V4 } else { L4_V6 };
    rewrite::set_port(packet.window(at)?, End::Source, new.port);
    if old.protocol == PROTOCOL_TCP {
        rewrite::tcp(packet.window(at)?, delta);
    } else {
        rewrite::udp(packet.window(at)?, delta);
    }
    Some(())
}

/// The ports. Returns what the transport checksum changes by.
#[inline(always)]
fn ports(head: &Head, new: Ends, header: Window<4>) -> ChecksumDelta {
    each(head, new, |end, old, new| {
        rewrite::set_port(header, end, new.port);
        ChecksumDelta::ZERO.half(old.port.to_wire(), new.port.to_wire())
    })
}

/// Changes each end that becomes another one. Returns the sum of what the changes say that checksums change by.
#[inline(always)]
fn each(head: &Head, new: Ends, change: impl Fn(End, &Endpoint, NewEnd) -> ChecksumDelta) -> ChecksumDelta {
    let source = new.source.map_or(ChecksumDelta::ZERO, |new| change(End::Source, &head.source, new));
    let destination =
        new.destination.map_or(ChecksumDelta::ZERO, |new| change(End::Destination, &head.destination, new));
    source.and(destination)
}
