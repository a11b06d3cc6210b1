//! Pins: which traffic goes to one version whatever the weight. As config, command line, API and store write them.

use std::{fmt, str::FromStr};

use grayxdp_common::ids::Version;

use crate::cidr::Network;

/// Sends matching traffic to one version whatever the weight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pin {
    /// Which traffic.
    pub rule: PinRule,
    /// Where it goes.
    pub version: Version,
}

/// Which traffic is pinned. Ordered: networks first, by address; then DSCP values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PinRule {
    /// From clients of a network; of several the longest prefix counts.
    Source(Network),
    /// With this DSCP value, 0 to [`DSCP_MAX`].
    Dscp(u8),
}

/// The largest DSCP value: six bits.
pub const DSCP_MAX: u8 = 63;

/// Why a text is no rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no pin's rule: expected `source NETWORK` or `dscp NUMBER`")]
pub struct NoRule;

impl PinRule {
    /// What it looks at: `source` or `dscp`.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Dscp(_) => "dscp",
        }
    }
}

impl fmt::Display for PinRule {
    /// `source 198.51.100.0/24` or `dscp 46`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(network) => write!(f, "source {network}"),
            Self::Dscp(value) => write!(f, "dscp {value}"),
        }
    }
}

impl FromStr for PinRule {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Self, NoRule> {
        match text.split_once(' ').ok_or(NoRule)? {
            ("source", network) => network.parse().map(Self::Source).map_err(|_| NoRule),
            ("dscp", value) => value.parse().ok().filter(|value| *value <= DSCP_MAX).map(Self::Dscp).ok_or(NoRule),
            _ => Err(NoRule),
        }
    }
}

/// `v1` or `v2`.
pub fn version_from_name(name: &str) -> Option<Version> {
    Version::ALL.into_iter().find(|version| version.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_its_text() {
        for text in ["source 198.51.100.0/24", "source 2001:db8::/32", "dscp 0", "dscp 63"] {
            assert_eq!(text.parse::<PinRule>().map(|rule| rule.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "source", "source x", "dscp 64", "dscp -1", "port 80"] {
            assert_eq!(text.parse::<PinRule>(), Err(NoRule), "{text}");
        }
    }
}
