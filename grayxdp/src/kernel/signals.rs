//! Signals as the agent reads them: what the CPUs counted, added; what was counted before this program; and what only a
//! sweep can find.
//!
//! Rows are mapped into memory. One stripe of rows for each CPU is written by the packet program, and only ever grows; the
//! one behind them is the agent's own, and makes sums begin anew ([`Rows::retire`]). There lies what a former program
//! counted, so that a new agent's readings go on where the last one's ended: it is copied before the programs change, and
//! once more when the former one has ended. What was counted for a backend that serves another version now, or whose number
//! is given to another one, moves to a row of its former version's, so that a version's sums never fall.

mod cache;
mod moment;
mod rows;
mod shape;

use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{BackendEntry, FlowTimes, Signal},
};

pub use self::cache::{BackendSignals, SignalReadings};
pub(super) use self::{
    cache::SignalCache,
    moment::Moment,
    rows::{Rows, serves_as},
    shape::Shape,
};
use super::{KernelError, mapped::Mapped, maps::mapped};

/// The maps that signals are in.
pub(super) struct SignalMaps {
    pub(super) rows: Rows,
    times: Mapped<FlowTimes>,
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
        let row = self.rows.shape.groups_of(ServiceId(backend.service.into()), backend.serves()).last();
        if let Some((group, row)) = group.zip(row) {
            self.rows.add_group_error(row, group);
        }
    }
}

#[cfg(test)]
mod tests;
