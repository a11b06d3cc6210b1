//! `trace`: what is asked for, and the lines that come.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Query of `GET /v1/trace`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// Packets of this service; of all, and of none, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// One packet in so many, at least 1; if left out, as many as make some hundred a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_in: Option<u32>,
    /// Only packets that are dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
}

/// A line of the answer of `GET /v1/trace`, which goes on until one of both ends closes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum TraceLine {
    /// From now on one packet in so many is taken.
    Sampling {
        /// At least 1.
        one_in: u32,
    },
    /// A packet.
    Packet(Box<TracedPacket>),
    /// So many packets were taken, and left out since there were too many.
    LeftOut {
        /// At least so many: those that the kernel had no room for are not counted.
        packets: u64,
    },
}

/// A packet, and what was decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TracedPacket {
    /// When it came: RFC 3339, UTC. As exact as the kernel's coarse clock, some milliseconds.
    pub time: String,
    /// Interface that it came in on.
    pub interface: String,
    /// The service that it is of.
    pub service: Option<String>,
    /// Where clients meet the service: for a reply, its middle.
    pub vip: Option<SocketAddr>,
    /// The backend that it goes to or comes from.
    pub backend: Option<SocketAddr>,
    /// Its source, as it came in.
    pub source: Option<IpAddr>,
    /// Its source port.
    pub source_port: Option<u16>,
    /// Its destination, as it came in.
    pub destination: Option<IpAddr>,
    /// Its destination port.
    pub destination_port: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `arp`, `ip 47`, `ethertype 0x88cc` or `ethernet`.
    pub protocol: String,
    /// TCP: the flags that are set, as `SYN,ACK`; else empty.
    pub tcp_flags: String,
    /// `forward`, `pass` or `drop`.
    pub action: String,
    /// The verdict's reason, as in the metrics.
    pub reason: String,
    /// Bytes, from the Ethernet header on.
    pub length: u32,
    /// Its first bytes as they came in, at most 128; hexadecimal.
    pub head: String,
}
