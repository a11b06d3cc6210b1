//! Metrics of connections: how they begin, fare and end. Where replies do not pass, what cannot be seen is absent.

use std::fmt;

use grayxdp_common::{
    histogram::{HISTOGRAM_BUCKETS, bucket_of, lower_bound_us},
    layout::Signal,
};
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{Snapshot, counters, gauges};
use crate::{
    decide::signals::{Histogram, Sight, Signals},
    kernel::{BackendSignals, FuseState},
};

/// Names and help of counters.
const COUNTERS: [(Signal, &str, &str); 17] = [
    (Signal::Flows, "grayxdp_tracked_flows", "New connections and conversations whose fate is watched."),
    (
        Signal::Established,
        "grayxdp_established_flows",
        "Connections that a SYN-ACK answered, conversations with an answer.",
    ),
    (Signal::Refused, "grayxdp_refused_flows", "Connections that the server refused by a RST."),
    (Signal::Unanswered, "grayxdp_unanswered_flows", "Connections and conversations that nobody answered in time."),
    (Signal::ServerResets, "grayxdp_server_resets", "Established connections that the server reset."),
    (Signal::ClientResets, "grayxdp_client_resets", "Established connections that the client reset."),
    (Signal::IcmpUnreachable, "grayxdp_unreachable_flows", "Flows whose wait for an answer an ICMP error ended."),
    (Signal::IdleDeaths, "grayxdp_idle_deaths", "Connections that timed out while a response was owed."),
    (
        Signal::ClosedUnanswered,
        "grayxdp_closed_unanswered",
        "Connections that clients closed or reset before their first request was answered, where `observe` tells that it needs an answer.",
    ),
    (Signal::Closes, "grayxdp_closed_flows", "Connections that both sides closed."),
    (Signal::SynRetransmissions, "grayxdp_syn_retransmissions", "SYNs that came again."),
    (
        Signal::WatchedSegments,
        "grayxdp_watched_segments",
        "Server segments with data, of a sample of connections, that were looked at for repetition.",
    ),
    (Signal::Retransmissions, "grayxdp_retransmitted_segments", "Of the watched segments, those sent before."),
    (Signal::ZeroWindows, "grayxdp_zero_windows", "Times that a server advertised that it has no room."),
    (Signal::Requests, "grayxdp_requests", "Turns that clients began, by sending while no response was owed."),
    (Signal::Responses, "grayxdp_responses", "Turns that servers answered."),
    (
        Signal::OverdueAnswered,
        "grayxdp_overdue_answered",
        "Of the overdue requests that waited, those that were answered after all; their times are in grayxdp_response_seconds.",
    ),
];

/// What responses say, where they are looked into.
const ANSWERS: [(Signal, &str); 4] = [
    (Signal::AnswersGood, "good"),
    (Signal::AnswersClientError, "client_error"),
    (Signal::AnswersServerError, "server_error"),
    (Signal::AnswersUnknown, "unknown"),
];

/// First turns without an answer, by whether one could still come when that was found.
const OVERDUE: [(Signal, &str); 2] = [(Signal::OverdueWaiting, "waiting"), (Signal::OverdueGone, "gone")];

/// Bounds of exported buckets are powers of two in microseconds, 256 µs to 16.8 s: bounds that the kernel's buckets have.
const BOUNDS_LOG2: std::ops::RangeInclusive<u32> = 8..=24;

/// Labels, and what they are of.
type Labelled<'a> = ([(&'static str, String); 3], &'a BackendSignals, Sight);

impl Snapshot {
    pub(super) fn signals(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (signal, name, help) in COUNTERS {
            let seen = self.watched().filter(|(.., sight)| sight.sees(signal));
            counters(encoder, name, help, seen.map(|(labels, one, _)| (labels, count(&one.signals, signal))))?;
        }
        self.answers(encoder)?;
        self.times(encoder)?;
        let blown = self.status.services.iter().zip(&self.fuses).filter_map(|(service, fuse)| {
            let blown = match fuse {
                FuseState::None => return None,
                FuseState::Armed => 0.0,
                FuseState::Blown(_) => 1.0,
            };
            Some(([("service", service.name.as_str())], blown))
        });
        gauges(
            encoder,
            "grayxdp_fuse_blown",
            "1 where the kernel sends new flows back to v1 because v2 failed too often; absent without a fuse.",
            blown,
        )
    }

