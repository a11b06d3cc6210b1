//! What a new agent makes of what the last one left: in the store, and in the kernel.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::{
    Cause, Releases, Standing,
    others::Opinions,
    settings::{self, Canary},
};
use crate::{
    agent::{AgentError, analysis::Analysis, kernel::Kernel},
    config::{OnRollback, ServiceConfig},
    decide::{
        controller::{self, Event, Left, Release, Rule, Same, State},
        settings::Settings,
        weights::Weights,
    },
    store::StoredRelease,
};

const TAKE_OVER: Cause<'static> = Cause::new("taken_over", "agent").by(Rule::TakeOver);

impl<K: Kernel> Releases<K> {
    /// Goes on where the last agent stopped: decides each release from store and kernel, and makes both agree with it.
    pub(in crate::agent) fn take_over(&mut self) -> Result<(), AgentError> {
        for index in 0..self.services.len() {
            let stored = self.journal.release(&self.services[index].name)?;
            let seen = self.journal.analysis(&self.services[index].name)?;
            let standing = self.taken_over(index, stored, seen);
            self.standings.push(standing);
            self.settle(index)?;
        }
        Ok(())
    }

    fn taken_over(&self, index: usize, stored: Option<StoredRelease>, seen: Option<String>) -> Standing {
        let service = &self.services[index];
        let plan = service.plan();
        let (schedule_text, shards_text) = (plan.to_string(), comparable(plan.shards.to_string()));
        let fitted = stored.as_ref().map(|stored| settings::fitted(&self.services, index, stored));
        let (settings, is_canary) = fitted.unwrap_or((Settings::default(), Canary::Same));
        let canary = settings::canary(service, &settings);
        let pinned = self.kernel.pinned_weights(index).map(|weights| weights.fitted(plan.shards.count()));
        let raised_from = stored.as_ref().and_then(|stored| stored.raised_from.clone());
        let schedule = Same::when(stored.as_ref().is_none_or(|stored| stored.schedule == schedule_text));
        let shards = Same::when(stored.as_ref().is_none_or(|stored| stored.shards == shards_text));
        let former = match stored {
            None => unknown(pinned.as_ref()),
            // A promoted v2 that became v1 has left its place to a new canary, which must not get what the old one had.
            Some(stored) if is_canary == Canary::Another => of_another_canary(&stored.release, pinned.as_ref()),
            Some(stored) => stored.release,
        };
        let left = Left { stored: former, raised_from, kernel: pinned, schedule, shards };
        let release = controller::take_over(plan, left);
        let seen = seen.filter(|_| is_canary == Canary::Same);
        Standing {
            unsaved: Duration::ZERO,
            analysis: analysis(service, &release, seen),
            opinions: Opinions::new(&service.external),
            release,
            schedule_text,
            shards_text,
            settings,
            canary,
            down: self.found_down(index),
            health_behind: false,
            kernel_behind: false,
            severs_again: false,
            retry_in: Duration::ZERO,
            complaint: None,
        }
    }

    /// Brings store and kernel to the release that was taken over.
    fn settle(&mut self, index: usize) -> Result<(), AgentError> {
        let wanted = self.release(index).weights.clone();
        let release = self.release(index).clone();
        // What cannot be read is written anew.
        let found = self.kernel.weights(index).ok();
        let before = Release { weights: found.clone().unwrap_or_default(), ..release.clone() };
        let entry = self.entry(index, &release, &before, Some(TAKE_OVER));
        if found.as_ref().is_some_and(|found| wanted != *found && wanted.at_most(found)) {
            self.kernel.set_weights(index, &wanted)?;
            self.journal.write_ahead(entry)?;
        } else {
            self.journal.write_ahead(entry)?;
            if found.as_ref() != Some(&wanted) {
                self.kernel.set_weights(index, &wanted)?;
            }
        }
        // A rollback that the former agent could not finish is done now.
        let done = self.told(index, release, Event::WeightsTaken);
        if done != *self.release(index) {
            self.take(index, done);
            self.save(index);
            // Nor has it severed anything: that is done at the first turn.
            self.standings[index].severs_again = self.services[index].on_rollback == OnRollback::Sever;
        }
        // Pins and pools the kernel has from the start; see `applied`.
        if self.settings(index).drains() || !self.standings[index].down.is_empty() {
            self.set_backends(index)?;
        }
        let Release { state, reason, .. } = self.release(index);
        let service = &self.services[index].name;
        tracing::info!(service, state = state.name(), weights = %wanted, reason, "release_taken_over");
        Ok(())
    }
}

/// The judge of a release: with what the former one had seen, where that is of use.
fn analysis(service: &ServiceConfig, release: &Release, seen: Option<String>) -> Analysis {
    let judge = service.policy.analysis.judge;
    let restored = seen.map(|text| Analysis::restored(judge, &text, &release.weights));
    match restored {
        Some(Ok(analysis)) => analysis,
        Some(Err(error)) => {
            tracing::warn!(service = service.name, "analysis_lost {error}");
            Analysis::new(judge, &release.weights)
        }
        None => Analysis::new(judge, &release.weights),
    }
}

/// A text that is only compared, at every save: a long one by its digest.
fn comparable(text: String) -> String {
    const SHORT: usize = 200;
    if text.len() <= SHORT {
        return text;
    }
    Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A release of which the store knows nothing: what the kernel has is kept, for nobody here knows better.
fn unknown(pinned: Option<&Weights>) -> Release {
    match pinned {
        None => Release::idle(),
        Some(weights) if *weights == Weights::ZERO => Release::idle(),
        Some(weights) => Release {
            state: State::Frozen,
            weights: weights.clone(),
            reason: format!(
                "frozen at the start of the agent: the kernel had {weights}, and the store knows nothing of this \
                 service; `resume` goes on from there"
            ),
            ..Release::idle()
        },
    }
}

/// The release of a v2 that shares no backend with the one that was released before.
fn of_another_canary(former: &Release, pinned: Option<&Weights>) -> Release {
    match unknown(pinned) {
        Release { state: State::Idle, .. } => Release {
            reason: format!(
                "v2 is another one than that of the last release (which was {} at {}); `start` begins its release",
                former.state.name(),
                former.weights
            ),
            ..Release::idle()
        },
        // The kernel says that it has been v2 for some time.
        known => known,
    }
}
