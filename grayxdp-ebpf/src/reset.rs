//! Connections that are severed: the agent has marked them, and whoever speaks next learns that they are over.
//!
//! A packet that carries something (data, FIN, RST) becomes a RST to the end that it was for, with the sequence number
//! that this end expects next; what its sender sends after that (it repeats what was not acknowledged) is answered with a
//! RST. A packet that carries nothing is answered at once. So both ends accept what they get (RFC 9293 3.10.7.4, RFC 5961
//! 3.2), each as soon as it speaks; an end that is silent holds nothing up. Where replies do not pass here (`dsr`, `ipip`),
//! only the client is told.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use grayxdp_common::{
    csum::fold,
    ids::{BackendId, ServiceId},
    layout::{BackendEntry, Control, Endpoint, NextHop, SEEN_RST, SEEN_SEVERED, ServiceEntry},
    verdict::Verdict,
};

use crate::{
    clock, count,
    flow::{Found, Place, Side},
    helpers, maps,
    outcome::Outcome,
    packet::Packet,
    parse::{self, Network, Parsed, TCP_ACK, TCP_FIN, TCP_LEN, TCP_RST, TCP_SYN},
    reply,
    rewrite::{self, End},
    route::{self, Departure},
    scratch, source, stages,
};

const HOP_LIMIT: u8 = 64;

/// Where the packet would go on to, rewritten.
#[repr(C)]
pub(crate) struct Onwards {
    /// Of the backend; unused (interface zero) towards clients.
    hop: NextHop,
    source: Endpoint,
    destination: Endpoint,
    /// Non-zero where it may: the other end has not been told yet.
    is_wanted: u64,
}

/// A client's packet of a severed connection.
#[inline(always)]
pub(crate) fn request(
    context: *mut xdp_md,
    control: &'static Control,
    parsed: &Parsed,
    service_id: ServiceId,
    service: &ServiceEntry,
) -> Option<Outcome> {
    let place = Place::of(control, service_id, parsed.source.address, parsed.source.port)?;
    let found = place.find()?;
    let id = found.backend()?;
    let backend = maps::backend(id)?;
    let source = source::endpoint(found.seen.source, found.seen.source_port, parsed.source.protocol);
    let onwards = scratch::onwards()?;
    onwards.hop = backend.next_hop;
    onwards.source = source.unwrap_or(parsed.source);
    onwards.destination = backend.endpoint;
    onwards.is_wanted = u64::from(service.sees_replies() && found.seen.backend & SEEN_SEVERED == 0);
    let outcome = Outcome::from_raw(stages::grayxdp_convert(context));
    Some(finish(outcome, (&place, &found), Side::Client, id).for_service(service_id).for_backend(id))
}

/// A backend's packet of a severed connection.
#[inline(always)]
pub(crate) fn reply(
    context: *mut xdp_md,
    control: &'static Control,
    parsed: &Parsed,
    id: BackendId,
    backend: &'static BackendEntry,
) -> Option<Outcome> {
    let answered = reply::flow_of(control, id, backend, parsed.destination)?;
    let onwards = scratch::onwards()?;
    onwards.hop = NextHop::default();
    onwards.source = answered.service.endpoint;
    onwards.destination = answered.client;
    onwards.is_wanted = u64::from(answered.found.seen.client & SEEN_SEVERED == 0);
    let outcome = Outcome::from_raw(stages::grayxdp_convert(context));
    let outcome = finish(outcome, (&answered.place, &answered.found), Side::Backend, id);
    Some(outcome.for_service(answered.id).for_backend(id))
}

/// Notes who was told.
#[inline(always)]
fn finish(outcome: Outcome, (place, found): (&Place, &Found), sender: Side, id: BackendId) -> Outcome {
    if outcome.verdict_index() == Verdict::AnsweredReset.index() {
        let told = if outcome.is_onwards() { sender.other() } else { sender };
        let was_told = (found.seen.client | found.seen.backend) & SEEN_SEVERED != 0;
        place.mark(found, told, SEEN_RST | SEEN_SEVERED);
        if !was_told {
            count::severed(id);
        }
    }
    outcome
}

/// Makes the packet a RST, to one end or the other.
#[inline(always)]
pub(crate) fn convert(context: &XdpContext, control: &'static Control, onwards: &Onwards) -> Option<Outcome> {
    let segment = Segment::read(context)?;
    let carries_something = segment.sequence_len != 0 || segment.flags & TCP_RST != 0;
    let goes_on = onwards.is_wanted != 0 && carries_something;
    if !goes_on && segment.flags & TCP_RST != 0 {
        return Some(Outcome::of(Verdict::DroppedSevered));
    }
    helpers::move_end(context, -segment.surplus(context))?;
    if goes_on { send_on(context, control, &segment, onwards) } else { send_back(context, &segment) }
}

/// What a RST needs to know of the segment that it replaces.
#[derive(Clone, Copy)]
struct Segment {
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    /// Sequence numbers that it takes: payload, SYN, FIN.
    sequence_len: u32,
    ip_offset: usize,
    tcp_offset: usize,
}

impl Segment {
    #[inline(always)]
    fn read(context: &XdpContext) -> Option<Self> {
        let parsed = scratch::second_parsed()?;
        parse::parse(context, parsed).ok()?;
        if parsed.is_udp() {
            return None;
        }
        let [ip_offset, tcp_offset] = [parsed.ip_offset as usize, parsed.l4_offset as usize];
        let tcp = Packet::new(context).window::<TCP_LEN>(tcp_offset)?;
        let header_len = usize::from(tcp.u8::<12>() >> 4) * 4;
        let end = ip_offset + usize::from(parsed.ip_len);
        let payload_len = end.checked_sub(tcp_offset + header_len)?;
        let flags = parsed.tcp_flags;
        #[expect(clippy::cast_possible_truncation, reason = "a length within a packet")]
        let sequence_len = payload_len as u32 + u32::from(flags & TCP_SYN != 0) + u32::from(flags & TCP_FIN != 0);
        Some(Self {
            flags,
            sequence: u32::from_be(tcp.u32::<4>()),
            acknowledged: u32::from_be(tcp.u32::<8>()),
            sequence_len,
            ip_offset,
            tcp_offset,
        })
    }