    /// The backends of the config, and what of their flows passes.
    fn watched(&self) -> impl Iterator<Item = Labelled<'_>> {
        self.signals.backends.iter().filter_map(|one| {
            let service = self.status.services.get(one.service)?;
            let labels = [
                ("service", service.name.clone()),
                ("version", one.version.name().to_owned()),
                ("backend", one.address.to_string()),
            ];
            Some((labels, one, self.signals.services.get(one.service)?.sight))
        })
    }

    fn answers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Responses by what they say (HTTP status, TLS alert, DNS code), where the service observes them.";
        counters(encoder, "grayxdp_answers", help, self.split("says", ANSWERS))?;
        let help = "First turns of connections that had no answer for three seconds, by whether the connection was over then; of conversations with an answer all turns, where responses are observed.";
        counters(encoder, "grayxdp_overdue_requests", help, self.split("client", OVERDUE))
    }

    /// Signals that are told apart by one more label.
    fn split<const N: usize>(
        &self,
        label: &'static str,
        signals: [(Signal, &'static str); N],
    ) -> impl Iterator<Item = ([(&'static str, String); 4], u64)> {
        self.watched().flat_map(move |([service, version, backend], one, sight)| {
            let seen = signals.into_iter().filter(move |(signal, _)| sight.sees(*signal));
            seen.map(move |(signal, value)| {
                let labels = [service.clone(), version.clone(), backend.clone(), (label, value.to_owned())];
                (labels, count(&one.signals, signal))
            })
        })
    }

    fn times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let two_sided = || self.watched().filter(|(.., sight)| sight.sees_replies());
        let handshakes = two_sided().map(|([a, b, c], one, _)| (vec![a, b, c], &one.signals.handshake));
        histograms(encoder, "grayxdp_handshake_seconds", "Time from SYN to SYN-ACK, as seen here.", handshakes)?;
        let turns = two_sided().flat_map(|([a, b, c], one, _)| {
            let both = [("first", &one.signals.first_response), ("later", &one.signals.later_response)];
            both.map(|(turn, times)| (vec![a.clone(), b.clone(), c.clone(), ("turn", turn.to_owned())], times))
        });
        let help = "Time from a client's payload to the server's, first and later turns of connections apart.";
        histograms(encoder, "grayxdp_response_seconds", help, turns)?;
        let closing = self.watched().filter(|(.., sight)| sight.sees(Signal::Closes));
        let durations = closing.map(|([a, b, c], one, _)| (vec![a, b, c], &one.signals.duration));
        histograms(encoder, "grayxdp_flow_duration_seconds", "How long closed and reset connections lasted.", durations)
    }
}

fn count(signals: &Signals, signal: Signal) -> u64 {
    signals.counts.named().into_iter().find(|(name, _)| *name == signal.name()).map_or(0, |(_, count)| count)
}

fn histograms<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &'static str,
    samples: impl Iterator<Item = (Vec<(&'static str, String)>, &'a Histogram)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, times) in samples {
        let (sum, buckets) = exported(times);
        metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, times.count(), &buckets, None)?;
    }
    Ok(())
}

/// The sum in seconds, each time taken for the middle of its bucket; and the coarser buckets.
fn exported(times: &Histogram) -> (f64, Vec<(f64, u64)>) {
    let middle = |bucket: usize| (lower_bound_us(bucket) + lower_bound_us(bucket + 1)) as f64 / 2e6;
    let sum = (0..).zip(times.buckets()).map(|(bucket, &count)| count as f64 * middle(bucket)).sum();
    let mut first = 0;
    let mut coarse = Vec::new();
    let ends = BOUNDS_LOG2.map(|log2| (f64::from(1_u32 << log2) / 1e6, bucket_of(1 << log2)));
    for (bound, end) in ends.chain([(f64::MAX, HISTOGRAM_BUCKETS)]) {
        let counts = times.buckets().get(first..end).unwrap_or_default();
        coarse.push((bound, counts.iter().sum()));
        first = end;
    }
    (sum, coarse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_buckets_hold_every_time_below_their_bound() {
        let mut times = Histogram::default();
        for us in [1, 255, 256, 1_000, 1_000_000, 60_000_000, u32::MAX] {
            times.record_us(us, 1);
        }
        let (sum, coarse) = exported(&times);
        assert_eq!(coarse.iter().map(|(_, count)| count).sum::<u64>(), times.count());
        let below =
            |bound: f64| -> u64 { coarse.iter().filter(|(end, _)| *end <= bound).map(|(_, count)| count).sum() };
        assert_eq!([0.000_256, 0.000_512, 0.001_1, 1.1, 17.0].map(below), [2, 3, 4, 5, 5]);
        assert_eq!(coarse.len(), 18);
        // The longest time that is told apart stands for all that are longer.
        assert!((125.0..130.0).contains(&sum), "{sum}");
    }
}
