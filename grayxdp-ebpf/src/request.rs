//! A client's packet on its way to a backend.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{
        Address, BackendEntry, Control, Endpoint, FLOW_SEVER, FlowState, FragmentEntry, MODE_DSR, MODE_FULL_NAT,
        MODE_IPIP, MODE_NAT, SERVICE_SIGNALS, ServiceEntry,
    },
    verdict::Verdict,
};

use crate::{
    choose::{self, Newcomer, Placed},
    count::{self, Meeting, Passage},
    encapsulate,
    flow::{self, Found, NO_ENTRY, Place, Side},
    fragment, maps,
    outcome::{Outcome, next},
    packet::Packet,
    parse::{self, Parsed, Step},
    rewrite::{self, End},
    route::{self, Departure, Way},
    scratch,
    signals::{self, Former, Spoken},
    source, stages, too_big,
};

/// Where a packet goes: its backend, and for `full-nat` the source that it gets.
#[derive(Clone, Copy)]
struct Target {
    id: BackendId,
    backend: &'static BackendEntry,
    source: Endpoint,
    passage: Passage,
}

/// The flow that a packet belongs to, as a [`Begun`]; or what to do next, or why it is dropped, as an [`Outcome`].
#[inline(always)]
pub(crate) fn meet(control: &'static Control, parsed: &Parsed, id: ServiceId, service: &'static ServiceEntry) -> u64 {
    if let Some(verdict) = refusal(parsed, service) {
        return Outcome::of(verdict).for_service(id).raw();
    }
    let Some(place) = Place::of(control, id, parsed.source.address, parsed.source.port) else {
        return Outcome::of(Verdict::DroppedNoBackend).for_service(id).raw();
    };
    let Some(now) = scratch::now() else { return next::BEGIN };
    *now = place.now;
    let Some(found) = place.find() else { return next::BEGIN };
    let Some(id) = backend_of(&found, &place, parsed, service) else { return next::BEGIN };
    if found.seen.kind & FLOW_SEVER != 0 {
        return next::RESET;
    }
    place.note(&found, Side::Client, parsed);
    if service.flags & SERVICE_SIGNALS != 0 {
        let spoken = Spoken { tcp_flags: parsed.tcp_flags, carries_payload: parsed.carries_payload() };
        signals::speak(&found, spoken, id);
    }
    if service.mode == MODE_FULL_NAT {
        // Where another CPU has just made the entry, it has no port yet: the packet comes again.
        let source = source::endpoint(found.seen.source, found.seen.source_port, parsed.source.protocol);
        let (Some(source), Some(place)) = (source, scratch::source()) else {
            return Outcome::of(Verdict::DroppedNoSourcePort).raw();
        };
        *place = source;
    }
    Begun::known(id).0
}

/// Sends a packet to the backend of its flow.
#[inline(always)]
pub(crate) fn forward(
    context: &XdpContext,
    control: &Control,
    parsed: &Parsed,
    id: ServiceId,
    service: &'static ServiceEntry,
    begun: Begun,
) -> Outcome {
    let backend = BackendId::from_raw(begun.backend()).and_then(|id| Some((id, maps::backend(id)?)));
    let Some((backend_id, backend)) = backend else {
        return Outcome::of(begun.verdict()).for_service(id);
    };
    let mut target = Target { id: backend_id, backend, source: parsed.source, passage: begun.passage() };
    if service.mode == MODE_FULL_NAT {
        let Some(source) = scratch::source() else { return Outcome::of(Verdict::DroppedNoSourcePort) };
        target.source = *source;
    }
    let outcome = match send(context, control, parsed, (id, service), &target) {
        Ok(way) if service.mode == MODE_IPIP && way.verdict != Verdict::AnsweredTooBig => way.outcome().wrapped(),
        Ok(way) => way.outcome(),
        Err(verdict) => Outcome::of(verdict),
    };
    outcome.for_service(id).for_backend(backend_id)
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
fn backend_of(found: &Found, place: &Place, parsed: &Parsed, service: &ServiceEntry) -> Option<BackendId> {
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
                || place.is_expired(found, service.udp_idle_ticks)
        }
        Step::Datagram => backend.is_down() || place.is_expired(found, service.udp_idle_ticks),
        Step::Segment | Step::Reset => false,
    };
    if begins_anew { None } else { Some(id) }
}

/// A flow's backend and how it was come to, in one register. The low byte is zero, by which it is told from an outcome;
/// then [`Begun::HERE`], the verdict where there is no backend, and the backend.
#[derive(Clone, Copy)]
pub(crate) struct Begun(pub(crate) u64);

impl Begun {
    /// Tells it from what else has no verdict.
    pub(crate) const HERE: u64 = 1 << 15;
    const VERDICT_SHIFT: u32 = 16;
    const BACKEND_SHIFT: u32 = 24;
    const PINNED: u64 = 1 << 40;
    const FALLBACK: u64 = 1 << 41;
    const TRACKED: u64 = 1 << 42;
    const NEW: u64 = 1 << 43;
    const KNOWN: u64 = 1 << 44;

    #[inline(always)]
    fn on(id: BackendId) -> Self {
        Self(Self::HERE | u64::from(id.raw()) << Self::BACKEND_SHIFT)
    }

