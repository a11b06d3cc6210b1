//! From releases and counters to what the API answers. Decides nothing.

use std::time::Duration;

use grayxdp_common::ids::Version;

use super::{
    kernel::Kernel,
    releases::{Releases, then},
    shapes::{
        BackendStatus, Flows, JudgementStatus, PinRuleBody, PinStatus, PinsStatus, ScheduleStatus, ServiceStatus,
        ShardStatus, VersionStatus, Versions, WaitStatus, rounded,
    },
    signals,
};
use crate::{
    config::ServiceConfig,
    decide::{
        controller::{self, Release, Wait},
        pin::Pin,
        settings::{BackendState, Member, Origin},
        weights::Weights,
    },
    kernel::{BackendReading, FlowReading},
    percent::percent,
};

/// What the kernel counted, a moment ago.
#[derive(Clone, Copy)]
pub(super) struct Counted<'a> {
    pub(super) readings: &'a [BackendReading],
    pub(super) flows: &'a [FlowReading],
}

/// A service as it stands, with readings made a moment ago.
pub(super) fn service_status<K: Kernel>(
    releases: &Releases<K>,
    index: usize,
    counted: Counted<'_>,
    measured_share: Option<f64>,
) -> ServiceStatus {
    let service = &releases.services()[index];
    let release = releases.release(index);
    let kernel = kernel_weights(releases, index);
    let settings = releases.settings(index);
    let waits = controller::wait(service.terms(), release);
    ServiceStatus {
        name: service.name.clone(),
        vip: service.vip,
        port: service.port,
        protocol: service.protocol.name().to_owned(),
        mode: service.mode.name().to_owned(),
        key: service.key.name().to_owned(),
        state: release.state.name().to_owned(),
        reason: reason(release, releases.store_fault()),
        rule: release.rule.name().to_owned(),
        waits: waits.clone().map(WaitStatus::from),
        judgement: judgement(releases, index),
        warning: warning(releases, index),
        weight: percent(release.weights.mean()),
        kernel_weight: kernel.as_ref().map(|weights| percent(weights.mean())),
        shards: shards(service, &release.weights, kernel.as_ref()),
        measured_share: measured_share.map(rounded),
        schedule: schedule(service, release, waits.as_ref()),
        pins: settings.pins(&service.pins).len(),
        versions: Versions {
            v1: version(releases, index, Version::V1, counted),
            v2: version(releases, index, Version::V2, counted),
        },
    }
}

fn judgement<K: Kernel>(releases: &Releases<K>, index: usize) -> Option<JudgementStatus> {
    let judgement = releases.judgement(index)?;
    if releases.is_blind(index) {
        return Some(JudgementStatus::blind());
    }
    let unseen = releases.services()[index].policy.analysis.judge.unseen();
    Some(JudgementStatus::from(judgement).without(&unseen))
}

fn reason(release: &Release, store_fault: Option<&str>) -> String {
    match store_fault {
        Some(fault) => format!("{}; v2 gets no more traffic for the time being: {fault}", release.reason),
        None => release.reason.clone(),
    }
}

/// Not more than one sentence for each thing that needs a person.
fn warning<K: Kernel>(releases: &Releases<K>, index: usize) -> Option<String> {
    let service = &releases.services()[index];
    let (backends, unstored) = (releases.shown_backends(index), releases.unstored(index));
    let is_disbelieved = releases.is_disbelieved(index);
    let is_empty = |version: Version| {
        !backends.iter().any(|backend| backend.version == version && backend.state == BackendState::Live)
    };
    let empty = Version::ALL
        .into_iter()
        .filter(|version| is_empty(*version))
        .map(|version| format!("{} has no live backend: {}", version.name(), then(service.when_empty, is_disbelieved)));
    let all: Vec<String> = unstored.into_iter().chain(empty).collect();
    if all.is_empty() { None } else { Some(all.join("; ")) }
}

