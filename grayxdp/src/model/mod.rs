//! The reference model: what the packet program must do with a packet, in plain Rust.
//!
//! (setup, flows so far, packet, time) → (verdict, XDP action, packet afterwards, counters, flows). It shares layouts,
//! verdicts, hash functions and the agent's Maglev tables with the program, and nothing else: it reads packets by itself,
//! keeps flows in a hash map, and sums every checksum afresh. Slow and plain on purpose.
//!
//! What the program may draw (the source port of a `full-nat` flow, the version of a new flow of a service with random
//! shards, the outer source of `ipip`) cannot be predicted. The model looks at what the program sent, takes its choice over
//! where it was free to make it, and makes one of its own where not, which then differs.
//!
//! Of signals, counts are modelled, but for segments that are watched for repetition: which flows are is the hash's choice.
//!
//! Not modelled: times, fuses, a flow table that is full, the capacity of the map of fragments, the search for a free source port where
//! most are taken, traces, and races between CPUs.

mod answer;
mod change;
mod checksum;
mod flow;
mod fragment;
mod icmp;
mod reply;
mod request;
mod signals;
mod tunnel;
mod way;
mod wire;
mod world;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use grayxdp_common::{
    ids::Version,
    layout::{BackendCounters, IdleTicks},
    verdict::{Action, Verdict},
    weight::Weight,
};

pub use self::way::{Exit, Way, Ways};
use self::{
    flow::{Flow, Flows, Key},
    fragment::Fragments,
    wire::{Endpoint, Reading, Whom},
    world::World,
};
use crate::{
    decide::signals::Counts,
    kernel::{Setup, SourcePorts},
};

/// The XDP actions (linux/bpf.h).
pub const XDP_DROP: u32 = 1;
/// Left to the kernel.
pub const XDP_PASS: u32 = 2;
/// Out of the interface that it came in on.
pub const XDP_TX: u32 = 3;
/// Out of another one; an answer, out of any.
pub const XDP_REDIRECT: u32 = 4;

/// A packet as it arrives.
#[derive(Clone, Copy)]
pub struct Arrival<'a> {
    /// From the Ethernet header on.
    pub frame: &'a [u8],
    /// Index of the interface.
    pub interface: u32,
    /// The present moment, in flow ticks.
    pub now: u32,
    /// What the program made of it, for choices that are left to chance.
    pub seen: &'a [u8],
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it is counted.
    pub verdict: Verdict,
    /// `XDP_…`.
    pub action: u32,
    /// Afterwards; of a packet that is dropped, nobody cares.
    pub frame: Vec<u8>,
}

/// What the packet program ought to be.
#[derive(Clone, Debug)]
pub struct Model {
    world: World,
    ways: Ways,
    ways_of_kernel: Ways,
    idle: IdleTicks,
    ports: SourcePorts,
    flows: Flows,
    fragments: Fragments,
    verdicts: HashMap<Verdict, u64>,
}

impl Model {
    /// Without flows; all weights are zero. Packets go by `ways`, but for those for which the kernel is asked.
    pub fn new(setup: &Setup, ways: Ways, ways_of_kernel: Ways) -> Self {
        Self {
            world: World::new(setup),
            ways,
            ways_of_kernel,
            idle: setup.idle,
            ports: setup.source_ports,
            flows: Flows::default(),
            fragments: Fragments::default(),
            verdicts: HashMap::new(),
        }
    }

    /// Changes the weights of a service's shards; further ones stay.
    pub fn set_weights(&mut self, service: usize, weights: &[Weight]) {
        if let Some(service) = self.world.services.get_mut(service) {
            for (old, new) in service.weights.iter_mut().zip(weights) {
                *old = *new;
            }
        }
    }

    /// Forgets all flows. Fragments stay remembered, as they do in the program.
    pub fn forget_flows(&mut self) {
        self.flows = Flows::default();
    }

    /// Remembers the fragments that another model does.
    pub fn adopt_fragments(&mut self, other: &Self) {
        self.fragments.clone_from(&other.fragments);
    }

    /// Severs the flows of a service's version: UDP conversations are forgotten.
    pub fn sever(&mut self, service: usize, version: Version) {
        let backends = &self.world.backends;
        let is_meant = |flow: &Flow| {
            backends.get(flow.backend).is_some_and(|backend| backend.service == service && backend.version == version)
        };
        self.flows.by_key.retain(|_, flow| !(flow.is_udp && is_meant(flow)));
        for flow in self.flows.by_key.values_mut().filter(|flow| is_meant(flow)) {
            flow.is_severed = true;
        }
    }

    /// How many packets ended so.
    pub fn count_of(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(&verdict).copied().unwrap_or(0)
    }

