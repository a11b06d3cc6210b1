//! The present moment, as flows are told by it.

use grayxdp_common::layout::long_flow_tick;

use crate::{helpers, scratch};

/// In flow ticks that do not wrap.
#[inline(always)]
pub(crate) fn now() -> u32 {
    long_flow_tick(helpers::coarse_clock_ns())
}

/// The same, for who asks with every packet: a call costs as much as all lookups together.
///
/// The coarse clock moves with the timer's ticks only, so it is asked once for each of them.
#[inline(always)]
pub(crate) fn cached_now() -> u32 {
    let Some(clock) = scratch::clock() else { return now() };
    let jiffies = helpers::jiffies();
    if clock.jiffies != jiffies {
        clock.tick = now();
        clock.jiffies = jiffies;
    }
    clock.tick
}
