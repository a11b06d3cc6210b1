//! Rows of counts, mapped into memory: how they are read, added, and carried from one program to the next.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use grayxdp_common::{
    histogram::HISTOGRAM_BUCKETS,
    ids::{BackendId, ServiceId, Version},
    layout::{
        BUCKETS_PER_LINE, BackendEntry, CLIENT_GROUPS, GroupCell, GroupRow, NO_SERVICE, SIGNAL_SLOTS, Signal,
        SignalRow, Timing,
    },
};

use super::Shape;
use crate::{
    decide::signals::{Counts, GroupCounts, Histogram, Signals},
    kernel::{
        KernelError,
        inventory::{Inventory, Numbered},
        mapped::Mapped,
    },
};

/// Rows and groups of one program.
pub(in crate::kernel) struct Rows {
    pub(super) shape: Shape,
    pub(super) rows: Mapped<SignalRow>,
    pub(super) groups: Mapped<GroupRow>,
}

// Words of a row.
const LINES: usize = SIGNAL_SLOTS;
pub(super) const TIMES: usize = std::mem::offset_of!(SignalRow, times) / 8;
const WORDS_PER_LINE: usize = BUCKETS_PER_LINE;
const _: () = assert!(std::mem::offset_of!(SignalRow, lines) / 8 == LINES);
const _: () = assert!(size_of::<GroupCell>() == 8 && std::mem::offset_of!(GroupCell, errors) == 4);

impl Rows {
    /// Of a running program.
    pub(in crate::kernel) fn of_program(shape: Shape, rows: &MapData, groups: &MapData) -> Result<Self, KernelError> {
        Ok(Self { shape, rows: Mapped::new("SIGNALS", rows)?, groups: Mapped::new("GROUPS", groups)? })
    }

