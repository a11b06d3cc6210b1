//! A client's packet on its way to a backend.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{
        Address, BackendEntry, Control, Endpoint, FLOW_ONE_SIDED, FLOW_SEVER, FlowState, FragmentEntry, MODE_DSR,
        MODE_FULL_NAT, MODE_IPIP, MODE_NAT, ServiceEntry,
    },
    verdict::Verdict,
};

use crate::{
    choose::{self, Newcomer},
    count::{self, Meeting, Passage},
    encapsulate::{self, Tunnel},
    flow::{self, Found, Place, Side},
    fragment, maps,
    outcome::Outcome,
    packet::Packet,
    parse::{self, Parsed, Step},
    reset,
    rewrite::{self, End},
    route::{self, Departure, Way},
    source, too_big,
};

/// Where a packet goes: its backend, and for `full-nat` the source that it gets.
#[derive(Clone, Copy)]
struct Target {
    id: BackendId,
    backend: &'static BackendEntry,
    source: Endpoint,
    passage: Passage,
}

#[inline(always)]
pub(crate) fn forward(
    context: &XdpContext,
    control: &'static Control,
    packet: Packet,
    parsed: &Parsed,
    id: ServiceId,
    service: &'static ServiceEntry,
) -> Outcome {
    if let Some(verdict) = refusal(parsed, service) {
        return Outcome::of(verdict).for_service(id);
    }
    let Some(place) = Place::of(control, id, parsed.source.address, parsed.source.port) else {
        return Outcome::of(Verdict::DroppedNoBackend).for_service(id);
    };
    let former = place.find();
    let live = former.and_then(|found| backend_of(found, &place, parsed, service));
    let target = match live {
        Some((found, known_id, backend)) if found.seen.kind & FLOW_SEVER != 0 => {
            let flow = (&place, &found);
            let outcome = reset::request(context, control, service, flow, parsed, backend, known_id);
            return outcome.for_service(id).for_backend(known_id);
        }
        Some((found, known_id, backend)) => continued(&place, parsed, service, &found, known_id, backend),
        None => begun(control, &place, former, parsed, id, service),
    };
    match target.and_then(|target| send(context, packet, parsed, (id, service), &place, &target)) {
        Ok((way, backend)) => {
            let outcome = Outcome::of(way.verdict).for_service(id).for_backend(backend);
            if way.verdict == Verdict::ForwardedOtherInterface { outcome.by(way.interface) } else { outcome }
        }
        Err(verdict) => Outcome::of(verdict).for_service(id),
    }
}

/// Why a packet for a service is not taken.
#[inline(always)]
fn refusal(parsed: &Parsed, service: &ServiceEntry) -> Option<Verdict> {
    if !parsed.is_udp() && parse::are_impossible(parsed.tcp_flags) {
        return Some(Verdict::DroppedTcpFlags);
    }
    if parsed.source.is(&service.endpoint) {
        return Some(Verdict::DroppedLandAttack);
    }
    if is_martian(&parsed.source.address) {
        return Some(Verdict::DroppedMartianSource);
    }
    if parsed.hop_limit <= 1 {
        return Some(Verdict::DroppedHopLimit);
    }
    None
}

/// Addresses that no packet on a wire comes from: this network, loopback, multicast and above (RFC 6890).
#[inline(always)]
pub(crate) fn is_martian(source: &Address) -> bool {
    let [a, b, c, d] = source.words();
    if source.is_v4() {
        let first = d.to_ne_bytes()[0];
        return first == 0 || first == 127 || first >= 224;
    }
    let is_unspecified_or_loopback = a == 0 && b == 0 && c == 0 && u32::from_be(d) <= 1;
    is_unspecified_or_loopback || a.to_ne_bytes()[0] == 0xff
}

/// The flow's entry and backend, where this packet goes by it.
///
/// A SYN begins a new connection where the former one was closed, was never answered, or has been idle for too long: it
/// obeys today's weights. On a connection that lives, it is a late or a forged one, and goes where the connection goes.
#[inline(always)]
fn backend_of(
    found: Found,
    place: &Place,
    parsed: &Parsed,
    service: &ServiceEntry,
) -> Option<(Found, BackendId, &'static BackendEntry)> {
    let id = found.backend()?;
    let backend = maps::backend(id)?;
    // An entry may outlive its service, whose number then names another one: such an entry is none.
    if backend.service != service.pools {
        return None;
    }
    let begins_anew = match parsed.step {
        Step::Syn => {
            found.seen.state() != FlowState::Established
                || found.seen.kind & FLOW_SEVER != 0
                || place.is_expired(&found, service.udp_idle_ticks)
        }
        Step::Datagram => backend.is_down() || place.is_expired(&found, service.udp_idle_ticks),
        Step::Segment | Step::Reset => false,
    };
    if begins_anew { None } else { Some((found, id, backend)) }
}

