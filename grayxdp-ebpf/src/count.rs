//! Per-CPU counters. May not alter the verdict.

use grayxdp_common::{ids::BackendId, layout::BackendCounters};

use crate::maps;

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
