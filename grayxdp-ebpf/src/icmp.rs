//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo requests to a VIP are answered; errors about a flow are translated, and
//! delivered to the end that sent the packet which they quote.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    csum::ChecksumDelta,
    ids::{BackendId, Be16, ServiceId},
    layout::{Address, BackendEntry, Control, Endpoint, MODE_DSR, MODE_FULL_NAT, MODE_IPIP, MODE_NAT, ServiceEntry},
    verdict::Verdict,
};

use crate::{
    choose::{self, Newcomer},
    clock, count, encapsulate,
    flow::Place,
    outcome::{Outcome, next},
    packet::{Packet, Window},
    parse::{
        self, ETHERTYPE_IPV4, IPV4_LEN, IPV6_LEN, IpHeader, Network, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP,
        PROTOCOL_UDP,
    },
    reply, request,
    rewrite::{self, End},
    route::{self, Departure, Way},
    scratch, service, signals, source,
};

const ICMP_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;
const ECHO_REPLY: u16 = 0;
const ECHO_REQUEST: u16 = 0x0800_u16.to_be();
const ECHO_REPLY_V6: u16 = 0x8100_u16.to_be();
const ECHO_REQUEST_V6: u16 = 0x8000_u16.to_be();

/// An ICMP message in its IP packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Message {
    ip: IpHeader,
    traffic_class: u8,
    type_code: u16,
    source: Address,
    destination: Address,
    /// Where the message's body begins.
    body: usize,
    /// Where the IP packet ends.
    end: usize,
    hop_limit: u8,
    ip_len: u16,
}

#[inline(always)]
pub(crate) fn process(context: &XdpContext, control: &'static Control) -> Outcome {
    let packet = Packet::new(context);
    let Some(message) = scratch::message() else { return Outcome::of(Verdict::PassedMalformed) };
    if read(packet, message).is_none() {
        return Outcome::of(Verdict::PassedMalformed);
    }
    let (type_code, is_v4) = (message.type_code, message.ip.is_v4);
    if type_code == if is_v4 { ECHO_REQUEST } else { ECHO_REQUEST_V6 } {
        return echo(control, packet, message);
    }
    let kind = type_code.to_ne_bytes()[0];
    let is_error = if is_v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    if !is_error {
        return Outcome::of(Verdict::PassedOtherProtocol);
    }
    let Some(quoted) = scratch::quote() else { return Outcome::of(Verdict::PassedIcmpNoFlow) };
    if quote(packet, message, quoted).is_none() {
        return Outcome::of(Verdict::PassedIcmpNoFlow);
    }
    if service::service_at(control, quoted.source).is_some() {
        Outcome::from_raw(next::TO_BACKEND)
    } else if service::backend_at(control, quoted.destination).is_some() {
        Outcome::from_raw(next::TO_CLIENT)
    } else {
        Outcome::of(Verdict::PassedIcmpNoFlow)
    }
}

/// An error about a packet that a service sent: to the backend that did.
#[inline(always)]
pub(crate) fn to_backend(context: &XdpContext, control: &'static Control) -> Outcome {
    let packet = Packet::new(context);
    let Some((message, quote)) = read_error(packet) else { return Outcome::of(Verdict::PassedIcmpNoFlow) };
    let Some((id, service)) = service::service_at(control, quote.source) else {
        return Outcome::of(Verdict::PassedIcmpNoFlow);
    };
    match send_to_backend(context, control, packet, message, quote, id, service) {
        Ok((way, backend)) => {
            let outcome = way.outcome().for_service(id).for_backend(backend);
            if service.mode == MODE_IPIP { outcome.wrapped() } else { outcome }
        }
        Err(verdict) => Outcome::of(verdict).for_service(id),
    }
}

