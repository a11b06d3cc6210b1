//! Signals as the agent reads them: what the CPUs counted, added; what was counted before this program; and what only a
//! sweep can find.
//!
//! Rows are mapped into memory. One stripe of rows for each CPU is written by the packet program, and only ever grows; the
//! one behind them is the agent's own, and makes sums begin anew ([`Rows::retire`]). There lies what a former program
//! counted, so that a new agent's readings go on where the last one's ended: it is copied before the programs change, and
//! once more when the former one has ended. What was counted for a backend that serves another version now, or whose number
//! is given to another one, moves to a row of its former version's, so that a version's sums never fall.

mod moment;
mod shape;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{Ebpf, maps::MapData};
use grayxdp_common::{
    histogram::HISTOGRAM_BUCKETS,
    ids::{BackendId, ServiceId, Version},
    layout::{
        BUCKETS_PER_LINE, BackendEntry, CLIENT_GROUPS, FlowTimes, GroupCell, GroupRow, NO_SERVICE, SIGNAL_SLOTS,
        Signal, SignalRow, Timing,
    },
};

pub(super) use self::{moment::Moment, shape::Shape};
use super::{
    DataPlane, KernelError,
    inventory::{BackendSlot, Inventory, Numbered, ServiceSlot},
    mapped::Mapped,
    maps::mapped,
};
use crate::decide::signals::{Counts, GroupCounts, Histogram, ServiceSignals, Signals};

/// What was counted of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSignals {
    /// Index into the config's services.
    pub service: usize,
    /// The version that it serves.
    pub version: Version,
    /// Where it serves.
    pub address: SocketAddr,
    /// Since it serves this version; without groups.
    pub signals: Signals,
}

/// All signals, cumulative: [`Signals::since`] tells what came between two readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignalReadings {
    /// In the order of the config.
    pub services: Vec<ServiceSignals>,
    /// The backends of the config.
    pub backends: Vec<BackendSignals>,
}

/// The maps that signals are in.
pub(super) struct SignalMaps {
    pub(super) rows: Rows,
    times: Mapped<FlowTimes>,
}

/// Rows and groups of one program.
pub(super) struct Rows {
    shape: Shape,
    rows: Mapped<SignalRow>,
    groups: Mapped<GroupRow>,
}

impl SignalMaps {
    pub(super) fn take(ebpf: &mut Ebpf, shape: Shape) -> Result<Self, KernelError> {
        Ok(Self {
            rows: Rows { shape, rows: mapped(ebpf, "SIGNALS")?, groups: mapped(ebpf, "GROUPS")? },
            times: mapped(ebpf, "FLOW_TIMES")?,
        })
    }

    /// Whether a flow that is still half open should have been answered by now.
    pub(super) fn is_handshake_overdue(&self, entry: u32, moment: &Moment) -> bool {
        self.times.load(entry).is_some_and(|times| moment.is_handshake_overdue(times.begun()))
    }

    /// Marks the turn under way in a flow as overdue, if it is and was not marked; returns whether it was marked now.
    pub(super) fn mark_overdue(&self, entry: u32, moment: &Moment) -> bool {
        let Some(times) = self.times.load(entry) else { return false };
        // A connection that was met in its middle had its first turn before.
        let is_known = times.begun() != 0;
        let is_new = is_known && !times.is_marked_overdue() && moment.is_turn_overdue(times.turn);
        let (old, new) = (times.to_word(), times.marked_overdue().to_word());
        // Unless another turn has begun meanwhile.
        let swap = |word: &AtomicU64| word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        is_new && self.times.word(entry, 0).is_some_and(swap)
    }

    /// Counts what a sweep found of a backend.
    pub(super) fn count_found(&self, id: BackendId, signal: Signal) {
        self.rows.add_one(self.rows.shape.own_row(id), signal);
    }

    /// Counts an error that a sweep found, for a backend of a version of a service.
    pub(super) fn count_error(&self, entry: u32, id: BackendId, backend: &BackendEntry, signal: Signal) {
        self.count_found(id, signal);
        let group = self.times.load(entry).map(|times| times.group());
        let row = self.rows.shape.groups_of(ServiceId(backend.service.into()), version_of(backend)).last();
        if let Some((group, row)) = group.zip(row) {
            self.rows.add_group_error(row, group);
        }
    }
}

const fn version_of(entry: &BackendEntry) -> Version {
    if entry.version == Version::V2 as u8 { Version::V2 } else { Version::V1 }
}

