//! Per-CPU counters. May not alter the verdict.

use grayxdp_common::{
    histogram::bucket_of,
    ids::{BackendId, ServiceId, Version},
    layout::{
        BUCKETS_PER_LINE, BackendCounters, CLIENT_GROUPS, Control, FuseWindow, GroupCell, Signal, SignalRow, Timing,
    },
};

use crate::{helpers, maps};

/// Counts how a packet ended; called once for each packet.
#[inline(always)]
pub(crate) fn verdict(index: u32) {
    if let Some(counter) = maps::verdict_counter(index) {
        // SAFETY: this CPU's own slot. Where the kernel lets one run of the program interrupt another on the same CPU,
        // one of two additions may be lost; nothing else depends on them.
        unsafe { *counter += 1 };
    }
}

/// How a request met the flow table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// It belongs to a flow that is known.
    Known,
    /// It begins a flow.
    New,
    /// It should belong to a flow, and none is known.
    Missed,
}

/// How a request came to its backend.
#[derive(Clone, Copy)]
pub(crate) struct Passage {
    pub(crate) meeting: Meeting,
    pub(crate) is_pinned: bool,
    pub(crate) is_fallback: bool,
    /// Whether the flow has an entry, or needs none.
    pub(crate) is_tracked: bool,
}

/// Counts a client's packet for the backend that it goes to.
#[inline(always)]
pub(crate) fn request(backend: BackendId, ip_len: u16, passage: Passage) {
    with_counters(backend, |counters| {
        counters.packets_in += 1;
        counters.bytes_in += u64::from(ip_len);
        if passage.meeting != Meeting::Known {
            let is_new = passage.meeting == Meeting::New;
            counters.new_flows += u64::from(is_new);
            counters.pinned_flows += u64::from(is_new && passage.is_pinned);
            counters.fallback_flows += u64::from(is_new && passage.is_fallback);
            counters.flow_misses += u64::from(!is_new);
            counters.untracked_flows += u64::from(!passage.is_tracked);
        }
    });
}

/// Counts a backend's packet to a client.
#[inline(always)]
pub(crate) fn reply(backend: BackendId, ip_len: u16) {
    with_counters(backend, |counters| {
        counters.packets_out += 1;
        counters.bytes_out += u64::from(ip_len);
    });
}

/// Counts an ICMP error that a backend, or a host on the way to it, sent about a flow.
#[inline(always)]
pub(crate) fn icmp_error(backend: BackendId) {
    with_counters(backend, |counters| counters.icmp_errors += 1);
}

/// Counts a connection reset because it was severed.
#[inline(always)]
pub(crate) fn severed(backend: BackendId) {
    with_counters(backend, |counters| counters.severed_flows += 1);
}

#[inline(always)]
fn with_counters(backend: BackendId, count: impl FnOnce(&mut BackendCounters)) {
    if let Some(counters) = maps::backend_counters(backend) {
        // SAFETY: this CPU's own slot, borrowed for these additions only; see `verdict`.
        count(unsafe { &mut *counters });
    }
}

/// A backend's signals, as this CPU counts them.
#[derive(Clone, Copy)]
pub(crate) struct Signals(*mut SignalRow);

impl Signals {
    /// `None` for a backend that came when there was no row left.
    #[inline(always)]
    pub(crate) fn of(control: &Control, backend: BackendId) -> Option<Self> {
        let rows = u32::from(control.signal_rows);
        let number = u32::from(backend.raw());
        if number >= rows {
            return None;
        }
        maps::signal_row(helpers::cpu() * rows + number).map(Self)
    }

    #[inline(always)]
    pub(crate) fn count(self, signal: Signal) {
        // SAFETY: a field of this CPU's own row, as in `verdict`; every signal has a place.
        unsafe { *(&raw mut (*self.0).counts).cast::<u64>().add(signal as usize) += 1 };
    }

    #[inline(always)]
    pub(crate) fn time(self, timing: Timing, us: u32) {
        let bucket = bucket_of(us);
        // SAFETY: this CPU's own row, borrowed for this addition only; see `verdict`.
        let row = unsafe { &mut *self.0 };
        let line = 1_u32 << ((bucket / BUCKETS_PER_LINE) & 31);
        if let Some(lines) = row.lines.get_mut(timing as usize)
            && *lines & line == 0
        {
            *lines |= line;
        }
        if let Some(count) = row.times.get_mut(timing as usize).and_then(|times| times.get_mut(bucket)) {
            *count += 1;
        }
    }
}

/// What of a group of clients is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfGroup {
    Flow,
    Error,
}

/// Counts for a group of clients of a service's version.
#[inline(always)]
pub(crate) fn group(control: &Control, service: ServiceId, version: Version, group: u8, what: OfGroup) {
    let Some(index) = stripe(control, service) else { return };
    let Some(row) = maps::group_row(index * 2 + version as u32) else { return };
    // SAFETY: this CPU's own row, and a number of eight bits is below the number of groups.
    let cell = unsafe { &mut *(&raw mut (*row).groups).cast::<GroupCell>().add(usize::from(group)) };
    match what {
        OfGroup::Flow => cell.flows += 1,
        OfGroup::Error => cell.errors += 1,
    }
}

const _: () = assert!(CLIENT_GROUPS == 1 << u8::BITS);

/// This CPU's window of a service's fuse, to be changed by `change`.
#[inline(always)]
pub(crate) fn with_fuse_window(control: &Control, service: ServiceId, change: impl FnOnce(&mut FuseWindow)) {
    if let Some(window) = stripe(control, service).and_then(maps::fuse_window) {
        // SAFETY: this CPU's own value, borrowed for this change only; see `verdict`.
        change(unsafe { &mut *window });
    }
}

/// Another CPU's window of a service's fuse, a moment ago.
#[inline(always)]
pub(crate) fn fuse_window(control: &Control, service: ServiceId, cpu: u32) -> Option<FuseWindow> {
    let window = maps::fuse_window(cpu * u32::from(control.signal_services) + service.0)?;
    // SAFETY: a map's value of plain integers; its owner may be writing it: then it is off by one packet.
    Some(unsafe { window.read_volatile() })
}

/// Where a service's value is in this CPU's stripe.
#[inline(always)]
fn stripe(control: &Control, service: ServiceId) -> Option<u32> {
    let services = u32::from(control.signal_services);
    if service.0 >= services { None } else { Some(helpers::cpu() * services + service.0) }
}
