//! A verdict to an XDP action, nothing else.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use grayxdp_common::verdict::{Action, Verdict};

use crate::maps;

/// The XDP action of a verdict; `ifindex` is meant only where the packet leaves by another interface.
#[inline(always)]
pub(crate) fn action(verdict: Verdict, ifindex: u32) -> u32 {
    match verdict {
        Verdict::ForwardedSameInterface => XDP_TX,
        Verdict::ForwardedOtherInterface => maps::redirect(ifindex),
        other if matches!(other.action(), Action::Drop) => XDP_DROP,
        _ => XDP_PASS,
    }
}
