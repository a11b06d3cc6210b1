//! Fragments: the first one has the ports and goes its way; the following ones go the same way. The only writer of the
//! map of fragments.
//!
//! A following fragment that comes before the first one, or after it was forgotten, is passed: the kernel never gets the
//! rest and drops it, so it is delivered to nobody.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{Address, Control, FragmentEntry, FragmentKey, MODE_DSR, MODE_IPIP},
    verdict::Verdict,
};

use crate::{
    chain, clock,
    count::{self, Meeting, Passage},
    encapsulate, maps,
    outcome::Outcome,
    packet::Packet,
    parse::{self, ETHERTYPE_IPV4, IPV4_LEN, IPV6_LEN, IpHeader, Network},
    rewrite::{self, End},
    route::{self, Departure, Way},
    stages,
};

/// A fragment's addresses, and the datagram that it is of.
#[derive(Clone, Copy)]
struct Fragment {
    ip: IpHeader,
    traffic_class: u8,
    source: Address,
    destination: Address,
    id: u32,
    protocol: u8,
    hop_limit: u8,
    ip_len: u16,
}

impl Fragment {
    #[inline(always)]
    fn key(&self) -> FragmentKey {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            id: self.id,
            protocol: u32::from(self.protocol),
        }
    }
}

/// Remembers where a first fragment goes. To be called while its addresses are as they came.
#[inline(always)]
pub(crate) fn remember(context: &XdpContext, entry: &FragmentEntry) {
    stages::grayxdp_remember(context.ctx, entry);
}

#[inline(always)]
pub(crate) fn store(context: &XdpContext, entry: &FragmentEntry) {
    if let Some(fragment) = read(context) {
        maps::store_fragment(&fragment.key(), entry);
    }
}

/// A following fragment's way.
#[inline(always)]
pub(crate) fn follow(context: &XdpContext, control: &Control) -> Outcome {
    let Some(fragment) = read(context) else { return Outcome::of(Verdict::PassedMalformed) };
    let Some(entry) = maps::fragment(&fragment.key()) else { return Outcome::of(Verdict::PassedFragment) };
    let Some(id) = BackendId::from_raw(entry.backend) else { return Outcome::of(Verdict::PassedFragment) };
    let service = ServiceId(u32::from(entry.service));
    let outcome = match send(context, control, &fragment, &entry, id) {
        Ok((way, true)) => way.outcome().wrapped(),
        Ok((way, false)) => way.outcome(),
        Err(verdict) => Outcome::of(verdict),
    };
    outcome.for_service(service).for_backend(id)
}

#[inline(always)]
fn read(context: &XdpContext) -> Option<Fragment> {
    let packet = Packet::new(context);
    let (ip_offset, ethertype) = parse::ip_offset(packet)?;
    if ethertype == ETHERTYPE_IPV4 {
        let header = packet.window::<IPV4_LEN>(ip_offset)?;
        return Some(Fragment {
            ip: IpHeader { offset: ip_offset, is_v4: true },
            traffic_class: header.u8::<1>(),
            source: Address::from_v4_wire(header.u32::<12>()),
            destination: Address::from_v4_wire(header.u32::<16>()),
            id: u32::from(header.u16::<4>()),
            protocol: header.u8::<9>(),
            hop_limit: header.u8::<8>(),
            ip_len: u16::from_be(header.u16::<2>()),
        });
    }
    let header = packet.window::<IPV6_LEN>(ip_offset)?;
    let chain = chain::walk(context, header.u8::<6>(), ip_offset + IPV6_LEN).ok()?;
    let [source, destination] = parse::v6_addresses(header);
    // The protocol may stand behind further headers of the first fragment: identification and addresses say enough.
    Some(Fragment {
        ip: IpHeader { offset: ip_offset, is_v4: false },
        traffic_class: parse::traffic_class(Network::V6(header)),
        source,
        destination,
        id: chain.fragment_id,
        protocol: 0,
        hop_limit: header.u8::<7>(),
        ip_len: u16::from_be(header.u16::<4>()).wrapping_add(40),
    })
}

#[inline(always)]
fn send(
    context: &XdpContext,
    control: &Control,
    fragment: &Fragment,
    entry: &FragmentEntry,
    id: BackendId,
) -> Result<(Way, bool), Verdict> {
    if fragment.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let backend = maps::backend(id).ok_or(Verdict::DroppedNoBackend)?;
    let service = maps::service(ServiceId(u32::from(entry.service))).ok_or(Verdict::DroppedNoBackend)?;
    let is_wrapped = service.mode == MODE_IPIP;
    let overhead = if is_wrapped { encapsulate::overhead(&backend.endpoint.address) } else { 0 };
    let departure = Departure {
        source: entry.source,
        destination: if entry.is_reply != 0 { entry.destination } else { backend.endpoint.address },
        ip_len: fragment.ip_len.saturating_add(overhead),
        traffic_class: fragment.traffic_class,
        protocol: fragment.protocol,
        now: clock::now(),
    };
    let way = if entry.is_reply != 0 {
        route::to_client(context, control, &departure)
    } else {
        route::to_backend(context, control, &backend.next_hop, &departure)
    };
    let way = way.passable()?;
    if service.mode == MODE_DSR && !way.is_own() {
        return Err(route::too_far(way.verdict));
    }
    rewrite(Packet::new(context), fragment, entry, &way, is_wrapped).ok_or(Verdict::DroppedRewriteFailed)?;
    if entry.is_reply != 0 {
        count::reply(id, fragment.ip_len);
    } else {
        let passage = Passage { meeting: Meeting::Known, is_pinned: false, is_fallback: false, is_tracked: true };
        count::request(id, fragment.ip_len, passage);
    }
    if is_wrapped {
        let plan = encapsulate::plan(service, &backend.endpoint.address, fragment.id, &way);
        plan.ok_or(Verdict::DroppedRewriteFailed)?;
    }
    Ok((way, is_wrapped))
}

#[inline(always)]
fn rewrite(packet: Packet, fragment: &Fragment, entry: &FragmentEntry, way: &Way, is_wrapped: bool) -> Option<()> {
    rewrite::address(packet, fragment.ip, End::Source, &fragment.source, &entry.source)?;
    rewrite::address(packet, fragment.ip, End::Destination, &fragment.destination, &entry.destination)?;
    if is_wrapped || way.is_own() {
        rewrite::hop_limit(packet, fragment.ip)?;
    }
    if way.is_own() && !is_wrapped { rewrite::macs(packet, way.macs) } else { Some(()) }
}
