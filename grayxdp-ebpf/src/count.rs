//! Per-CPU counters. May not alter the verdict.

use grayxdp_common::{ids::BackendId, layout::BackendCounters, verdict::Verdict};

use crate::maps;

/// Counts how a packet ended; called once for each packet.
#[inline(always)]
pub(crate) fn verdict(verdict: Verdict) {
    if let Some(counter) = maps::verdict_counter(verdict.index()) {
        // SAFETY: this CPU's own slot; programs on one CPU do not interrupt each other.
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

/// Counts a client's packet for the backend that it goes to.
#[inline(always)]
pub(crate) fn request(backend: BackendId, ip_len: u16, meeting: Meeting, tracked: Result<(), i32>) {
    with_counters(backend, |counters| {
        counters.packets_in += 1;
        counters.bytes_in += u64::from(ip_len);
        counters.new_flows += u64::from(meeting == Meeting::New);
        counters.flow_misses += u64::from(meeting == Meeting::Missed);
        counters.untracked_flows += u64::from(tracked.is_err());
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

#[inline(always)]
fn with_counters(backend: BackendId, count: impl FnOnce(&mut BackendCounters)) {
    if let Some(counters) = maps::backend_counters(backend) {
        // SAFETY: this CPU's own slot, borrowed for these additions only.
        count(unsafe { &mut *counters });
    }
}
