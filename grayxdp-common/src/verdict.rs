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
    /// Rewritten, then left to the kernel, for it exceeds the MTU of the way out and may be fragmented.
    HandedTooBig = 5,
    /// Rewritten, then left to the kernel, for the kernel would not forward it itself (a local address, for one).
    HandedNotForwarded = 6,
    /// An echo request to a VIP: answered.
    AnsweredEcho = 7,
    /// For a service, larger than the way onwards allows, and not to be fragmented: answered with an ICMP error.
    AnsweredTooBig = 8,
    /// Of a connection that is severed: answered with, or made into, a RST.
    AnsweredReset = 9,

    /// Not IPv4 or IPv6: passed.
    PassedNotIp = 16,
    /// IP, but neither TCP, UDP nor an ICMP message that concerns a service: passed.
    PassedOtherProtocol = 17,
    /// A fragment of a datagram that no service or backend is known to have begun: passed.
    PassedFragment = 18,
    /// IPv6 with more extension headers than are looked through, and not for a VIP: passed.
    PassedExtensionHeader = 19,
    /// Too short for the headers that it claims, or with an impossible header length, and not for a VIP: passed.
    PassedMalformed = 20,
    /// No service's packet and no backend's: passed.
    PassedNoService = 21,
    /// From a backend, but of no flow that went through here (a health check, a direct connection): passed.
    PassedBackendNoFlow = 22,
    /// An ICMP error about a packet of no flow of a service: passed.
    PassedIcmpNoFlow = 23,

    /// For a service that has no live backend: dropped.
    DroppedNoBackend = 32,
    /// For a service, with a hop limit (TTL) that ends here: dropped.
    DroppedHopLimit = 33,
    /// For a service, but the kernel has no route onwards, or one that forbids: dropped.
    DroppedNoRoute = 34,
    /// For a service, but forwarding is switched off on the interface that it came in on: dropped.
    DroppedForwardingOff = 35,
    /// For a service, but the packet could not be changed: dropped.
    DroppedRewriteFailed = 36,
    /// For a VIP, with an IP header length or total length that is impossible or beyond the packet's end: dropped.
    DroppedIpHeader = 37,
    /// For a VIP, with a TCP or UDP header that is cut off or has an impossible length: dropped.
    DroppedTransportHeader = 38,
    /// For a service, with TCP flags that no connection has (none; SYN with FIN or RST; FIN without ACK): dropped.
    DroppedTcpFlags = 39,
    /// For a service, from the service's own address and port: dropped.
    DroppedLandAttack = 40,
    /// For a service, from an address that no host can have (multicast, loopback, unspecified): dropped.
    DroppedMartianSource = 41,
    /// For a `full-nat` service, but no source port is free: dropped.
    DroppedNoSourcePort = 42,
    /// For a VIP, with more IPv6 extension headers than are looked through: dropped.
    DroppedHeaderChain = 43,
    /// Of a connection that is severed, and nothing that needs an answer: dropped.
    DroppedSevered = 44,
    /// For a `dsr` service, but the backend's MAC address is not known: dropped.
    DroppedNeighbourUnknown = 45,
    /// For a `dsr` service, larger than the way onwards allows, and nobody to fragment it: dropped.
    DroppedTooBig = 46,
}

/// The lowest index of those that are not forwarded.
pub const FIRST_PASSED: u32 = 16;
/// The lowest index of those that are dropped.
pub const FIRST_DROPPED: u32 = 32;

/// The three kinds of verdicts, as the `action` label of the metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Rewritten and sent on, by the program or by the kernel; or answered.
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
    pub const ALL: [Self; 32] = [
        Self::ForwardedSameInterface,
        Self::ForwardedOtherInterface,
        Self::HandedNeighbourUnknown,
        Self::HandedInterfaceUnknown,
        Self::HandedTooBig,
        Self::HandedNotForwarded,
        Self::AnsweredEcho,
        Self::AnsweredTooBig,
        Self::AnsweredReset,
        Self::PassedNotIp,
        Self::PassedOtherProtocol,
        Self::PassedFragment,
        Self::PassedExtensionHeader,
        Self::PassedMalformed,
        Self::PassedNoService,
        Self::PassedBackendNoFlow,
        Self::PassedIcmpNoFlow,
        Self::DroppedNoBackend,
        Self::DroppedHopLimit,
        Self::DroppedNoRoute,
        Self::DroppedForwardingOff,
        Self::DroppedRewriteFailed,
        Self::DroppedIpHeader,
        Self::DroppedTransportHeader,
        Self::DroppedTcpFlags,
        Self::DroppedLandAttack,
        Self::DroppedMartianSource,
        Self::DroppedNoSourcePort,
        Self::DroppedHeaderChain,
        Self::DroppedSevered,
        Self::DroppedNeighbourUnknown,
        Self::DroppedTooBig,
    ];

    /// Index of its counter.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Its kind.
    pub const fn action(self) -> Action {
        match self.index() {
            ..FIRST_PASSED => Action::Forward,
            FIRST_PASSED..FIRST_DROPPED => Action::Pass,
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
            Self::AnsweredEcho => "echo",
            Self::AnsweredTooBig => "too_big",
            Self::AnsweredReset => "reset",
            Self::PassedNotIp => "not_ip",
            Self::PassedOtherProtocol => "other_protocol",
            Self::PassedFragment => "fragment",
            Self::PassedExtensionHeader => "extension_header",
            Self::PassedMalformed => "malformed",
            Self::PassedNoService => "no_service",
            Self::PassedBackendNoFlow => "backend_no_flow",
            Self::PassedIcmpNoFlow => "icmp_no_flow",
            Self::DroppedNoBackend => "no_backend",
            Self::DroppedHopLimit => "hop_limit",
            Self::DroppedNoRoute => "no_route",
            Self::DroppedForwardingOff => "forwarding_off",
            Self::DroppedRewriteFailed => "rewrite_failed",
            Self::DroppedIpHeader => "ip_header",
            Self::DroppedTransportHeader => "transport_header",
            Self::DroppedTcpFlags => "tcp_flags",
            Self::DroppedLandAttack => "land_attack",
            Self::DroppedMartianSource => "martian_source",
            Self::DroppedNoSourcePort => "no_source_port",
            Self::DroppedHeaderChain => "header_chain",
            Self::DroppedSevered => "severed",
            Self::DroppedNeighbourUnknown => "neighbour_unknown",
            Self::DroppedTooBig => "too_big_for_dsr",
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