/// Empty where no shard differs from the others.
fn shards(service: &ServiceConfig, wanted: &Weights, kernel: Option<&Weights>) -> Vec<ShardStatus> {
    if wanted.differing().is_none() && kernel.is_none_or(|kernel| kernel.differing().is_none()) {
        return Vec::new();
    }
    let shards = service.shards();
    let in_turn = (0..shards.count()).map(|place| shards.in_turn(place));
    let status = |shard: usize| ShardStatus {
        name: shards.name(shard).into_owned(),
        weight: percent(wanted.of(shard)),
        kernel_weight: kernel.map(|kernel| percent(kernel.of(shard))),
    };
    in_turn.map(status).collect()
}

/// The pins of a service, by rule.
pub(super) fn pins<K: Kernel>(releases: &Releases<K>, index: usize) -> PinsStatus {
    let service = &releases.services()[index];
    let pin = |(pin, origin): (Pin, Origin)| {
        let PinRuleBody { source, dscp } = PinRuleBody::from(pin.rule);
        PinStatus { source, dscp, version: pin.version.name().to_owned(), origin: origin.name().to_owned() }
    };
    PinsStatus {
        service: service.name.clone(),
        canary_port: service.canary_port,
        pins: releases.settings(index).pins(&service.pins).into_iter().map(pin).collect(),
    }
}

fn kernel_weights<K: Kernel>(releases: &Releases<K>, index: usize) -> Option<Weights> {
    let read = releases.kernel().weights(index);
    read.inspect_err(|error| tracing::warn!(service = releases.services()[index].name, "weight_not_read {error}")).ok()
}

fn schedule(service: &ServiceConfig, release: &Release, waits: Option<&Wait>) -> ScheduleStatus {
    let turn = service.plan().shard_in_turn(release.schedule_time);
    // A wait that does not end in a weight is told elsewhere.
    let next = waits.filter(|wait| wait.weight.is_some());
    ScheduleStatus {
        kind: service.schedule.kind().to_owned(),
        elapsed_s: seconds(release.schedule_time),
        order: service.order.name().to_owned(),
        turn: turn.map(|shard| service.shards().name(shard).into_owned()),
        duration_s: service.plan().duration().map(seconds),
        next_weight: next.and_then(|wait| wait.weight).map(percent),
        next_in_s: next.and_then(|wait| wait.time).map(seconds),
    }
}

pub(super) fn seconds(length: Duration) -> f64 {
    rounded(length.as_secs_f64())
}

fn version<K: Kernel>(releases: &Releases<K>, index: usize, version: Version, counted: Counted<'_>) -> VersionStatus {
    let Counted { readings, flows } = counted;
    let (service, settings) = (&releases.services()[index], releases.settings(index));
    let [v1, v2] = signals::version_sums(readings, index);
    let sum = match version {
        Version::V1 => v1,
        Version::V2 => v2,
    };
    let members = service.members();
    let states = releases.shown_backends(index);
    let there = settings.members(&members).into_iter().map(|(member, origin)| {
        let state = states.iter().find(|backend| backend.address == member.address).map(|backend| backend.state);
        (member, state.unwrap_or(BackendState::Live).name(), origin)
    });
    // It may still have connections.
    let removed = settings.removed(&members).map(|member| (*member, "removed", Origin::RunTime));
    let own = there.chain(removed).filter(|(member, ..)| member.version == version);
    let backends = own.map(|(Member { address, weight, .. }, state, origin)| {
        let is_own = |reading: &&BackendReading| {
            (reading.service, reading.version, reading.address) == (index, version, address)
        };
        let counters = readings.iter().find(is_own).map(|reading| reading.counters).unwrap_or_default();
        let (state, origin) = (state.to_owned(), origin.name().to_owned());
        let flows = flows_of(flows, |each| (each.service, each.version, each.address) == (index, version, address));
        BackendStatus { address, weight, state, origin, counters: counters.into(), flows }
    });
    let all_flows = flows_of(flows, |each| (each.service, each.version) == (index, version));
    VersionStatus { counters: sum.into(), flows: all_flows, backends: backends.collect() }
}

fn flows_of(readings: &[FlowReading], picks: impl Fn(&FlowReading) -> bool) -> Flows {
    let mut sum = Flows::default();
    for [half_open, established, closing, udp] in readings.iter().filter(|each| picks(each)).map(|each| each.flows) {
        sum.half_open += u64::from(half_open);
        sum.established += u64::from(established);
        sum.closing += u64::from(closing);
        sum.udp += u64::from(udp);
    }
    sum
}