    /// Counts only, over some rows.
    pub(super) fn counts(&self, rows: impl Iterator<Item = u32>) -> [u64; SIGNAL_SLOTS] {
        let mut sums = [0; SIGNAL_SLOTS];
        for words in rows.filter_map(|row| self.rows.element(row)) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = u64::wrapping_add(*sum, word.load(Ordering::Relaxed));
            }
        }
        sums
    }

    /// Reads a word of each line that [`Self::counts`] will read. Most of what reading costs is the wait for memory: many
    /// reads of which none depends on another wait together.
    pub(super) fn fetch_counts(&self, rows: impl Iterator<Item = u32>) {
        let firsts = |words: &[AtomicU64]| {
            words.iter().take(TIMES).step_by(WORDS_PER_LINE).fold(0, |all, word| all | word.load(Ordering::Relaxed))
        };
        std::hint::black_box(rows.filter_map(|row| self.rows.element(row)).fold(0, |all, words| all | firsts(words)));
    }

    /// The same of what [`Self::read_into`] will read besides, and of what it will write.
    pub(super) fn fetch_times(&self, rows: impl Iterator<Item = u32>, signals: &Signals) {
        let mut all = 0;
        for words in rows.filter_map(|row| self.rows.element(row)) {
            for (timing, histogram) in signals.histograms().into_iter().enumerate() {
                let mut lines = written(words, timing);
                while lines != 0 {
                    let first = lines.trailing_zeros() as usize * BUCKETS_PER_LINE;
                    lines &= lines - 1;
                    // Not every histogram begins where a line of the cache does.
                    for nth in [first, (first + BUCKETS_PER_LINE).min(HISTOGRAM_BUCKETS) - 1] {
                        let word = words.get(TIMES + timing * HISTOGRAM_BUCKETS + nth);
                        all |= word.map_or(0, |word| word.load(Ordering::Relaxed));
                        all |= histogram.buckets().get(nth).copied().unwrap_or(0);
                    }
                }
            }
        }
        std::hint::black_box(all);
    }

    /// All of some rows, added.
    pub(super) fn sum(&self, rows: impl Iterator<Item = u32> + Clone) -> SignalRow {
        // The counts first: what is timed meanwhile is in the next reading's counts.
        let mut sum = SignalRow { counts: self.counts(rows.clone()), ..EMPTY_ROW };
        for words in rows.filter_map(|row| self.rows.element(row)) {
            for (timing, (into, line_bits)) in sum.times.iter_mut().zip(&mut sum.lines).enumerate() {
                let lines = written(words, timing);
                *line_bits |= lines;
                let first = TIMES + timing * HISTOGRAM_BUCKETS;
                let from = words.get(first..first + HISTOGRAM_BUCKETS).unwrap_or_default();
                let both = into.chunks_mut(BUCKETS_PER_LINE).zip(from.chunks(BUCKETS_PER_LINE));
                for (_, (into, from)) in both.enumerate().filter(|(line, _)| lines & (1 << line) != 0) {
                    for (sum, word) in into.iter_mut().zip(from) {
                        *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
                    }
                }
            }
        }
        sum
    }

    /// Reads rows that have been read into `signals` before, or were empty: what is there has only grown, and where nothing
    /// was ever written there is nothing to read. What has come is added to `sum`, too.
    pub(super) fn read_into(
        &self,
        rows: impl Iterator<Item = u32> + Clone,
        slots: &[u64; SIGNAL_SLOTS],
        sinks: Sinks<'_>,
    ) {
        let Sinks { signals, sum } = sinks;
        let now = counts(slots);
        sum.counts = sum.counts.moved(&signals.counts, &now);
        signals.counts = now;
        let rows = || rows.clone().filter_map(|row| self.rows.element(row));
        for (timing, (histogram, sum)) in signals.histograms_mut().into_iter().zip(sum.histograms_mut()).enumerate() {
            let lines = rows().fold(0, |lines, words| lines | written(words, timing));
            let buckets = histogram.buckets_mut().chunks_mut(BUCKETS_PER_LINE);
            let buckets = buckets.zip(sum.buckets_mut().chunks_mut(BUCKETS_PER_LINE)).enumerate();
            for (line, (buckets, sums)) in buckets.filter(|(line, _)| lines & (1 << line) != 0) {
                let first = TIMES + timing * HISTOGRAM_BUCKETS + line * BUCKETS_PER_LINE;
                let mut now = [0; BUCKETS_PER_LINE];
                for words in rows().filter(|words| written(words, timing) & (1 << line) != 0) {
                    let from = words.get(first..first + BUCKETS_PER_LINE).unwrap_or_default();
                    for (now, word) in now.iter_mut().zip(from) {
                        *now = u64::wrapping_add(*now, word.load(Ordering::Relaxed));
                    }
                }
                for ((bucket, sum), now) in buckets.iter_mut().zip(sums).zip(now) {
                    *sum = sum.wrapping_add(now.wrapping_sub(*bucket));
                    *bucket = now;
                }
            }
        }
    }

    /// What was counted for a version by backends that have no row of their own any more; `None` where nothing was.
    pub(super) fn past(&self, service: ServiceId, version: Version) -> Option<Signals> {
        let row = self.shape.past_row(service, version)?;
        let words = self.rows.element(row)?;
        let is_written = words.iter().take(TIMES).any(|word| word.load(Ordering::Relaxed) != 0);
        is_written.then(|| Signals::from(&self.sum([row].into_iter())))
    }

    pub(super) fn groups(&self, rows: impl Iterator<Item = u32>) -> Vec<GroupCounts> {
        let mut sums = vec![GroupCounts::default(); CLIENT_GROUPS];
        for words in rows.filter_map(|row| self.groups.element(row)) {
            for (sum, word) in sums.iter_mut().zip(words) {
                let word = word.load(Ordering::Relaxed);
                sum.flows = sum.flows.wrapping_add(half(word, false).into());
                sum.errors = sum.errors.wrapping_add(half(word, true).into());
            }
        }
        sums
    }

    pub(super) fn add_one(&self, row: Option<u32>, signal: Signal) {
        if let Some(word) = row.and_then(|row| self.rows.word(row, signal as usize)) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn add_group_error(&self, row: u32, group: u8) {
        if let Some(word) = self.groups.word(row, group.into()) {
            word.fetch_add(1 << 32, Ordering::Relaxed);
        }
    }

    /// Lets what a backend's rows say begin anew, and what they held be its former version's past.
    ///
    /// The packet program goes on counting meanwhile: connections that are open stay with their backend, whatever version it
    /// serves next. So its rows are never written here. A CPU that has read a count, and not written it back yet, would
    /// undo that, and all that the row held would be counted for both versions; what it counts between a look and a store
    /// would be for neither. Instead, each count is read once, and what was read is taken off in the agent's own row, which
    /// sums wrap around.
    pub(in crate::kernel) fn retire(&self, id: BackendId, former: Option<&BackendEntry>) {
        let Some(own) = self.shape.own_row(id) else { return };
        let held = self.sum(self.shape.rows_of(id));
        let past = former.filter(|entry| entry.service != NO_SERVICE).and_then(|entry| {
            let row = self.shape.past_row(ServiceId(entry.service.into()), entry.serves())?;
            Some((row, added(&self.sum([row].into_iter()), &held)))
        });
        if let Some((row, sum)) = past {
            self.rows.store(row, &sum);
        }
        self.rows.store(own, &less(&self.sum([own].into_iter()), &held));
    }

    /// Makes the agent's own rows what former programs counted, for whoever is still there.
    pub(in crate::kernel) fn inherit(&self, former: &[Self], numbered: &Numbered, inventory: &Inventory) {
        let stays = |service: u16| {
            let known = numbered.services.iter().find(|(id, _)| id.0 == u32::from(service));
            known
                .is_some_and(|(id, endpoint)| inventory.services.iter().any(|s| s.id == *id && s.endpoint == *endpoint))
        };
        let present: HashMap<BackendId, BackendEntry> = inventory.entries().collect();
        let mut groups: HashMap<(ServiceId, Version), Vec<GroupCounts>> = HashMap::new();
        let mut sums: HashMap<u32, SignalRow> = HashMap::new();
        let mut add = |row: Option<u32>, more: &SignalRow| {
            if let Some(row) = row {
                let sum = sums.entry(row).or_insert(EMPTY_ROW);
                *sum = added(sum, more);
            }
        };
        for former in former {
            for (id, entry) in numbered.backends.iter().filter(|(_, entry)| stays(entry.service)) {
                let is_same = present.get(id).is_some_and(|now| serves_as(now, entry));
                let past = || self.shape.past_row(ServiceId(entry.service.into()), entry.serves());
                let to = if is_same { self.shape.own_row(*id) } else { None }.or_else(past);
                add(to, &former.sum(former.shape.rows_of(*id)));
            }
            for slot in inventory.services.iter().filter(|slot| slot.known) {
                for version in Version::ALL {
                    let past = former.shape.past_row(slot.id, version);
                    add(self.shape.past_row(slot.id, version), &former.sum(past.into_iter()));
                    let sum =
                        groups.entry((slot.id, version)).or_insert_with(|| vec![GroupCounts::default(); CLIENT_GROUPS]);
                    for (sum, more) in sum.iter_mut().zip(former.groups(former.shape.groups_of(slot.id, version))) {
                        sum.flows += more.flows;
                        sum.errors += more.errors;
                    }
                }
            }
        }
        for ((service, version), groups) in groups {
            self.set_groups(service, version, &groups);
        }
        for (row, sum) in sums {
            self.rows.store(row, &sum);
        }
    }

    fn set_groups(&self, service: ServiceId, version: Version, groups: &[GroupCounts]) {
        let Some(row) = self.shape.groups_of(service, version).last() else { return };
        let low = |count: u64| count & u64::from(u32::MAX);
        for (nth, group) in groups.iter().enumerate() {
            self.groups.store_word(row, nth, low(group.flows) | low(group.errors) << 32);
        }
    }
}

