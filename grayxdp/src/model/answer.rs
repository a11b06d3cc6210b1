//! Packets that the program makes itself: "too big", and resets of severed connections.

use grayxdp_common::verdict::Verdict;

use super::{
    Arrival, Model, Result, Sent,
    change::{self, carry_header, octets, pseudo, put, put_address, swapped_macs},
    checksum,
    flow::Key,
    way::Towards,
    wire::{self, ACK, Endpoint, FIN, Ip, RST, Reading, SYN, Segment, TCP},
};
use crate::kernel::ForwardMode;

/// Bytes of the packet that an answer quotes.
const QUOTE_LEN: usize = 512;

fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

/// "Fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443 3.2), from where the packet was sent to.
pub(super) fn too_big(frame: &[u8], ip: &Ip, mtu: usize) -> Result {
    let quote = frame.get(ip.at..ip.at + QUOTE_LEN).ok_or(Verdict::DroppedRewriteFailed)?;
    let mut bytes = frame.get(..ip.at).ok_or(Verdict::DroppedRewriteFailed)?.to_vec();
    put(&mut bytes, 0, &swapped_macs(frame).ok_or(Verdict::DroppedRewriteFailed)?);
    let header_len = if ip.is_v4() { 20 } else { 40 };
    if ip.is_v4() {
        bytes.extend([0x45, 0]);
        bytes.extend(be16(20 + 8 + QUOTE_LEN));
        bytes.extend([0, 0, 0, 0, 64, wire::ICMP, 0, 0]);
    } else {
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(be16(8 + QUOTE_LEN));
        bytes.extend([wire::ICMP_V6, 64]);
    }
    bytes.extend(octets(ip.destination));
    bytes.extend(octets(ip.source));
    let message = bytes.len();
    let kind = if ip.is_v4() { [3, 4, 0, 0] } else { [2, 0, 0, 0] };
    bytes.extend(kind);
    bytes.extend(u32::try_from(mtu).unwrap_or(0).to_be_bytes());
    bytes.extend(quote);
    let mut covered = change::sum(&bytes, message..bytes.len());
    if ip.is_v4() {
        let sum = checksum::right(change::sum(&bytes, ip.at..ip.at + header_len));
        put(&mut bytes, ip.at + 10, &sum.to_be_bytes());
    } else {
        covered += pseudo(&bytes, ip.at, false, wire::ICMP_V6, 8 + QUOTE_LEN);
    }
    put(&mut bytes, message + 2, &checksum::right(covered).to_be_bytes());
    Ok(Sent { verdict: Verdict::AnsweredTooBig, frame: bytes })
}

/// A bare TCP header in place of a packet's: what is put into it.
struct Reset {
    source: Endpoint,
    destination: Endpoint,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    hop_limit: u8,
    macs: Option<[u8; 12]>,
}

impl Reset {
    fn in_place_of(&self, frame: &[u8], ip: &Ip) -> Vec<u8> {
        let mut bytes = frame.get(..ip.payload).unwrap_or_default().to_vec();
        bytes.extend(self.source.port.to_be_bytes());
        bytes.extend(self.destination.port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledged.to_be_bytes());
        bytes.extend([0x50, self.flags, 0, 0, 0, 0, 0, 0]);
        put_address(&mut bytes, ip.at, false, self.source.address);
        put_address(&mut bytes, ip.at, true, self.destination.address);
        if ip.is_v4() {
            put(&mut bytes, ip.at + 2, &be16(ip.payload + 20 - ip.at));
            put(&mut bytes, ip.at + 8, &[self.hop_limit]);
            carry_header(frame, &mut bytes, ip.at, ip.header_len);
        } else {
            put(&mut bytes, ip.at + 4, &be16(ip.payload + 20 - ip.at - 40));
            put(&mut bytes, ip.at + 7, &[self.hop_limit]);
        }
        if let Some(macs) = self.macs {
            put(&mut bytes, 0, &macs);
        }
        let covered = pseudo(&bytes, ip.at, ip.is_v4(), TCP, 20) + change::sum(&bytes, ip.payload..ip.payload + 20);
        put(&mut bytes, ip.payload + 16, &checksum::right(covered).to_be_bytes());
        bytes
    }
}

/// A segment's place in its connection.
struct Numbers {
    sequence: u32,
    acknowledged: u32,
    /// Sequence numbers that it takes.
    len: u32,
}

impl Numbers {
    fn of(frame: &[u8], ip: &Ip, segment: &Segment) -> Option<Self> {
        let has = |flag| u32::from(segment.flags & flag != 0);
        let payload = ip.end.checked_sub(ip.payload + segment.header_len)?;
        Some(Self {
            sequence: wire::u32_at(frame, ip.payload + 4)?,
            acknowledged: wire::u32_at(frame, ip.payload + 8)?,
            len: u32::try_from(payload).ok()? + has(SYN) + has(FIN),
        })
    }
}

