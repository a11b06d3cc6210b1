//! A backend's packet on its way to a client, made to come from the service.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{
        BackendEntry, Control, Endpoint, FLOW_SEVER, FragmentEntry, MODE_FULL_NAT, MODE_NAT, NO_SERVICE,
        SERVICE_SIGNALS, ServiceEntry,
    },
    verdict::Verdict,
};

use crate::{
    choose::{self, Newcomer},
    count,
    flow::{Found, Place, Side},
    fragment,
    heard::{self, Heard},
    maps,
    outcome::{Outcome, next},
    packet::Packet,
    parse::Parsed,
    rewrite::{self, End},
    route::{self, Departure, Way},
    source, too_big,
};

/// The flow that a reply belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) id: ServiceId,
    pub(crate) service: &'static ServiceEntry,
    pub(crate) client: Endpoint,
    pub(crate) place: Place,
    pub(crate) found: Found,
}

#[inline(always)]
pub(crate) fn forward(
    context: &XdpContext,
    control: &'static Control,
    parsed: &Parsed,
    id: BackendId,
    backend: &'static BackendEntry,
) -> Outcome {
    let Some(answered) = flow_of(control, id, backend, parsed.destination) else {
        return Outcome::from_raw(next::UNTRACKED);
    };
    if answered.found.seen.kind & FLOW_SEVER != 0 {
        return Outcome::from_raw(next::RESET);
    }
    let outcome = if parsed.hop_limit <= 1 {
        Outcome::of(Verdict::DroppedHopLimit)
    } else {
        answered.place.note(&answered.found, Side::Backend, parsed);
        if answered.service.flags & SERVICE_SIGNALS != 0 {
            let heard = Heard::new(parsed.l4_offset, parsed.payload_len);
            heard::hear(context, answered.service, &answered.found, heard, id);
            heard::watch_if(context, &answered.found, heard, parsed.tcp_flags, id);
        }
        match send(context, control, parsed, &answered.recipient(), id) {
            Ok(way) => way.outcome(),
            Err(verdict) => Outcome::of(verdict),
        }
    };
    outcome.for_service(answered.id).for_backend(id)
}

/// A packet from a backend that no entry is for. Where the flow's bucket is full of flows that must not be evicted, it may
/// be of one that found no place: then it is, if the client's packets go to this backend by hash. Elsewhere it is a
/// health check's or a direct connection's, and passes.
#[inline(always)]
pub(crate) fn untracked(
    context: &XdpContext,
    control: &'static Control,
    parsed: &Parsed,
    id: BackendId,
    backend: &'static BackendEntry,
) -> Outcome {
    let passed = Outcome::of(Verdict::PassedBackendNoFlow).for_backend(id);
    let service_id = ServiceId(u32::from(backend.service));
    let client = parsed.destination;
    let Some(service) = maps::service(service_id) else { return passed };
    let Some(place) = Place::of(control, service_id, client.address, client.port) else { return passed };
    if service.mode != MODE_NAT || place.find().is_some() || place.has_room() {
        return passed;
    }
    let newcomer = Newcomer { client: client.address, client_port: client.port, dscp: 0, is_beginning: false };
    let is_its = matches!(choose::backend_for_new_flow(service, newcomer), Ok(choice) if choice.id == id);
    if !is_its {
        return passed;
    }
    let outcome = if parsed.hop_limit <= 1 {
        Outcome::of(Verdict::DroppedHopLimit)
    } else {
        let recipient = Recipient { id: service_id, service, client, now: place.now };
        match send(context, control, parsed, &recipient, id) {
            Ok(way) => way.outcome(),
            Err(verdict) => Outcome::of(verdict),
        }
    };
    outcome.for_service(service_id).for_backend(id)
}

/// Whom a reply goes to, and in whose name.
#[derive(Clone, Copy)]
struct Recipient {
    id: ServiceId,
    service: &'static ServiceEntry,
    client: Endpoint,
    now: u32,
}

