//! The short way of most packets: no tag, option, extension header or fragment, of a flow that is known and goes on as it
//! did, or of one that begins at a service without networks, to a next hop that is known, in mode `nat`, `dsr` or `ipip`;
//! and of what concerns nobody.
//!
//! It decides as the pipeline does (`lib.rs`) or leaves the packet, untouched, to it: every check comes before the first
//! change. What it spares is a parsed packet in memory, entries that are looked up again by each stage, and calls between
//! them, whose returns the mitigations of some processors make dear (`srso`, about 7 ns each on Zen 3).

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    csum::ChecksumDelta,
    ids::{BackendId, Be16, ServiceId},
    layout::{
        Address, BackendEntry, Control, Endpoint, FLOW_SEVER, MODE_FULL_NAT, MODE_IPIP, MODE_NAT, NO_SERVICE,
        SERVICE_SIGNALS, ServiceEntry,
    },
    verdict::Verdict,
};

use crate::{
    choose::{self, Placed},
    clock,
    count::{self, Meeting, Passage},
    encapsulate,
    flow::{self, Found, Place, Side},
    heard::{self, Heard},
    maps,
    outcome::{Outcome, next},
    packet::{Packet, Window},
    parse::{
        self, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP, Step,
        TCP_ACK, TCP_LEN, UDP_LEN,
    },
    request,
    rewrite::{self, End},
    route::{self, Way},
    service,
    signals::{self, Former, Spoken},
};

/// Ethernet, IPv4 without options, TCP without options; a UDP packet is that long with Ethernet's padding.
const HEAD_V4: usize = ETHERNET_LEN + IPV4_LEN + TCP_LEN;
/// The same with IPv6.
const HEAD_V6: usize = ETHERNET_LEN + IPV6_LEN + TCP_LEN;
const L4_V4: usize = ETHERNET_LEN + IPV4_LEN;
const L4_V6: usize = ETHERNET_LEN + IPV6_LEN;
/// More fragments, or not the first.
const IPV4_FRAGMENT: u16 = 0x3fff_u16.to_be();

/// What is looked at of a packet.
struct Head {
    source: Endpoint,
    destination: Endpoint,
    ip_len: u16,
    hop_limit: u8,
    /// Of UDP, those of a segment.
    tcp_flags: u8,
    /// Behind the transport header.
    payload_len: u16,
    /// Of a TCP segment that advertises no room.
    has_zero_window: bool,
}

/// What is looked at of a transport header.
struct L4 {
    tcp_flags: u8,
    payload_len: u16,
    has_zero_window: bool,
}

