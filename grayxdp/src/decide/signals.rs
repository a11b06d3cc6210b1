//! What the kernel saw of a version's, or a backend's, connections: counts and histograms, cumulative or of a span of time.
//!
//! Sums over CPUs, backends, hosts and time are additions; what came in between two readings is a subtraction.

use std::net::SocketAddr;

use grayxdp_common::{
    histogram::{HISTOGRAM_BUCKETS, bucket_of, lower_bound_us},
    layout::{OVERDUE_US, Signal, Timing},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Groups of clients, by their hash, for which flows and errors are counted apart: by how unevenly errors fall upon them,
/// bursts are told from independent errors.
pub const CLIENT_GROUPS: usize = 256;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counts; each flow adds to at most one of `refused`, `unanswered`, `server_resets`, `icmp_unreachable`,
        /// `idle_deaths` and `closed_unanswered`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Counts {
            $($(#[$doc])* #[serde(skip_serializing_if = "is_zero")] pub $name: u64,)+
        }

        impl Counts {
            /// Both, added.
            #[must_use]
            pub const fn plus(self, other: &Self) -> Self {
                Self { $($name: self.$name.wrapping_add(other.$name),)+ }
            }

            /// What a sum becomes when one of what it sums goes from here to there.
            #[must_use]
            pub const fn moved(self, from: &Self, to: &Self) -> Self {
                Self { $($name: self.$name.wrapping_add(to.$name.wrapping_sub(from.$name)),)+ }
            }

            /// What has come since an earlier reading; `None` where some count has fallen, for it was reset.
            #[must_use]
            pub const fn since(self, earlier: &Self) -> Option<Self> {
                Some(Self { $($name: match self.$name.checked_sub(earlier.$name) { Some(grown) => grown, None => return None },)+ })
            }

            /// Every count with its name.
            pub const fn named(&self) -> [(&'static str, u64); [$(stringify!($name)),+].len()] {
                [$((stringify!($name), self.$name)),+]
            }
        }
    };
}

counts! {
    /// New connections (TCP: first SYNs) and conversations (UDP).
    flows,
    /// TCP: answered by a SYN-ACK. UDP: answered.
    established,
    /// RST in answer to a SYN.
    refused,
    /// No answer to the SYN, or to the first datagram, in time.
    unanswered,
    /// RST from the server after the connection was established.
    server_resets,
    /// RST from the client after the connection was established; no error.
    client_resets,
    /// ICMP errors from the backend's side that ended the wait for an answer.
    icmp_unreachable,
    /// Established connections that ended by time-out while a response was owed.
    idle_deaths,
    /// Closed by FIN from both sides.
    closes,
    /// SYNs seen again.
    syn_retransmissions,
    /// Server segments with data that were watched for repetition.
    watched_segments,
    /// Of these, those seen before.
    retransmissions,
    /// Zero windows that the server advertised.
    zero_windows,
    /// Turns begun: client payload while no response was owed. UDP: requests.
    requests,
    /// Turns answered: the first server payload of each. UDP: replies.
    responses,
    /// Peeked responses that say all is well: HTTP 1xx to 3xx, a TLS handshake record, DNS NOERROR and NXDOMAIN.
    answers_good,
    /// Peeked responses that blame the client: HTTP 4xx.
    answers_client_error,
    /// Peeked responses that are the server's fault: HTTP 5xx, a TLS alert in place of a handshake, DNS SERVFAIL.
    answers_server_error,
    /// Responses that were peeked into and could not be read.
    answers_unknown,
    /// Connections that the client closed or reset while its first request was still unanswered, where responses are peeked
    /// into.
    closed_unanswered,
    /// First turns of connections that have had no answer for three seconds, and may still get one; of conversations with an
    /// answer all turns, where responses are peeked into.
    overdue_waiting,
    /// The same of connections that were reset by the client, or closed from both sides, by then.
    overdue_gone,
    /// Of those that might still get one, those that did: they are in `responses` and the histogram, too.
    overdue_answered,
    /// Of the flows, those that no weight sent there: a pin did, or that the other version had no live backend.
    unweighted,
}

impl Counts {
    /// Flows that ended, or did not begin, by the server's fault.
    pub const fn transport_errors(&self) -> u64 {
        self.refused
            + self.unanswered
            + self.server_resets
            + self.icmp_unreachable
            + self.idle_deaths
            + self.closed_unanswered
    }
}

/// Turns that were overdue, to be counted beside a histogram of those that were answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overdue {
    /// Found to be so.
    pub found: u64,
    /// Of these or earlier ones, those that were answered after all: the histogram has them, too.
    pub answered: u64,
}

