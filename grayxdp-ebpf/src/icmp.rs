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
    count,
    encapsulate::{self, Tunnel},
    flow::Place,
    outcome::Outcome,
    packet::{Packet, Window},
    parse::{
        self, ETHERTYPE_IPV4, IPV4_LEN, IPV6_LEN, Network, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP,
    },
    reply, request,
    rewrite::{self, End},
    route::{self, Departure, Way},
    service, source,
};

const ICMP_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;
const ECHO_REPLY: u16 = 0;
const ECHO_REQUEST: u16 = 0x0800_u16.to_be();
const ECHO_REPLY_V6: u16 = 0x8100_u16.to_be();
const ECHO_REQUEST_V6: u16 = 0x8000_u16.to_be();

/// An ICMP message in its IP packet.
#[derive(Clone, Copy)]
struct Message {
    network: Network,
    source: Address,
    destination: Address,
    icmp: Window<ICMP_LEN>,
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
    let Some(message) = read(packet) else { return Outcome::of(Verdict::PassedMalformed) };
    let type_code = message.icmp.u16::<0>();
    let is_v4 = matches!(message.network, Network::V4(_));
    if type_code == if is_v4 { ECHO_REQUEST } else { ECHO_REQUEST_V6 } {
        return echo(control, packet, &message);
    }
    let kind = type_code.to_ne_bytes()[0];
    let is_error = if is_v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    if !is_error {
        return Outcome::of(Verdict::PassedOtherProtocol);
    }
    match quote(packet, &message) {
        Some(quote) => error(context, control, packet, &message, &quote),
        None => Outcome::of(Verdict::PassedIcmpNoFlow),
    }
}

#[inline(always)]
fn read(packet: Packet) -> Option<Message> {
    let (ip_offset, ethertype) = parse::ip_offset(packet)?;
    if ethertype == ETHERTYPE_IPV4 {
        let header = packet.window::<IPV4_LEN>(ip_offset)?;
        let header_len = parse::v4_header_len(packet, header, ip_offset)?;
        let ip_len = u16::from_be(header.u16::<2>());
        let icmp = packet.window::<ICMP_LEN>(ip_offset + header_len)?;
        let is_whole = header.u16::<6>() & 0x3fff_u16.to_be() == 0 && usize::from(ip_len) >= header_len + ICMP_LEN;
        return is_whole.then_some(Message {
            network: Network::V4(header),
            source: Address::from_v4_wire(header.u32::<12>()),
            destination: Address::from_v4_wire(header.u32::<16>()),
            icmp,
            body: ip_offset + header_len + ICMP_LEN,
            end: ip_offset + usize::from(ip_len),
            hop_limit: header.u8::<8>(),
            ip_len,
        });
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
    is_right.then_some(Message {
        network: Network::V6(header),
        source,
        destination,
        icmp,
        body: ip_offset + IPV6_LEN + ICMP_LEN,
        end: ip_offset + IPV6_LEN + usize::from(payload_len),
        hop_limit: header.u8::<7>(),
        ip_len: payload_len.wrapping_add(40),
    })
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
    rewrite::address(message.network, End::Source, &message.source, &message.destination);
    rewrite::address(message.network, End::Destination, &message.destination, &message.source);
    let [old, new] = match message.network {
        Network::V4(_) => [ECHO_REQUEST, ECHO_REPLY],
        Network::V6(_) => [ECHO_REQUEST_V6, ECHO_REPLY_V6],
    };
    message.icmp.set_u16::<0>(new);
    message.icmp.set_u16::<2>(ChecksumDelta::ZERO.half(old, new).apply(message.icmp.u16::<2>()));
    rewrite::set_hop_limit(message.network, HOP_LIMIT);
    match rewrite::swap_macs(packet) {
        Some(()) => Outcome::of(Verdict::AnsweredEcho),
        None => Outcome::of(Verdict::DroppedRewriteFailed),
    }
}

/// The packet that an error quotes: its IP header and at least 8 bytes behind.
#[derive(Clone, Copy)]
struct Quote {
    network: Network,
    transport: Window<8>,
    /// TCP's checksum, where the quote reaches that far.
    tcp_checksum: Option<Window<18>>,
    source: Endpoint,
    destination: Endpoint,
}

#[inline(always)]
fn quote(packet: Packet, message: &Message) -> Option<Quote> {
    let (network, addresses, protocol, offset) = match message.network {
        Network::V4(_) => {
            let header = packet.window::<IPV4_LEN>(message.body)?;
            let header_len = usize::from(header.u8::<0>() & 0x0f) * 4;
            let is_right = header.u8::<0>() >> 4 == 4
                && header_len >= IPV4_LEN
                && header.u16::<6>() & 0x1fff_u16.to_be() == 0;
            if !is_right {
                return None;
            }
            let addresses = [Address::from_v4_wire(header.u32::<12>()), Address::from_v4_wire(header.u32::<16>())];
            (Network::V4(header), addresses, header.u8::<9>(), message.body + header_len)
        }
        Network::V6(_) => {
            let header = packet.window::<IPV6_LEN>(message.body)?;
            let addresses = parse::v6_addresses(header);
            if header.u8::<0>() >> 4 != 6 || addresses[0].is_v4() || addresses[1].is_v4() {
                return None;
            }
            (Network::V6(header), addresses, header.u8::<6>(), message.body + IPV6_LEN)
        }
    };
    if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP) || offset + 8 > message.end {
        return None;
    }
    let transport = packet.window::<8>(offset)?;
    let reaches_checksum = protocol == PROTOCOL_TCP && offset + 18 <= message.end;
    let tcp_checksum = if reaches_checksum { packet.window::<18>(offset) } else { None };
    let [source, destination] = addresses;
    Some(Quote {
        network,
        transport,
        tcp_checksum,
        source: Endpoint::new(source, Be16::from_wire(transport.u16::<0>()), protocol),
        destination: Endpoint::new(destination, Be16::from_wire(transport.u16::<2>()), protocol),
    })
}

