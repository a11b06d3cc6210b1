//! A backend's packet on its way to a client, made to come from the service.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{
        BackendEntry, Control, Endpoint, FLOW_SEVER, FragmentEntry, MODE_FULL_NAT, MODE_NAT, NO_SERVICE, ServiceEntry,
    },
    verdict::Verdict,
};

use crate::{
    count,
    flow::{Found, Place, Side},
    fragment, maps,
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
        return Outcome::of(Verdict::PassedBackendNoFlow).for_backend(id);
    };
    if answered.found.seen.kind & FLOW_SEVER != 0 {
        return Outcome::from_raw(next::RESET);
    }
    let outcome = if parsed.hop_limit <= 1 {
        Outcome::of(Verdict::DroppedHopLimit)
    } else {
        answered.place.note(&answered.found, Side::Backend, parsed);
        match send(context, control, parsed, &answered, id) {
            Ok(way) => way.outcome(),
            Err(verdict) => Outcome::of(verdict),
        }
    };
    outcome.for_service(answered.id).for_backend(id)
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
    answered: &Answered,
    id: BackendId,
) -> Result<Way, Verdict> {
    let departure = Departure {
        source: answered.service.endpoint.address,
        destination: answered.client.address,
        ip_len: parsed.ip_len,
        traffic_class: parsed.traffic_class,
        protocol: parsed.destination.protocol,
        now: answered.place.now,
    };
    let way = route::to_client(context, control, &departure).passable()?;
    if way.verdict == Verdict::HandedTooBig && parsed.must_stay_whole {
        return too_big::answer(context, way.mtu);
    }
    if parsed.is_first_fragment {
        remember(context, answered, id);
    }
    count::reply(id, parsed.ip_len);
    rewrite(context, parsed, answered, &way).ok_or(Verdict::DroppedRewriteFailed)?;
    Ok(way)
}

#[inline(always)]
fn rewrite(context: &XdpContext, parsed: &Parsed, answered: &Answered, way: &Way) -> Option<()> {
    let packet = Packet::new(context);
    rewrite::endpoint(packet, parsed, End::Source, &answered.service.endpoint)?;
    if answered.service.mode == MODE_FULL_NAT {
        rewrite::endpoint(packet, parsed, End::Destination, &answered.client)?;
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
fn remember(context: &XdpContext, answered: &Answered, id: BackendId) {
    let entry = FragmentEntry {
        source: answered.service.endpoint.address,
        destination: answered.client.address,
        backend: id.raw(),
        service: answered.id.0 as u16,
        is_reply: 1,
    };
    fragment::remember(context, &entry);
}
