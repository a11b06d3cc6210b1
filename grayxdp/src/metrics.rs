//! All metrics: names, labels, help. No arithmetic: what is shown was read from kernel and releases for this very answer,
//! so nothing can be counted twice.
//!
//! Two formats: OpenMetrics for those that ask for it, else the Prometheus text format 0.0.4, which wants `_total` in the
//! names of counters' help and type, too.

mod signals;

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use grayxdp_common::verdict::Verdict;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    agent::shapes::{AgentStatus, BackendStatus, Counters, ServiceStatus},
    decide::{controller::State, signals::Sight},
    kernel::{FuseState, SignalReadings},
};

/// What one answer to a scrape is made of.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Releases and counters.
    pub status: AgentStatus,
    /// How many packets ended in which way.
    pub verdicts: Vec<(Verdict, u64)>,
    /// What was counted of connections.
    pub signals: SignalReadings,
    /// Fuses of the services, in order.
    pub fuses: Vec<FuseState>,
    /// When the agent's loop last turned.
    pub last_tick: SystemTime,
}

/// How metrics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a client that sends this `Accept` header understands.
    pub fn accepted_by(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    /// For the header of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The page of metrics.
pub fn page(snapshot: Snapshot, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, &registry)?;
    Ok(match format {
        Format::OpenMetrics => open_metrics,
        Format::Classic => classic(&open_metrics),
    })
}

/// The classic format of an OpenMetrics page of gauges and counters.
fn classic(open_metrics: &str) -> String {
    let counters: Vec<&str> =
        open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut page = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(keyword @ ("HELP" | "TYPE")), Some(name), Some(rest)) if counters.contains(&name) => {
                page.push_str(&format!("# {keyword} {name}_total {rest}"));
            }
            _ => page.push_str(line),
        }
        page.push('\n');
    }
    page
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.releases(&mut encoder)?;
        self.traffic(&mut encoder)?;
        self.signals(&mut encoder)?;
        self.agent(&mut encoder)
    }
}

impl Snapshot {
    fn releases(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of_services = |value: fn(&ServiceStatus) -> Option<f64>| {
            let services = self.status.services.iter();
            services.filter_map(move |service| Some(([("service", service.name.as_str())], value(service)?)))
        };
        gauges(
            encoder,
            "grayxdp_weight_percent",
            "Share of new flows that v2 is to get, as the release wants it; where shards differ, their mean.",
            of_services(|service| Some(service.weight)),
        )?;
        gauges(
            encoder,
            "grayxdp_kernel_weight_percent",
            "Share of new flows that v2 is to get, as read back from the kernel's weight map.",
            of_services(|service| service.kernel_weight),
        )?;
        let shards = self.status.services.iter().flat_map(|service| {
            let shards = service.shards.iter();
            shards.map(|shard| ([("service", service.name.as_str()), ("shard", shard.name.as_str())], shard.weight))
        });
        gauges(
            encoder,
            "grayxdp_shard_weight_percent",
            "Share of a shard's new flows that v2 is to get; absent where no shard differs from the others.",
            shards,
        )?;
        gauges(
            encoder,
            "grayxdp_pins",
            "Rules that send traffic to one version whatever the weight.",
            of_services(|service| u32::try_from(service.pins).ok().map(f64::from)),
        )?;
        gauges(
            encoder,
            "grayxdp_measured_share_percent",
            "Share of new flows that v2 got over the last 10 seconds; absent without new flows.",
            of_services(|service| service.measured_share),
        )?;
        let states = self.status.services.iter().flat_map(|service| {
            State::ALL.into_iter().map(move |state| {
                let labels = [("service", service.name.as_str()), ("state", state.name())];
                (labels, if service.state == state.name() { 1.0 } else { 0.0 })
            })
        });
        gauges(encoder, "grayxdp_release_state", "1 for the state that the release is in, 0 for the others.", states)
    }