impl Overdue {
    /// None.
    pub const NONE: Self = Self { found: 0, answered: 0 };

    /// Those that will certainly have taken as long as the times of this bucket, or longer: all or none.
    #[must_use]
    pub fn beyond(self, bucket: usize) -> Self {
        if bucket <= bucket_of(OVERDUE_US) { self } else { Self::NONE }
    }

    /// So many times of a histogram and these together, each turn once.
    pub const fn with(self, times: u64) -> u64 {
        (times + self.found).saturating_sub(self.answered)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Times in log-linear buckets; see [`grayxdp_common::histogram`].
#[derive(PartialEq, Eq, Debug)]
pub struct Histogram {
    buckets: Box<[u64; HISTOGRAM_BUCKETS]>,
}

impl Clone for Histogram {
    fn clone(&self) -> Self {
        Self { buckets: self.buckets.clone() }
    }

    /// In place: readings are copied each second.
    fn clone_from(&mut self, source: &Self) {
        self.buckets.clone_from(&source.buckets);
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; HISTOGRAM_BUCKETS]) }
    }
}

impl Histogram {
    /// Of counts by bucket.
    pub fn new(buckets: [u64; HISTOGRAM_BUCKETS]) -> Self {
        Self { buckets: Box::new(buckets) }
    }

    /// By bucket.
    pub fn buckets(&self) -> &[u64; HISTOGRAM_BUCKETS] {
        &self.buckets
    }

    /// By bucket, to be written by who reads them out of maps.
    pub(crate) fn buckets_mut(&mut self) -> &mut [u64; HISTOGRAM_BUCKETS] {
        &mut self.buckets
    }

    /// Takes times of this length in.
    pub fn record_us(&mut self, us: u32, times: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(us)) {
            *bucket = bucket.wrapping_add(times);
        }
    }

    /// Takes times of one bucket in; none if there is no such bucket.
    pub fn add_to_bucket(&mut self, bucket: usize, times: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket = bucket.wrapping_add(times);
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.buckets.fill(0);
    }

    /// How many times it holds.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many of them are in this bucket or a later one.
    pub fn count_from(&self, bucket: usize) -> u64 {
        self.buckets.iter().skip(bucket).sum()
    }

    /// The bucket in which the quantile lies, 0 to 1; `None` where it is empty.
    pub fn quantile_bucket(&self, quantile: f64) -> Option<usize> {
        let count = self.count();
        let rank = (quantile * count as f64).ceil().max(1.0);
        let mut below = 0u64;
        let reaches = |&bucket: &u64| {
            below += bucket;
            below as f64 >= rank
        };
        (count > 0).then(|| self.buckets.iter().position(reaches).unwrap_or(HISTOGRAM_BUCKETS - 1))
    }

    /// The quantile in microseconds: the middle of its bucket, so at most 6.25 % off.
    pub fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let bucket = self.quantile_bucket(quantile)?;
        Some((lower_bound_us(bucket) + lower_bound_us(bucket + 1)) as f64 / 2.0)
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *bucket = bucket.wrapping_add(*more);
        }
    }

    /// What has come since an earlier reading; `None` where some bucket has fallen.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let mut grown = Self::default();
        for ((grown, now), before) in grown.buckets.iter_mut().zip(self.buckets.iter()).zip(earlier.buckets.iter()) {
            *grown = now.checked_sub(*before)?;
        }
        Some(grown)
    }
}

/// As a list of buckets that hold something, each with its count.
impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets.iter().enumerate().filter(|(_, count)| **count != 0))
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut histogram = Self::default();
        for (bucket, count) in Vec::<(usize, u64)>::deserialize(deserializer)? {
            let place = histogram.buckets.get_mut(bucket);
            *place.ok_or_else(|| D::Error::custom(format!("a histogram has no bucket {bucket}")))? = count;
        }
        Ok(histogram)
    }
}