/// Where a client's packet goes, and how it came to go there.
type Target = (BackendId, &'static BackendEntry, Passage);

/// What becomes of a packet, as an [`Outcome`]; [`next::SLOW`] for one that was left alone.
#[inline(always)]
pub(crate) fn process(context: &XdpContext, control: &'static Control) -> u64 {
    let packet = Packet::new(context);
    let Some(ethernet) = packet.window::<ETHERNET_LEN>(0) else { return next::SLOW };
    match ethernet.u16::<12>() {
        ETHERTYPE_IPV4 => match packet.window::<HEAD_V4>(0).and_then(|head| head_v4(packet, head)) {
            Some(head) => decide::<true>(context, control, &head).unwrap_or(next::SLOW),
            None => next::SLOW,
        },
        ETHERTYPE_IPV6 => match packet.window::<HEAD_V6>(0).and_then(|head| head_v6(packet, head)) {
            Some(head) => decide::<false>(context, control, &head).unwrap_or(next::SLOW),
            None => next::SLOW,
        },
        _ => next::SLOW,
    }
}

#[inline(always)]
fn head_v4(packet: Packet, head: Window<HEAD_V4>) -> Option<Head> {
    let ip_len = u16::from_be(head.u16::<16>());
    let is_whole = ETHERNET_LEN + usize::from(ip_len) <= packet.len();
    if head.u8::<14>() != 0x45 || head.u16::<20>() & IPV4_FRAGMENT != 0 || !is_whole {
        return None;
    }
    let protocol = head.u8::<23>();
    let l4_len = usize::from(ip_len).checked_sub(IPV4_LEN)?;
    let l4 = l4(protocol, l4_len, head.u8::<46>(), head.u16::<38>(), (head.u8::<47>(), head.u16::<48>()))?;
    Some(Head {
        source: Endpoint::new(Address::from_v4_wire(head.u32::<26>()), Be16::from_wire(head.u16::<34>()), protocol),
        destination: Endpoint::new(
            Address::from_v4_wire(head.u32::<30>()),
            Be16::from_wire(head.u16::<36>()),
            protocol,
        ),
        ip_len,
        hop_limit: head.u8::<22>(),
        tcp_flags: l4.tcp_flags,
        payload_len: l4.payload_len,
        has_zero_window: l4.has_zero_window,
    })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the packet is far shorter than 2^16 - 40 bytes")]
fn head_v6(packet: Packet, head: Window<HEAD_V6>) -> Option<Head> {
    let l4_len = usize::from(u16::from_be(head.u16::<18>()));
    if head.u8::<14>() >> 4 != 6 || L4_V6 + l4_len > packet.len() {
        return None;
    }
    let protocol = head.u8::<20>();
    let l4 = l4(protocol, l4_len, head.u8::<66>(), head.u16::<58>(), (head.u8::<67>(), head.u16::<68>()))?;
    let source = Address::from_v6_wire([head.u32::<22>(), head.u32::<26>(), head.u32::<30>(), head.u32::<34>()]);
    let destination = Address::from_v6_wire([head.u32::<38>(), head.u32::<42>(), head.u32::<46>(), head.u32::<50>()]);
    if source.is_v4() || destination.is_v4() {
        return None;
    }
    Some(Head {
        source: Endpoint::new(source, Be16::from_wire(head.u16::<54>()), protocol),
        destination: Endpoint::new(destination, Be16::from_wire(head.u16::<56>()), protocol),
        ip_len: (IPV6_LEN + l4_len) as u16,
        hop_limit: head.u8::<21>(),
        tcp_flags: l4.tcp_flags,
        payload_len: l4.payload_len,
        has_zero_window: l4.has_zero_window,
    })
}

/// The transport header, where it is right.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "lengths within a packet")]
fn l4(protocol: u8, l4_len: usize, data_offset: u8, udp_len: u16, (tcp_flags, window): (u8, u16)) -> Option<L4> {
    if protocol == PROTOCOL_TCP {
        let header_len = usize::from(data_offset >> 4) * 4;
        let payload_len = l4_len.wrapping_sub(header_len) as u16;
        let is_right = header_len >= TCP_LEN && header_len <= l4_len;
        return is_right.then_some(L4 { tcp_flags, payload_len, has_zero_window: window == 0 });
    }
    let datagram_len = usize::from(u16::from_be(udp_len));
    let is_right = protocol == PROTOCOL_UDP && datagram_len >= UDP_LEN && datagram_len <= l4_len;
    let payload_len = datagram_len.wrapping_sub(UDP_LEN) as u16;
    is_right.then_some(L4 { tcp_flags: TCP_ACK, payload_len, has_zero_window: false })
}

#[inline(always)]
fn decide<const IS_V4: bool>(context: &XdpContext, control: &'static Control, head: &Head) -> Option<u64> {
    if let Some((id, service)) = service::service_at(control, head.destination) {
        return request::<IS_V4>(context, control, head, id, service);
    }
    match service::backend_at(control, head.source) {
        Some((id, backend)) => reply::<IS_V4>(context, control, head, id, backend),
        None => Some(Outcome::of(Verdict::PassedNoService).raw()),
    }
}

#[inline(always)]
fn request<const IS_V4: bool>(
    context: &XdpContext,
    control: &'static Control,
    head: &Head,
    id: ServiceId,
    service: &'static ServiceEntry,
) -> Option<u64> {
    if service.mode == MODE_FULL_NAT
        || head.hop_limit <= 1
        || parse::are_impossible(head.tcp_flags)
        || request::is_martian(&head.source.address)
        || head.source.is(&service.endpoint)
    {
        return None;
    }
    let place = Place::at(control, id, (head.source.address, head.source.port), clock::cached_now())?;
    let met = place.find_here();
    let (backend_id, backend, passage) = match &met {
        Some(found) => known(&place, found, head, service)?,
        None => {
            // Its memory, should it be far, comes while the backend is chosen.
            if service.flags & SERVICE_SIGNALS != 0 {
                place.fetch_times();
            }
            begin(head, service)?
        }
    };
    let is_wrapped = service.mode == MODE_IPIP;
    let overhead = if is_wrapped { encapsulate::overhead(&backend.endpoint.address) } else { 0 };
    let way = route::known(context, control, &backend.next_hop, head.ip_len.saturating_add(overhead), place.now)?;
    if !way.is_own() {
        return None;
    }
    if is_wrapped {
        encapsulate::plan(service, &backend.endpoint.address, encapsulate::entropy(&head.source), &way)?;
    }
    match &met {
        Some(found) => {
            place.note_seen(found, Side::Client, head.step(), head.tcp_flags);
            let spoken = Spoken { tcp_flags: head.tcp_flags, carries_payload: head.carries_payload() };
            if service.flags & SERVICE_SIGNALS != 0 && spoken.is_news(found.seen) {
                signals::speak(found, spoken, backend_id);
            }
        }
        None => {
            let seen = flow::first_seen(head.step(), head.tcp_flags, service);
            let made = place.begin_in_empty(backend_id, seen)?;
            if service.flags & SERVICE_SIGNALS != 0 {
                let placed = Placed { backend: backend_id, is_unweighted: passage.is_fallback };
                signals::enter(service, head.source.address, made.index, seen, placed, Former::NONE);
            }
        }
    }
    count::request(backend_id, head.ip_len, passage);
    let new = (service.mode == MODE_NAT).then_some(&backend.endpoint);
    rewrite::<IS_V4>(context, head, End::Destination, new, &way)?;
    let outcome = if is_wrapped { way.outcome().wrapped() } else { way.outcome() };
    Some(outcome.for_service(id).for_backend(backend_id).raw())
}

/// The backend of a flow that goes on as it did. A SYN may begin it anew.
#[inline(always)]
fn known(place: &Place, found: &Found, head: &Head, service: &ServiceEntry) -> Option<Target> {
    let backend_id = found.backend()?;
    let backend = maps::backend(backend_id)?;
    if backend.service != service.pools || found.seen.kind & FLOW_SEVER != 0 {
        return None;
    }
    let is_in_doubt = match head.step() {
        Step::Syn => true,
        Step::Datagram => backend.is_down() || place.is_expired(found, service.udp_idle_ticks),
        Step::Segment | Step::Reset => false,
    };
    let passage = Passage { meeting: Meeting::Known, is_pinned: false, is_fallback: false, is_tracked: true };
    if is_in_doubt { None } else { Some((backend_id, backend, passage)) }
}

/// The backend of a flow that begins. The work of choosing it hides the wait for the flow's bucket, of which nothing is
/// needed yet.
#[inline(always)]
fn begin(head: &Head, service: &ServiceEntry) -> Option<Target> {
    if !matches!(head.step(), Step::Syn | Step::Datagram) {
        return None;
    }
    let choice = choose::backend_by_hash(service, head.source.address, head.source.port)?;
    let passage =
        Passage { meeting: Meeting::New, is_pinned: false, is_fallback: choice.is_fallback, is_tracked: true };
    Some((choice.id, choice.backend, passage))
}

#[inline(always)]
fn reply<const IS_V4: bool>(
    context: &XdpContext,
    control: &'static Control,
    head: &Head,
    id: BackendId,
    backend: &'static BackendEntry,
) -> Option<u64> {
    if backend.service == NO_SERVICE || head.hop_limit <= 1 {
        return None;
    }
    let service_id = ServiceId(u32::from(backend.service));
    let service: &'static ServiceEntry = maps::service(service_id)?;
    if service.mode != MODE_NAT {
        return None;
    }
    let client = (head.destination.address, head.destination.port);
    let place = Place::at(control, service_id, client, clock::cached_now())?;
    let found = place.find_here()?;
    if found.backend() != Some(id) || found.seen.kind & FLOW_SEVER != 0 {
        return None;
    }
    let way = route::known_to_client(context, control, head.destination.address, head.ip_len, place.now)?;
    if !way.is_own() {
        return None;
    }
    place.note_seen(&found, Side::Backend, head.step(), head.tcp_flags);
    if service.flags & SERVICE_SIGNALS != 0 {
        #[expect(clippy::cast_possible_truncation, reason = "under 100")]
        let heard = Heard::new(if IS_V4 { L4_V4 } else { L4_V6 } as u32, head.payload_len);
        if heard::is_news(&found, head.tcp_flags, head.carries_payload(), head.has_zero_window) {
            heard::hear(context, service, &found, heard, id);
        }
        heard::watch_if(context, &found, heard, head.tcp_flags, id);
    }
    count::reply(id, head.ip_len);
    rewrite::<IS_V4>(context, head, End::Source, Some(&service.endpoint), &way)?;
    Some(way.outcome().for_service(service_id).for_backend(id).raw())
}

impl Head {
    #[inline(always)]
    fn carries_payload(&self) -> bool {
        self.payload_len != 0 || self.destination.protocol == PROTOCOL_UDP
    }

    #[inline(always)]
    fn step(&self) -> Step {
        if self.destination.protocol == PROTOCOL_UDP { Step::Datagram } else { parse::tcp_step(self.tcp_flags) }
    }
}

/// One end's address and port, hop limit, MAC addresses; every checksum once.
#[inline(always)]
fn rewrite<const IS_V4: bool>(
    context: &XdpContext,
    head: &Head,
    end: End,
    new: Option<&Endpoint>,
    way: &Way,
) -> Option<()> {
    let packet = Packet::new(context);
    rewrite::macs(packet, way.macs)?;
    let old = if end == End::Source { &head.source } else { &head.destination };
    let delta = if IS_V4 {
        let ip = packet.window::<IPV4_LEN>(ETHERNET_LEN)?;
        let delta = new.map_or(ChecksumDelta::ZERO, |new| rewrite::v4_word(ip, end, old.address.v4_word(), new));
        // The hop limit is the low byte of its word. Stored as the word that was loaded, or the next load would wait.
        let hops = ip.u16::<8>();
        ip.set_u16::<8>(hops.wrapping_sub(1));
        ip.set_u16::<10>(delta.half(hops, hops.wrapping_sub(1)).apply(ip.u16::<10>()));
        delta
    } else {
        let ip = packet.window::<IPV6_LEN>(ETHERNET_LEN)?;
        ip.set_u8::<7>(head.hop_limit.wrapping_sub(1));
        new.map_or(ChecksumDelta::ZERO, |new| rewrite::set_v6_words(ip, end, &old.address, &new.address))
    };
    let Some(new) = new else { return Some(()) };
    let delta = delta.half(old.port.to_wire(), new.port.to_wire());
    let at = if IS_V4 { L4_V4 } else { L4_V6 };
    if head.destination.protocol == PROTOCOL_TCP {
        rewrite::tcp(packet.window(at)?, end, new, delta);
    } else {
        rewrite::udp(packet.window(at)?, end, new, delta);
    }
    Some(())
}