/// What a backend's rows are read into.
pub(super) struct Sinks<'a> {
    pub(super) signals: &'a mut Signals,
    /// Of all backends of its version.
    pub(super) sum: &'a mut Signals,
}

/// Which lines of a histogram have ever been written in a row.
fn written(words: &[AtomicU64], timing: usize) -> u32 {
    half(words.get(LINES + timing / 2).map_or(0, |word| word.load(Ordering::Relaxed)), timing % 2 == 1)
}

/// Whether a backend serves the same version of the same service, as far as signals are concerned.
pub(in crate::kernel) fn serves_as(now: &BackendEntry, before: &BackendEntry) -> bool {
    (now.endpoint, now.service, now.version) == (before.endpoint, before.service, before.version)
}

const EMPTY_ROW: SignalRow = SignalRow {
    counts: [0; SIGNAL_SLOTS],
    lines: [0; Timing::ALL.len()],
    times: [[0; HISTOGRAM_BUCKETS]; Timing::ALL.len()],
};

fn added(one: &SignalRow, other: &SignalRow) -> SignalRow {
    combined(one, other, u64::wrapping_add)
}

/// What is to be added to the other one for this one to come out.
fn less(one: &SignalRow, other: &SignalRow) -> SignalRow {
    combined(one, other, u64::wrapping_sub)
}