/// Flows and errors of one group of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct GroupCounts {
    /// New flows.
    pub flows: u64,
    /// Transport errors, and peeked server errors.
    pub errors: u64,
}

impl From<(u64, u64)> for GroupCounts {
    fn from((flows, errors): (u64, u64)) -> Self {
        Self { flows, errors }
    }
}

impl From<GroupCounts> for (u64, u64) {
    fn from(GroupCounts { flows, errors }: GroupCounts) -> Self {
        (flows, errors)
    }
}

/// All that is known of a version or a backend.
#[derive(PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Signals {
    /// Counts.
    pub counts: Counts,
    /// SYN to SYN-ACK, as seen here.
    pub handshake: Histogram,
    /// The first turn of each connection: client payload to server payload. UDP: every reply.
    pub first_response: Histogram,
    /// The later turns.
    pub later_response: Histogram,
    /// Begin to end of flows that were closed or reset.
    pub duration: Histogram,
    /// By group of clients, [`CLIENT_GROUPS`] of them; empty for a backend.
    pub groups: Vec<GroupCounts>,
}

impl Clone for Signals {
    fn clone(&self) -> Self {
        let Self { counts, handshake, first_response, later_response, duration, groups } = self;
        Self {
            counts: *counts,
            handshake: handshake.clone(),
            first_response: first_response.clone(),
            later_response: later_response.clone(),
            duration: duration.clone(),
            groups: groups.clone(),
        }
    }

    /// In place; see [`Histogram`].
    fn clone_from(&mut self, source: &Self) {
        let Self { counts, handshake, first_response, later_response, duration, groups } = self;
        *counts = source.counts;
        handshake.clone_from(&source.handshake);
        first_response.clone_from(&source.first_response);
        later_response.clone_from(&source.later_response);
        duration.clone_from(&source.duration);
        groups.clone_from(&source.groups);
    }
}

impl Signals {
    /// By [`Timing`].
    pub(crate) fn histograms(&self) -> [&Histogram; Timing::ALL.len()] {
        [&self.handshake, &self.first_response, &self.later_response, &self.duration]
    }

    /// The same, to be changed.
    pub(crate) fn histograms_mut(&mut self) -> [&mut Histogram; Timing::ALL.len()] {
        [&mut self.handshake, &mut self.first_response, &mut self.later_response, &mut self.duration]
    }

    /// Adds another reading: of another backend, host or span.
    pub fn add(&mut self, other: &Self) {
        self.counts = self.counts.plus(&other.counts);
        self.handshake.add(&other.handshake);
        self.first_response.add(&other.first_response);
        self.later_response.add(&other.later_response);
        self.duration.add(&other.duration);
        if self.groups.len() < other.groups.len() {
            self.groups.resize(other.groups.len(), GroupCounts::default());
        }
        for (group, more) in self.groups.iter_mut().zip(&other.groups) {
            group.flows += more.flows;
            group.errors += more.errors;
        }
    }

    /// What has come since an earlier reading. A reading that has fallen anywhere was reset: what it holds has come since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.grown(earlier).unwrap_or_else(|| self.clone())
    }

    fn grown(&self, earlier: &Self) -> Option<Self> {
        let before = |index: usize| earlier.groups.get(index).copied().unwrap_or_default();
        let grown = |(index, now): (usize, &GroupCounts)| {
            Some(GroupCounts {
                flows: now.flows.checked_sub(before(index).flows)?,
                errors: now.errors.checked_sub(before(index).errors)?,
            })
        };
        Some(Self {
            counts: self.counts.since(&earlier.counts)?,
            handshake: self.handshake.since(&earlier.handshake)?,
            first_response: self.first_response.since(&earlier.first_response)?,
            later_response: self.later_response.since(&earlier.later_response)?,
            duration: self.duration.since(&earlier.duration)?,
            groups: self.groups.iter().enumerate().map(grown).collect::<Option<_>>()?,
        })
    }
}

