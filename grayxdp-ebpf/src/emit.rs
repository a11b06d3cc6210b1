//! An outcome to an XDP action, nothing else.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use grayxdp_common::verdict::{FIRST_DROPPED, Verdict};

use crate::{maps, outcome::Outcome};

/// Nothing is known, nothing is done.
pub(crate) const PASS: u32 = XDP_PASS;

/// The XDP action of an outcome.
#[inline(always)]
pub(crate) fn action(outcome: Outcome) -> u32 {
    let verdict = outcome.verdict_index();
    let is_sent = verdict <= Verdict::ForwardedOtherInterface.index()
        || (verdict >= Verdict::AnsweredEcho.index() && verdict <= Verdict::AnsweredReset.index());
    if is_sent {
        match outcome.interface() {
            0 => XDP_TX,
            interface => maps::redirect(interface),
        }
    } else if verdict >= FIRST_DROPPED {
        XDP_DROP
    } else {
        XDP_PASS
    }
}