    /// Counters of every backend: service, version, address.
    pub fn counters(&self) -> impl Iterator<Item = (usize, Version, SocketAddr, BackendCounters)> {
        self.world.backends.iter().map(|one| (one.service, one.version, one.setup.address, one.counters))
    }

    /// What must become of a packet.
    pub fn run(&mut self, arrival: Arrival<'_>) -> Outcome {
        let outcome = match wire::read(arrival.frame) {
            Reading::Flow(ip, segment) => {
                if let Some(door) = self.world.door(segment.destination) {
                    request::run(self, arrival, &ip, &segment, door)
                } else if let Some(backend) = self.world.backend(segment.source) {
                    reply::run(self, arrival, &ip, &segment, backend)
                } else {
                    Ok(Sent::untouched(arrival, Verdict::PassedNoService))
                }
            }
            Reading::Message(ip) => icmp::run(self, arrival, &ip),
            Reading::Later(ip) => fragment::run(self, arrival, &ip),
            Reading::Other(verdict) => Ok(Sent::untouched(arrival, verdict)),
            Reading::Malformed(whom, dropped, passed) => Err(if self.is_for(&whom) { dropped } else { passed }),
        };
        let sent = outcome.unwrap_or_else(|verdict| Sent::untouched(arrival, verdict));
        *self.verdicts.entry(sent.verdict).or_default() += 1;
        Outcome { verdict: sent.verdict, action: sent.action(), frame: sent.frame }
    }

    /// Signals of every backend, as [`Self::counters`]; segments that are watched for repetition are left out.
    pub fn signals(&self) -> impl Iterator<Item = (usize, Version, SocketAddr, Counts)> {
        self.world.backends.iter().map(|one| (one.service, one.version, one.setup.address, one.signals))
    }

    fn is_for(&self, whom: &Whom) -> bool {
        match whom {
            Whom::Nobody => false,
            Whom::Vip(address) => self.world.is_vip(*address),
            Whom::Service(endpoint) => self.world.door(*endpoint).is_some(),
        }
    }

    fn counters_of(&mut self, backend: usize, count: impl FnOnce(&mut BackendCounters)) {
        if let Some(backend) = self.world.backends.get_mut(backend) {
            count(&mut backend.counters);
        }
    }

    /// The source of a `full-nat` flow; where it was never seen, it is taken from where the program wrote it.
    fn source(&mut self, key: Key, written: Option<(IpAddr, u16)>, now: u32) -> Option<Endpoint> {
        let (door, service) = self.world.service_of(key.0)?;
        let protocol = door.endpoint.protocol;
        let endpoint = |source: SocketAddr| Endpoint { address: source.ip(), port: source.port(), protocol };
        let flow = self.flows.by_key.get(&key)?;
        if let Some(source) = flow.source {
            return Some(endpoint(source));
        }
        let crate::kernel::ForwardMode::FullNat { sources } = &service.setup.mode else { return None };
        let is_free = |source: SocketAddr| {
            let is_expired = |flow: &Flow| flow.is_expired(now, &self.idle, self.idle.udp);
            self.flows.is_free(source, key, is_expired)
        };
        let in_range = |port: u16| port >= self.ports.first && port - self.ports.first < self.ports.count;
        let allowed =
            |source: &SocketAddr| sources.contains(&source.ip()) && in_range(source.port()) && is_free(*source);
        let written = written.map(SocketAddr::from).filter(allowed);
        let first = || {
            let ports = (0..self.ports.count).map(|nth| self.ports.first + nth);
            let all = ports.flat_map(|port| sources.iter().map(move |source| SocketAddr::new(*source, port)));
            all.into_iter().find(|source| is_free(*source))
        };
        let source = written.or_else(first)?;
        let backend = flow.backend;
        self.flows.by_source.insert(source, (key, backend));
        self.flows.by_key.get_mut(&key)?.source = Some(source);
        Some(endpoint(source))
    }
}

/// How a packet goes on.
struct Sent {
    verdict: Verdict,
    frame: Vec<u8>,
}

impl Sent {
    fn untouched(arrival: Arrival<'_>, verdict: Verdict) -> Self {
        Self { verdict, frame: arrival.frame.to_vec() }
    }

    fn action(&self) -> u32 {
        match self.verdict {
            Verdict::ForwardedSameInterface => XDP_TX,
            Verdict::ForwardedOtherInterface => XDP_REDIRECT,
            // Answers are redirected, too, to the device that they came in on.
            Verdict::AnsweredEcho | Verdict::AnsweredTooBig | Verdict::AnsweredReset => XDP_REDIRECT,
            verdict if verdict.action() == Action::Drop => XDP_DROP,
            _ => XDP_PASS,
        }
    }
}

/// What becomes of a packet, or for which reason it is dropped or passed as it is.
type Result = std::result::Result<Sent, Verdict>;

#[cfg(test)]
mod tests;
