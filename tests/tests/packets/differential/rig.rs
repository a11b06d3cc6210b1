//! The real program and the model side by side.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use grayxdp::{
    decide::signals,
    kernel::{DataPlane, ServiceSetup, Setup, Shards},
    model::{Arrival, Model, Outcome, XDP_DROP},
};
use grayxdp_common::{
    ids::{BackendId, Version},
    layout::BackendCounters,
    verdict::Verdict,
    weight::Weight,
};

use super::{
    dice::Dice,
    step::{self, Past, Step, What},
    world::{self, Told},
};
use crate::fixture::index_of;

/// The loopback device, where test packets come in.
const LO: u32 = 1;
/// No more than every way's largest packet, but for the told ones to v2, which are told of; in bytes.
const MTU: usize = 1500;
/// Bytes in which the addresses of a packet are.
const HEADS: usize = 80;

pub(super) struct Rig {
    pub(super) plane: DataPlane,
    pub(super) setup: Setup,
    told: Model,
    kernel: Model,
}

/// How a step went otherwise than it should have.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) step: usize,
    pub(super) packet: Vec<u8>,
    pub(super) what: String,
}

/// One run of some steps.
pub(super) struct Run<'a> {
    rig: &'a mut Rig,
    model: Model,
    past: Past,
    pub(super) packets: u64,
    before: Counts,
    model_before: Counts,
}

/// Counts of signals, but for segments that are watched for repetition: which flows are, the model does not know.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Signals(signals::Counts);

impl From<signals::Counts> for Signals {
    fn from(counts: signals::Counts) -> Self {
        Self(signals::Counts { watched_segments: 0, retransmissions: 0, ..counts })
    }
}

#[derive(Clone, PartialEq, Eq, Default)]
struct Counts {
    verdicts: Vec<(Verdict, u64)>,
    backends: HashMap<(usize, Version, std::net::SocketAddr), BackendCounters>,
    signals: HashMap<(usize, Version, std::net::SocketAddr), Signals>,
}

impl Rig {
    pub(super) fn new(setup: Setup, mut plane: DataPlane) -> Self {
        let Told { hops, routes, told, kernel } = world::ways(index_of("ga"), index_of("gb"));
        plane.set_next_hops(&hops);
        plane.set_routes(&routes).expect("few routes");
        let (told, kernel) = (Model::new(&setup, told, kernel.clone()), Model::new(&setup, kernel.clone(), kernel));
        Self { plane, setup, told, kernel }
    }

    /// Begins without flows, and with every weight at 50 %; `is_leased`: by the told ways, else the kernel is asked.
    pub(super) fn begin(&mut self, is_leased: bool) -> Run<'_> {
        self.plane.forget_flows();
        self.plane.lease_hops(if is_leased { Duration::MAX } else { Duration::ZERO });
        let mut model = if is_leased { self.told.clone() } else { self.kernel.clone() };
        for service in 0..self.setup.services.len() {
            let count = self.setup.services[service].shards.count();
            let weights = vec![Weight::from_hundredths(5_000).expect("a weight"); count as usize];
            self.plane.set_weights(service, &weights).expect("a weight can be set");
            model.set_weights(service, &weights);
        }
        model.forget_flows();
        let before = self.counts();
        let model_before = counts_of(&model);
        Run { rig: self, model, past: Past::new(), packets: 0, before, model_before }
    }

    /// Whether the packet may be for a service that draws a version for each flow.
    fn draws_for(&self, packet: &[u8]) -> bool {
        let heads = &packet[..packet.len().min(HEADS)];
        let draws = |service: &&ServiceSetup| service.shards == Shards::Random;
        self.setup.services.iter().filter(draws).any(|service| match service.vip {
            IpAddr::V4(vip) => heads.windows(4).any(|bytes| bytes == vip.octets()),
            IpAddr::V6(vip) => heads.windows(16).any(|bytes| bytes == vip.octets()),
        })
    }

    /// How many packets ended in each way, of those that did.
    pub(super) fn verdicts(&mut self) -> Vec<(Verdict, u64)> {
        self.counts().verdicts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    fn counts(&mut self) -> Counts {
        let readings = self.plane.backend_readings().expect("readable");
        let backends =
            readings.into_iter().map(|one| ((one.service, one.version, one.address), one.counters)).collect();
        let signals = self.plane.signals().backends.iter();
        let signals = signals.map(|one| ((one.service, one.version, one.address), one.signals.counts.into())).collect();
        Counts { verdicts: self.plane.verdict_counts().expect("readable"), backends, signals }
    }
}

fn counts_of(model: &Model) -> Counts {
    Counts {
        verdicts: Verdict::ALL.into_iter().map(|verdict| (verdict, model.count_of(verdict))).collect(),
        backends: model.counters().map(|(service, version, address, one)| ((service, version, address), one)).collect(),
        signals: model
            .signals()
            .map(|(service, version, address, one)| ((service, version, address), one.into()))
            .collect(),
    }
}

