//! A backend's packet.

use std::net::SocketAddr;

use grayxdp_common::verdict::Verdict;

use super::{
    Arrival, Model, Result, Sent, answer,
    change::{self, Change},
    flow::Key,
    fragment::{self, Track},
    signals,
    way::Towards,
    wire::{Endpoint, Ip, Segment},
};
use crate::kernel::ForwardMode;

/// The flow whose packets from a backend go to `peer`: the client itself, or in `full-nat` the flow's source.
pub(super) fn flow_of(model: &Model, backend: usize, peer: Endpoint) -> Option<Key> {
    let service = model.world.backends.get(backend)?.service;
    let is_on = |key: &Key| model.flows.by_key.get(key).is_some_and(|flow| flow.backend == backend);
    match &model.world.services.get(service)?.setup.mode {
        ForwardMode::Nat => {
            let doors = model.world.doors.iter().enumerate().filter(|(_, door)| door.service == service);
            doors.map(|(door, _)| (door, peer.address, peer.port)).find(is_on)
        }
        ForwardMode::FullNat { sources } if sources.contains(&peer.address) => {
            let (key, _) = model.flows.holder(SocketAddr::new(peer.address, peer.port))?;
            is_on(&key).then_some(key)
        }
        _ => None,
    }
}

pub(super) fn run(model: &mut Model, arrival: Arrival<'_>, ip: &Ip, segment: &Segment, backend: usize) -> Result {
    let key = flow_of(model, backend, segment.destination).ok_or(Verdict::PassedBackendNoFlow)?;
    let flow = model.flows.by_key.get_mut(&key).ok_or(Verdict::PassedBackendNoFlow)?;
    if flow.is_severed {
        return answer::sever_reply(model, arrival, ip, segment, key);
    }
    if ip.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let before = flow.clone();
    flow.server.note(segment);
    flow.last = arrival.now;
    signals::heard(model, arrival.frame, ip, segment, key, &before);
    let (door, service) = model.world.service_of(key.0).ok_or(Verdict::PassedBackendNoFlow)?;
    let from = door.endpoint;
    let is_full_nat = matches!(service.setup.mode, ForwardMode::FullNat { .. });
    let client = Endpoint { address: key.1, port: key.2, protocol: from.protocol };
    let way = model.way(Towards::Client(client.address), ip.len(), arrival)?;
    if way.verdict == Verdict::HandedTooBig && !ip.may_be_fragmented {
        return answer::too_big(arrival.frame, ip, way.mtu.into());
    }
    let track = Track { source: from.address, destination: client.address, backend, service: key.0, is_reply: true };
    fragment::remember(model, ip, track);
    model.counters_of(backend, |counters| {
        counters.packets_out += 1;
        counters.bytes_out += ip.len() as u64;
    });
    let change = Change {
        source: Some(from),
        destination: is_full_nat.then_some(client),
        hop_limit: way.hop_limit(ip.hop_limit),
        macs: way.macs,
        ..Change::default()
    };
    let frame = change::changed(arrival.frame, ip, true, &change);
    Ok(Sent { verdict: way.verdict, frame })
}
