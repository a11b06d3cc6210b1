//! How a packet ended, in one register: verdict, interface, and who it concerned.

use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::NO_SERVICE,
    verdict::Verdict,
};

/// Verdict in the low seven bits, a flag, then service and backend (16 bits each) for the trace, then 23 bits of the interface, and a flag.
///
/// One word, so that functions of the bpf target can return it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Outcome(u64);

const ONWARDS: u64 = 1 << 7;
const SERVICE_SHIFT: u32 = 8;
const BACKEND_SHIFT: u32 = 24;
const INTERFACE_SHIFT: u32 = 40;
const WRAPPED: u64 = 1 << 63;

/// In place of an outcome, which always has a verdict: what is to be done next.
pub(crate) mod next {
    /// The packet is of a severed connection.
    pub(crate) const RESET: u64 = 0;
    /// The packet begins a flow.
    pub(crate) const BEGIN: u64 = 1 << 8;
    /// The message is an ICMP error about a packet that a service sent.
    pub(crate) const TO_BACKEND: u64 = 2 << 8;
    /// The packet is from a backend, and of no flow that has an entry.
    pub(crate) const UNTRACKED: u64 = 5 << 8;
    /// The message is an ICMP error about a packet that a client sent.
    pub(crate) const TO_CLIENT: u64 = 3 << 8;
    /// The packet was left alone, for the pipeline to deal with.
    pub(crate) const SLOW: u64 = 4 << 8;
}

impl Outcome {
    /// As functions return it.
    #[inline(always)]
    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// As functions return it.
    #[inline(always)]
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// A packet that concerns no service, or none that is known.
    #[inline(always)]
    pub(crate) fn of(verdict: Verdict) -> Self {
        Self(u64::from(verdict.index()) | u64::from(NO_SERVICE) << SERVICE_SHIFT)
    }

    /// The same, for a service.
    #[inline(always)]
    pub(crate) fn for_service(self, id: ServiceId) -> Self {
        const MASK: u64 = 0xffff << SERVICE_SHIFT;
        Self((self.0 & !MASK) | (u64::from(id.0) << SERVICE_SHIFT) & MASK)
    }

    /// The same, to or from a backend.
    #[inline(always)]
    pub(crate) fn for_backend(self, id: BackendId) -> Self {
        Self(self.0 | u64::from(id.raw()) << BACKEND_SHIFT)
    }

    /// The same; of a reset, that it went to the end that the packet was for.
    #[inline(always)]
    pub(crate) fn onwards(self) -> Self {
        Self(self.0 | ONWARDS)
    }

    /// See [`Self::onwards`].
    #[inline(always)]
    pub(crate) fn is_onwards(self) -> bool {
        self.0 & ONWARDS != 0
    }

    /// The same, leaving by another interface than it came in on. Indices are below 2²³: the
    /// kernel counts them up, and the agent refuses others.
    #[inline(always)]
    pub(crate) fn by(self, interface: u32) -> Self {
        Self(self.0 | u64::from(interface) << INTERFACE_SHIFT)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
    pub(crate) fn verdict_index(self) -> u32 {
        self.0 as u32 & 0x7f
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
    pub(crate) fn service(self) -> u16 {
        (self.0 >> SERVICE_SHIFT) as u16
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
    pub(crate) fn backend(self) -> u16 {
        (self.0 >> BACKEND_SHIFT) as u16
    }

    /// The same, with an outer header that is still to be put in front.
    #[inline(always)]
    pub(crate) fn wrapped(self) -> Self {
        Self(self.0 | WRAPPED)
    }

    /// See [`Self::wrapped`].
    #[inline(always)]
    pub(crate) fn is_wrapped(self) -> bool {
        self.0 & WRAPPED != 0
    }

    /// Zero: the one that it came in on.
    #[inline(always)]
    pub(crate) fn interface(self) -> u32 {
        (self.0 >> INTERFACE_SHIFT) as u32 & 0x7f_ffff
    }
}
