//! What is too large for the stack: 512 bytes for a function and all that called it. One value for each CPU.
//!
//! Each part has one user at a time, so that no two references to it exist: a packet is dealt with by one function after
//! the other, and no packet interrupts another one's on its CPU.

use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;

use grayxdp_common::layout::{Endpoint, TraceEvent};

use crate::{
    encapsulate::Tunnel,
    icmp::{Message, Quote},
    maps,
    parse::Parsed,
    reset::Onwards,
};

/// The parts.
#[repr(C)]
pub(crate) struct Scratch {
    parsed: Parsed,
    second_parsed: Parsed,
    lookup: FibLookup,
    message: Message,
    quote: Quote,
    tunnel: Tunnel,
    source: Endpoint,
    onwards: Onwards,
    now: u32,
    sample: TraceEvent,
    clock: Clock,
}

/// The present flow tick, as it was read last.
#[repr(C)]
pub(crate) struct Clock {
    /// When it was read, in the kernel's timer ticks.
    pub(crate) jiffies: u64,
    /// In flow ticks that do not wrap.
    pub(crate) tick: u32,
}

macro_rules! part {
    ($(#[$doc:meta])* $name:ident: $part:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name() -> Option<&'static mut $part> {
            let scratch = maps::scratch()?;
            // SAFETY: this CPU's own value, one user at a time as said above; any bytes are a value of its integers.
            Some(unsafe { &mut (*scratch).$name })
        }
    };
}

part! {
    /// The packet that came in, for `lib.rs`.
    parsed: Parsed
}
part! {
    /// The packet as it is meanwhile, for `reset.rs`.
    second_parsed: Parsed
}
part! {
    /// For `route.rs`.
    lookup: FibLookup
}
part! {
    /// For `icmp.rs`.
    message: Message
}
part! {
    /// For `icmp.rs`.
    quote: Quote
}
part! {
    /// For `encapsulate.rs`.
    tunnel: Tunnel
}
part! {
    /// For `reset.rs`.
    onwards: Onwards
}
part! {
    /// When the packet came, in flow ticks that do not wrap; for `request.rs`.
    now: u32
}
part! {
    /// The source that a request leaves with, for `request.rs`.
    source: Endpoint
}
part! {
    /// For `flow.rs`.
    clock: Clock
}
part! {
    /// The packet that is being traced, for `trace.rs`.
    sample: TraceEvent
}
