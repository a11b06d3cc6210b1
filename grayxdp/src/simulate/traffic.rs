//! Traffic as the kernel would count it, tick by tick.

use std::time::Duration;

use super::{
    chance::Chance,
    latency::{Cells, LatencyModel},
};
use crate::decide::signals::{CLIENT_GROUPS, GroupCounts, Signals};

/// The drift of the base error rate goes back half way in about three and a half minutes.
const DRIFT_SECONDS: f64 = 300.0;

/// Traffic of a service, and what v2 does worse.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TrafficModel {
    /// Connections a second.
    pub rate: f64,
    /// The part of v1's that fails, in the mean; 0 to 1.
    pub base_error: f64,
    /// So many errors come together, from one client; at least 1. The number is geometric.
    pub burst_mean: f64,
    /// How far the base error rate drifts: the standard deviation of its natural logarithm.
    pub drift: f64,
    /// Response times; none are counted without.
    pub latency: Option<LatencyModel>,
    /// What v2 does worse.
    pub fault: Fault,
    /// Errors are counted by groups of clients, too.
    pub groups: bool,
}

/// What v2 does worse, and from when on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    /// v2's error rate over v1's.
    pub error_ratio: f64,
    /// How many times as long v2's slower responses take.
    pub latency_ratio: f64,
    /// The part of its responses that are slower.
    pub latency_part: f64,
    /// Since when, from the beginning of the release.
    pub at: Duration,
}

impl Default for Fault {
    fn default() -> Self {
        Self { error_ratio: 1.0, latency_ratio: 1.0, latency_part: 1.0, at: Duration::ZERO }
    }
}

impl Fault {
    /// Whether anything is worse.
    pub fn is_any(&self) -> bool {
        self.error_ratio > 1.0 || (self.latency_ratio > 1.0 && self.latency_part > 0.0)
    }
}

impl Default for TrafficModel {
    fn default() -> Self {
        Self {
            rate: 1000.0,
            base_error: 0.005,
            burst_mean: 1.0,
            drift: 0.0,
            latency: Some(LatencyModel::default()),
            fault: Fault::default(),
            groups: false,
        }
    }
}

/// The traffic of one release.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    model: &'a TrafficModel,
    chance: Chance,
    usual: Option<Cells>,
    slower: Option<Cells>,
    /// Natural logarithm of the base rate over its mean.
    drift: f64,
    now: Duration,
    /// What came in the last tick.
    v1: Signals,
    v2: Signals,
}

impl<'a> Stream<'a> {
    /// The traffic of the release with this number.
    pub fn new(model: &'a TrafficModel, seed: u64, number: u32) -> Self {
        // Where all responses take equally long, it matters little how finely they are told apart.
        let width = if model.fault.latency_ratio > 1.0 { 1 } else { 5 };
        let cells = |times, part| model.latency.map(|latency| Cells::new(&latency, times, part, width));
        let groups = if model.groups { CLIENT_GROUPS } else { 0 };
        let signals = Signals { groups: vec![GroupCounts::default(); groups], ..Signals::default() };
        let mut chance = Chance::new(seed, number);
        let drift = model.drift * chance.normal();
        Self {
            model,
            chance,
            usual: cells(1.0, 1.0),
            slower: cells(model.fault.latency_ratio, model.fault.latency_part),
            drift,
            now: Duration::ZERO,
            v1: signals.clone(),
            v2: signals,
        }
    }

    /// What comes in a tick in which v2 has this share, 0 to 1.
    pub fn next(&mut self, tick: Duration, weight: f64) -> (&Signals, &Signals) {
        let Self { model, chance, .. } = self;
        let seconds = tick.as_secs_f64();
        let faulty = self.now >= model.fault.at && model.fault.is_any();
        self.now += tick;
        if model.drift > 0.0 {
            let kept = (-seconds / DRIFT_SECONDS).exp();
            self.drift = kept * self.drift + model.drift * (1.0 - kept * kept).sqrt() * chance.normal();
        }
        // The mean of a lognormal is above its median.
        let base = (model.base_error * (self.drift - model.drift * model.drift / 2.0).exp()).min(1.0);
        let worse = if faulty { (base * model.fault.error_ratio).min(1.0) } else { base };
        for (signals, share, errors, slower) in
            [(&mut self.v1, 1.0 - weight, base, false), (&mut self.v2, weight, worse, faulty)]
        {
            let flows = chance.poisson(model.rate * share * seconds);
            let failed = fail(model, chance, flows, errors, &mut signals.groups);
            signals.counts.flows = flows;
            signals.counts.refused = failed;
            signals.counts.established = flows - failed;
            let cells = if slower { &self.slower } else { &self.usual };
            if let Some(cells) = cells {
                signals.first_response.clear();
                cells.draw(chance, flows - failed, &mut signals.first_response);
                signals.counts.requests = flows - failed;
                signals.counts.responses = flows - failed;
            }
        }
        (&self.v1, &self.v2)
    }
}

/// How many of so many connections fail, with each this chance; spread over the groups of clients.
fn fail(model: &TrafficModel, chance: &mut Chance, flows: u64, rate: f64, groups: &mut [GroupCounts]) -> u64 {
    let places = groups.len();
    if places > 0 {
        // Many clients: the groups' connections differ by chance only, which says nothing.
        let (each, over) = (flows / places as u64, flows % places as u64);
        let more = (0u64..).map(|place| u64::from(place < over));
        groups.iter_mut().zip(more).for_each(|(group, more)| *group = GroupCounts { flows: each + more, errors: 0 });
    }
    if model.burst_mean <= 1.0 {
        let failed = chance.binomial(flows, rate);
        if places > 0 {
            for _ in 0..failed {
                groups[chance.place(places)].errors += 1;
            }
        }
        return failed;
    }
    let mut failed = 0;
    for _ in 0..chance.poisson(flows as f64 * rate / model.burst_mean) {
        let burst = chance.burst(model.burst_mean).min(flows - failed);
        failed += burst;
        if places > 0 {
            groups[chance.place(places)].errors += burst;
        }
    }
    failed
}
