//! A client's packet.

use std::net::IpAddr;

use grayxdp_common::{ids::Version, verdict::Verdict};

use super::{
    Arrival, Model, Result, Sent, answer,
    change::{self, Change},
    flow::{Flow, Key, State},
    fragment::{self, Track},
    signals, tunnel,
    way::{Departure, Towards},
    wire::{self, Endpoint, Ip, Reading, Segment},
    world::Newcomer,
};
use crate::kernel::{ForwardMode, Network, idle_ticks};

/// How a packet came to its backend, for the counters.
#[derive(Clone, Copy, Default)]
struct Passage {
    is_known: bool,
    begins: bool,
    is_pinned: bool,
    is_fallback: bool,
}

pub(super) fn run(model: &mut Model, arrival: Arrival<'_>, ip: &Ip, segment: &Segment, door: usize) -> Result {
    if !segment.is_udp() && wire::are_impossible(segment.flags) {
        return Err(Verdict::DroppedTcpFlags);
    }
    if segment.source == segment.destination {
        return Err(Verdict::DroppedLandAttack);
    }
    if wire::is_martian(segment.source.address) {
        return Err(Verdict::DroppedMartianSource);
    }
    if ip.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let key = (door, segment.source.address, segment.source.port);
    let (backend, passage) = match known(model, key, segment, arrival.now) {
        Some(flow) if flow.is_severed => return answer::sever_request(model, arrival, ip, segment, key),
        Some(flow) => {
            let before = flow.clone();
            flow.client.note(segment);
            flow.last = arrival.now;
            signals::spoken(model, key, &before, segment, signals::payload(arrival.frame, ip, segment));
            (before.backend, Passage { is_known: true, ..Passage::default() })
        }
        None => begin(model, arrival, ip, segment, key)?,
    };
    send(model, arrival, ip, segment, key, backend, passage)
}

/// The flow, where the packet goes by it.
fn known<'a>(model: &'a mut Model, key: Key, segment: &Segment, now: u32) -> Option<&'a mut Flow> {
    let udp_idle = model.world.service_of(key.0).map_or(0, |(_, service)| idle_ticks(service.setup.udp_idle));
    let idle = model.idle;
    let flow = model.flows.by_key.get_mut(&key)?;
    let is_expired = flow.is_expired(now, &idle, udp_idle);
    let begins_anew = if segment.is_udp() {
        let backend = model.world.backends.get(flow.backend)?;
        is_expired || backend.setup.standing == crate::kernel::Standing::Down
    } else {
        segment.is_syn() && (is_expired || flow.is_severed || flow.state() != State::Established)
    };
    (!begins_anew).then_some(flow)
}

fn begin(
    model: &mut Model,
    arrival: Arrival<'_>,
    ip: &Ip,
    segment: &Segment,
    key: Key,
) -> std::result::Result<(usize, Passage), Verdict> {
    let begins = segment.begins();
    let (_, client, port) = key;
    let new = Newcomer { client, port, dscp: ip.traffic_class >> 2, begins };
    let drawn = |backends| drawn(model, arrival, ip, backends);
    let choice = model.world.choose(key.0, new, drawn).ok_or(Verdict::DroppedNoBackend)?;
    let mode = model.world.service_of(key.0).map(|(_, service)| service.setup.mode.clone());
    let is_full_nat = matches!(mode, Some(ForwardMode::FullNat { .. }));
    if !segment.is_reset() {
        let is_one_sided = matches!(mode, Some(ForwardMode::Dsr | ForwardMode::Ipip { .. }));
        let flow = Flow::new(choice.backend, segment, is_one_sided, arrival.now);
        signals::entered(model, key, flow, segment, choice.is_pinned || choice.is_fallback);
    } else if is_full_nat {
        // Nothing is kept for a reset, so no source port can be.
        return Err(Verdict::DroppedNoSourcePort);
    }
    let (is_pinned, is_fallback) = (choice.is_pinned, choice.is_fallback);
    Ok((choice.backend, Passage { is_known: false, begins, is_pinned, is_fallback }))
}

/// The version that the program drew, by the backend that it sent the packet to, or by the MTU that it told of.
fn drawn(model: &Model, arrival: Arrival<'_>, ip: &Ip, [_, v2]: [Option<usize>; 2]) -> Version {
    let Some(backend) = v2.and_then(|v2| model.world.backends.get(v2)) else { return Version::V1 };
    let is_v2 = match wire::read(arrival.seen) {
        Reading::Flow(_, segment) => backend.endpoint == segment.destination,
        Reading::Message(message) => {
            let way = model.way(Towards::Backend(backend.endpoint.address), ip.len(), arrival);
            // The low half of the word that holds it, in both families.
            let told = wire::u16_at(arrival.seen, message.payload + 6);
            way.is_ok_and(|way| way.verdict == Verdict::HandedTooBig && Some(way.mtu) == told)
        }
        _ => false,
    };
    if is_v2 { Version::V2 } else { Version::V1 }
}

