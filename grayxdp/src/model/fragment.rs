//! Fragments: later ones go where the first one went.

use std::{collections::HashMap, net::IpAddr};

use grayxdp_common::verdict::Verdict;

use super::{
    Arrival, Model, Result, Sent,
    change::{self, Change},
    request,
    way::Towards,
    wire::{Ip, Part},
};

/// Addresses as they came, identification, and of IPv4 the protocol.
type Datagram = (IpAddr, IpAddr, u32, u8);

/// Where a first fragment went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) backend: usize,
    /// Index of the port that clients meet.
    pub(super) service: usize,
    pub(super) is_reply: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Fragments(HashMap<Datagram, Track>);

fn datagram(ip: &Ip) -> Datagram {
    (ip.source, ip.destination, ip.id, if ip.is_v4() { ip.protocol } else { 0 })
}

/// Remembers where a first fragment goes; other packets are none.
pub(super) fn remember(model: &mut Model, ip: &Ip, track: Track) {
    if ip.part == Part::First {
        model.fragments.0.insert(datagram(ip), track);
    }
}

pub(super) fn run(model: &mut Model, arrival: Arrival<'_>, ip: &Ip) -> Result {
    let track = *model.fragments.0.get(&datagram(ip)).ok_or(Verdict::PassedFragment)?;
    if ip.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let (_, service) = model.world.service_of(track.service).ok_or(Verdict::DroppedNoBackend)?;
    let mode = service.setup.mode.clone();
    let backend = model.world.backends.get(track.backend).ok_or(Verdict::DroppedNoBackend)?.endpoint.address;
    let to = if track.is_reply { Towards::Client(track.destination) } else { Towards::Backend(backend) };
    let way = model.way(to, ip.len() + request::overhead(&mode, backend), arrival)?;
    if let Some(verdict) = request::refused(&mode, &way) {
        return Err(verdict);
    }
    let len = ip.len() as u64;
    model.counters_of(track.backend, |counters| {
        let (packets, bytes) = if track.is_reply {
            (&mut counters.packets_out, &mut counters.bytes_out)
        } else {
            (&mut counters.packets_in, &mut counters.bytes_in)
        };
        *packets += 1;
        *bytes += len;
    });
    if let Some(network) = request::outer(&mode, backend) {
        return Ok(request::through_tunnel(arrival, ip, &way, backend, network));
    }
    let change = Change {
        addresses: [Some(track.source), Some(track.destination)],
        hop_limit: way.hop_limit(ip.hop_limit),
        macs: way.macs,
        ..Change::default()
    };
    let frame = change::changed(arrival.frame, ip, false, &change);
    Ok(Sent { verdict: way.verdict, frame })
}