    fn traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.both_directions(
            encoder,
            "grayxdp_packets",
            "Packets from clients (in) and to clients (out).",
            |counters| [counters.packets_in, counters.packets_out],
        )?;
        self.both_directions(
            encoder,
            "grayxdp_bytes",
            "Bytes from clients (in) and to clients (out), from the IP header on.",
            |counters| [counters.bytes_in, counters.bytes_out],
        )?;
        for (name, help, value) in FLOW_COUNTERS {
            let samples = self.backends().map(|(labels, backend)| (labels, value(&backend.counters)));
            counters(encoder, name, help, samples)?;
        }
        self.present(encoder)?;
        let verdicts = self
            .verdicts
            .iter()
            .map(|&(verdict, packets)| ([("action", verdict.action().name()), ("reason", verdict.reason())], packets));
        counters(encoder, "grayxdp_verdicts", "Packets by what became of them, and why.", verdicts)
    }

    /// What is so now, as opposed to what was counted.
    fn present(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let flows = self.backends().flat_map(|([service, version, address], backend)| {
            backend.flows.by_state().map(|(state, count)| {
                let state = ("state", state.name().to_owned());
                ([service.clone(), version.clone(), address.clone(), state], count as f64)
            })
        });
        gauges(
            encoder,
            "grayxdp_flows",
            "Flows in the flow table by state, as counted within the last seconds.",
            flows,
        )?;
        let live = self.backends().map(|(labels, backend)| (labels, if backend.state == "live" { 1.0 } else { 0.0 }));
        gauges(
            encoder,
            "grayxdp_backend_live",
            "1 for a backend that gets new flows, 0 for one that is drained, down or removed.",
            live,
        )
    }

    fn both_directions(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &'static str,
        help: &'static str,
        value: fn(&Counters) -> [u64; 2],
    ) -> fmt::Result {
        // Replies that do not pass here are no zero.
        let passing = |index: usize| {
            let sight = self.signals.services.get(index).map_or(Sight::Both, |signals| signals.sight);
            if sight.sees_replies() { &["in", "out"][..] } else { &["in"] }
        };
        let samples = self.status.services.iter().enumerate().flat_map(|(index, service)| {
            Self::backends_of(service).flat_map(move |([service, version, address], backend)| {
                passing(index).iter().zip(value(&backend.counters)).map(move |(&direction, count)| {
                    ([service.clone(), version.clone(), address.clone(), ("direction", direction.to_owned())], count)
                })
            })
        });
        counters(encoder, name, help, samples)
    }

    fn backends(&self) -> impl Iterator<Item = ([(&'static str, String); 3], &BackendStatus)> {
        self.status.services.iter().flat_map(Self::backends_of)
    }

    fn backends_of(service: &ServiceStatus) -> impl Iterator<Item = ([(&'static str, String); 3], &BackendStatus)> {
        service.versions.iter().flat_map(move |(version, status)| {
            status.backends.iter().map(move |backend| {
                let labels = [
                    ("service", service.name.clone()),
                    ("version", version.to_owned()),
                    ("backend", backend.address.to_string()),
                ];
                (labels, backend)
            })
        })
    }

    fn agent(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let interfaces = self.status.interfaces.iter();
        gauges(
            encoder,
            "grayxdp_interface_info",
            "Always 1: an interface with the packet program, and how it is attached.",
            interfaces
                .map(|interface| ([("interface", interface.name.as_str()), ("mode", interface.mode.as_str())], 1.0)),
        )?;
        gauges(
            encoder,
            "grayxdp_build_info",
            "Always 1: the agent's version.",
            [([("version", self.status.version.as_str())], 1.0)],
        )?;
        let last_tick = self.last_tick.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let metric = encoder.encode_descriptor(
            "grayxdp_last_tick_timestamp_seconds",
            "When the agent's loop last moved the releases on, in seconds since 1970.",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(last_tick).encode(metric)
    }
}

fn gauges<K: AsRef<str>, V: AsRef<str>, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = ([(K, V); N], f64)>,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    each(metric, samples, |metric, value| ConstGauge::new(value).encode(metric))
}

fn counters<K: AsRef<str>, V: AsRef<str>, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = ([(K, V); N], u64)>,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    each(metric, samples, |metric, value| ConstCounter::new(value).encode(metric))
}

fn each<K: AsRef<str>, V: AsRef<str>, T, const N: usize>(
    mut metric: MetricEncoder<'_>,
    samples: impl IntoIterator<Item = ([(K, V); N], T)>,
    encode: impl Fn(MetricEncoder<'_>, T) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in samples {
        let labels = labels.each_ref().map(|(key, value)| (key.as_ref(), value.as_ref()));
        encode(metric.encode_family(&labels)?, value)?;
    }
    Ok(())
}
/// A counter's name, help and value.
type FlowCounter = (&'static str, &'static str, fn(&Counters) -> u64);

/// What is counted of a backend's flows.
const FLOW_COUNTERS: [FlowCounter; 7] = [
    ("grayxdp_new_flows", "New connections (TCP) and conversations (UDP).", |counters| counters.new_flows),
    (
        "grayxdp_flow_misses",
        "TCP packets that should have had a flow entry and had none: connections that may have been broken.",
        |counters| counters.flow_misses,
    ),
    ("grayxdp_untracked_flows", "Flows for which the flow map had no place; they go by hash alone.", |counters| {
        counters.untracked_flows
    }),
    ("grayxdp_pinned_flows", "Of the new flows, those that a pin or the canary port brought here.", |counters| {
        counters.pinned_flows
    }),
    (
        "grayxdp_fallback_flows",
        "Of the new flows, those that were meant for the other version, of which no backend was live.",
        |counters| counters.fallback_flows,
    ),
    (
        "grayxdp_icmp_errors",
        "ICMP errors about flows, from backends or on the way to them, that were brought to clients.",
        |counters| counters.icmp_errors,
    ),
    (
        "grayxdp_severed_flows",
        "Connections that were reset by a rollback with `on_rollback = \"sever\"`.",
        |counters| counters.severed_flows,
    ),
];
