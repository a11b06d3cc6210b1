//! Calls of the kernel's helper functions, made safe. No maps, no packets.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_fib_lookup as FibLookup,
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns},
    programs::XdpContext,
};

/// The kernel's coarse monotonic clock, in nanoseconds.
#[inline(always)]
pub(crate) fn coarse_clock_ns() -> u64 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Asks for a route and a neighbour; the answer's details are written into `lookup`. Returns a `BPF_FIB_LKUP_RET_…`, or
/// a negative error number, as unsigned.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size under 100, and a small number")]
pub(crate) fn fib_lookup(context: &XdpContext, lookup: &mut FibLookup) -> u32 {
    // SAFETY: a whole, initialised struct of the size given.
    unsafe { bpf_fib_lookup(context.as_ptr(), lookup, size_of::<FibLookup>() as i32, 0) as u32 }
}
