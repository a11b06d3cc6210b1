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
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Fault {
    message: String,
    retry_in: Duration,
}

impl Journal {
    pub(super) fn new(store: Store) -> Self {
        Self { store, waiting: VecDeque::new(), fault: None }
    }

    pub(super) fn release(&self, service: &str) -> Result<Option<StoredRelease>, StoreError> {
        self.store.release(service)
    }

    /// Writes before the deed; on an error the deed must not be done, and nothing of the entry is left.
    pub(super) fn write_ahead(&mut self, entry: Entry) -> Result<(), StoreError> {
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
        self.write_all(vec![entry]);
    }

    /// The same, all in one transaction.
    pub(super) fn write_all(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            // Of moments that only passed the last one is enough.
            self.waiting.retain(|waiting| waiting.decision.is_some() || waiting.service != entry.service);
            self.waiting.push_back(entry);
        }
        while self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
        }
        if self.fault.is_none() {
            // The fault is kept and logged.
            let _ = self.flush();
        }
    }

    /// Tries again what waits, after some time has passed.
    pub(super) fn retry(&mut self, passed: Duration) {
        let Some(fault) = &mut self.fault else { return };
        fault.retry_in = fault.retry_in.saturating_sub(passed);
        if fault.retry_in.is_zero() {
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
                self.fault = Some(Fault { message, retry_in: RETRY_AFTER });
            }
        }
        written
    }
}
