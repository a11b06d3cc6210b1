//! What the program tells the agent of a traced packet.

use crate::limits::TRACE_HEAD_LEN;

/// One packet and what was decided; an event of the ring buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct TraceEvent {
    /// Monotonic clock, in nanoseconds.
    pub time_ns: u64,
    /// Interface that it came in on.
    pub interface: u32,
    /// [`crate::verdict::Verdict::index`].
    pub verdict: u32,
    /// [`crate::ids::ServiceId`], or [`super::NO_SERVICE`].
    pub service: u16,
    /// Raw [`crate::ids::BackendId`]; zero: none.
    pub backend: u16,
    /// Bytes of the packet, from the Ethernet header on.
    pub packet_len: u32,
    /// How many of them are in `head`.
    pub head_len: u32,
    /// Zero.
    pub reserved: u32,
    /// The packet's first bytes, as they came in.
    pub head: [u8; TRACE_HEAD_LEN],
}
