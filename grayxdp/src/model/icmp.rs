//! ICMP and ICMPv6: echo requests to VIPs are answered; errors about flows go to the end that sent what they quote.

use std::net::IpAddr;

use grayxdp_common::verdict::Verdict;

use super::{
    Arrival, Model, Result, Sent,
    change::{self, Change, carry, carry_header, carry_transport, icmp_covered, put, put_address, swapped_macs},
    reply, request, signals,
    way::{Departure, Towards},
    wire::{self, Endpoint, Ip, Part, Reading, TCP, UDP},
    world::Newcomer,
};
use crate::kernel::ForwardMode;

/// The packet that an error quotes.
struct Quote {
    /// Where its IP header begins.
    at: usize,
    /// Where its transport header begins.
    transport: usize,
    source: Endpoint,
    destination: Endpoint,
}

pub(super) fn run(model: &mut Model, arrival: Arrival<'_>, ip: &Ip) -> Result {
    let is_part = ip.part != Part::Whole;
    let is_behind_extensions = !ip.is_v4() && ip.first_protocol != wire::ICMP_V6;
    let is_mapped = wire::is_mapped(ip.source) || wire::is_mapped(ip.destination);
    if is_part || is_behind_extensions || is_mapped || ip.end < ip.payload + 8 {
        return Err(Verdict::PassedMalformed);
    }
    let kind = wire::u8_at(arrival.frame, ip.payload).ok_or(Verdict::PassedMalformed)?;
    let code = wire::u8_at(arrival.frame, ip.payload + 1).ok_or(Verdict::PassedMalformed)?;
    match (ip.is_v4(), kind, code) {
        (true, 8, 0) | (false, 128, 0) => echo(model, arrival, ip),
        (true, 3 | 11 | 12, _) | (false, 1..=4, _) => error(model, arrival, ip),
        _ => Err(Verdict::PassedOtherProtocol),
    }
}

fn echo(model: &Model, arrival: Arrival<'_>, ip: &Ip) -> Result {
    if !model.world.is_vip(ip.destination) {
        return Err(Verdict::PassedOtherProtocol);
    }
    if ip.source == ip.destination {
        return Err(Verdict::DroppedLandAttack);
    }
    if wire::is_martian(ip.source) {
        return Err(Verdict::DroppedMartianSource);
    }
    let change = Change {
        addresses: [Some(ip.destination), Some(ip.source)],
        hop_limit: Some(64),
        macs: swapped_macs(arrival.frame),
        ..Change::default()
    };
    let mut frame = change::changed(arrival.frame, ip, false, &change);
    put(&mut frame, ip.payload, &[if ip.is_v4() { 0 } else { 129 }]);
    carry(arrival.frame, &mut frame, ip.payload + 2, &icmp_covered(ip), false);
    Ok(Sent { verdict: Verdict::AnsweredEcho, frame })
}

/// The packet that is quoted; `None` where too little of it is there, or it is none of TCP or UDP.
fn quote(frame: &[u8], ip: &Ip) -> Option<Quote> {
    let at = ip.payload + 8;
    let header_len = if ip.is_v4() { 20 } else { 40 };
    let header = frame.get(at..at + header_len)?;
    let (first, places) = (wire::u8_at(header, 0)?, if ip.is_v4() { [12, 16] } else { [8, 24] });
    let [source, destination] = places.map(|place| wire::address_at(header, place, ip.is_v4()));
    let (source, destination) = (source?, destination?);
    let (protocol, transport) = if ip.is_v4() {
        let len = usize::from(first & 15) * 4;
        if first >> 4 != 4 || len < 20 || wire::u16_at(header, 6)? & 0x1fff != 0 {
            return None;
        }
        (wire::u8_at(header, 9)?, at + len)
    } else {
        if first >> 4 != 6 || wire::is_mapped(source) || wire::is_mapped(destination) {
            return None;
        }
        (wire::u8_at(header, 6)?, at + 40)
    };
    if (protocol != TCP && protocol != UDP) || transport + 8 > ip.end {
        return None;
    }
    let end = |address: IpAddr, at| Some(Endpoint { address, port: wire::u16_at(frame, at)?, protocol });
    Some(Quote { at, transport, source: end(source, transport)?, destination: end(destination, transport + 2)? })
}

fn error(model: &mut Model, arrival: Arrival<'_>, ip: &Ip) -> Result {
    let quote = quote(arrival.frame, ip).ok_or(Verdict::PassedIcmpNoFlow)?;
    if let Some(door) = model.world.door(quote.source) {
        to_backend(model, arrival, ip, &quote, door)
    } else if let Some(backend) = model.world.backend(quote.destination) {
        to_client(model, arrival, ip, &quote, backend)
    } else {
        Err(Verdict::PassedIcmpNoFlow)
    }
}