/// What of a service's flows passes here, and so can be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Sight {
    /// Both directions; responses are not looked into.
    #[default]
    Both,
    /// Both directions, and responses are looked into.
    Answers,
    /// TCP segments of clients only. A client that goes on after its SYN was answered; nobody knows by what.
    ClientSegments,
    /// Datagrams of clients only: whether they are answered is not known.
    ClientDatagrams,
}

impl Sight {
    /// Whether backends' packets pass.
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::Both | Self::Answers)
    }

    /// Whether a signal can be counted. What cannot is no zero, but not known.
    pub const fn sees(self, signal: Signal) -> bool {
        match self {
            Self::Answers => true,
            Self::Both => !matches!(
                signal,
                Signal::AnswersGood
                    | Signal::AnswersClientError
                    | Signal::AnswersServerError
                    | Signal::AnswersUnknown
                    | Signal::ClosedUnanswered
            ),
            Self::ClientSegments => matches!(
                signal,
                Signal::Flows
                    | Signal::Unweighted
                    | Signal::Established
                    | Signal::Unanswered
                    | Signal::ClientResets
                    | Signal::Closes
                    | Signal::SynRetransmissions
            ),
            Self::ClientDatagrams => matches!(signal, Signal::Flows | Signal::Unweighted),
        }
    }
}

/// What the kernel counted for a service since its counters were made.
#[derive(PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceSignals {
    /// Index into the config's services.
    pub service: usize,
    /// What could be counted at all.
    #[serde(default)]
    pub sight: Sight,
    /// Of all of v1's backends, those that left included; with the groups of their clients.
    pub v1: Signals,
    /// Of all of v2's.
    pub v2: Signals,
    /// Of each of v2's backends; may be empty.
    pub backends: Vec<(SocketAddr, Counts)>,
}

impl Clone for ServiceSignals {
    fn clone(&self) -> Self {
        let Self { service, sight, v1, v2, backends } = self;
        Self { service: *service, sight: *sight, v1: v1.clone(), v2: v2.clone(), backends: backends.clone() }
    }

    /// In place; see [`Histogram`].
    fn clone_from(&mut self, source: &Self) {
        let Self { service, sight, v1, v2, backends } = self;
        (*service, *sight) = (source.service, source.sight);
        v1.clone_from(&source.v1);
        v2.clone_from(&source.v2);
        backends.clone_from(&source.backends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_the_middle_of_their_buckets() {
        let mut times = Histogram::default();
        assert_eq!(times.quantile_us(0.5), None);
        for us in 1..=1000 {
            times.record_us(us, 1);
        }
        for (quantile, expected) in [(0.0, 1.0), (0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = times.quantile_us(quantile).expect("not empty");
            assert!((found - expected).abs() <= expected * 0.0625 + 0.5, "{quantile}: {found}");
        }
        assert_eq!((times.count(), times.count_from(bucket_of(512))), (1000, 489));
    }

    #[test]
    fn signals_survive_the_way_through_json() {
        let mut signals = Signals { groups: vec![GroupCounts { flows: 3, errors: 1 }], ..Signals::default() };
        signals.counts.flows = u64::MAX;
        signals.handshake.record_us(100, 5);
        signals.later_response.record_us(u32::MAX, 1);
        let json = serde_json::to_string(&signals).expect("writable");
        assert!(json.len() < 200, "what is zero is left out: {json}");
        assert_eq!(serde_json::from_str::<Signals>(&json).expect("readable"), signals);
        assert!(serde_json::from_str::<Histogram>("[[100000,1]]").is_err());
        assert!(serde_json::from_str::<Counts>(r#"{"flows":-1}"#).is_err());
    }

    #[test]
    fn what_has_come_since_is_the_difference_and_a_reset_begins_anew() {
        let mut earlier = Signals { groups: vec![GroupCounts { flows: 3, errors: 1 }], ..Signals::default() };
        earlier.counts.flows = 5;
        earlier.handshake.record_us(100, 5);
        let mut now = earlier.clone();
        let more = Signals { counts: Counts { flows: 2, refused: 1, ..Counts::default() }, ..earlier.clone() };
        now.add(&more);
        assert_eq!(now.since(&earlier), more);
        assert_eq!(earlier.since(&now), earlier);
    }
}