    #[inline(always)]
    fn known(id: BackendId) -> Self {
        Self(Self::on(id).0 | Self::KNOWN | Self::TRACKED)
    }

    #[inline(always)]
    fn refused(verdict: Verdict) -> Self {
        Self(Self::HERE | u64::from(verdict.index()) << Self::VERDICT_SHIFT)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
    fn backend(self) -> u16 {
        (self.0 >> Self::BACKEND_SHIFT) as u16
    }

    #[inline(always)]
    fn verdict(self) -> Verdict {
        if (self.0 >> Self::VERDICT_SHIFT) & 0xff == u64::from(Verdict::DroppedNoSourcePort.index()) {
            Verdict::DroppedNoSourcePort
        } else {
            Verdict::DroppedNoBackend
        }
    }

    #[inline(always)]
    fn passage(self) -> Passage {
        Passage {
            meeting: if self.0 & Self::KNOWN != 0 {
                Meeting::Known
            } else if self.0 & Self::NEW != 0 {
                Meeting::New
            } else {
                Meeting::Missed
            },
            is_pinned: self.0 & Self::PINNED != 0,
            is_fallback: self.0 & Self::FALLBACK != 0,
            is_tracked: self.0 & Self::TRACKED != 0,
        }
    }
}

/// Makes the flow's entry, or gives the one that it has to another backend. Returns its index, or [`NO_ENTRY`] where
/// there was no place for it, or no need.
#[inline(always)]
pub(crate) fn enter(
    control: &'static Control,
    parsed: &Parsed,
    id: ServiceId,
    service: &ServiceEntry,
    placed: Placed,
) -> u64 {
    let Some(place) = Place::of(control, id, parsed.source.address, parsed.source.port) else { return NO_ENTRY };
    let seen = flow::first_seen(parsed.step, parsed.tcp_flags, service);
    let (entry, seen, former) = match place.find() {
        Some(former) => {
            let is_expired = place.is_expired(&former, service.udp_idle_ticks);
            let is_repeated = signals::is_repeated(&former, parsed, placed.backend, is_expired);
            let seen = if is_repeated { signals::seen_again(&former, seen) } else { seen };
            let Some(moved) = place.move_to(&former, placed.backend, seen) else { return NO_ENTRY };
            (moved.index.into(), seen, Former { owner: former.owner, seen: former.seen })
        }
        // A reset leaves nothing behind that would have to be kept together.
        None if parsed.step == Step::Reset => return NO_ENTRY,
        None => (place.begin(placed.backend, seen), seen, Former::NONE),
    };
    if entry != NO_ENTRY && service.flags & SERVICE_SIGNALS != 0 {
        #[expect(clippy::cast_possible_truncation, reason = "an index, as `stages.rs` widened it")]
        signals::enter(service, parsed.source.address, entry as u32, seen, placed, former);
    }
    entry
}

/// Chooses a backend and makes the flow's entry. Returns a [`Begun`].
#[inline(always)]
pub(crate) fn begin(parsed: &Parsed, id: ServiceId, service: &'static ServiceEntry) -> Begun {
    let is_beginning = matches!(parsed.step, Step::Syn | Step::Datagram);
    let newcomer =
        Newcomer { client: parsed.source.address, client_port: parsed.source.port, dscp: parsed.dscp(), is_beginning };
    let choice = match choose::backend_for_new_flow(service, newcomer) {
        Ok(choice) => choice,
        Err(verdict) => return Begun::refused(verdict),
    };
    let entry = stages::grayxdp_enter(parsed, id.0, choice.placed().to_word());
    if service.mode == MODE_FULL_NAT {
        let Some(source) = scratch::source() else { return Begun::refused(Verdict::DroppedNoSourcePort) };
        *source = parsed.source;
        #[expect(clippy::cast_possible_truncation, reason = "an index, as `stages.rs` widened it")]
        let is_refused = entry == NO_ENTRY || stages::grayxdp_take_source(source, id.0, entry as u32) == 0;
        if is_refused {
            return Begun::refused(Verdict::DroppedNoSourcePort);
        }
    }
    let mut begun = Begun::on(choice.id).0;
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
    Begun(begun)
}

/// Changes the packet, and says how it goes on.
#[inline(always)]
fn send(
    context: &XdpContext,
    control: &Control,
    parsed: &Parsed,
    (service_id, service): (ServiceId, &ServiceEntry),
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
        now: scratch::now().map_or(u32::MAX, |now| *now),
    };
    let way = route::to_backend(context, control, &backend.next_hop, &departure).passable()?;
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
        let entropy = encapsulate::entropy(&parsed.source);
        let plan = encapsulate::plan(service, &backend.endpoint.address, entropy, &way);
        plan.ok_or(Verdict::DroppedRewriteFailed)?;
    }
    Ok(way)
}

/// Addresses and ports as the mode has them; hop limit and MAC addresses where the program sends the packet itself.
#[inline(always)]
fn rewrite(context: &XdpContext, parsed: &Parsed, service: &ServiceEntry, target: &Target, way: &Way) -> Option<()> {
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