/// An error about a packet that a client sent, from a backend or a host on the way to it: to the client.
#[inline(always)]
pub(crate) fn to_client(context: &XdpContext, control: &'static Control) -> Outcome {
    let packet = Packet::new(context);
    let Some((message, quote)) = read_error(packet) else { return Outcome::of(Verdict::PassedIcmpNoFlow) };
    let Some((id, backend)) = service::backend_at(control, quote.destination) else {
        return Outcome::of(Verdict::PassedIcmpNoFlow);
    };
    match send_to_client(context, control, packet, message, quote, (id, backend)) {
        Ok((way, service)) => way.outcome().for_service(service).for_backend(id),
        Err(verdict) => Outcome::of(verdict).for_backend(id),
    }
}

#[inline(always)]
fn read_error(packet: Packet) -> Option<(&'static Message, &'static Quote)> {
    let message = scratch::message()?;
    read(packet, message)?;
    let quoted = scratch::quote()?;
    quote(packet, message, quoted)?;
    Some((message, quoted))
}

#[inline(always)]
fn read(packet: Packet, message: &mut Message) -> Option<()> {
    let (ip_offset, ethertype) = parse::ip_offset(packet)?;
    if ethertype == ETHERTYPE_IPV4 {
        let header = packet.window::<IPV4_LEN>(ip_offset)?;
        let header_len = parse::v4_header_len(packet, header, ip_offset)?;
        let ip_len = u16::from_be(header.u16::<2>());
        let icmp = packet.window::<ICMP_LEN>(ip_offset + header_len)?;
        let is_whole = header.u16::<6>() & 0x3fff_u16.to_be() == 0 && usize::from(ip_len) >= header_len + ICMP_LEN;
        if !is_whole {
            return None;
        }
        *message = Message {
            ip: IpHeader { offset: ip_offset, is_v4: true },
            traffic_class: header.u8::<1>(),
            type_code: icmp.u16::<0>(),
            source: Address::from_v4_wire(header.u32::<12>()),
            destination: Address::from_v4_wire(header.u32::<16>()),
            body: ip_offset + header_len + ICMP_LEN,
            end: ip_offset + usize::from(ip_len),
            hop_limit: header.u8::<8>(),
            ip_len,
        };
        return Some(());
    }
    let header = packet.window::<IPV6_LEN>(ip_offset)?;
    let [source, destination] = parse::v6_addresses(header);
    let payload_len = u16::from_be(header.u16::<4>());
    let icmp = packet.window::<ICMP_LEN>(ip_offset + IPV6_LEN)?;
    // Extension headers in front of ICMPv6 are rare, and passed to the kernel.
    let is_right = header.u8::<6>() == PROTOCOL_ICMPV6
        && usize::from(payload_len) >= ICMP_LEN
        && !source.is_v4()
        && !destination.is_v4();
    if !is_right {
        return None;
    }
    *message = Message {
        ip: IpHeader { offset: ip_offset, is_v4: false },
        traffic_class: parse::traffic_class(Network::V6(header)),
        type_code: icmp.u16::<0>(),
        source,
        destination,
        body: ip_offset + IPV6_LEN + ICMP_LEN,
        end: ip_offset + IPV6_LEN + usize::from(payload_len),
        hop_limit: header.u8::<7>(),
        ip_len: payload_len.wrapping_add(40),
    };
    Some(())
}

/// Answered in place: addresses change places, which no checksum notices; type and hop limit change.
#[inline(always)]
fn echo(control: &Control, packet: Packet, message: &Message) -> Outcome {
    if !service::is_vip(control, message.destination) {
        return Outcome::of(Verdict::PassedOtherProtocol);
    }
    if message.source.is(&message.destination) {
        return Outcome::of(Verdict::DroppedLandAttack);
    }
    if request::is_martian(&message.source) {
        return Outcome::of(Verdict::DroppedMartianSource);
    }
    let outcome = if answer(packet, message).is_some() { Verdict::AnsweredEcho } else { Verdict::DroppedRewriteFailed };
    Outcome::of(outcome)
}