impl Answered {
    #[inline(always)]
    fn recipient(&self) -> Recipient {
        Recipient { id: self.id, service: self.service, client: self.client, now: self.place.now }
    }
}

/// The flow of a packet from a backend to `peer`: the client, or in `full-nat` one of this host's sources.
#[inline(always)]
pub(crate) fn flow_of(
    control: &'static Control,
    id: BackendId,
    backend: &BackendEntry,
    peer: Endpoint,
) -> Option<Answered> {
    if backend.service == NO_SERVICE {
        return None;
    }
    let service_id = ServiceId(u32::from(backend.service));
    let service = maps::service(service_id)?;
    match service.mode {
        MODE_NAT => match flow_at(control, service_id, id, peer) {
            Some((place, found)) => Some(Answered { id: service_id, service, client: peer, place, found }),
            None if service.canary != NO_SERVICE => {
                let canary_id = ServiceId(u32::from(service.canary));
                let service = maps::service(canary_id)?;
                let (place, found) = flow_at(control, canary_id, id, peer)?;
                Some(Answered { id: canary_id, service, client: peer, place, found })
            }
            None => None,
        },
        MODE_FULL_NAT => {
            let holder = source::holder(control, service, peer)?;
            let service = maps::service(holder.service)?;
            let is_on = holder.flow.backend() == Some(id);
            is_on.then_some(Answered {
                id: holder.service,
                service,
                client: holder.client,
                place: holder.place,
                found: holder.flow,
            })
        }
        // Replies do not pass here; whatever it is, it is none.
        _ => None,
    }
}

#[inline(always)]
fn flow_at(
    control: &'static Control,
    service: ServiceId,
    backend: BackendId,
    client: Endpoint,
) -> Option<(Place, Found)> {
    let place = Place::of(control, service, client.address, client.port)?;
    let found = place.find()?;
    (found.backend() == Some(backend)).then_some((place, found))
}

#[inline(always)]
fn send(
    context: &XdpContext,
    control: &Control,
    parsed: &Parsed,
    recipient: &Recipient,
    id: BackendId,
) -> Result<Way, Verdict> {
    let departure = Departure {
        source: recipient.service.endpoint.address,
        destination: recipient.client.address,
        ip_len: parsed.ip_len,
        traffic_class: parsed.traffic_class,
        protocol: parsed.destination.protocol,
        now: recipient.now,
    };
    let way = route::to_client(context, control, &departure).passable()?;
    if way.verdict == Verdict::HandedTooBig && parsed.must_stay_whole {
        return too_big::answer(context, way.mtu);
    }
    if parsed.is_first_fragment {
        remember(context, recipient, id);
    }
    count::reply(id, parsed.ip_len);
    rewrite(context, parsed, recipient, &way).ok_or(Verdict::DroppedRewriteFailed)?;
    Ok(way)
}

#[inline(always)]
fn rewrite(context: &XdpContext, parsed: &Parsed, recipient: &Recipient, way: &Way) -> Option<()> {
    let packet = Packet::new(context);
    rewrite::endpoint(packet, parsed, End::Source, &recipient.service.endpoint)?;
    if recipient.service.mode == MODE_FULL_NAT {
        rewrite::endpoint(packet, parsed, End::Destination, &recipient.client)?;
    }
    if way.is_own() {
        rewrite::hop_limit(packet, parsed.ip())?;
        rewrite::macs(packet, way.macs)?;
    }
    Some(())
}

/// Where the fragments that follow this one go.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "far fewer services than 2^16")]
fn remember(context: &XdpContext, recipient: &Recipient, id: BackendId) {
    let entry = FragmentEntry {
        source: recipient.service.endpoint.address,
        destination: recipient.client.address,
        backend: id.raw(),
        service: recipient.id.0 as u16,
        is_reply: 1,
    };
    fragment::remember(context, &entry);
}
