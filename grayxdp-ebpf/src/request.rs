//! A client's packet on its way to a backend.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
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

#[inline(never)]
pub(crate) fn forward(
    context: *mut xdp_md,
    control: &'static Control,
    parsed: &Parsed,
    id: ServiceId,
    service: &'static ServiceEntry,
) -> Outcome {
    let context = &XdpContext::new(context);
    if let Some(verdict) = refusal(parsed, service) {
        return Outcome::of(verdict).for_service(id);
    }
    let Some(place) = Place::of(control, id, parsed.source.address, parsed.source.port) else {
        return Outcome::of(Verdict::DroppedNoBackend).for_service(id);
    };
    let former = place.find();
    let live = match former {
        Some(found) => backend_of(found, &place, parsed, service),
        None => None,
    };
    let target = match live {
        Some((found, known_id, _)) if found.seen.kind & FLOW_SEVER != 0 => {
            return reset::request(context.ctx, &place, &found, parsed, service).for_service(id).for_backend(known_id);
        }
        Some((found, known_id, backend)) => continued(&place, parsed, service, &found, known_id, backend),
        None => begun(&place, former, parsed, id, service),
    };
    let target = match target {
        Ok(target) => target,
        Err(verdict) => return Outcome::of(verdict).for_service(id),
    };
    let outcome = match send(context, parsed, (id, service), &place, &target) {
        Ok(way) => way.outcome(),
        Err(verdict) => Outcome::of(verdict),
    };
    outcome.for_service(id).for_backend(target.id)
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

/// A new flow, or one that is met in its middle.
#[inline(always)]
fn begun(
    place: &Place,
    former: Option<Found>,
    parsed: &Parsed,
    id: ServiceId,
    service: &'static ServiceEntry,
) -> Result<Target, Verdict> {
    let mut beginning = Beginning { place: *place, former, service, id, source: parsed.source };
    let begun = Begun(begin(&mut beginning, parsed));
    let id = BackendId::from_raw(begun.backend()).ok_or(begun.verdict())?;
    let backend = maps::backend(id).ok_or(Verdict::DroppedNoBackend)?;
    Ok(Target { id, backend, source: beginning.source, passage: begun.passage() })
}

/// What [`begin`] needs and gives.
struct Beginning {
    place: Place,
    former: Option<Found>,
    service: &'static ServiceEntry,
    id: ServiceId,
    /// The packet's source, as it came and as it leaves.
    source: Endpoint,
}

/// What became of a flow's beginning, in one register: backend in the low 16 bits (zero: none), then a verdict (why none),
/// then the passage.
#[derive(Clone, Copy)]
struct Begun(u64);

impl Begun {
    const PINNED: u64 = 1 << 32;
    const FALLBACK: u64 = 1 << 33;
    const TRACKED: u64 = 1 << 34;
    const NEW: u64 = 1 << 35;

    #[inline(always)]
    fn refused(verdict: Verdict) -> Self {
        Self(u64::from(verdict.index()) << 16)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low 16 bits")]
    fn backend(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    fn verdict(self) -> Verdict {
        if self.0 >> 16 == u64::from(Verdict::DroppedNoSourcePort.index()) {
            Verdict::DroppedNoSourcePort
        } else {
            Verdict::DroppedNoBackend
        }
    }

    #[inline(always)]
    fn passage(self) -> Passage {
        Passage {
            meeting: if self.0 & Self::NEW != 0 { Meeting::New } else { Meeting::Missed },
            is_pinned: self.0 & Self::PINNED != 0,
            is_fallback: self.0 & Self::FALLBACK != 0,
            is_tracked: self.0 & Self::TRACKED != 0,
        }
    }
}

/// VERIFIER: a function of its own, for the sake of the others' registers and stack; it returns no pointers, which must not
/// be stored in a caller's frame.
#[inline(never)]
fn begin(beginning: &mut Beginning, parsed: &Parsed) -> u64 {
    let Beginning { place, former, service, id, .. } = *beginning;
    let is_beginning = matches!(parsed.step, Step::Syn | Step::Datagram);
    let newcomer = Newcomer {
        client: parsed.source.address,
        client_port: parsed.source.port,
        dscp: parsed.dscp(),
        is_beginning,
    };
    let choice = match choose::backend_for_new_flow(service, newcomer) {
        Ok(choice) => choice,
        Err(verdict) => return Begun::refused(verdict).0,
    };
    let kind = if service.sees_replies() { 0 } else { FLOW_ONE_SIDED };
    let seen = flow::first_seen(parsed, kind);
    let entry = match former {
        Some(former) => place.move_to(&former, choice.id, seen),
        // A reset leaves nothing behind that would have to be kept together.
        None if parsed.step == Step::Reset => None,
        None => place.begin(choice.id, seen),
    };
    if service.mode == MODE_FULL_NAT {
        let source = match entry {
            Some(entry) => source::take(place.control, service, id, parsed.source, &entry),
            None => None,
        };
        match source {
            Some(source) => beginning.source = source,
            None => {
                if let Some(entry) = entry {
                    place.undo(&entry);
                }
                return Begun::refused(Verdict::DroppedNoSourcePort).0;
            }
        }
    }
    let mut begun = u64::from(choice.id.raw());
    if is_beginning {
        begun |= Begun::NEW;
    }
    if choice.is_pinned {
        begun |= Begun::PINNED;
    }
    if choice.is_fallback {
        begun |= Begun::FALLBACK;
    }
    if entry.is_some() || parsed.step == Step::Reset {
        begun |= Begun::TRACKED;
    }
    begun
}

/// Changes the packet, and says how it goes on.
#[inline(always)]
fn send(
    context: &XdpContext,
    parsed: &Parsed,
    (service_id, service): (ServiceId, &ServiceEntry),
    place: &Place,
    target: &Target,
) -> Result<Way, Verdict> {
    let backend = target.backend;
    let overhead = if service.mode == MODE_IPIP { encapsulate::overhead(&backend.endpoint.address) } else { 0 };
    let departure = Departure {
        source: target.source.address,
        destination: backend.endpoint.address,
        ip_len: parsed.ip_len.saturating_add(overhead),
        traffic_class: parsed.traffic_class,
        protocol: parsed.destination.protocol,
    };
    let way = route::to_backend(context, &backend.next_hop, &departure).passable()?;
    if way.verdict == Verdict::HandedTooBig && parsed.must_stay_whole {
        return too_big::answer(context, way.mtu.saturating_sub(overhead));
    }
    if service.mode == MODE_DSR && !way.is_own() {
        return Err(route::too_far(way.verdict));
    }
    if parsed.is_first_fragment {
        remember(context, parsed, service_id, service, target);
    }
    count::request(target.id, parsed.ip_len, target.passage);
    rewrite(context, parsed, service, target, &way).ok_or(Verdict::DroppedRewriteFailed)?;
    if service.mode == MODE_IPIP {
        encapsulate::wrap(context, &Tunnel::new(service, &backend.endpoint.address, place.entropy(), &way))?;
    }
    Ok(way)
}

/// Addresses and ports as the mode has them; hop limit and MAC addresses where the program sends the packet itself.
#[inline(always)]
fn rewrite(
    context: &XdpContext,
    parsed: &Parsed,
    service: &ServiceEntry,
    target: &Target,
    way: &Way,
) -> Option<()> {
    let packet = Packet::new(context);
    if service.mode == MODE_NAT || service.mode == MODE_FULL_NAT {
        rewrite::endpoint(packet, parsed, End::Destination, &target.backend.endpoint)?;
        if service.mode == MODE_FULL_NAT {
            rewrite::endpoint(packet, parsed, End::Source, &target.source)?;
        }
    }
    if service.mode == MODE_IPIP {
        rewrite::hop_limit(parsed.network(packet)?);
    } else if way.is_own() {
        rewrite::hop_limit(parsed.network(packet)?);
        rewrite::macs(packet, way.macs)?;
    }
    Some(())
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
