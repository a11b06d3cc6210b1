//! Packets that are neither TCP, UDP nor ICMP, or malformed. What is malformed and for a VIP is dropped; all else is passed
//! as it is.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::Be16,
    layout::{Address, Control, Endpoint},
    verdict::Verdict,
};

use crate::{
    chain,
    outcome::Outcome,
    packet::Packet,
    parse::{self, ETHERTYPE_IPV4, IPV4_LEN, IPV6_LEN, Odd},
    service,
};

#[inline(always)]
pub(crate) fn process(context: &XdpContext, control: &'static Control, odd: Odd) -> Outcome {
    match odd {
        Odd::NotIp => Outcome::of(Verdict::PassedNotIp),
        Odd::OtherProtocol | Odd::LaterFragment | Odd::Icmp => Outcome::of(Verdict::PassedOtherProtocol),
        Odd::IpHeader => malformed(context, control, [Verdict::DroppedIpHeader, Verdict::PassedMalformed]),
        Odd::HeaderChain => malformed(context, control, [Verdict::DroppedHeaderChain, Verdict::PassedExtensionHeader]),
        Odd::TransportHeader => transport(context, control),
    }
}

/// Dropped where it is for a VIP, passed where not.
#[inline(always)]
fn malformed(context: &XdpContext, control: &Control, [dropped, passed]: [Verdict; 2]) -> Outcome {
    let is_for_vip = destination(context).is_some_and(|(address, ..)| service::is_vip(control, address));
    Outcome::of(if is_for_vip { dropped } else { passed })
}

/// Where the ports can be read, they say whether it is for a service; where they are cut off, the address must do.
#[inline(always)]
fn transport(context: &XdpContext, control: &Control) -> Outcome {
    let packet = Packet::new(context);
    let Some((address, protocol, offset)) = destination(context) else { return Outcome::of(Verdict::PassedMalformed) };
    let Some(ports) = packet.window::<4>(offset) else {
        let is_vip = service::is_vip(control, address);
        return Outcome::of(if is_vip { Verdict::DroppedTransportHeader } else { Verdict::PassedMalformed });
    };
    let endpoint = Endpoint::new(address, Be16::from_wire(ports.u16::<2>()), protocol);
    match service::service_at(control, endpoint) {
        Some((id, _)) => Outcome::of(Verdict::DroppedTransportHeader).for_service(id),
        None => Outcome::of(Verdict::PassedMalformed),
    }
}

/// Destination, protocol, and where the transport header would begin.
#[inline(always)]
fn destination(context: &XdpContext) -> Option<(Address, u8, usize)> {
    let packet = Packet::new(context);
    let (ip_offset, ethertype) = parse::ip_offset(packet)?;
    if ethertype == ETHERTYPE_IPV4 {
        let header = packet.window::<IPV4_LEN>(ip_offset)?;
        let header_len = usize::from(header.u8::<0>() & 0x0f) * 4;
        return Some((Address::from_v4_wire(header.u32::<16>()), header.u8::<9>(), ip_offset + header_len));
    }
    let header = packet.window::<IPV6_LEN>(ip_offset)?;
    let [_, address] = parse::v6_addresses(header);
    if address.is_v4() {
        return None;
    }
    match chain::walk(context, header.u8::<6>(), ip_offset + IPV6_LEN) {
        Ok(chain) => Some((address, chain.protocol, chain.offset)),
        Err(_) => Some((address, 0, 0)),
    }
}
