//! Sampled packets with what was decided, for `grayxdp trace`. Costs one comparison where nobody traces. A trace that the
//! agent does not prolong ends by itself.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    layout::{Control, TRACE_ALL},
    limits::TRACE_HEAD_LEN,
};

use crate::{clock, helpers, maps, outcome::Outcome, packet::Packet, scratch, stages};

/// Takes a sample's first bytes before the packet is changed.
#[inline(always)]
pub(crate) fn begin(context: &XdpContext, control: &Control) {
    if control.trace.one_in != 0 {
        stages::grayxdp_take_head(context.ctx);
    }
}

/// Tells the agent of the sample, if it is one.
#[inline(always)]
pub(crate) fn end(control: &Control, outcome: Outcome) {
    if control.trace.one_in != 0 {
        stages::grayxdp_tell(outcome.raw(), control.trace.service.into());
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an interface's index, lengths of a frame, a tick that wraps")]
pub(crate) fn take_head(context: &XdpContext) -> Option<()> {
    let sample = scratch::sample()?;
    sample.reserved = 0;
    let cell = maps::tracing()?;
    let tracing = cell.read();
    if tracing.one_in == 0 {
        // It ended since it was looked at first.
        return None;
    }
    if tracing.is_over(clock::now() as u16) {
        cell.end(tracing);
        return None;
    }
    // A multiplication in place of a division (Lemire 2019).
    let is_sampled = (u64::from(helpers::random()) * u64::from(tracing.one_in)) >> 32 == 0;
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
    if sample.reserved == 0 || (service != u32::from(TRACE_ALL) && service != u32::from(outcome.service())) {
        return None;
    }
    sample.reserved = 0;
    sample.verdict = outcome.verdict_index();
    sample.service = outcome.service();
    sample.backend = outcome.backend();
    maps::send_event(sample);
    Some(())
}
