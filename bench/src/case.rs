//! What is measured: cases and their names.

use std::fmt;

use grayxdp::config::Protocol;

/// Live flows of a case.
pub(crate) const FLOWS: [u32; 4] = [1, 1024, 65_536, 1_048_576];

/// How packets reach backends; or the baseline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    Lru,
    Nat,
    /// Without signals: what they cost.
    NatBare,
    FullNat,
    Dsr,
    Ipip,
}

impl Subject {
    pub(crate) const ALL: [Self; 6] = [Self::Lru, Self::Nat, Self::NatBare, Self::FullNat, Self::Dsr, Self::Ipip];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Nat => "nat",
            Self::NatBare => "nat-bare",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
        }
    }

    /// Whether replies pass through the host.
    pub(crate) const fn sees_replies(self) -> bool {
        matches!(self, Self::Lru | Self::Nat | Self::NatBare | Self::FullNat)
    }

    /// The kinds of traffic that it is measured with.
    pub(crate) const fn traffic(self) -> &'static [Traffic] {
        match self {
            Self::Lru | Self::NatBare => &[Traffic::TCP4],
            _ => &Traffic::ALL,
        }
    }
}

/// Protocol and family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Traffic {
    pub(crate) protocol: Protocol,
    pub(crate) is_v6: bool,
}

impl Traffic {
    pub(crate) const TCP4: Self = Self { protocol: Protocol::Tcp, is_v6: false };
    pub(crate) const ALL: [Self; 4] = [
        Self::TCP4,
        Self { protocol: Protocol::Tcp, is_v6: true },
        Self { protocol: Protocol::Udp, is_v6: false },
        Self { protocol: Protocol::Udp, is_v6: true },
    ];

    /// The same protocol over IPv4.
    pub(crate) const fn twin(self) -> Self {
        Self { is_v6: false, ..self }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        write!(f, "{protocol}{}", if self.is_v6 { 6 } else { 4 })
    }
}

/// What a packet meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A client's packet of a flow that is known.
    Hit,
    /// A backend's packet of such a flow.
    Reply,
    /// A client's first packet.
    New,
}

impl Kind {
    /// `New` last: it leaves flows behind.
    pub(crate) const ALL: [Self; 3] = [Self::Hit, Self::Reply, Self::New];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Reply => "reply",
            Self::New => "new",
        }
    }
}

/// A case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Case {
    /// A packet that is none of the load balancer's.
    Pass,
    /// A packet of a service.
    Flow(Subject, Traffic, Kind, u32),
}

impl Case {
    /// The baseline's case that it is compared with.
    pub(crate) const fn baseline(self) -> Self {
        match self {
            Self::Pass => Self::Flow(Subject::Lru, Traffic::TCP4, Kind::Hit, 1),
            Self::Flow(_, _, kind, flows) => Self::Flow(Subject::Lru, Traffic::TCP4, kind, flows),
        }
    }

    /// The same over IPv4; `None` for what is no IPv6 case.
    pub(crate) fn twin(self) -> Option<Self> {
        match self {
            Self::Flow(subject, traffic, kind, flows) if traffic.is_v6 => {
                Some(Self::Flow(subject, traffic.twin(), kind, flows))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Flow(subject, traffic, kind, flows) => {
                write!(f, "{}/{traffic}/{}/{flows}", subject.name(), kind.name())
            }
        }
    }
}
