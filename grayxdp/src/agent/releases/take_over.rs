//! What a new agent makes of what the last one left: in the store, and in the kernel.

use std::{collections::BTreeSet, time::Duration};

use grayxdp_common::weight::Weight;

use super::{Cause, Releases, Standing};
use crate::{
    agent::{AgentError, kernel::Kernel},
    decide::controller::{self, Left, Release, SameSchedule, State},
    store::StoredRelease,
};

const TAKE_OVER: Cause<'static> = Cause { event: "taken_over", actor: "agent" };

impl<K: Kernel> Releases<K> {
    /// Goes on where the last agent stopped: decides each release from store and kernel, and makes both agree with it.
    pub(in crate::agent) fn take_over(&mut self) -> Result<(), AgentError> {
        for index in 0..self.services.len() {
            let stored = self.journal.release(&self.services[index].name)?;
            let standing = self.taken_over(index, stored);
            self.standings.push(standing);
            self.settle(index)?;
        }
        Ok(())
    }

    fn taken_over(&self, index: usize, stored: Option<StoredRelease>) -> Standing {
        let service = &self.services[index];
        let schedule_text = service.schedule.to_string();
        let canary: BTreeSet<_> = service.v2.backends.iter().map(|backend| backend.address).collect();
        let pinned = self.kernel.pinned_weight(index);
        let raised_from = stored.as_ref().and_then(|stored| stored.raised_from);
        let same = stored.as_ref().is_none_or(|stored| stored.schedule == schedule_text);
        let same = if same { SameSchedule::Yes } else { SameSchedule::No };
        let former = match stored {
            None => unknown(pinned),
            // A promoted v2 that became v1 has left its place to a new canary, which must not get what the old one had.
            Some(stored) if stored.canary.is_disjoint(&canary) => of_another_canary(&stored.release, pinned),
            Some(stored) => stored.release,
        };
        let left = Left { stored: former, raised_from, kernel: pinned, schedule: same };
        let release = controller::take_over(&service.schedule, left);
        Standing {
            saved_at: release.schedule_time,
            release,
            schedule_text,
            canary,
            kernel_behind: false,
            retry_in: Duration::ZERO,
            complaint: None,
        }
    }

    /// Brings store and kernel to the release that was taken over.
    fn settle(&mut self, index: usize) -> Result<(), AgentError> {
        let wanted = self.release(index).weight;
        // What cannot be read is written anew.
        let found = self.kernel.weight(index).ok();
        let entry = self.entry(index, self.release(index), found.unwrap_or_default(), Some(TAKE_OVER));
        if found.is_some_and(|found| wanted < found) {
            self.kernel.set_weight(index, wanted)?;
            self.journal.write_ahead(entry)?;
        } else {
            self.journal.write_ahead(entry)?;
            if found != Some(wanted) {
                self.kernel.set_weight(index, wanted)?;
            }
        }
        let Release { state, reason, .. } = self.release(index);
        let service = &self.services[index].name;
        tracing::info!(service, state = state.name(), weight = %wanted, reason, "release_taken_over");
        Ok(())
    }
}

/// A release of which the store knows nothing: what the kernel has is kept, for nobody here knows better.
fn unknown(pinned: Option<Weight>) -> Release {
    match pinned {
        None | Some(Weight::ZERO) => Release::idle(),
        Some(weight) => Release {
            state: State::Frozen,
            weight,
            reason: format!(
                "frozen at the start of the agent: the kernel had {weight} %, and the store knows nothing of this \
                 service; `resume` goes on from there"
            ),
            ..Release::idle()
        },
    }
}

/// The release of a v2 that shares no backend with the one that was released before.
fn of_another_canary(former: &Release, pinned: Option<Weight>) -> Release {
    match unknown(pinned) {
        Release { state: State::Idle, .. } => Release {
            reason: format!(
                "v2 is another one than that of the last release (which was {} at {} %); `start` begins its release",
                former.state.name(),
                former.weight
            ),
            ..Release::idle()
        },
        // The kernel says that it has been v2 for some time.
        known => known,
    }
}
