//! Every way in which a packet can end. Each packet ends in exactly one, and each is counted.
//!
//! The numbers are indices of the counter map and part of the pinned layout: never reused.

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Verdict {
    /// Rewritten and sent out of the interface that it came in on.
    ForwardedSameInterface = 1,
    /// Rewritten and sent out of another interface.
    ForwardedOtherInterface = 2,
    /// Rewritten, then left to the kernel, for the next hop's MAC address is not known yet. The kernel resolves it.
    HandedNeighbourUnknown = 3,
    /// Rewritten, then left to the kernel, for the way out is an interface that grayxdp is not attached to.
    HandedInterfaceUnknown = 4,
    /// Rewritten, then left to the kernel, for it exceeds the MTU of the way out and may have to be fragmented.
    HandedTooBig = 5,
    /// Rewritten, then left to the kernel, for the kernel would not forward it itself (a local address, for one).
    HandedNotForwarded = 6,

    /// Not IPv4 or IPv6: passed.
    PassedNotIp = 16,
    /// IP, but neither TCP nor UDP: passed.
    PassedOtherProtocol = 17,
    /// A fragment: passed.
    PassedFragment = 18,
    /// IPv6 with extension headers: passed.
    PassedExtensionHeader = 19,
    /// Too short for the headers that it claims, or with an impossible header length: passed.
    PassedMalformed = 20,
    /// No service's packet and no backend's: passed.
    PassedNoService = 21,
    /// From a backend, but of no flow that went through here (a health check, a direct connection): passed.
    PassedBackendNoFlow = 22,

    /// For a service whose version has no backend: dropped.
    DroppedNoBackend = 32,
    /// For a service, with a hop limit (TTL) that ends here: dropped.
    DroppedHopLimit = 33,
    /// For a service, but the kernel has no route onwards, or one that forbids: dropped.
    DroppedNoRoute = 34,
    /// For a service, but forwarding is switched off on the interface that it came in on: dropped.
    DroppedForwardingOff = 35,
    /// For a service, but the packet could not be changed: dropped.
    DroppedRewriteFailed = 36,
}

/// The three kinds of verdicts, as the `action` label of the metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Rewritten and sent on, by the program or by the kernel.
    Forward,
    /// Left untouched to the kernel.
    Pass,
    /// Dropped.
    Drop,
}

impl Action {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
}

impl Verdict {
    /// All, by number.
    pub const ALL: [Self; 18] = [
        Self::ForwardedSameInterface,
        Self::ForwardedOtherInterface,
        Self::HandedNeighbourUnknown,
        Self::HandedInterfaceUnknown,
        Self::HandedTooBig,
        Self::HandedNotForwarded,
        Self::PassedNotIp,
        Self::PassedOtherProtocol,
        Self::PassedFragment,
        Self::PassedExtensionHeader,
        Self::PassedMalformed,
        Self::PassedNoService,
        Self::PassedBackendNoFlow,
        Self::DroppedNoBackend,
        Self::DroppedHopLimit,
        Self::DroppedNoRoute,
        Self::DroppedForwardingOff,
        Self::DroppedRewriteFailed,
    ];

    /// Index of its counter.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Its kind.
    pub const fn action(self) -> Action {
        match self.index() {
            ..16 => Action::Forward,
            16..32 => Action::Pass,
            _ => Action::Drop,
        }
    }

    /// Snake-case reason, as the `reason` label of the metric.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ForwardedSameInterface => "same_interface",
            Self::ForwardedOtherInterface => "other_interface",
            Self::HandedNeighbourUnknown => "kernel_neighbour_unknown",
            Self::HandedInterfaceUnknown => "kernel_interface_unknown",
            Self::HandedTooBig => "kernel_too_big",
            Self::HandedNotForwarded => "kernel_not_forwarded",
            Self::PassedNotIp => "not_ip",
            Self::PassedOtherProtocol => "other_protocol",
            Self::PassedFragment => "fragment",
            Self::PassedExtensionHeader => "extension_header",
            Self::PassedMalformed => "malformed",
            Self::PassedNoService => "no_service",
            Self::PassedBackendNoFlow => "backend_no_flow",
            Self::DroppedNoBackend => "no_backend",
            Self::DroppedHopLimit => "hop_limit",
            Self::DroppedNoRoute => "no_route",
            Self::DroppedForwardingOff => "forwarding_off",
            Self::DroppedRewriteFailed => "rewrite_failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::limits::VERDICTS_MAX;

    #[test]
    fn every_verdict_has_a_counter_and_a_name_of_its_own() {
        let indices: HashSet<_> = Verdict::ALL.iter().map(|verdict| verdict.index()).collect();
        let reasons: HashSet<_> = Verdict::ALL.iter().map(|verdict| verdict.reason()).collect();
        assert_eq!((indices.len(), reasons.len()), (Verdict::ALL.len(), Verdict::ALL.len()));
        assert!(indices.iter().all(|&index| index < VERDICTS_MAX));
    }
}