/// What was counted since.
fn since(after: &Counts, before: &Counts) -> (Vec<(Verdict, u64)>, Vec<String>) {
    let verdicts = after.verdicts.iter().zip(&before.verdicts).map(|((verdict, a), (_, b))| (*verdict, a - b));
    let mut backends: Vec<String> = after
        .backends
        .iter()
        .map(|(name, a)| (name, numbers(a), numbers(&before.backends.get(name).copied().unwrap_or_default())))
        .filter(|(_, a, b)| a != b)
        .map(|(name, a, b)| {
            let delta: Vec<u64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            format!("service {} {} {}: {delta:?}", name.0, name.1.name(), name.2)
        })
        .collect();
    let signals = after.signals.iter().filter_map(|(name, after)| {
        let grown = after.0.since(&before.signals.get(name).copied().unwrap_or_default().0).expect("none fell");
        let grown: Vec<_> = grown.named().into_iter().filter(|(_, count)| *count > 0).collect();
        (!grown.is_empty()).then(|| format!("service {} {} {}: {grown:?}", name.0, name.1.name(), name.2))
    });
    backends.extend(signals);
    backends.sort();
    (verdicts.filter(|(_, count)| *count > 0).collect(), backends)
}

fn numbers(counters: &BackendCounters) -> [u64; 11] {
    let c = counters;
    [
        c.packets_in,
        c.bytes_in,
        c.packets_out,
        c.bytes_out,
        c.new_flows,
        c.pinned_flows,
        c.fallback_flows,
        c.flow_misses,
        c.untracked_flows,
        c.icmp_errors,
        c.severed_flows,
    ]
}

impl Run<'_> {
    /// Runs one packet as it is; says how it ended.
    pub(super) fn packet(&mut self, id: usize, packet: Vec<u8>) -> (Verdict, Option<Difference>) {
        let outcome = self.rig.plane.test_run(&packet).expect("a test run");
        let arrival = Arrival { frame: &packet, interface: LO, now: 0, seen: &outcome.packet };
        let expected = self.model.run(arrival);
        self.packets += 1;
        let is_same =
            outcome.action == expected.action && (expected.action == XDP_DROP || outcome.packet == expected.frame);
        let what = (!is_same).then(|| told_apart(&expected, outcome.action, &outcome.packet));
        let difference = what.map(|what| Difference { step: id, packet: packet.clone(), what });
        self.past.insert(id, (packet, outcome.packet));
        (expected.verdict, difference)
    }

    /// Runs one step; `None` where both agree on action and packet.
    pub(super) fn step(&mut self, step: &Step) -> Option<Difference> {
        match &step.what {
            What::Weights { service, weights } => {
                self.rig.plane.set_weights(*service, weights).expect("a weight can be set");
                self.model.set_weights(*service, weights);
                return None;
            }
            What::Sever { service, version } => {
                let is_meant = |(id, of, _): (BackendId, Version, _)| (of == *version).then_some(id);
                let services = service.map_or(0..self.rig.setup.services.len(), |one| one..one + 1);
                for service in services {
                    let backends: Vec<_> = self.rig.plane.backends(service).into_iter().filter_map(is_meant).collect();
                    self.rig.plane.sever(&backends);
                    self.model.sever(service, *version);
                }
                return None;
            }
            _ => {}
        }
        let mut packet = step.packet(&self.past)?;
        if self.rig.draws_for(&packet) {
            // Where it is too big for both versions, nobody sees which one was drawn.
            packet.truncate(MTU);
        }
        self.packet(step.id, packet).1
    }

    /// Compares what was counted since the last time.
    pub(super) fn compare_counts(&mut self, step: usize) -> Option<Difference> {
        let (after, model_after) = (self.rig.counts(), counts_of(&self.model));
        let (program, model) = (since(&after, &self.before), since(&model_after, &self.model_before));
        (self.before, self.model_before) = (after, model_after);
        if program == model {
            return None;
        }
        let packet = self.past.get(&step).map(|(packet, _)| packet.clone()).unwrap_or_default();
        Some(Difference {
            step,
            packet,
            what: format!("counted by the program: {program:?}\ncounted by the model:   {model:?}"),
        })
    }

    /// Ends it: the models keep what they remember of fragments, as the program does.
    pub(super) fn end(self) {
        self.rig.told.adopt_fragments(&self.model);
        self.rig.kernel.adopt_fragments(&self.model);
    }

    pub(super) fn packet_of(&self, step: usize) -> Option<&[u8]> {
        self.past.get(&step).map(|(packet, _)| packet.as_slice())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn told_apart(expected: &Outcome, action: u32, packet: &[u8]) -> String {
    let at =
        expected.frame.iter().zip(packet).position(|(a, b)| a != b).unwrap_or(expected.frame.len().min(packet.len()));
    format!(
        "expected {:?} (action {}, {} bytes), found action {action} ({} bytes); first byte that differs: {at}\n\
         expected {}\nfound    {}\n{}",
        expected.verdict,
        expected.action,
        expected.frame.len(),
        packet.len(),
        hex(&expected.frame),
        hex(packet),
        step::ends(packet),
    )
}

/// Steps of an episode from its seed.
pub(super) fn steps(setup: &Setup, seed: u64, count: usize) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    (0..count).map(|id| step::next(&mut dice, setup, id)).collect()
}
