//! What is counted of connections, but for times.

use super::{
    Model,
    flow::{Flow, Key, Signs, State},
    wire::{self, ACK, FIN, Ip, RST, SYN, Segment},
};
use crate::{config::Observe, decide::signals::Counts};

/// What a packet carries for the application, as far as it is in the packet.
pub(super) fn payload<'a>(frame: &'a [u8], ip: &Ip, segment: &Segment) -> &'a [u8] {
    let from = ip.payload + segment.header_len;
    let mut end = ip.end;
    if segment.is_udp() {
        let len = wire::u16_at(frame, ip.payload + 4).unwrap_or(0);
        end = end.min(ip.payload + usize::from(len));
    }
    frame.get(from..end).unwrap_or_default()
}

/// A flow gets its entry, maybe a former one's.
pub(super) fn entered(model: &mut Model, key: Key, mut flow: Flow, segment: &Segment, is_unweighted: bool) {
    let former = model.flows.by_key.remove(&key);
    let is_again =
        segment.is_syn() && former.as_ref().is_some_and(|f| f.backend == flow.backend && !f.is_udp && f.waits());
    if is_again {
        flow.signs.is_fault = former.is_some_and(|former| former.signs.is_fault);
        model.signals_of(flow.backend, |counts| counts.syn_retransmissions += 1);
    } else {
        if let Some(former) = former.filter(|former| former.waits() && !former.signs.is_fault) {
            model.signals_of(former.backend, |counts| counts.unanswered += 1);
        }
        if segment.begins() {
            let asks = segment.is_udp() && !flow.is_one_sided;
            flow.signs.turns = [u64::from(asks), 0];
            model.signals_of(flow.backend, |counts| {
                counts.flows += 1;
                counts.unweighted += u64::from(is_unweighted);
                counts.requests += u64::from(asks);
            });
        }
    }
    model.flows.by_key.insert(key, flow);
}

/// A client's packet of a known flow.
pub(super) fn spoken(model: &mut Model, key: Key, before: &Flow, segment: &Segment, payload: &[u8]) {
    let mut signs = before.signs;
    let mut counts = Counts::default();
    count_spoken(&mut signs, &mut counts, before, segment, payload);
    model.settle(key, signs, &counts);
}

fn count_spoken(signs: &mut Signs, counts: &mut Counts, before: &Flow, segment: &Segment, payload: &[u8]) {
    let state = before.state();
    if state == State::Closing {
        return;
    }
    if !segment.is_udp() {
        if segment.is_reset() {
            counts.client_resets += u64::from(state == State::Established);
            return;
        }
        if segment.is_syn() {
            counts.syn_retransmissions += 1;
            return;
        }
        counts.established += u64::from(before.is_one_sided && !before.client.went_on);
        let is_last = before.is_one_sided || before.server.fin;
        counts.closes += u64::from(segment.flags & FIN != 0 && !before.client.fin && is_last);
    }
    let [begun, answered] = &mut signs.turns;
    if (segment.is_udp() || !payload.is_empty()) && begun == answered && !before.is_one_sided {
        *begun += 1;
        counts.requests += 1;
    }
}

/// A backend's packet of a known flow.
pub(super) fn heard(model: &mut Model, frame: &[u8], ip: &Ip, segment: &Segment, key: Key, before: &Flow) {
    let observe = model.world.service_of(key.0).map_or(Observe::None, |(_, service)| service.setup.signals.observe);
    let mut signs = before.signs;
    let mut counts = Counts::default();
    if before.state() != State::Closing {
        let is_first = !before.server.any;
        if segment.is_udp() {
            counts.established += u64::from(is_first);
        } else if segment.flags & RST != 0 {
            if !before.signs.is_fault {
                counts.server_resets += u64::from(!is_first);
                counts.refused += u64::from(is_first && !before.client.went_on);
            }
            return model.settle(key, signs, &counts);
        } else {
            count_segment(frame, ip, segment, before, &mut signs, &mut counts);
        }
        let payload = payload(frame, ip, segment);
        let [begun, answered] = signs.turns;
        if (segment.is_udp() || !payload.is_empty()) && begun > answered {
            answer(observe, payload, segment.is_udp(), &mut signs, &mut counts);
        }
    }
    model.settle(key, signs, &counts);
}