#[inline(always)]
fn answer(packet: Packet, message: &Message) -> Option<()> {
    rewrite::address(packet, message.ip, End::Source, &message.source, &message.destination)?;
    rewrite::address(packet, message.ip, End::Destination, &message.destination, &message.source)?;
    let [old, new] = if message.ip.is_v4 { [ECHO_REQUEST, ECHO_REPLY] } else { [ECHO_REQUEST_V6, ECHO_REPLY_V6] };
    let icmp = message.icmp(packet)?;
    icmp.set_u16::<0>(new);
    icmp.set_u16::<2>(ChecksumDelta::ZERO.half(old, new).apply(icmp.u16::<2>()));
    rewrite::set_hop_limit(packet, message.ip, HOP_LIMIT)?;
    rewrite::swap_macs(packet)
}

impl Message {
    /// Whether it says that packets do not arrive, and not that they should be smaller.
    #[inline(always)]
    fn is_unreachable(&self) -> bool {
        let [kind, code] = self.type_code.to_ne_bytes();
        if self.ip.is_v4 { kind == 3 && code != 4 } else { kind == 1 }
    }

    #[inline(always)]
    fn icmp(&self, packet: Packet) -> Option<Window<ICMP_LEN>> {
        packet.window(self.body - ICMP_LEN)
    }
}

/// The packet that an error quotes: its IP header and at least 8 bytes behind.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Quote {
    ip: IpHeader,
    /// Where its transport header begins.
    transport: usize,
    /// Whether it reaches as far as TCP's checksum.
    has_tcp_checksum: bool,
    source: Endpoint,
    destination: Endpoint,
}

#[inline(always)]
fn quote(packet: Packet, message: &Message, quote: &mut Quote) -> Option<()> {
    let (addresses, protocol, offset) = match message.ip.is_v4 {
        true => {
            let header = packet.window::<IPV4_LEN>(message.body)?;
            let header_len = usize::from(header.u8::<0>() & 0x0f) * 4;
            let is_right =
                header.u8::<0>() >> 4 == 4 && header_len >= IPV4_LEN && header.u16::<6>() & 0x1fff_u16.to_be() == 0;
            if !is_right {
                return None;
            }
            let addresses = [Address::from_v4_wire(header.u32::<12>()), Address::from_v4_wire(header.u32::<16>())];
            (addresses, header.u8::<9>(), message.body + header_len)
        }
        false => {
            let header = packet.window::<IPV6_LEN>(message.body)?;
            let addresses = parse::v6_addresses(header);
            if header.u8::<0>() >> 4 != 6 || addresses[0].is_v4() || addresses[1].is_v4() {
                return None;
            }
            (addresses, header.u8::<6>(), message.body + IPV6_LEN)
        }
    };
    if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP) || offset + 8 > message.end {
        return None;
    }
    let transport = packet.window::<8>(offset)?;
    let [source, destination] = addresses;
    *quote = Quote {
        ip: IpHeader { offset: message.body, is_v4: message.ip.is_v4 },
        transport: offset,
        has_tcp_checksum: protocol == PROTOCOL_TCP && offset + 18 <= message.end,
        source: Endpoint::new(source, Be16::from_wire(transport.u16::<0>()), protocol),
        destination: Endpoint::new(destination, Be16::from_wire(transport.u16::<2>()), protocol),
    };
    Some(())
}

