//! The JSON bodies of the control API, for the agent that writes them and the CLI that reads them.

mod decisions;
mod flows;
mod insight;
mod trace;

use std::net::SocketAddr;

use grayxdp_common::{
    ids::Version,
    layout::{BackendCounters, FlowState},
};
use serde::{Deserialize, Serialize};

pub use self::{
    decisions::{
        DecisionStatus, HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, HistoryQuery, HistoryStatus, JudgementStatus,
        WaitStatus,
    },
    flows::{FLOWS_LIMIT_DEFAULT, FLOWS_LIMIT_MAX, FlowStatus, FlowTotals, FlowsQuery, FlowsStatus},
    insight::{
        ExplainQuery, ExplainStatus, ExplainedCandidate, ExplainedFlow, ExplainedHop, ExplainedPin, ExplainedShard,
    },
    trace::{TraceLine, TraceQuery, TracedPacket},
};
use crate::{
    cidr::NetworkError,
    decide::pin::{DSCP_MAX, PinRule},
};

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Of the agent's program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been running.
    pub uptime_s: f64,
    /// Where its packet program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// In the order of the config.
    pub services: Vec<ServiceStatus>,
}

/// An interface with the packet program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
}

/// One service and its release: the answer to every command, too.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// From the config.
    pub name: String,
    /// Address that clients connect to.
    pub vip: std::net::IpAddr,
    /// Port that clients connect to.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Forwarding mode.
    pub mode: String,
    /// What is hashed.
    pub key: String,
    /// Where the release stands.
    pub state: String,
    /// Why it stands there: a sentence.
    pub reason: String,
    /// What brought it there: a name, such as `command`, `schedule`, `harm` or `progress-deadline`.
    #[serde(default)]
    pub rule: String,
    /// What it waits for; `null` where it is over, or has not begun.
    #[serde(default)]
    pub waits: Option<WaitStatus>,
    /// What the judge says of v2; `null` where there is nothing to judge.
    #[serde(default)]
    pub judgement: Option<JudgementStatus>,
    /// What is in danger, and what to do: what was done in the kernel and could not be stored. `null` when all is well.
    #[serde(default)]
    pub warning: Option<String>,
    /// v2's share that is wanted, in percent; where shards differ, their mean.
    pub weight: f64,
    /// v2's share that the kernel's map holds, in percent; where shards differ, their mean; `null` when the map cannot be
    /// read.
    pub kernel_weight: Option<f64>,
    /// Each shard, in the order of their turns; empty where they do not differ.
    #[serde(default)]
    pub shards: Vec<ShardStatus>,
    /// v2's share of the new flows of the last seconds, in percent; `null` without new flows.
    pub measured_share: Option<f64>,
    /// The plan and how far it has come.
    pub schedule: ScheduleStatus,
    /// How many pins hold; the canary port is not among them.
    #[serde(default)]
    pub pins: usize,
    /// What both versions have handled, by name of the version.
    pub versions: Versions,
}

/// A shard whose weight may differ from the others'.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShardStatus {
    /// From the config, or its number.
    pub name: String,
    /// v2's share that is wanted, in percent.
    pub weight: f64,
    /// v2's share that the kernel's map holds, in percent; `null` when the map cannot be read.
    pub kernel_weight: Option<f64>,
}

/// The plan of a release.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ScheduleStatus {
    /// As in the config.
    pub kind: String,
    /// `together` or `one-by-one`.
    #[serde(default)]
    pub order: String,
    /// Name of the shard whose turn it is, where they go one by one; `null` else, and at the end.
    #[serde(default)]
    pub turn: Option<String>,
    /// Schedule time: stands still while the release does.
    pub elapsed_s: f64,
    /// `null` for a schedule without an end.
    pub duration_s: Option<f64>,
    /// In percent; `null` when nothing is to come by itself.
    pub next_weight: Option<f64>,
    /// `null` when nothing is to come by itself.
    pub next_in_s: Option<f64>,
}

/// Both versions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Versions {
    /// The running, stable version.
    pub v1: VersionStatus,
    /// The canary.
    pub v2: VersionStatus,
}

impl Versions {
    /// Both with their names, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &VersionStatus)> {
        [(Version::V1.name(), &self.v1), (Version::V2.name(), &self.v2)].into_iter()
    }
}

/// What a version has handled, and each of its backends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Sum over the backends.
    #[serde(flatten)]
    pub counters: Counters,
    /// Of these and of backends that are gone.
    #[serde(default)]
    pub flows: Flows,
    /// In the order of the config; then those added at run time, then those removed.
    pub backends: Vec<BackendStatus>,
}

/// What a backend has handled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address and port.
    pub address: SocketAddr,
    /// Its share among the backends of its version.
    pub weight: u32,
    /// `live`, `draining`, `down` or `removed`: only a live one gets new connections.
    #[serde(default)]
    pub state: String,
    /// `config`, or `run-time` where a command has added or removed it.
    #[serde(default)]
    pub origin: String,
    /// Its own counters.
    #[serde(flatten)]
    pub counters: Counters,
    /// Its own flows.
    #[serde(default)]
    pub flows: Flows,
}

