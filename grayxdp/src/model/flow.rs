//! Flows: who is on which backend, and what was seen of both sides.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use grayxdp_common::layout::IdleTicks;

use super::wire::{FIN, RST, Segment};

/// Whose flow: the port it came by, the client's address and port.
pub(super) type Key = (usize, IpAddr, u16);

/// What was seen of one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Side {
    pub(super) any: bool,
    /// Anything but a SYN.
    pub(super) went_on: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// It was told that the connection is severed.
    pub(super) told: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) backend: usize,
    /// In flow ticks.
    pub(super) last: u32,
    pub(super) client: Side,
    pub(super) server: Side,
    pub(super) is_udp: bool,
    /// Replies do not pass here.
    pub(super) is_one_sided: bool,
    pub(super) is_severed: bool,
    /// `full-nat`: its source, once one was seen.
    pub(super) source: Option<SocketAddr>,
    pub(super) signs: Signs,
}

/// What has been counted of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Signs {
    /// Turns that the client began, and that the server answered.
    pub(super) turns: [u64; 2],
    /// It was counted as an error before its backend said anything.
    pub(super) is_fault: bool,
    /// The server's window was zero when it last spoke.
    pub(super) has_zero_window: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    HalfOpen,
    Established,
    Closing,
}

impl Side {
    pub(super) fn note(&mut self, segment: &Segment) {
        self.any = true;
        if !segment.is_udp() {
            self.went_on |= !segment.is_syn();
            self.fin |= segment.flags & FIN != 0;
            self.rst |= segment.flags & RST != 0;
        }
    }
}

impl Flow {
    /// Whether its client is seen to wait for the first answer. Of a conversation whose answers pass elsewhere nobody knows.
    pub(super) fn waits(&self) -> bool {
        let is_unseen = self.is_udp && self.is_one_sided;
        self.state() == State::HalfOpen && !self.client.went_on && !self.client.rst && !self.is_severed && !is_unseen
    }

    pub(super) fn new(backend: usize, segment: &Segment, is_one_sided: bool, now: u32) -> Self {
        let mut client = Side::default();
        client.note(segment);
        Self {
            backend,
            last: now,
            client,
            server: Side::default(),
            is_udp: segment.is_udp(),
            is_one_sided,
            is_severed: false,
            source: None,
            signs: Signs::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        let is_closed = self.client.fin && (self.server.fin || self.is_one_sided);
        if !self.is_udp && (self.client.rst || self.server.rst || is_closed) {
            State::Closing
        } else if self.server.any || (self.is_one_sided && self.client.went_on) {
            State::Established
        } else {
            State::HalfOpen
        }
    }

    pub(super) fn is_expired(&self, now: u32, idle: &IdleTicks, udp_idle: u16) -> bool {
        let limit = match self.state() {
            _ if self.is_udp => udp_idle,
            State::HalfOpen => idle.half_open,
            State::Established => idle.established,
            State::Closing => idle.closing,
        };
        now.saturating_sub(self.last) > u32::from(limit)
    }
}

/// All flows, and who has which source port.
#[derive(Clone, Debug, Default)]
pub(super) struct Flows {
    pub(super) by_key: HashMap<Key, Flow>,
    /// The flow that has it, and the backend that it was on then.
    pub(super) by_source: HashMap<SocketAddr, (Key, usize)>,
}

impl Flows {
    /// Whether no other flow needs a source. One that is closing gives it up.
    pub(super) fn is_free(&self, source: SocketAddr, own: Key, is_expired: impl Fn(&Flow) -> bool) -> bool {
        let Some((key, backend)) = self.by_source.get(&source) else { return true };
        let Some(flow) = self.by_key.get(key).filter(|flow| flow.backend == *backend) else { return true };
        *key == own || flow.state() == State::Closing || is_expired(flow)
    }

    /// The flow that has a source.
    pub(super) fn holder(&self, source: SocketAddr) -> Option<(Key, &Flow)> {
        let (key, backend) = self.by_source.get(&source)?;
        let flow = self.by_key.get(key)?;
        (flow.backend == *backend && flow.source == Some(source)).then_some((*key, flow))
    }
}
