//! Sampled packets with what was decided, for `grayxdp trace`. Costs one comparison where nobody traces.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use grayxdp_common::{
    layout::{Control, TRACE_ALL},
    limits::TRACE_HEAD_LEN,
};

use crate::{helpers, maps, outcome::Outcome, packet::Packet};

/// Takes a sample's first bytes before the packet is changed.
#[inline(always)]
pub(crate) fn begin(context: &XdpContext, control: &Control) {
    if control.trace_one_in != 0 {
        take_head(context.ctx, control.trace_one_in);
    }
}

/// Tells the agent of the sample, if it is one.
#[inline(always)]
pub(crate) fn end(control: &Control, outcome: Outcome) {
    if control.trace_one_in != 0 {
        tell(outcome, control.trace_service);
    }
}

#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "an interface's index, and lengths of a frame")]
fn take_head(context: *mut xdp_md, one_in: u32) -> u64 {
    let context = XdpContext::new(context);
    let Some(sample) = maps::sample() else { return 0 };
    // A multiplication in place of a division (Lemire 2019).
    let is_sampled = (u64::from(helpers::random()) * u64::from(one_in)) >> 32 == 0;
    // SAFETY: this CPU's own value; see `count.rs` for what an interruption may do to it.
    let sample = unsafe { &mut *sample };
    sample.reserved = u32::from(is_sampled);
    if !is_sampled {
        return 0;
    }
    let packet = Packet::new(&context);
    sample.time_ns = helpers::coarse_clock_ns();
    sample.interface = context.ingress_ifindex() as u32;
    sample.packet_len = packet.len() as u32;
    let mut at = 0;
    while at < TRACE_HEAD_LEN {
        let Some(byte) = packet.window::<1>(at) else { break };
        if let Some(place) = sample.head.get_mut(at) {
            *place = byte.u8::<0>();
        }
        at += 1;
    }
    sample.head_len = at as u32;
    0
}

#[inline(never)]
fn tell(outcome: Outcome, service: u32) -> u64 {
    let Some(sample) = maps::sample() else { return 0 };
    // SAFETY: as in `take_head`.
    let sample = unsafe { &mut *sample };
    if sample.reserved == 0 || (service != TRACE_ALL && service != u32::from(outcome.service())) {
        return 0;
    }
    sample.reserved = 0;
    sample.verdict = outcome.verdict_index();
    sample.service = outcome.service();
    sample.backend = outcome.backend();
    maps::send_event(sample);
    0
}
