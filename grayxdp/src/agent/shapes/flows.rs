//! `flows`: what is asked of the flow table, and what is answered.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How many flows are listed unless said otherwise.
pub const FLOWS_LIMIT_DEFAULT: u32 = 100;
/// The most that are listed.
pub const FLOWS_LIMIT_MAX: u32 = 10_000;

/// Query of `GET /v1/flows`: what is left out picks all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsQuery {
    /// Of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// On a backend of `v1` or `v2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// On this backend: an address, or address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `half-open`, `established`, `closing` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Of this client: an address, or address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// At most so many are listed, 0 to 10,000; all are counted. 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// `GET /v1/flows`. The table goes on changing while it is read: a flow that moves may be missing.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FlowsStatus {
    /// In no order, and not more than was asked for.
    pub flows: Vec<FlowStatus>,
    /// All that were picked, listed or not.
    pub totals: FlowTotals,
    /// Flows whose client the table does not tell, and which were left out because a client was asked for.
    pub clients_unknown: u64,
}

/// Flows by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FlowTotals {
    /// The backend has not answered yet.
    pub half_open: u64,
    /// TCP: both sides were seen.
    pub established: u64,
    /// TCP: reset, or closed from both sides.
    pub closing: u64,
    /// UDP: both sides were seen.
    pub udp: u64,
    /// All of them.
    pub all: u64,
}

/// One flow.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Its service; `null` where that has left the config.
    pub service: Option<String>,
    /// Whether the client came by the canary port.
    pub by_canary_port: bool,
    /// Its client; `null` for IPv6 clients outside `full-nat`, of which the table has a fingerprint only.
    pub client: Option<SocketAddr>,
    /// `v1` or `v2`.
    pub version: String,
    /// Its backend.
    pub backend: SocketAddr,
    /// `half-open`, `established`, `closing` or `udp`.
    pub state: String,
    /// Since a packet was last seen; in steps of about a second.
    pub idle_s: f64,
    /// To be reset with its next packet.
    pub severed: bool,
    /// `full-nat`: the address and port that the backend sees; else `null`.
    pub source: Option<SocketAddr>,
}