    /// Bytes behind a bare TCP header.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "lengths of a frame")]
    fn surplus(&self, context: &XdpContext) -> i32 {
        (Packet::new(context).len() - (self.tcp_offset + TCP_LEN)) as i32
    }
}

/// To the end that the segment was for: as if its sender had sent a RST instead.
#[inline(always)]
fn send_on(context: &XdpContext, control: &Control, segment: &Segment, onwards: &Onwards) -> Option<Outcome> {
    let packet = Packet::new(context);
    let flags = TCP_RST | segment.flags & TCP_ACK;
    let acknowledged = if flags & TCP_ACK != 0 { segment.acknowledged } else { 0 };
    let rst = write(context, segment, segment.sequence, acknowledged, flags)?;
    if rst.hop_limit <= 1 {
        return Some(Outcome::of(Verdict::DroppedHopLimit));
    }
    rewrite::endpoint(packet, rst, End::Source, &onwards.source)?;
    rewrite::endpoint(packet, rst, End::Destination, &onwards.destination)?;
    let departure = Departure {
        source: onwards.source.address,
        destination: onwards.destination.address,
        ip_len: rst.ip_len,
        traffic_class: rst.traffic_class,
        protocol: onwards.destination.protocol,
        now: clock::now(),
    };
    let way = if onwards.hop.interface == 0 {
        route::to_client(context, control, &departure)
    } else {
        route::to_backend(context, control, &onwards.hop, &departure)
    };
    if !way.is_own() {
        // The kernel sends it; it counts as what the kernel was asked to do, and is tried again with the next packet.
        return Some(way.outcome());
    }
    rewrite::hop_limit(packet, rst.ip())?;
    rewrite::macs(packet, way.macs)?;
    let outcome = Outcome::of(Verdict::AnsweredReset).onwards();
    Some(if way.verdict == Verdict::ForwardedOtherInterface { outcome.by(way.interface) } else { outcome })
}

/// To the sender of the segment, as if the other end had sent it (RFC 9293 3.5.2).
#[inline(always)]
fn send_back(context: &XdpContext, segment: &Segment) -> Option<Outcome> {
    let packet = Packet::new(context);
    let has_ack = segment.flags & TCP_ACK != 0;
    let sequence = if has_ack { segment.acknowledged } else { 0 };
    let acknowledged = if has_ack { 0 } else { segment.sequence.wrapping_add(segment.sequence_len) };
    let rst = write(context, segment, sequence, acknowledged, if has_ack { TCP_RST } else { TCP_RST | TCP_ACK })?;
    // Addresses and ports change places, which no checksum notices.
    rewrite::endpoint(packet, rst, End::Source, &rst.destination)?;
    rewrite::endpoint(packet, rst, End::Destination, &rst.source)?;
    rewrite::set_hop_limit(packet, rst.ip(), HOP_LIMIT)?;
    rewrite::swap_macs(packet)?;
    Some(Outcome::of(Verdict::AnsweredReset))
}

/// Makes the packet, whose end has been cut to a bare TCP header, a RST between the same ends.
#[inline(always)]
fn write(
    context: &XdpContext,
    segment: &Segment,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
) -> Option<&'static Parsed> {
    let packet = Packet::new(context);
    let tcp = packet.window::<TCP_LEN>(segment.tcp_offset)?;
    tcp.set_u32::<4>(sequence.to_be());
    tcp.set_u32::<8>(acknowledged.to_be());
    tcp.set_u8::<12>(0x50);
    tcp.set_u8::<13>(flags);
    tcp.set_u32::<14>(0);
    tcp.set_u16::<18>(0);
    shorten(packet, segment)?;
    let parsed = scratch::second_parsed()?;
    parse::parse(context, parsed).ok()?;
    // The pseudo-header (RFC 9293 3.1): addresses, protocol, and the length, which is the bare header's.
    let addresses = match parsed.ip().network(packet)? {
        Network::V4(header) => header.sum_u16::<20>() - header.prefix::<12>().sum_u16::<12>(),
        Network::V6(header) => header.sum_u16::<40>() - header.prefix::<8>().sum_u16::<8>(),
    };
    let pseudo = u64::from(6_u16.to_be()) + u64::from(20_u16.to_be());
    tcp.set_u16::<16>(!fold(tcp.sum_u16::<TCP_LEN>() + addresses + pseudo));
    Some(parsed)
}

/// The IP header's length, after the packet was cut.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of headers")]
fn shorten(packet: Packet, segment: &Segment) -> Option<()> {
    let len = segment.tcp_offset + TCP_LEN - segment.ip_offset;
    let version = packet.window::<1>(segment.ip_offset)?.u8::<0>() >> 4;
    if version == 4 {
        let header = packet.window::<{ parse::IPV4_LEN }>(segment.ip_offset)?;
        rewrite::set_v4_len(header, len as u16);
    } else {
        let header = packet.window::<{ parse::IPV6_LEN }>(segment.ip_offset)?;
        header.set_u16::<4>((len.checked_sub(parse::IPV6_LEN)? as u16).to_be());
    }
    Some(())
}