// Words of a row.
const LINES: usize = SIGNAL_SLOTS;
const TIMES: usize = std::mem::offset_of!(SignalRow, times) / 8;
const _: () = assert!(std::mem::offset_of!(SignalRow, lines) / 8 == LINES);
const _: () = assert!(size_of::<GroupCell>() == 8 && std::mem::offset_of!(GroupCell, errors) == 4);

impl Rows {
    /// Of a running program.
    pub(super) fn of_program(shape: Shape, rows: &MapData, groups: &MapData) -> Result<Self, KernelError> {
        Ok(Self { shape, rows: Mapped::new("SIGNALS", rows)?, groups: Mapped::new("GROUPS", groups)? })
    }

    /// Counts only, over some rows.
    fn counts(&self, rows: impl Iterator<Item = u32>) -> [u64; SIGNAL_SLOTS] {
        let mut sums = [0; SIGNAL_SLOTS];
        for words in rows.filter_map(|row| self.rows.element(row)) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = u64::wrapping_add(*sum, word.load(Ordering::Relaxed));
            }
        }
        sums
    }

    /// All of some rows, added.
    fn sum(&self, rows: impl Iterator<Item = u32> + Clone) -> SignalRow {
        // The counts first: what is timed meanwhile is in the next reading's counts.
        let mut sum = SignalRow { counts: self.counts(rows.clone()), ..EMPTY_ROW };
        for words in rows.filter_map(|row| self.rows.element(row)) {
            for (timing, (into, line_bits)) in sum.times.iter_mut().zip(&mut sum.lines).enumerate() {
                let word = words.get(LINES + timing / 2).map_or(0, |word| word.load(Ordering::Relaxed));
                let lines = half(word, timing % 2 == 1);
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
    /// was ever written there is nothing to read.
    fn read_into(&self, rows: impl Iterator<Item = u32> + Clone, signals: &mut Signals) {
        signals.counts = counts(&self.counts(rows.clone()));
        let histograms =
            [&mut signals.handshake, &mut signals.first_response, &mut signals.later_response, &mut signals.duration];
        let rows = || rows.clone().filter_map(|row| self.rows.element(row));
        for (timing, histogram) in histograms.into_iter().enumerate() {
            let written = |words: &[AtomicU64]| {
                half(words.get(LINES + timing / 2).map_or(0, |word| word.load(Ordering::Relaxed)), timing % 2 == 1)
            };
            let lines = rows().fold(0, |lines, words| lines | written(words));
            let buckets = histogram.buckets_mut().chunks_mut(BUCKETS_PER_LINE);
            for (line, buckets) in buckets.enumerate().filter(|(line, _)| lines & (1 << line) != 0) {
                let first = TIMES + timing * HISTOGRAM_BUCKETS + line * BUCKETS_PER_LINE;
                buckets.fill(0);
                for words in rows() {
                    let from = words.get(first..first + BUCKETS_PER_LINE).unwrap_or_default();
                    for (sum, word) in buckets.iter_mut().zip(from) {
                        *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
                    }
                }
            }
        }
    }

    fn groups(&self, rows: impl Iterator<Item = u32>) -> Vec<GroupCounts> {
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

    fn add_one(&self, row: Option<u32>, signal: Signal) {
        if let Some(word) = row.and_then(|row| self.rows.word(row, signal as usize)) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add_group_error(&self, row: u32, group: u8) {
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
    pub(super) fn retire(&self, id: BackendId, former: Option<&BackendEntry>) {
        let Some(own) = self.shape.own_row(id) else { return };
        let held = self.sum(self.shape.rows_of(id));
        let past = former.filter(|entry| entry.service != NO_SERVICE).and_then(|entry| {
            let row = self.shape.past_row(ServiceId(entry.service.into()), version_of(entry))?;
            Some((row, added(&self.sum([row].into_iter()), &held)))
        });
        if let Some((row, sum)) = past {
            self.rows.store(row, &sum);
        }
        self.rows.store(own, &less(&self.sum([own].into_iter()), &held));
    }

    /// Makes the agent's own rows what former programs counted, for whoever is still there.
    pub(super) fn inherit(&self, former: &[Self], numbered: &Numbered, inventory: &Inventory) {
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
                let past = || self.shape.past_row(ServiceId(entry.service.into()), version_of(entry));
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

/// Whether a backend serves the same version of the same service, as far as signals are concerned.
pub(super) fn serves_as(now: &BackendEntry, before: &BackendEntry) -> bool {
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

fn counts(slots: &[u64; SIGNAL_SLOTS]) -> Counts {
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
    }
}

/// The last readings, so that only rows that have moved are read anew.
#[derive(Default)]
pub(super) struct SignalCache {
    readings: SignalReadings,
    /// The numbers that they are of: the backends of the config, in order; and those that left. Another list, and all are
    /// read anew.
    numbers: Vec<(BackendId, BackendEntry)>,
    /// The counts that each was read at; empty where it never was.
    counts: Vec<Option<[u64; SIGNAL_SLOTS]>>,
    /// Signals of backends that left, which follow those of the config.
    retired: Vec<Signals>,
}

impl SignalCache {
    /// Reads what has moved. Returns the numbers of the services that it is of, or `None` for all.
    fn refresh(&mut self, rows: &Rows, inventory: &Inventory) -> Option<HashSet<u16>> {
        let is_same = |(known, now): (&(BackendId, BackendEntry), (BackendId, BackendEntry))| {
            known.0 == now.0 && serves_as(&known.1, &now.1)
        };
        let is_known = self.numbers.len() == inventory.entries().count()
            && self.numbers.iter().zip(inventory.entries()).all(is_same);
        if !is_known {
            self.numbers = inventory.entries().collect();
            self.counts = vec![None; self.numbers.len()];
            self.retired = vec![Signals::default(); inventory.retired.len()];
            let backend = |slot: &BackendSlot| BackendSignals {
                service: slot.service,
                version: slot.version,
                address: slot.setup.address,
                signals: Signals::default(),
            };
            self.readings.backends = inventory.backends.iter().map(backend).collect();
        }
        let mut moved = HashSet::new();
        let places = self.readings.backends.iter_mut().map(|one| &mut one.signals).chain(&mut self.retired);
        for (((id, entry), known), signals) in self.numbers.iter().zip(&mut self.counts).zip(places) {
            let counts = rows.counts(rows.shape.rows_of(*id));
            if *known != Some(counts) {
                *known = Some(counts);
                rows.read_into(rows.shape.rows_of(*id), signals);
                moved.insert(entry.service);
            }
        }
        is_known.then_some(moved)
    }

    /// Both versions of these services: backends of now and of former times, added.
    fn versions(&self, rows: &Rows, services: impl Iterator<Item = u16>) -> HashMap<u16, [Signals; 2]> {
        let without = |number: u16, version: Version| {
            let service = ServiceId(number.into());
            let mut sum = Signals::from(&rows.sum(rows.shape.past_row(service, version).into_iter()));
            sum.groups = rows.groups(rows.shape.groups_of(service, version));
            sum
        };
        let mut sums: HashMap<u16, [Signals; 2]> =
            services.map(|number| (number, Version::ALL.map(|version| without(number, version)))).collect();
        let all = self.readings.backends.iter().map(|one| &one.signals).chain(&self.retired);
        for ((_, entry), signals) in self.numbers.iter().zip(all) {
            if let Some([v1, v2]) = sums.get_mut(&entry.service) {
                if version_of(entry) == Version::V2 { v2.add(signals) } else { v1.add(signals) }
            }
        }
        sums
    }
}

impl DataPlane {
    /// All signals as they are now. Where little has moved since the last time, this costs little.
    pub fn signals(&mut self) -> &SignalReadings {
        let (rows, cache) = (&self.maps.signals.rows, &mut self.signal_cache);
        let inventory = &self.blueprint.inventory;
        let moved = cache.refresh(rows, inventory);
        cache.readings.services.resize_with(inventory.services.len(), ServiceSignals::default);
        let number = |slot: &ServiceSlot| u16::try_from(slot.id.0).ok();
        let has_moved = |number: &u16| moved.as_ref().is_none_or(|moved| moved.contains(number));
        let mut sums = cache.versions(rows, inventory.services.iter().filter_map(number).filter(has_moved));
        let mut of_v2: Vec<Vec<(SocketAddr, Counts)>> = vec![Vec::new(); self.setup.services.len()];
        for backend in cache.readings.backends.iter().filter(|backend| backend.version == Version::V2) {
            if let Some(own) = of_v2.get_mut(backend.service) {
                own.push((backend.address, backend.signals.counts));
            }
        }
        let services = self.setup.services.iter().zip(&inventory.services).zip(of_v2).enumerate();
        for (reading, (service, ((setup, slot), backends))) in cache.readings.services.iter_mut().zip(services) {
            if let Some([v1, v2]) = number(slot).and_then(|number| sums.remove(&number)) {
                *reading = ServiceSignals { service, sight: setup.sight(), v1, v2, backends };
            }
        }
        &cache.readings
    }
}

#[cfg(test)]
mod tests;