/// About what a service sent: to the backend that did.
fn to_backend(model: &mut Model, arrival: Arrival<'_>, ip: &Ip, quote: &Quote, door: usize) -> Result {
    if ip.destination != quote.source.address {
        return Err(Verdict::PassedIcmpNoFlow);
    }
    if wire::is_martian(ip.source) {
        return Err(Verdict::DroppedMartianSource);
    }
    if ip.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let mode = model.world.service_of(door).ok_or(Verdict::PassedIcmpNoFlow)?.1.setup.mode.clone();
    let is_full_nat = matches!(mode, ForwardMode::FullNat { .. });
    let (client, port) = (quote.destination.address, quote.destination.port);
    let key = (door, client, port);
    let backend = match model.flows.by_key.get(&key) {
        Some(flow) => flow.backend,
        None if is_full_nat => return Err(Verdict::PassedIcmpNoFlow),
        None => {
            let new = Newcomer { client, port, dscp: 0, begins: false };
            let choice = model.world.choose(door, new, |_| grayxdp_common::ids::Version::V1);
            choice.ok_or(Verdict::DroppedNoBackend)?.backend
        }
    };
    let to = model.world.backends.get(backend).ok_or(Verdict::PassedIcmpNoFlow)?.endpoint;
    let way = model.way(Towards::Backend(to.address), ip.len() + request::overhead(&mode, to.address), arrival)?;
    if let Some(verdict) = request::refused(&mode, &way) {
        return Err(verdict);
    }
    if let Some(network) = request::outer(&mode, to.address) {
        return Ok(request::through_tunnel(arrival, ip, &way, to.address, network));
    }
    if mode == ForwardMode::Dsr {
        return Ok(sent(arrival, ip, None, [None, None], &way));
    }
    let source = if is_full_nat {
        let written = || match wire::read(arrival.seen) {
            Reading::Message(ip) => self::quote(arrival.seen, &ip).map(|quote| quote.destination),
            _ => None,
        };
        let written = written().map(|written| (written.address, written.port));
        Some(model.source(key, written, arrival.now).ok_or(Verdict::PassedIcmpNoFlow)?)
    } else {
        None
    };
    Ok(sent(arrival, ip, Some((quote, [Some(to), source])), [None, Some(to.address)], &way))
}

/// About what a client sent: to the client.
fn to_client(model: &mut Model, arrival: Arrival<'_>, ip: &Ip, quote: &Quote, backend: usize) -> Result {
    let key = reply::flow_of(model, backend, quote.source).ok_or(Verdict::PassedIcmpNoFlow)?;
    if ip.destination != quote.source.address {
        return Err(Verdict::PassedIcmpNoFlow);
    }
    if wire::is_martian(ip.source) {
        return Err(Verdict::DroppedMartianSource);
    }
    if ip.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let (door, service) = model.world.service_of(key.0).ok_or(Verdict::PassedIcmpNoFlow)?;
    let vip = door.endpoint;
    let is_full_nat = matches!(service.setup.mode, ForwardMode::FullNat { .. });
    let client = Endpoint { address: key.1, port: key.2, protocol: vip.protocol };
    let source = if ip.source == quote.destination.address { vip.address } else { ip.source };
    let way = model.way(Towards::Client(client.address), ip.len(), arrival)?;
    model.counters_of(backend, |counters| counters.icmp_errors += 1);
    signals::unreachable(model, arrival.frame, ip, key);
    let ends = [is_full_nat.then_some(client), Some(vip)];
    Ok(sent(arrival, ip, Some((quote, ends)), [Some(source), is_full_nat.then_some(client.address)], &way))
}

/// The message, with new ends of the packet that it quotes, and new addresses of its own.
fn sent(
    arrival: Arrival<'_>,
    ip: &Ip,
    quoted: Option<(&Quote, [Option<Endpoint>; 2])>,
    addresses: [Option<IpAddr>; 2],
    way: &Departure,
) -> Sent {
    let hop_limit = way.hop_limit(ip.hop_limit);
    let change = Change { addresses, hop_limit, macs: way.macs, ..Change::default() };
    let before = arrival.frame;
    let mut frame = change::changed(before, ip, false, &change);
    if let Some((quote, ends)) = quoted {
        for (nth, end) in ends.into_iter().enumerate() {
            if let Some(end) = end {
                put_address(&mut frame, quote.at, nth == 1, end.address);
                put(&mut frame, quote.transport + nth * 2, &end.port.to_be_bytes());
            }
        }
        if ip.is_v4() {
            carry_header(before, &mut frame, quote.at, 20);
        }
        let place = (quote.at, ip.is_v4());
        carry_transport(before, &mut frame, place, quote.source.protocol, quote.transport..ip.end);
        carry(before, &mut frame, ip.payload + 2, &icmp_covered(ip), false);
    }
    Sent { verdict: way.verdict, frame }
}
