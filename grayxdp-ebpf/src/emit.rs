//! An outcome to an XDP action, nothing else.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    programs::XdpContext,
};
use grayxdp_common::verdict::{FIRST_DROPPED, Verdict};

use crate::{maps, outcome::Outcome};

/// Nothing is known, nothing is done.
pub(crate) const PASS: u32 = XDP_PASS;

/// The XDP action of an outcome.
///
/// Answers leave by a redirection to the device that they came in on: after XDP_TX, a veth device whose peer runs no XDP
/// program leaves them in its peer's queue until something else comes along. For forwarded packets XDP_TX is worth it.
#[inline(always)]
pub(crate) fn action(context: &XdpContext, outcome: Outcome) -> u32 {
    let verdict = outcome.verdict_index();
    let is_answer = verdict >= Verdict::AnsweredEcho.index() && verdict <= Verdict::AnsweredReset.index();
    if is_answer || verdict <= Verdict::ForwardedOtherInterface.index() {
        match outcome.interface() {
            #[expect(clippy::cast_possible_truncation, reason = "an interface's index has 32 bits")]
            0 if is_answer => maps::redirect_back(context.ingress_ifindex() as u32),
            0 => XDP_TX,
            interface => maps::redirect(interface),
        }
    } else if verdict >= FIRST_DROPPED {
        XDP_DROP
    } else {
        XDP_PASS
    }
}