/// To a client's packet of a severed connection.
pub(super) fn sever_request(model: &mut Model, arrival: Arrival<'_>, ip: &Ip, segment: &Segment, key: Key) -> Result {
    let (_, service) = model.world.service_of(key.0).ok_or(Verdict::DroppedRewriteFailed)?;
    let mode = service.setup.mode.clone();
    let sees_replies = matches!(mode, ForwardMode::Nat | ForwardMode::FullNat { .. });
    let flow = model.flows.by_key.get(&key).ok_or(Verdict::DroppedRewriteFailed)?;
    let backend = model.world.backends.get(flow.backend).ok_or(Verdict::DroppedRewriteFailed)?.endpoint;
    if !sees_replies || flow.server.told {
        return convert(model, arrival, ip, segment, (key, true), None);
    }
    let source = if mode == ForwardMode::Nat {
        segment.source
    } else {
        let written = match wire::read(arrival.seen) {
            Reading::Flow(_, segment) => Some((segment.source.address, segment.source.port)),
            _ => None,
        };
        model.source(key, written, arrival.now).unwrap_or(segment.source)
    };
    convert(model, arrival, ip, segment, (key, true), Some((source, backend)))
}

/// To a backend's packet of a severed connection.
pub(super) fn sever_reply(model: &mut Model, arrival: Arrival<'_>, ip: &Ip, segment: &Segment, key: Key) -> Result {
    let flow = model.flows.by_key.get(&key).ok_or(Verdict::DroppedRewriteFailed)?;
    let (door, _) = model.world.service_of(key.0).ok_or(Verdict::DroppedRewriteFailed)?;
    let client = Endpoint { address: key.1, port: key.2, protocol: TCP };
    let onwards = (!flow.client.told).then_some((door.endpoint, client));
    convert(model, arrival, ip, segment, (key, false), onwards)
}

/// A packet that carries something becomes a reset to the other end, as long as that one has not been told; every other is
/// answered with one.
fn convert(
    model: &mut Model,
    arrival: Arrival<'_>,
    ip: &Ip,
    segment: &Segment,
    (key, is_request): (Key, bool),
    onwards: Option<(Endpoint, Endpoint)>,
) -> Result {
    let numbers = Numbers::of(arrival.frame, ip, segment).ok_or(Verdict::DroppedRewriteFailed)?;
    let carries_something = numbers.len > 0 || segment.is_reset();
    let has_ack = segment.flags & ACK != 0;
    let Some((source, destination)) = onwards.filter(|_| carries_something) else {
        if segment.is_reset() {
            return Err(Verdict::DroppedSevered);
        }
        let reset = Reset {
            source: segment.destination,
            destination: segment.source,
            sequence: if has_ack { numbers.acknowledged } else { 0 },
            acknowledged: if has_ack { 0 } else { numbers.sequence.wrapping_add(numbers.len) },
            flags: if has_ack { RST } else { RST | ACK },
            hop_limit: 64,
            macs: swapped_macs(arrival.frame),
        };
        let frame = reset.in_place_of(arrival.frame, ip);
        told(model, key, is_request, arrival.now);
        return Ok(Sent { verdict: Verdict::AnsweredReset, frame });
    };
    if ip.hop_limit <= 1 {
        return Err(Verdict::DroppedHopLimit);
    }
    let to = if is_request { Towards::Backend(destination.address) } else { Towards::Client(destination.address) };
    let way = model.way(to, ip.payload + 20 - ip.at, arrival)?;
    let reset = Reset {
        source,
        destination,
        sequence: numbers.sequence,
        acknowledged: if has_ack { numbers.acknowledged } else { 0 },
        flags: RST | segment.flags & ACK,
        hop_limit: way.hop_limit(ip.hop_limit).unwrap_or(ip.hop_limit),
        macs: way.macs,
    };
    let frame = reset.in_place_of(arrival.frame, ip);
    if way.macs.is_none() {
        // The kernel sends it, or does not: whoever it is for counts as not told yet.
        return Ok(Sent { verdict: way.verdict, frame });
    }
    told(model, key, !is_request, arrival.now);
    Ok(Sent { verdict: Verdict::AnsweredReset, frame })
}

fn told(model: &mut Model, key: Key, is_client: bool, now: u32) {
    let Some(flow) = model.flows.by_key.get_mut(&key) else { return };
    let is_first = !flow.client.told && !flow.server.told;
    let side = if is_client { &mut flow.client } else { &mut flow.server };
    (side.rst, side.told, side.any) = (true, true, true);
    flow.last = now;
    let backend = flow.backend;
    model.counters_of(backend, |counters| counters.severed_flows += u64::from(is_first));
}