/// The network of outer sources in front of a backend; `None` unless the mode is `ipip`.
pub(super) fn outer(mode: &ForwardMode, backend: IpAddr) -> Option<Network> {
    match mode {
        ForwardMode::Ipip { outer_v4, outer_v6 } => {
            if backend.is_ipv4() {
                *outer_v4
            } else {
                *outer_v6
            }
        }
        _ => None,
    }
}

/// Bytes that the mode adds.
pub(super) fn overhead(mode: &ForwardMode, backend: IpAddr) -> usize {
    match mode {
        ForwardMode::Ipip { .. } if backend.is_ipv4() => 20,
        ForwardMode::Ipip { .. } => 40,
        _ => 0,
    }
}

/// With `dsr`, the kernel cannot be handed a packet, for its destination stays the VIP.
pub(super) fn refused(mode: &ForwardMode, way: &Departure) -> Option<Verdict> {
    if *mode != ForwardMode::Dsr || way.macs.is_some() {
        return None;
    }
    Some(match way.verdict {
        Verdict::HandedNeighbourUnknown => Verdict::DroppedNeighbourUnknown,
        Verdict::HandedTooBig => Verdict::DroppedTooBig,
        _ => Verdict::DroppedNoRoute,
    })
}

fn send(
    model: &mut Model,
    arrival: Arrival<'_>,
    ip: &Ip,
    segment: &Segment,
    key: Key,
    backend: usize,
    passage: Passage,
) -> Result {
    let (_, service) = model.world.service_of(key.0).ok_or(Verdict::DroppedNoBackend)?;
    let mode = service.setup.mode.clone();
    let to = model.world.backends.get(backend).ok_or(Verdict::DroppedNoBackend)?.endpoint;
    let overhead = overhead(&mode, to.address);
    let way = model.way(Towards::Backend(to.address), ip.len() + overhead, arrival)?;
    if way.verdict == Verdict::HandedTooBig && !ip.may_be_fragmented {
        return answer::too_big(arrival.frame, ip, usize::from(way.mtu).saturating_sub(overhead));
    }
    if let Some(verdict) = refused(&mode, &way) {
        return Err(verdict);
    }
    let is_full_nat = matches!(mode, ForwardMode::FullNat { .. });
    let source = if is_full_nat {
        let written = match wire::read(arrival.seen) {
            Reading::Flow(_, segment) => Some((segment.source.address, segment.source.port)),
            _ => None,
        };
        let source = model.source(key, written, arrival.now);
        if source.is_none() {
            // Nothing is kept of a connection that is refused.
            model.flows.by_key.remove(&key);
        }
        Some(source.ok_or(Verdict::DroppedNoSourcePort)?)
    } else {
        None
    };
    let is_rewritten = is_full_nat || mode == ForwardMode::Nat;
    let destination = is_rewritten.then_some(to);
    let from = source.map_or(segment.source.address, |source: Endpoint| source.address);
    let towards = destination.map_or(segment.destination.address, |to| to.address);
    fragment::remember(
        model,
        ip,
        Track { source: from, destination: towards, backend, service: key.0, is_reply: false },
    );
    count(model, backend, ip.len(), passage);
    if let Some(network) = outer(&mode, to.address) {
        return Ok(through_tunnel(arrival, ip, &way, to.address, network));
    }
    let hop_limit = way.hop_limit(ip.hop_limit);
    let change = Change { source, destination, hop_limit, macs: way.macs, ..Change::default() };
    let frame = change::changed(arrival.frame, ip, true, &change);
    Ok(Sent { verdict: way.verdict, frame })
}

/// Into a tunnel: a hop whoever sends it.
pub(super) fn through_tunnel(
    arrival: Arrival<'_>,
    ip: &Ip,
    way: &Departure,
    backend: IpAddr,
    network: Network,
) -> Sent {
    let change = Change { hop_limit: Some(ip.hop_limit.wrapping_sub(1)), macs: way.macs, ..Change::default() };
    let inner = change::changed(arrival.frame, ip, false, &change);
    let frame = tunnel::wrapped(&inner, ip, backend, network, arrival.seen);
    Sent { verdict: way.verdict, frame }
}

fn count(model: &mut Model, backend: usize, ip_len: usize, passage: Passage) {
    let one_if = u64::from;
    model.counters_of(backend, |counters| {
        counters.packets_in += 1;
        counters.bytes_in += ip_len as u64;
        if !passage.is_known {
            counters.new_flows += one_if(passage.begins);
            counters.pinned_flows += one_if(passage.begins && passage.is_pinned);
            counters.fallback_flows += one_if(passage.begins && passage.is_fallback);
            counters.flow_misses += one_if(!passage.begins);
        }
    });
}
