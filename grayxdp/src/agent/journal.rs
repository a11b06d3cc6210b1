//! What stands between the releases and the store: whether a write must come before the deed or may come after it.
//!
//! More of v2 must be on disk before the kernel gets it: an agent that dies in between finds the kernel's lower weight,
//! and a disk that cannot be written stops a release where it stands. Less of v2 goes to the kernel at once, and is
//! written when it can be. What is written ahead says what it raises from, until the kernel has it: so that the next
//! agent can tell a raise that was cut short from a lowering that was.

use std::{collections::VecDeque, time::Duration};

use crate::store::{Asked, Entry, Recorded, Store, StoreError, StoredRelease};

/// Entries that wait while the disk cannot be written; beyond that the oldest go.
const WAITING_MAX: usize = 1000;
/// How long to wait before a failed write is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The store, and what it has not taken yet.
#[derive(Debug)]
pub(super) struct Journal {
    store: Store,
    waiting: VecDeque<Entry>,
    is_in_turn: bool,
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Fault {
    message: String,
    retry_in: Duration,
    /// Whether it showed in the turn under way: who waits for a lock waits once in a turn, not once for each service.
    is_of_this_turn: bool,
}

impl Journal {
    pub(super) fn new(store: Store) -> Self {
        Self { store, waiting: VecDeque::new(), is_in_turn: false, fault: None }
    }

    pub(super) fn release(&self, service: &str) -> Result<Option<StoredRelease>, StoreError> {
        self.store.release(service)
    }

    /// Writes before the deed; on an error the deed must not be done, and nothing of the entry is left.
    ///
    /// # Errors
    /// Where it cannot be written, or something else could not in the same turn.
    pub(super) fn write_ahead(&mut self, entry: Entry) -> Result<(), StoreError> {
        if let Some(fault) = self.fault.as_ref().filter(|fault| fault.is_of_this_turn) {
            return Err(StoreError::StillNot { reason: fault.message.clone() });
        }
        self.waiting.push_back(entry);
        let written = self.flush();
        if written.is_err() {
            self.waiting.pop_back();
        }
        written
    }

    pub(super) fn analysis(&self, service: &str) -> Result<Option<String>, StoreError> {
        self.store.analysis(service)
    }

    pub(super) fn decisions(&self, asked: Asked<'_>) -> Result<Vec<Recorded>, StoreError> {
        self.store.decisions(asked)
    }

    /// Writes after the deed; what cannot be written now waits.
    pub(super) fn write(&mut self, entry: Entry) {
        self.note(entry);
        self.write_noted();
    }

    /// A turn begins, so much time after the last one: what waits is tried again when that is due.
    pub(super) fn begin_turn(&mut self, passed: Duration) {
        self.is_in_turn = true;
        let Some(fault) = &mut self.fault else { return };
        fault.retry_in = fault.retry_in.saturating_sub(passed);
        if fault.retry_in.is_zero() {
            // The fault is kept and logged.
            let _ = self.flush();
        }
    }

    /// The turn is over: what was noted is written.
    pub(super) fn end_turn(&mut self) {
        self.write_noted();
        self.is_in_turn = false;
        if let Some(fault) = &mut self.fault {
            fault.is_of_this_turn = false;
        }
    }

    /// Takes down what is written with the next thing that is, at the turn's end at the latest: many in one transaction cost
    /// little more than one. What a judge had seen at an earlier moment goes along with it, unless it has its own.
    pub(super) fn note(&mut self, mut entry: Entry) {
        let last = self.waiting.iter().rposition(|waiting| waiting.service == entry.service);
        // Of moments that only passed the last one is enough.
        if let Some(place) = last.filter(|&place| self.waiting[place].decision.is_none()) {
            let past = self.waiting.remove(place).and_then(|past| past.analysis);
            entry.analysis = entry.analysis.or(past);
        }
        self.waiting.push_back(entry);
        while self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
        }
    }

    /// Writes what was noted, in one transaction.
    pub(super) fn write_noted(&mut self) {
        if self.fault.is_none() && !self.waiting.is_empty() {
            // The fault is kept and logged.
            let _ = self.flush();
        }
    }

    /// Tries again at once, for there will be no later.
    pub(super) fn close(&mut self) -> Result<(), StoreError> {
        self.flush()
    }