#[inline(always)]
fn continued(
    place: &Place,
    parsed: &Parsed,
    service: &ServiceEntry,
    found: &Found,
    id: BackendId,
    backend: &'static BackendEntry,
) -> Result<Target, Verdict> {
    place.note(found, Side::Client, parsed);
    let source = if service.mode == MODE_FULL_NAT {
        // Another CPU has just made the entry, and has no port for it yet: the packet comes again.
        source::endpoint(found.seen.source, found.seen.source_port, parsed.source.protocol)
            .ok_or(Verdict::DroppedNoSourcePort)?
    } else {
        parsed.source
    };
    let passage = Passage { meeting: Meeting::Known, is_pinned: false, is_fallback: false, is_tracked: true };
    Ok(Target { id, backend, source, passage })
}

#[inline(always)]
fn begun(
    control: &'static Control,
    place: &Place,
    former: Option<Found>,
    parsed: &Parsed,
    id: ServiceId,
    service: &ServiceEntry,
) -> Result<Target, Verdict> {
    let is_beginning = matches!(parsed.step, Step::Syn | Step::Datagram);
    let newcomer = Newcomer {
        client: parsed.source.address,
        client_port: parsed.source.port,
        dscp: parsed.dscp(),
        is_beginning,
    };
    let choice = choose::backend_for_new_flow(service, newcomer)?;
    let kind = if service.sees_replies() { 0 } else { FLOW_ONE_SIDED };
    let seen = flow::first_seen(parsed, kind);
    let entry = match former {
        Some(former) => place.move_to(&former, choice.id, seen),
        // A reset leaves nothing behind that would have to be kept together.
        None if parsed.step == Step::Reset => None,
        None => place.begin(choice.id, seen),
    };
    let mut target = Target {
        id: choice.id,
        backend: choice.backend,
        source: parsed.source,
        passage: Passage {
            meeting: if is_beginning { Meeting::New } else { Meeting::Missed },
            is_pinned: choice.is_pinned,
            is_fallback: choice.is_fallback,
            is_tracked: entry.is_some() || parsed.step == Step::Reset,
        },
    };
    if service.mode == MODE_FULL_NAT {
        let entry = entry.ok_or(Verdict::DroppedNoSourcePort)?;
        let Some(source) = source::take(control, service, id, parsed.source, &entry) else {
            place.undo(&entry);
            return Err(Verdict::DroppedNoSourcePort);
        };
        target.source = source;
    }
    Ok(target)
}

/// Changes the packet, and says how it goes on.
#[inline(always)]
fn send(
    context: &XdpContext,
    packet: Packet,
    parsed: &Parsed,
    (service_id, service): (ServiceId, &ServiceEntry),
    place: &Place,
    target: &Target,
) -> Result<(Way, BackendId), Verdict> {
    let backend = target.backend;
    let overhead = if service.mode == MODE_IPIP { encapsulate::overhead(&backend.endpoint.address) } else { 0 };
    let departure = Departure {
        source: target.source.address,
        destination: backend.endpoint.address,
        ip_len: parsed.ip_len.saturating_add(overhead),
        traffic_class: parsed.traffic_class(),
        protocol: parsed.destination.protocol,
    };
    let mut way = route::to_backend(context, &backend.next_hop, &departure)?;
    if way.verdict == Verdict::HandedTooBig && parsed.must_not_be_fragmented() {
        too_big::answer(context.ctx, u32::from(way.mtu.saturating_sub(overhead)))?;
        way.verdict = Verdict::AnsweredTooBig;
        return Ok((way, target.id));
    }
    if service.mode == MODE_DSR && !way.is_own() {
        return Err(route::too_far(way.verdict));
    }
    if parsed.is_first_fragment {
        remember(context, parsed, service_id, service, target);
    }
    if service.mode == MODE_NAT || service.mode == MODE_FULL_NAT {
        rewrite::endpoint(parsed, End::Destination, &backend.endpoint);
        if service.mode == MODE_FULL_NAT {
            rewrite::endpoint(parsed, End::Source, &target.source);
        }
    }
    count::request(target.id, parsed.ip_len, target.passage);
    if service.mode == MODE_IPIP {
        rewrite::hop_limit(parsed.network);
        encapsulate::wrap(context, &Tunnel::new(service, &backend.endpoint.address, place.entropy(), &way))?;
    } else if way.is_own() {
        rewrite::hop_limit(parsed.network);
        rewrite::macs(packet, way.macs).ok_or(Verdict::DroppedRewriteFailed)?;
    }
    Ok((way, target.id))
}

/// Where the fragments that follow this one go.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "far fewer services than 2^16")]
fn remember(context: &XdpContext, parsed: &Parsed, id: ServiceId, service: &ServiceEntry, target: &Target) {
    let is_rewritten = service.mode == MODE_NAT || service.mode == MODE_FULL_NAT;
    let destination = if is_rewritten { target.backend.endpoint.address } else { parsed.destination.address };
    let entry = FragmentEntry {
        source: target.source.address,
        destination,
        backend: target.id.raw(),
        service: id.0 as u16,
        is_reply: 0,
    };
    fragment::remember(context.ctx, &entry);
}