fn count_segment(frame: &[u8], ip: &Ip, segment: &Segment, before: &Flow, signs: &mut Signs, counts: &mut Counts) {
    let has = |flags| segment.flags & flags == flags;
    counts.established += u64::from(has(SYN | ACK) && !before.server.any && !before.client.went_on);
    counts.closes += u64::from(has(FIN) && !before.server.fin && before.client.fin);
    if !has(SYN) {
        let is_zero = wire::u16_at(frame, ip.payload + 14) == Some(0);
        counts.zero_windows += u64::from(is_zero && !signs.has_zero_window);
        signs.has_zero_window = is_zero;
    }
}

/// The end of a turn, unless the response says that it is none yet.
fn answer(observe: Observe, payload: &[u8], is_udp: bool, signs: &mut Signs, counts: &mut Counts) {
    let [_, answered] = &mut signs.turns;
    let is_first = *answered == 0;
    match observe {
        Observe::None => {}
        Observe::Http1 => match http_status(payload) {
            Some(101 | 200..=399) => counts.answers_good += 1,
            Some(100) if payload.len() > 25 => counts.answers_unknown += 1,
            Some(100..=199) => return,
            Some(400..=499) => counts.answers_client_error += 1,
            Some(500..=599) => counts.answers_server_error += 1,
            _ => counts.answers_unknown += 1,
        },
        Observe::Tls if !is_first => {}
        Observe::Tls => match payload {
            [22, 3, _, _, _, ..] => counts.answers_good += 1,
            [21, 3, _, _, _, ..] => counts.answers_server_error += 1,
            _ => counts.answers_unknown += 1,
        },
        Observe::Dns => {
            let message = if is_udp { payload } else { payload.get(2..).unwrap_or_default() };
            let is_response = message.len() >= 12 && message.get(2).is_some_and(|flags| flags & 0x80 != 0);
            match message.get(3).map(|flags| flags & 15).filter(|_| is_response) {
                Some(0 | 3) => counts.answers_good += 1,
                Some(2) => counts.answers_server_error += 1,
                _ => counts.answers_unknown += 1,
            }
        }
    }
    *answered += 1;
    counts.responses += 1;
}

/// Of `HTTP/1.x NNN`, and something that ends the number.
fn http_status(payload: &[u8]) -> Option<u16> {
    let (version, rest) = payload.strip_prefix(b"HTTP/1.")?.split_at_checked(2)?;
    let (status, rest) = rest.split_at_checked(3)?;
    let is_right = matches!(version, [b'0'..=b'9', b' ']) && matches!(rest, [b' ' | b'\r' | b'\n', ..]);
    let is_number = status.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(status).ok().filter(|_| is_right && is_number)?.parse().ok()
}

/// An ICMP error that goes to a client.
pub(super) fn unreachable(model: &mut Model, frame: &[u8], ip: &Ip, key: Key) {
    let is_meant = match (ip.is_v4(), wire::u8_at(frame, ip.payload), wire::u8_at(frame, ip.payload + 1)) {
        (true, Some(3), Some(code)) => code != 4,
        (false, Some(kind), _) => kind == 1,
        _ => false,
    };
    let Some(flow) = model.flows.by_key.get(&key).filter(|_| is_meant) else { return };
    if flow.waits() && !flow.signs.is_fault {
        let signs = Signs { is_fault: true, ..flow.signs };
        model.settle(key, signs, &Counts { icmp_unreachable: 1, ..Counts::default() });
    }
}

impl Model {
    fn settle(&mut self, key: Key, signs: Signs, counts: &Counts) {
        let Some(flow) = self.flows.by_key.get_mut(&key) else { return };
        flow.signs = signs;
        let backend = flow.backend;
        self.signals_of(backend, |sum| *sum = sum.plus(counts));
    }

    fn signals_of(&mut self, backend: usize, count: impl FnOnce(&mut Counts)) {
        if let Some(backend) = self.world.backends.get_mut(backend) {
            count(&mut backend.signals);
        }
    }
}