    /// Why nothing can be written now.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_ref().map(|fault| fault.message.as_str())
    }

    /// Why what has happened to this service is not stored yet; `None` if it is.
    pub(super) fn fault_for(&self, service: &str) -> Option<&str> {
        let waits = self.waiting.iter().any(|entry| entry.service == service && entry.decision.is_some());
        self.fault().filter(|_| waits)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let written = self.store.append(self.waiting.make_contiguous());
        match &written {
            Ok(()) => {
                self.waiting.clear();
                if self.fault.take().is_some() {
                    tracing::info!("store_recovered");
                }
            }
            Err(error) => {
                let message = error.to_string();
                if self.fault.as_ref().is_none_or(|fault| fault.message != message) {
                    tracing::error!(
                        "store_failed: {message}. Traffic goes on; weights can be lowered, but not raised until it works again"
                    );
                }
                self.fault = Some(Fault { message, retry_in: RETRY_AFTER, is_of_this_turn: self.is_in_turn });
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{break_store, entry, mend_store};

    fn with_analysis(mut entry: Entry, analysis: &str) -> Entry {
        entry.analysis = Some(analysis.to_owned());
        entry
    }

    fn events(journal: &Journal) -> Vec<String> {
        let asked = Asked { service: None, after: 0, count_max: 10 };
        let recorded = journal.decisions(asked).expect("readable");
        recorded.into_iter().rev().map(|one| format!("{} {}", one.service, one.decision.event)).collect()
    }

    #[test]
    fn what_is_noted_is_written_together_and_the_last_moment_of_each_service_with_what_its_judge_saw() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut journal = Journal::new(Store::open(&directory.path().join("state.db")).expect("a new store"));
        journal.note(with_analysis(entry("web", 1000, None), "seen"));
        journal.note(entry("dns", 1000, None));
        journal.note(entry("web", 2000, None));
        assert_eq!(journal.release("web").expect("readable"), None, "nothing is written yet");
        journal.write_noted();
        for (service, weight, analysis) in [("web", 2000, Some("seen")), ("dns", 1000, None)] {
            let expected = entry(service, weight, None).stored;
            assert_eq!(journal.release(service).expect("readable"), Some(expected), "{service}");
            assert_eq!(journal.analysis(service).expect("readable").as_deref(), analysis, "{service}");
        }
    }

    #[test]
    fn a_disk_that_failed_is_not_tried_again_in_the_same_turn_but_for_a_person_after_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut journal = Journal::new(Store::open(&directory.path().join("state.db")).expect("a new store"));
        journal.begin_turn(Duration::ZERO);
        break_store(directory.path());
        let first = journal.write_ahead(entry("web", 1000, Some("raise"))).expect_err("it is full");
        mend_store(directory.path());
        let second = journal.write_ahead(entry("dns", 1000, Some("raise"))).expect_err("not in this turn");
        assert_eq!(first.to_string(), second.to_string());
        journal.end_turn();
        journal.write_ahead(entry("dns", 1000, Some("set-weight"))).expect("it can be written again");
        assert_eq!((journal.fault(), events(&journal)), (None, vec!["dns set-weight".to_owned()]));
    }

    #[test]
    fn decisions_wait_in_the_order_in_which_they_were_made() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut journal = Journal::new(Store::open(&directory.path().join("state.db")).expect("a new store"));
        break_store(directory.path());
        journal.write(with_analysis(entry("web", 1000, None), "seen"));
        assert!(journal.fault().is_some() && journal.fault_for("web").is_none(), "only time has passed");
        journal.write(entry("dns", 100, Some("first")));
        journal.write(entry("web", 2000, Some("second")));
        journal.write(with_analysis(entry("web", 2000, None), "seen more"));
        journal.write(entry("dns", 200, Some("third")));
        journal.write(entry("web", 2000, None));
        assert!(journal.fault_for("web").is_some());
        mend_store(directory.path());
        journal.close().expect("it can be written again");
        assert_eq!(events(&journal), ["dns first", "web second", "dns third"]);
        assert_eq!(journal.analysis("web").expect("readable").as_deref(), Some("seen more"));
        assert_eq!((journal.fault(), journal.fault_for("web")), (None, None));
    }
}
