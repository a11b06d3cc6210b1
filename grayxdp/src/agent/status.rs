//! From releases and counters to what the API answers. Decides nothing.

use std::time::Duration;

use grayxdp_common::{ids::Version, weight::Weight};

use super::{
    kernel::Kernel,
    releases::Releases,
    shapes::{BackendStatus, ScheduleStatus, ServiceStatus, VersionStatus, Versions, rounded},
    signals,
};
use crate::{
    config::ServiceConfig,
    decide::controller::{Release, State},
    kernel::BackendReading,
    percent::percent,
};

/// A service as it stands, with readings made a moment ago.
pub(super) fn service_status<K: Kernel>(
    releases: &Releases<K>,
    index: usize,
    readings: &[BackendReading],
    measured_share: Option<f64>,
) -> ServiceStatus {
    let service = &releases.services()[index];
    let release = releases.release(index);
    ServiceStatus {
        name: service.name.clone(),
        vip: service.vip,
        port: service.port,
        protocol: service.protocol.name().to_owned(),
        mode: service.mode.name().to_owned(),
        key: service.key.name().to_owned(),
        state: release.state.name().to_owned(),
        reason: reason(release, releases.store_fault()),
        warning: releases.unstored(index),
        weight: percent(release.weight),
        kernel_weight: kernel_weight(releases, index).map(percent),
        measured_share: measured_share.map(rounded),
        schedule: schedule(service, release),
        versions: Versions {
            v1: version(service, index, Version::V1, readings),
            v2: version(service, index, Version::V2, readings),
        },
    }
}

fn reason(release: &Release, store_fault: Option<&str>) -> String {
    match store_fault {
        Some(fault) => format!("{}; v2 gets no more traffic for the time being: {fault}", release.reason),
        None => release.reason.clone(),
    }
}

fn kernel_weight<K: Kernel>(releases: &Releases<K>, index: usize) -> Option<Weight> {
    let read = releases.kernel().weight(index);
    read.inspect_err(|error| tracing::warn!(service = releases.services()[index].name, "weight_not_read {error}")).ok()
}

fn schedule(service: &ServiceConfig, release: &Release) -> ScheduleStatus {
    let next = match release.state {
        State::Progressing => service.schedule.next_change(release.schedule_time),
        _ => None,
    };
    ScheduleStatus {
        kind: service.schedule.kind().to_owned(),
        elapsed_s: seconds(release.schedule_time),
        duration_s: service.schedule.duration().map(seconds),
        next_weight: next.map(|(_, weight)| percent(weight)),
        next_in_s: next.map(|(at, _)| seconds(at.saturating_sub(release.schedule_time))),
    }
}

pub(super) fn seconds(length: Duration) -> f64 {
    rounded(length.as_secs_f64())
}

fn version(service: &ServiceConfig, index: usize, version: Version, readings: &[BackendReading]) -> VersionStatus {
    let [v1, v2] = signals::version_sums(readings, index);
    let sum = match version {
        Version::V1 => v1,
        Version::V2 => v2,
    };
    let backends = service.pool(version).backends.iter().map(|backend| {
        let is_own = |reading: &&BackendReading| {
            (reading.service, reading.version, reading.address) == (index, version, backend.address)
        };
        let counters = readings.iter().find(is_own).map(|reading| reading.counters).unwrap_or_default();
        BackendStatus { address: backend.address, weight: backend.weight, counters: counters.into() }
    });
    VersionStatus { counters: sum.into(), backends: backends.collect() }
}