fn combined(one: &SignalRow, other: &SignalRow, with: fn(u64, u64) -> u64) -> SignalRow {
    let mut sum = *one;
    let counts = sum.counts.iter_mut().zip(&other.counts);
    let times = sum.times.iter_mut().flatten().zip(other.times.iter().flatten());
    for (sum, more) in counts.chain(times) {
        *sum = with(*sum, *more);
    }
    for (sum, more) in sum.lines.iter_mut().zip(&other.lines) {
        *sum |= more;
    }
    sum
}

/// One half of a word of two numbers.
fn half(word: u64, is_high: bool) -> u32 {
    u32::try_from(if is_high { word >> 32 } else { word & u64::from(u32::MAX) }).unwrap_or(0)
}

impl From<&SignalRow> for Signals {
    fn from(row: &SignalRow) -> Self {
        let [handshake, first_response, later_response, duration] = row.times.map(Histogram::new);
        Self { counts: counts(&row.counts), handshake, first_response, later_response, duration, groups: Vec::new() }
    }
}

pub(super) fn counts(slots: &[u64; SIGNAL_SLOTS]) -> Counts {
    let of = |signal: Signal| slots.get(signal as usize).copied().unwrap_or(0);
    Counts {
        flows: of(Signal::Flows),
        established: of(Signal::Established),
        refused: of(Signal::Refused),
        unanswered: of(Signal::Unanswered),
        server_resets: of(Signal::ServerResets),
        client_resets: of(Signal::ClientResets),
        icmp_unreachable: of(Signal::IcmpUnreachable),
        idle_deaths: of(Signal::IdleDeaths),
        closes: of(Signal::Closes),
        syn_retransmissions: of(Signal::SynRetransmissions),
        watched_segments: of(Signal::WatchedSegments),
        retransmissions: of(Signal::Retransmissions),
        zero_windows: of(Signal::ZeroWindows),
        requests: of(Signal::Requests),
        responses: of(Signal::Responses),
        answers_good: of(Signal::AnswersGood),
        answers_client_error: of(Signal::AnswersClientError),
        answers_server_error: of(Signal::AnswersServerError),
        answers_unknown: of(Signal::AnswersUnknown),
        closed_unanswered: of(Signal::ClosedUnanswered),
        overdue_waiting: of(Signal::OverdueWaiting),
        overdue_gone: of(Signal::OverdueGone),
        overdue_answered: of(Signal::OverdueAnswered),
        unweighted: of(Signal::Unweighted),
    }
}