#[inline(always)]
fn error(
    context: &XdpContext,
    control: &'static Control,
    packet: Packet,
    message: &Message,
    quote: &Quote,
) -> Outcome {
    if let Some((id, service)) = service::service_at(control, quote.source) {
        return match to_backend(context, control, packet, message, quote, id, service) {
            Ok((way, backend)) => way.outcome().for_service(id).for_backend(backend),
            Err(verdict) => Outcome::of(verdict).for_service(id),
        };
    }
    let Some((id, backend)) = service::backend_at(control, quote.destination) else {
        return Outcome::of(Verdict::PassedIcmpNoFlow);
    };
    match to_client(context, control, packet, message, quote, (id, backend)) {
        Ok((way, service)) => way.outcome().for_service(service).for_backend(id),
        Err(verdict) => Outcome::of(verdict).for_backend(id),
    }
}

/// About a packet that a service sent: to the backend that did.
#[inline(always)]
fn to_backend(
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
    if message.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let client = quote.destination;
    let place = Place::of(control, id, client.address, client.port).ok_or(Verdict::PassedIcmpNoFlow)?;
    let found = place.find();
    let (backend_id, backend) = match found.and_then(|found| known(found.backend()?, service)) {
        Some(known) => known,
        None => {
            let newcomer =
                Newcomer { client: client.address, client_port: client.port, dscp: 0, is_beginning: false };
            let choice = choose::backend_for_new_flow(service, newcomer)?;
            (choice.id, choice.backend)
        }
    };
    let is_wrapped = service.mode == MODE_IPIP;
    let overhead = if is_wrapped { encapsulate::overhead(&backend.endpoint.address) } else { 0 };
    let departure = departure(message, message.source, backend.endpoint.address, overhead);
    let way = route::to_backend(context, &backend.next_hop, &departure).passable()?;
    if service.mode == MODE_DSR && !way.is_own() {
        return Err(route::too_far(way.verdict));
    }
    if service.mode == MODE_NAT || service.mode == MODE_FULL_NAT {
        let mut delta = requote(quote, End::Source, &quote.source, &backend.endpoint);
        if service.mode == MODE_FULL_NAT {
            let found = found.ok_or(Verdict::PassedIcmpNoFlow)?;
            let source = source::endpoint(found.seen.source, found.seen.source_port, quote.source.protocol);
            let source = source.ok_or(Verdict::PassedIcmpNoFlow)?;
            delta = delta.and(requote(quote, End::Destination, &quote.destination, &source));
        }
        readdress(message, End::Destination, &message.destination, &backend.endpoint.address, delta);
    }
    depart(context, packet, message, &way, is_wrapped.then(|| {
        Tunnel::new(service, &backend.endpoint.address, place.entropy(), &way)
    }))?;
    Ok((way, backend_id))
}