/// The kernel's counters, since the maps were made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Counters {
    /// New connections and conversations.
    pub new_flows: u64,
    /// From clients.
    pub packets_in: u64,
    /// From clients.
    pub bytes_in: u64,
    /// To clients.
    pub packets_out: u64,
    /// To clients.
    pub bytes_out: u64,
    /// TCP packets without the flow that they should have had.
    pub flow_misses: u64,
    /// Flows that had no place in the flow map.
    pub untracked_flows: u64,
    /// Of the new flows, those that a pin brought here.
    #[serde(default)]
    pub pinned_flows: u64,
    /// Of the new flows, those that were meant for the other version, of which nobody was live.
    #[serde(default)]
    pub fallback_flows: u64,
    /// ICMP errors about flows that came from backends, or on the way to them.
    #[serde(default)]
    pub icmp_errors: u64,
    /// Connections that were severed.
    #[serde(default)]
    pub severed_flows: u64,
}

/// Flows that are in the flow table now, as counted within the last seconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Flows {
    /// The backend has not answered yet.
    pub half_open: u64,
    /// TCP: both sides were seen.
    pub established: u64,
    /// TCP: reset, or closed from both sides.
    pub closing: u64,
    /// UDP: both sides were seen.
    pub udp: u64,
}

impl Flows {
    /// Those that are not over yet.
    pub const fn active(&self) -> u64 {
        self.half_open + self.established + self.udp
    }

    /// Each state with its name, in order.
    pub const fn by_state(&self) -> [(FlowState, u64); FlowState::ALL.len()] {
        [
            (FlowState::HalfOpen, self.half_open),
            (FlowState::Established, self.established),
            (FlowState::Closing, self.closing),
            (FlowState::Udp, self.udp),
        ]
    }
}

impl From<BackendCounters> for Counters {
    fn from(counters: BackendCounters) -> Self {
        let BackendCounters {
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            new_flows,
            flow_misses,
            untracked_flows,
            pinned_flows,
            fallback_flows,
            icmp_errors,
            severed_flows,
        } = counters;
        Self {
            new_flows,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            flow_misses,
            untracked_flows,
            pinned_flows,
            fallback_flows,
            icmp_errors,
            severed_flows,
        }
    }
}

/// Body of `POST /v1/services/{name}/set-weight`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// In percent, with at most two decimals.
    pub weight: f64,
    /// Only this shard; all if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
}

/// Which traffic is pinned: exactly one of the two.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRuleBody {
    /// A network or an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// 0 to 63.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
}

impl From<PinRule> for PinRuleBody {
    fn from(rule: PinRule) -> Self {
        match rule {
            PinRule::Source(network) => Self { source: Some(network.to_string()), dscp: None },
            PinRule::Dscp(value) => Self { source: None, dscp: Some(value) },
        }
    }
}

impl PinRuleBody {
    /// The rule, or what is wrong.
    pub fn rule(&self) -> Result<PinRule, String> {
        match (&self.source, self.dscp) {
            (Some(text), None) => {
                text.parse().map(PinRule::Source).map_err(|error: NetworkError| format!("`{text}`: {error}"))
            }
            (None, Some(value)) if value <= DSCP_MAX => Ok(PinRule::Dscp(value)),
            (None, Some(value)) => Err(format!("{value} is no DSCP value: those are 0 to {DSCP_MAX}")),
            (Some(_), Some(_)) | (None, None) => Err("expected either `source` or `dscp`".to_owned()),
        }
    }
}

/// Body of `POST /v1/services/{name}/pin`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinBody {
    /// A network or an address: or `dscp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// 0 to 63: or `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// `v1` or `v2`.
    pub version: String,
}

/// `GET /v1/services/{name}/pins`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinsStatus {
    /// From the config.
    pub service: String,
    /// A port of the VIP all of whose clients meet v2.
    pub canary_port: Option<u16>,
    /// Networks by address, then DSCP values.
    pub pins: Vec<PinStatus>,
}

/// One pin: `source` or `dscp`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinStatus {
    /// A network; or `null`.
    pub source: Option<String>,
    /// A DSCP value; or `null`.
    pub dscp: Option<u8>,
    /// `v1` or `v2`.
    pub version: String,
    /// `config` or `run-time`.
    pub origin: String,
}

/// Body of `POST /v1/services/{name}/drain`, `undrain` and `remove-backend`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendBody {
    /// As in the config.
    pub address: String,
}

/// Body of `POST /v1/services/{name}/add-backend`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddBackend {
    /// `v1` or `v2`.
    pub version: String,
    /// As in the config.
    pub address: String,
    /// 1 to 1000; 1 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Body of `POST /v1/detach`; may be left out.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Refused unless the agent's pins are there: keeps a command for other pins from ending this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpffs: Option<std::path::PathBuf>,
}

/// Body of the commands that need nothing said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong: for programs and for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// `unknown_service`, `unknown_shard`, `refused`, `bad_request`, `not_found` or `internal`.
    pub code: String,
    /// What, where, and what to do.
    pub message: String,
}

/// What may be asked of a release, as the last part of the path and as the CLI's command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verb {
    /// Begin.
    Start,
    /// Stand still.
    Freeze,
    /// Go on.
    Resume,
    /// Pass the gate.
    Approve,
    /// All to v1.
    Rollback,
    /// All to v2.
    Promote,
}

impl Verb {
    /// All.
    pub const ALL: [Self; 6] = [Self::Start, Self::Freeze, Self::Resume, Self::Approve, Self::Rollback, Self::Promote];

    /// As in the path.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Freeze => "freeze",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::Rollback => "rollback",
            Self::Promote => "promote",
        }
    }
}

/// A number with at most three decimals: milliseconds of seconds, thousandths of a percent.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