#[inline(always)]
fn send_to_backend(
    context: &XdpContext,
    control: &'static Control,
    packet: Packet,
    message: &Message,
    quote: &Quote,
    id: ServiceId,
    service: &ServiceEntry,
) -> Result<(Way, BackendId), Verdict> {
    // An error that is not addressed to the VIP cannot be about what the VIP sent.
    if !message.destination.is(&service.endpoint.address) {
        return Err(Verdict::PassedIcmpNoFlow);
    }
    if request::is_martian(&message.source) {
        return Err(Verdict::DroppedMartianSource);
    }
    if message.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let client = quote.destination;
    let place = Place::of(control, id, client.address, client.port).ok_or(Verdict::PassedIcmpNoFlow)?;
    let found = place.find();
    if service.mode == MODE_FULL_NAT {
        // Before anything is changed: a message without a source to translate to is passed as it came.
        let found = found.ok_or(Verdict::PassedIcmpNoFlow)?;
        let source = source::endpoint(found.seen.source, found.seen.source_port, quote.source.protocol);
        let (Some(source), Some(kept)) = (source, scratch::source()) else { return Err(Verdict::PassedIcmpNoFlow) };
        *kept = source;
    }
    let (backend_id, backend) = match found.and_then(|found| known(found.backend()?, service)) {
        Some(known) => known,
        None => {
            let newcomer = Newcomer { client: client.address, client_port: client.port, dscp: 0, is_beginning: false };
            let choice = choose::backend_for_new_flow(service, newcomer)?;
            (choice.id, choice.backend)
        }
    };
    let is_wrapped = service.mode == MODE_IPIP;
    let overhead = if is_wrapped { encapsulate::overhead(&backend.endpoint.address) } else { 0 };
    let departure = departure(message, message.source, backend.endpoint.address, overhead);
    let way = route::to_backend(context, control, &backend.next_hop, &departure).passable()?;
    if service.mode == MODE_DSR && !way.is_own() {
        return Err(route::too_far(way.verdict));
    }
    if service.mode == MODE_NAT || service.mode == MODE_FULL_NAT {
        let mut delta = requote(packet, quote, End::Source, &quote.source, &backend.endpoint)?;
        if service.mode == MODE_FULL_NAT {
            let source = scratch::source().ok_or(Verdict::DroppedRewriteFailed)?;
            delta = delta.and(requote(packet, quote, End::Destination, &quote.destination, source)?);
        }
        readdress(packet, message, End::Destination, &message.destination, &backend.endpoint.address, delta)?;
    }
    if is_wrapped {
        let plan = encapsulate::plan(service, &backend.endpoint.address, encapsulate::entropy(&client), &way);
        plan.ok_or(Verdict::DroppedRewriteFailed)?;
    }
    depart(packet, message, &way, is_wrapped).ok_or(Verdict::DroppedRewriteFailed)?;
    Ok((way, backend_id))
}

#[inline(always)]
fn known(id: BackendId, service: &ServiceEntry) -> Option<(BackendId, &'static BackendEntry)> {
    let backend = crate::maps::backend(id)?;
    (backend.service == service.pools).then_some((id, backend))
}

#[inline(always)]
fn send_to_client(
    context: &XdpContext,
    control: &'static Control,
    packet: Packet,
    message: &Message,
    quote: &Quote,
    (id, backend): (BackendId, &'static BackendEntry),
) -> Result<(Way, ServiceId), Verdict> {
    let answered = reply::flow_of(control, id, backend, quote.source).ok_or(Verdict::PassedIcmpNoFlow)?;
    if !message.destination.is(&quote.source.address) {
        return Err(Verdict::PassedIcmpNoFlow);
    }
    if request::is_martian(&message.source) {
        return Err(Verdict::DroppedMartianSource);
    }
    if message.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let vip = answered.service.endpoint;
    let is_from_backend = message.source.is(&backend.endpoint.address);
    let source = if is_from_backend { vip.address } else { message.source };
    let departure = departure(message, source, answered.client.address, 0);
    let way = route::to_client(context, control, &departure).passable()?;
    let mut delta = requote(packet, quote, End::Destination, &quote.destination, &vip)?;
    if answered.service.mode == MODE_FULL_NAT {
        delta = delta.and(requote(packet, quote, End::Source, &quote.source, &answered.client)?);
        let client = &answered.client.address;
        readdress(packet, message, End::Destination, &message.destination, client, ChecksumDelta::ZERO)?;
    }
    readdress(packet, message, End::Source, &message.source, &source, delta)?;
    count::icmp_error(id);
    if message.is_unreachable() {
        signals::hear_unreachable(answered.service, &answered.found, id);
    }
    depart(packet, message, &way, false).ok_or(Verdict::DroppedRewriteFailed)?;
    Ok((way, answered.id))
}

#[inline(always)]
fn departure(message: &Message, source: Address, destination: Address, overhead: u16) -> Departure {
    Departure {
        source,
        destination,
        ip_len: message.ip_len.saturating_add(overhead),
        traffic_class: message.traffic_class,
        protocol: if destination.is_v4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 },
        now: clock::now(),
    }
}

