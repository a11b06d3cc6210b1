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
    let live = match former {
        Some(found) => backend_of(found, &place, parsed, service),
        None => None,
    };
    let target = match live {
        Some((found, ..)) if found.seen.kind & FLOW_SEVER != 0 => return Outcome::from_raw(reset::IS_SEVERED),
        Some((found, known_id, backend)) => continued(&place, parsed, service, &found, known_id, backend),
        None => begun(parsed, id),
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
fn begun(parsed: &Parsed, id: ServiceId) -> Result<Target, Verdict> {
    let mut source = parsed.source;
    let begun = Begun(grayxdp_begin(parsed, id.0, &mut source));
    let id = BackendId::from_raw(begun.backend()).ok_or(begun.verdict())?;
    let backend = maps::backend(id).ok_or(Verdict::DroppedNoBackend)?;
    Ok(Target { id, backend, source, passage: begun.passage() })
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

/// In place of an entry's index: there was no place for it, or no need.
const NO_ENTRY: u64 = u64::MAX;

/// Makes the flow's entry, or gives the one that it has to another backend. Returns its index, or [`NO_ENTRY`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_enter(parsed: *const Parsed, service: u32, backend: u32) -> u64 {
    // SAFETY: `grayxdp_begin` has just been given it; see `lib.rs`.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return NO_ENTRY };
    let id = ServiceId(service);
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `grayxdp_begin` widened it")]
    let Some(backend) = BackendId::from_raw(backend as u16) else { return NO_ENTRY };
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return NO_ENTRY };
    let Some(place) = Place::of(control, id, parsed.source.address, parsed.source.port) else { return NO_ENTRY };
    let kind = if service.sees_replies() { 0 } else { FLOW_ONE_SIDED };
    let seen = flow::first_seen(parsed, kind);
    let entry = match place.find() {
        Some(former) => place.move_to(&former, backend, seen),
        // A reset leaves nothing behind that would have to be kept together.
        None if parsed.step == Step::Reset => None,
        None => place.begin(backend, seen),
    };
    match entry {
        Some(entry) => u64::from(entry.index),
        None => NO_ENTRY,
    }
}

/// Chooses a backend and makes the flow's entry; in `full-nat`, `source` becomes the flow's source. Returns a [`Begun`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_begin(parsed: *const Parsed, service: u32, source: *mut Endpoint) -> u64 {
    let refused = Begun::refused(Verdict::DroppedNoBackend).0;
    // SAFETY: `begun` has both on its stack; see `lib.rs`.
    let (Some(parsed), Some(source)) = (unsafe { parsed.as_ref() }, unsafe { source.as_mut() }) else { return refused };
    let id = ServiceId(service);
    let Some(service) = maps::service(id) else { return refused };
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
    let entry = grayxdp_enter(parsed, id.0, choice.id.raw().into());
    if service.mode == MODE_FULL_NAT && (entry == NO_ENTRY || source::grayxdp_take_source(source, id.0, entry) == 0) {
        return Begun::refused(Verdict::DroppedNoSourcePort).0;
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
    if entry != NO_ENTRY || parsed.step == Step::Reset {
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
        rewrite::hop_limit(packet, parsed.ip())?;
    } else if way.is_own() {
        rewrite::hop_limit(packet, parsed.ip())?;
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
    fragment::remember(context, &entry);
}
