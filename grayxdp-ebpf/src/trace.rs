//! Sampled packets with what was decided, for `grayxdp trace`. Costs one comparison where nobody traces.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    layout::{Control, TRACE_ALL},
    limits::TRACE_HEAD_LEN,
};

use crate::{helpers, maps, outcome::Outcome, packet::Packet, scratch, stages};

/// Takes a sample's first bytes before the packet is changed.
#[inline(always)]
pub(crate) fn begin(context: &XdpContext, control: &Control) {
    if control.trace_one_in != 0 {
        stages::grayxdp_take_head(context.ctx, control.trace_one_in);
    }
}

/// Tells the agent of the sample, if it is one.
#[inline(always)]
pub(crate) fn end(control: &Control, outcome: Outcome) {
    if control.trace_one_in != 0 {
        stages::grayxdp_tell(outcome.raw(), control.trace_service);
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an interface's index, and lengths of a frame")]
pub(crate) fn take_head(context: &XdpContext, one_in: u32) -> Option<()> {
    let sample = scratch::sample()?;
    // A multiplication in place of a division (Lemire 2019).
    let is_sampled = (u64::from(helpers::random()) * u64::from(one_in)) >> 32 == 0;
    sample.reserved = u32::from(is_sampled);
    if !is_sampled {
        return None;
    }
    let packet = Packet::new(context);
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
    Some(())
}

#[inline(always)]
pub(crate) fn tell(outcome: Outcome, service: u32) -> Option<()> {
    let sample = scratch::sample()?;
    if sample.reserved == 0 || (service != TRACE_ALL && service != u32::from(outcome.service())) {
        return None;
    }
    sample.reserved = 0;
    sample.verdict = outcome.verdict_index();
    sample.service = outcome.service();
    sample.backend = outcome.backend();
    maps::send_event(sample);
    Some(())
}