#[inline(always)]
fn known(id: BackendId, service: &ServiceEntry) -> Option<(BackendId, &'static BackendEntry)> {
    let backend = crate::maps::backend(id)?;
    (backend.service == service.pools).then_some((id, backend))
}

/// About a packet that a client sent, from a backend or a host on the way to it: to the client.
#[inline(always)]
fn to_client(
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
    if message.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let vip = answered.service.endpoint;
    let is_from_backend = message.source.is(&backend.endpoint.address);
    let source = if is_from_backend { vip.address } else { message.source };
    let departure = departure(message, source, answered.client.address, 0);
    let way = route::to_client(context, control, &departure).passable()?;
    let mut delta = requote(quote, End::Destination, &quote.destination, &vip);
    if answered.service.mode == MODE_FULL_NAT {
        delta = delta.and(requote(quote, End::Source, &quote.source, &answered.client));
        readdress(message, End::Destination, &message.destination, &answered.client.address, ChecksumDelta::ZERO);
    }
    readdress(message, End::Source, &message.source, &source, delta);
    count::icmp_error(id);
    depart(context, packet, message, &way, None)?;
    Ok((way, answered.id))
}

#[inline(always)]
fn departure(message: &Message, source: Address, destination: Address, overhead: u16) -> Departure {
    Departure {
        source,
        destination,
        ip_len: message.ip_len.saturating_add(overhead),
        traffic_class: parse::traffic_class(message.network),
        protocol: if destination.is_v4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 },
    }
}

/// Gives one end of the quoted packet another address and port, its checksums included. Returns what the message's own
/// checksum, which covers the quote, changes by.
#[inline(always)]
fn requote(quote: &Quote, end: End, old: &Endpoint, new: &Endpoint) -> ChecksumDelta {
    let mut covered = ChecksumDelta::ZERO;
    let addresses = match quote.network {
        Network::V4(header) => {
            let before = header.u16::<10>();
            let delta = rewrite::address(quote.network, end, &old.address, &new.address);
            covered = covered.half(before, header.u16::<10>());
            delta
        }
        Network::V6(_) => rewrite::address(quote.network, end, &old.address, &new.address),
    };
    let ports = ChecksumDelta::ZERO.half(old.port.to_wire(), new.port.to_wire());
    match end {
        End::Source => quote.transport.set_u16::<0>(new.port.to_wire()),
        End::Destination => quote.transport.set_u16::<2>(new.port.to_wire()),
    }
    covered = covered.and(addresses).and(ports);
    let delta = addresses.and(ports);
    if old.protocol == PROTOCOL_UDP {
        let before = quote.transport.u16::<6>();
        let after = rewrite::udp_checksum(before, delta);
        quote.transport.set_u16::<6>(after);
        covered = covered.half(before, after);
    } else if let Some(tcp) = quote.tcp_checksum {
        let before = tcp.u16::<16>();
        let after = delta.apply(before);
        tcp.set_u16::<16>(after);
        covered = covered.half(before, after);
    }
    covered
}

/// Gives one end of the message another address, and mends its checksum for that (ICMPv6 has a pseudo-header) and for
/// what has changed in the quote.
#[inline(always)]
fn readdress(message: &Message, end: End, old: &Address, new: &Address, quoted: ChecksumDelta) {
    let addresses = rewrite::address(message.network, end, old, new);
    let delta = match message.network {
        Network::V4(_) => quoted,
        Network::V6(_) => quoted.and(addresses),
    };
    message.icmp.set_u16::<2>(delta.apply(message.icmp.u16::<2>()));
}

#[inline(always)]
fn depart(
    context: &XdpContext,
    packet: Packet,
    message: &Message,
    way: &Way,
    tunnel: Option<Tunnel>,
) -> Result<(), Verdict> {
    if let Some(tunnel) = tunnel {
        rewrite::hop_limit(message.network);
        encapsulate::wrap(context, &tunnel)
    } else if way.is_own() {
        rewrite::hop_limit(message.network);
        rewrite::macs(packet, way.macs).ok_or(Verdict::DroppedRewriteFailed)
    } else {
        Ok(())
    }
}
