//! What is asked of the kernel's tables, and what is answered: `explain` and `flows`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Query of `GET /v1/services/{name}/explain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The client, as `address:port`.
    pub client: SocketAddr,
    /// DSCP value of its packets, 0 to 63; 0 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// The port that it comes by: a number, or `canary`; the service's own if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// `GET /v1/services/{name}/explain`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainStatus {
    /// The service.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where the client connects to.
    pub vip: SocketAddr,
    /// The client.
    pub client: SocketAddr,
    /// DSCP value of its packets.
    pub dscp: u8,
    /// What becomes of its next SYN or datagram: `flow` (goes where its flow goes), `new` (is chosen for), `drawn` (the
    /// version is drawn) or `dropped`.
    pub fate: String,
    /// Why: a sentence.
    pub because: String,
    /// `v1` or `v2`; `null` where it is drawn or dropped.
    pub version: Option<String>,
    /// Where it goes; `null` where it is drawn or dropped.
    pub backend: Option<SocketAddr>,
    /// Its entry in the flow table, by which segments of an open connection go.
    pub flow: Option<ExplainedFlow>,
    /// The pin that counts.
    pub pin: Option<ExplainedPin>,
    /// The hash of its key, as a hexadecimal number.
    pub hash: String,
    /// What is hashed.
    pub key: String,
    /// Its shard.
    pub shard: ExplainedShard,
    /// v2's weight in that shard, in percent; `null` where it cannot be read.
    pub weight: Option<f64>,
    /// Where the client lies on the scale of weights, in percent: from a weight above this on it goes to v2.
    pub position: f64,
    /// Where each version's Maglev table would send it: v1, v2.
    pub candidates: Vec<ExplainedCandidate>,
}

/// An entry of the flow table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainedFlow {
    /// `v1` or `v2`.
    pub version: String,
    /// Its backend.
    pub backend: SocketAddr,
    /// `half-open`, `established`, `closing` or `udp`.
    pub state: String,
    /// Since a packet was last seen; in steps of about a second.
    pub idle_s: f64,
    /// Idle for longer than it may be.
    pub expired: bool,
    /// To be reset with its next packet.
    pub severed: bool,
}

/// A pin that counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainedPin {
    /// `port`, `source` or `dscp`.
    pub by: String,
    /// `v1` or `v2`.
    pub version: String,
}

/// A client's shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainedShard {
    /// Counted from 0.
    pub number: u32,
    /// As in `status`.
    pub name: String,
    /// How many there are.
    pub of: u32,
}

/// Where a version's table would send a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainedCandidate {
    /// `v1` or `v2`.
    pub version: String,
    /// Slot of its Maglev table.
    pub slot: u32,
    /// Slots of that table; zero: it has no live backend.
    pub slots: u32,
    /// Who is in the slot.
    pub backend: Option<SocketAddr>,
    /// `live`, `down` or `removed`; of the other version: `live (v1)`.
    pub state: Option<String>,
    /// How it is reached, where the agent has told the kernel; `null`: the kernel is asked for each packet.
    pub next_hop: Option<ExplainedHop>,
}

/// How a backend is reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainedHop {
    /// Name of the interface.
    pub interface: String,
    /// The neighbour's MAC address.
    pub mac: String,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}
