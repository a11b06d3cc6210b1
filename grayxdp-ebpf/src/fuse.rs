//! The fuse: where v2 fails far more often than v1, new connections go to v1 from the next one on, with nobody's help.
//!
//! Each CPU counts new flows and failures of both versions in a window of its own, this one and the one before; so what is
//! judged covers one to two windows. Only a failure of v2 has the sums made and judged. A packet of a flow that is known
//! costs nothing, a new flow one addition, and one load where it goes to v2.

use grayxdp_common::{
    ids::{ServiceId, Version},
    layout::{Control, FuseAlarm, FuseTally, FuseWindow, ServiceEntry},
};

use crate::{count, helpers, maps, stages};

/// CPUs whose windows are added.
const CPUS_MAX: u32 = 512;

/// Whether new flows must not go to v2.
#[inline(always)]
pub(crate) fn is_blown(service: ServiceId) -> bool {
    maps::fuse(service.0).is_some_and(|fuse| fuse.is_blown())
}

/// Counts a new flow.
#[inline(always)]
pub(crate) fn began(control: &Control, id: ServiceId, service: &ServiceEntry, version: Version, now: u32) {
    if service.fuse_failures != 0 {
        count::with_fuse_window(control, id, |window| {
            turn(window, service.fuse_window_ticks, now);
            let [v1, v2] = &mut window.now.flows;
            *(if version == Version::V1 { v1 } else { v2 }) += 1;
        });
    }
}

/// Counts a flow that failed. Returns whether the fuse is to be judged now ([`judge`]): not here, where the stack is deep.
#[inline(always)]
#[must_use]
pub(crate) fn failed(control: &Control, id: ServiceId, service: &ServiceEntry, version: Version, now: u32) -> bool {
    if service.fuse_failures == 0 {
        return false;
    }
    count::with_fuse_window(control, id, |window| {
        turn(window, service.fuse_window_ticks, now);
        let [v1, v2] = &mut window.now.failures;
        *(if version == Version::V1 { v1 } else { v2 }) += 1;
    });
    version == Version::V2
}

/// How old the window is, in flow ticks. The exact clock, which may have begun it, is ahead of the coarse one for a moment.
#[inline(always)]
fn age(window: &FuseWindow, now: u32) -> u32 {
    let age = now.wrapping_sub(window.since);
    if age >= 1 << 31 { 0 } else { age }
}

/// Begins a new window where the present one is over.
#[inline(always)]
fn turn(window: &mut FuseWindow, length: u32, now: u32) {
    let age = age(window, now);
    if age >= length {
        window.before = if age < length.wrapping_mul(2) { window.now } else { FuseTally::default() };
        window.now = FuseTally::default();
        window.since = now;
    }
}

/// Blows the fuse of a service if what all CPUs counted says so.
#[inline(always)]
pub(crate) fn judge(control: &Control, id: ServiceId, service: &ServiceEntry, now: u32) -> Option<()> {
    let fuse = maps::fuse(id.0)?;
    if fuse.is_blown() {
        return None;
    }
    let mut tally = FuseTally::default();
    let mut cpu = 0;
    while cpu < CPUS_MAX && cpu < control.signal_stripes {
        // VERIFIER: added in a function of its own, whose branches would double the states of this loop.
        stages::grayxdp_add_tally(id.0, cpu, now, &mut tally);
        cpu += 1;
    }
    if !tally.is_too_much(service.fuse_failures) {
        return None;
    }
    let time_ns = helpers::clock_ns();
    if fuse.blow(time_ns, tally) {
        maps::send_alarm(&FuseAlarm { time_ns, service: id.0, reserved: 0, tally });
    }
    Some(())
}

/// Adds what a CPU counted in this window and the one before.
#[inline(always)]
pub(crate) fn add_tally(
    control: &Control,
    id: ServiceId,
    service: &ServiceEntry,
    cpu: u32,
    now: u32,
    sum: &mut FuseTally,
) -> Option<()> {
    let window = count::fuse_window(control, id, cpu)?;
    let (age, length) = (age(&window, now), service.fuse_window_ticks);
    if age < length {
        *sum = sum.plus(window.now).plus(window.before);
    } else if age < length.wrapping_mul(2) {
        *sum = sum.plus(window.now);
    }
    Some(())
}
