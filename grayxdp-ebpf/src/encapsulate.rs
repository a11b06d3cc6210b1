//! IP in IP (RFC 2003, RFC 2473, RFC 4213): an outer header in front of the packet.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    csum::fold,
    layout::{Address, Endpoint, ServiceEntry},
};

use crate::{
    helpers,
    link::LinkHeader,
    packet::Packet,
    parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN},
    route::Way,
    scratch,
};

const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_IPV6: u8 = 41;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

/// Bytes that the outer header adds in front of a packet to this backend.
#[inline(always)]
pub(crate) fn overhead(backend: &Address) -> u16 {
    if backend.is_v4() { 20 } else { 40 }
}

/// The ends of the tunnel.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Tunnel {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// Spreads flows: the flow label of an IPv6 outer header.
    entropy: u32,
    /// MAC addresses that the packet leaves with; all zero: those that it came with.
    macs: [u16; 6],
}

/// Plans the tunnel of a flow; `lib.rs` has it put in front at the end, with nothing else on the stack.
///
/// Outer source addresses differ from flow to flow within the service's prefix, for receivers spread what they get over
/// their queues by the outer addresses alone.
#[inline(always)]
pub(crate) fn plan(service: &ServiceEntry, backend: &Address, entropy: u32, way: &Way) -> Option<()> {
    let tunnel = scratch::tunnel()?;
    tunnel.source = if backend.is_v4() {
        let host_bits = 32u32.saturating_sub(u32::from(service.outer_prefix_len));
        let host = entropy & low_bits(host_bits);
        Address::from_v4_wire(service.outer_source.v4_word() | host.to_be())
    } else {
        let host_bits = 128u32.saturating_sub(u32::from(service.outer_prefix_len_v6));
        let [a, b, c, d] = service.outer_source_v6.words();
        Address::from_v6_wire([a, b, c, d | (entropy & low_bits(host_bits)).to_be()])
    };
    tunnel.destination = *backend;
    tunnel.entropy = entropy;
    tunnel.macs = if way.is_own() { way.macs } else { [0; 6] };
    Some(())
}

#[inline(always)]
fn low_bits(count: u32) -> u32 {
    if count >= 32 { u32::MAX } else { (1 << count) - 1 }
}

/// Puts the outer header of the planned tunnel in front.
#[inline(always)]
pub(crate) fn wrap(context: &XdpContext, tunnel: &Tunnel) -> Option<()> {
    let packet = Packet::new(context);
    let (ip_offset, ethertype) = parse::ip_offset(packet)?;
    let mut link = LinkHeader::read(packet, ip_offset)?;
    if tunnel.macs != [0; 6] {
        link.macs = tunnel.macs;
    }
    let inner = inner(packet, ip_offset, ethertype)?;
    if tunnel.destination.is_v4() {
        helpers::move_start(context, -20)?;
        let packet = Packet::new(context);
        link.write(packet, ETHERTYPE_IPV4)?;
        write_v4(packet, ip_offset, tunnel, &inner)
    } else {
        helpers::move_start(context, -40)?;
        let packet = Packet::new(context);
        link.write(packet, ETHERTYPE_IPV6)?;
        write_v6(packet, ip_offset, tunnel, &inner)
    }
}

/// What the outer header takes from the inner one.
struct Inner {
    protocol: u8,
    traffic_class: u8,
    len: u16,
    may_be_fragmented: bool,
}

#[inline(always)]
fn inner(packet: Packet, ip_offset: usize, ethertype: u16) -> Option<Inner> {
    if ethertype == ETHERTYPE_IPV4 {
        let header = packet.window::<IPV4_LEN>(ip_offset)?;
        return Some(Inner {
            protocol: PROTOCOL_IPV4,
            traffic_class: header.u8::<1>(),
            len: u16::from_be(header.u16::<2>()),
            may_be_fragmented: header.u16::<6>() & DONT_FRAGMENT == 0,
        });
    }
    let header = packet.window::<IPV6_LEN>(ip_offset)?;
    Some(Inner {
        protocol: PROTOCOL_IPV6,
        traffic_class: parse::traffic_class(parse::Network::V6(header)),
        len: u16::from_be(header.u16::<4>()).wrapping_add(40),
        may_be_fragmented: false,
    })
}

#[inline(always)]
fn write_v4(packet: Packet, ip_offset: usize, tunnel: &Tunnel, inner: &Inner) -> Option<()> {
    let header = packet.window::<IPV4_LEN>(ip_offset)?;
    header.set_u8::<0>(0x45);
    header.set_u8::<1>(inner.traffic_class);
    header.set_u16::<2>(inner.len.wrapping_add(20).to_be());
    // Only what may be fragmented needs an identification (RFC 6864).
    #[expect(clippy::cast_possible_truncation, reason = "16 random bits")]
    let id = if inner.may_be_fragmented { helpers::random() as u16 } else { 0 };
    header.set_u16::<4>(id);
    header.set_u16::<6>(if inner.may_be_fragmented { 0 } else { DONT_FRAGMENT });
    header.set_u8::<8>(HOP_LIMIT);
    header.set_u8::<9>(inner.protocol);
    header.set_u16::<10>(0);
    header.set_u32::<12>(tunnel.source.v4_word());
    header.set_u32::<16>(tunnel.destination.v4_word());
    header.set_u16::<10>(!fold(header.sum_u16::<20>()));
    Some(())
}

#[inline(always)]
fn write_v6(packet: Packet, ip_offset: usize, tunnel: &Tunnel, inner: &Inner) -> Option<()> {
    let header = packet.window::<IPV6_LEN>(ip_offset)?;
    let label = tunnel.entropy & 0x000f_ffff;
    header.set_u32::<0>((6 << 28 | u32::from(inner.traffic_class) << 20 | label).to_be());
    header.set_u16::<4>(inner.len.to_be());
    header.set_u8::<6>(inner.protocol);
    header.set_u8::<7>(HOP_LIMIT);
    let [a, b, c, d] = tunnel.source.words();
    header.set_u32::<8>(a);
    header.set_u32::<12>(b);
    header.set_u32::<16>(c);
    header.set_u32::<20>(d);
    let [a, b, c, d] = tunnel.destination.words();
    header.set_u32::<24>(a);
    header.set_u32::<28>(b);
    header.set_u32::<32>(c);
    header.set_u32::<36>(d);
    Some(())
}

/// 32 bits that differ from flow to flow, the same for all packets of one.
#[inline(always)]
pub(crate) fn entropy(client: &Endpoint) -> u32 {
    let [a, b, c, d] = client.address.words();
    let words = u64::from(a ^ c) << 32 | u64::from(b ^ d);
    let mixed = (words ^ u64::from(client.port.to_wire()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 32).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}