/// Gives one end of the quoted packet another address and port, its checksums included. Returns what the message's own
/// checksum, which covers the quote, changes by.
#[inline(always)]
fn requote(packet: Packet, quote: &Quote, end: End, old: &Endpoint, new: &Endpoint) -> Result<ChecksumDelta, Verdict> {
    try_requote(packet, quote, end, old, new).ok_or(Verdict::DroppedRewriteFailed)
}

#[inline(always)]
fn try_requote(packet: Packet, quote: &Quote, end: End, old: &Endpoint, new: &Endpoint) -> Option<ChecksumDelta> {
    let before = v4_checksum(packet, quote)?;
    let addresses = rewrite::address(packet, quote.ip, end, &old.address, &new.address)?;
    let mut covered = ChecksumDelta::ZERO.half(before, v4_checksum(packet, quote)?);
    let ports = ChecksumDelta::ZERO.half(old.port.to_wire(), new.port.to_wire());
    let transport = packet.window::<8>(quote.transport)?;
    match end {
        End::Source => transport.set_u16::<0>(new.port.to_wire()),
        End::Destination => transport.set_u16::<2>(new.port.to_wire()),
    }
    covered = covered.and(addresses).and(ports);
    let delta = addresses.and(ports);
    if old.protocol == PROTOCOL_UDP {
        let before = transport.u16::<6>();
        let after = rewrite::udp_checksum(before, delta);
        transport.set_u16::<6>(after);
        covered = covered.half(before, after);
    } else if quote.has_tcp_checksum {
        let tcp = packet.window::<18>(quote.transport)?;
        let before = tcp.u16::<16>();
        let after = delta.apply(before);
        tcp.set_u16::<16>(after);
        covered = covered.half(before, after);
    }
    Some(covered)
}

/// The quoted IPv4 header's checksum; zero where it is none.
#[inline(always)]
fn v4_checksum(packet: Packet, quote: &Quote) -> Option<u16> {
    if quote.ip.is_v4 { Some(packet.window::<IPV4_LEN>(quote.ip.offset)?.u16::<10>()) } else { Some(0) }
}

/// Gives one end of the message another address, and mends its checksum for that (ICMPv6 has a pseudo-header) and for
/// what has changed in the quote.
#[inline(always)]
fn readdress(
    packet: Packet,
    message: &Message,
    end: End,
    old: &Address,
    new: &Address,
    quoted: ChecksumDelta,
) -> Result<(), Verdict> {
    let addresses = rewrite::address(packet, message.ip, end, old, new).ok_or(Verdict::DroppedRewriteFailed)?;
    let delta = if message.ip.is_v4 { quoted } else { quoted.and(addresses) };
    let icmp = message.icmp(packet).ok_or(Verdict::DroppedRewriteFailed)?;
    icmp.set_u16::<2>(delta.apply(icmp.u16::<2>()));
    Ok(())
}

#[inline(always)]
fn depart(packet: Packet, message: &Message, way: &Way, is_wrapped: bool) -> Option<()> {
    if is_wrapped || way.is_own() {
        rewrite::hop_limit(packet, message.ip)?;
    }
    if way.is_own() && !is_wrapped { rewrite::macs(packet, way.macs) } else { Some(()) }
}
