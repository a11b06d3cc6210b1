//! The releases of all services: takes events to the controller, and what it decides to the kernel and the store.
//!
//! What holds: the kernel never has more of v2 than what the store says (see [`super::journal`]), and never for longer
//! than a moment more than what is wanted here.

mod error;
mod health;
mod others;
mod settings;
mod take_over;
mod time;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use grayxdp_common::weight::Weight;

pub(super) use self::{
    error::CommandError,
    health::then,
    settings::{Change, applied},
};
use self::{others::Opinions, time::Looks};
use super::{analysis::Analysis, external::External, journal::Journal, kernel::Kernel};
use crate::{
    config::{OnRollback, ServiceConfig},
    decide::{
        controller::{self, Decision, Event, Release, Rule, State},
        evidence::{Evidence, Judgement},
        settings::Settings,
        weights::Weights,
    },
    store::{Asked, Entry, Recorded, Store, StoreError, StoredRelease},
};

/// How long to wait before a change that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Who or what is behind a change, for the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause<'a> {
    event: &'a str,
    actor: &'a str,
    /// By which rule, where it is not what the release says of itself.
    rule: Option<Rule>,
    /// The figures that it rests on.
    evidence: Option<&'a Evidence>,
}

impl<'a> Cause<'a> {
    pub(super) const fn new(event: &'a str, actor: &'a str) -> Self {
        Self { event, actor, rule: None, evidence: None }
    }

    /// By another rule than that which the release says of itself.
    const fn by(self, rule: Rule) -> Self {
        Self { rule: Some(rule), ..self }
    }
}

/// The release of one service.
#[derive(Debug)]
struct Standing {
    release: Release,
    schedule_text: String,
    shards_text: String,
    /// Pins and backends that were changed at run time.
    settings: Settings,
    /// The backends that are v2.
    canary: BTreeSet<SocketAddr>,
    /// Backends whose checks fail.
    down: BTreeSet<SocketAddr>,
    /// The kernel does not know yet who is down.
    health_behind: bool,
    /// What the judge has seen of it.
    analysis: Analysis,
    /// What others have said of it.
    opinions: Opinions,
    /// For how long nothing of what has passed was stored.
    unsaved: Duration,
    /// The kernel may have more than is wanted: a write to it failed.
    kernel_behind: bool,
    /// Until a change that failed is tried again.
    retry_in: Duration,
    /// A packet that had its backend before the rollback may have begun a connection after the first severing.
    severs_again: bool,
    /// What was logged of a change that fails again and again.
    complaint: Option<String>,
}

/// What a judge had seen before a change that lets it begin anew.
struct Former {
    analysis: Analysis,
    /// As the store had it.
    stored: Option<String>,
}

/// All releases, with the kernel that they steer.
#[derive(Debug)]
pub(super) struct Releases<K> {
    services: Vec<ServiceConfig>,
    standings: Vec<Standing>,
    journal: Journal,
    kernel: K,
    looks: Looks,
    /// Who asks and calls others; none before the agent's loop begins.
    external: Option<External>,
    /// This host's name, for those who are told.
    host: String,
}

impl<K: Kernel> Releases<K> {
    /// Of these services, steered by this kernel. Call [`Self::take_over`] next.
    pub(super) fn new(services: Vec<ServiceConfig>, kernel: K, store: Store) -> Self {
        let standings = Vec::with_capacity(services.len());
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (journal, looks) = (Journal::new(store), Looks::default());
        Self { standings, services, journal, kernel, looks, external: None, host }
    }

    /// Carries a command out. When this returns, the kernel has the weights.
    pub(super) fn command(&mut self, name: &str, command: Event, cause: Cause<'_>) -> Result<usize, CommandError> {
        let index = self.index(name)?;
        let resumes = command == Event::Resume;
        let next = controller::step(self.services[index].terms(), self.release(index), command)
            .map_err(|refusal| CommandError::Refused { service: name.to_owned(), refusal })?;
        if resumes {
            self.standings[index].opinions.go_on();
        }
        self.standings[index].retry_in = Duration::ZERO;
        self.apply(index, next, cause)?;
        Ok(index)
    }

    /// Sets the weight of one shard by hand.
    pub(super) fn set_shard_weight(
        &mut self,
        name: &str,
        shard: &str,
        weight: Weight,
        cause: Cause<'_>,
    ) -> Result<usize, CommandError> {
        let shards = self.services[self.index(name)?].shards();
        let shard = shards.named(shard).ok_or_else(|| CommandError::UnknownShard {
            service: name.to_owned(),
            name: shard.to_owned(),
            known: shards.listed(),
        })?;
        self.command(name, Event::SetShardWeight { shard, weight }, cause)
    }

    /// After a rollback, where the config wants it: now, and once more at the next turn.
    fn sever(&mut self, index: usize) -> Result<(), CommandError> {
        if self.services[index].on_rollback == OnRollback::Keep {
            return Ok(());
        }
        self.sever_once(index)?;
        self.standings[index].severs_again = true;
        Ok(())
    }

    fn sever_once(&mut self, index: usize) -> Result<(), CommandError> {
        let service = self.services[index].name.clone();
        match self.kernel.sever(index) {
            Ok(0) => Ok(()),
            Ok(flows) => {
                tracing::info!(service, flows, "flows_severed");
                Ok(())
            }
            Err(source) => Err(CommandError::NotSevered { service, source: Box::new(source) }),
        }
    }

    pub(super) fn index(&self, name: &str) -> Result<usize, CommandError> {
        self.services.iter().position(|service| service.name == name).ok_or_else(|| CommandError::UnknownService {
            name: name.to_owned(),
            known: self.services.iter().map(|service| service.name.clone()).collect(),
        })
    }

    /// Brings a change to store and kernel, tells whoever wants to know, and severs where v2 is to have nothing any more.
    fn apply(&mut self, index: usize, next: Release, cause: Cause<'_>) -> Result<(), CommandError> {
        let before = self.release(index).clone();
        let former = controller::needs_new_evidence(&before, &next).then(|| self.forget(index, &next.weights));
        let applied = if exposes_more(&before, &next) {
            self.raise(index, next, cause)
        } else if next.weights.at_most(&before.weights) {
            self.lower(index, next, cause)
        } else {
            // Some shards get more, some less: all that is less goes first.
            let less = Release { weights: next.weights.min(&before.weights), ..next.clone() };
            self.lower(index, less, cause).and_then(|()| self.raise(index, next, cause))
        };
        let after = self.release(index).clone();
        if let Some(former) = former {
            if controller::needs_new_evidence(&before, &after) {
                self.standings[index].opinions.begin_anew();
                self.looks.at_once();
                self.arm_fuse(index);
            } else {
                let is_stored = !matches!(applied, Err(CommandError::NotStored { .. }));
                self.remember(index, former, is_stored);
            }
        }
        // Weights that could not be lowered are still what is wanted from now on; and of a change that came through in part
        // that part has happened.
        if applied.is_ok() || after != before {
            log_change(&self.services[index].name, &before, &after, cause);
            self.tell(index, &before, &after, cause);
        }
        applied?;
        // Nothing becomes idle: it is a rollback, be it by whom or what it may.
        if after.state.is_off() { self.sever(index) } else { Ok(()) }
    }

    /// Lets the judge begin anew, for a change that has yet to come through.
    fn forget(&mut self, index: usize, weights: &Weights) -> Former {
        let service = &self.services[index];
        let mut anew = Analysis::new(service.policy.analysis.judge, weights);
        // What the store has is to be forgotten with the change.
        anew.begin_anew(weights);
        // What cannot be read is gathered again.
        let stored = self.journal.analysis(&service.name).ok().flatten();
        Former { analysis: std::mem::replace(&mut self.standings[index].analysis, anew), stored }
    }

    /// The change did not come through: what was seen still counts. Where the store had the change, it has to be told.
    fn remember(&mut self, index: usize, former: Former, is_stored: bool) {
        self.standings[index].analysis = former.analysis;
        if is_stored {
            let analysis = self.standings[index].analysis.take_unsaved().or(former.stored);
            let release = self.release(index).clone();
            let entry = Entry { analysis, ..self.entry(index, &release, &release, None) };
            self.journal.write(entry);
        }
    }

    /// First the store, then the kernel.
    fn raise(&mut self, index: usize, next: Release, cause: Cause<'_>) -> Result<(), CommandError> {
        let before = self.release(index).clone();
        let service = self.services[index].name.clone();
        let mut entry = self.entry(index, &next, &before, Some(cause));
        let raises = next.weights != before.weights;
        entry.stored.raised_from = raises.then(|| before.weights.clone());
        if let Err(source) = self.journal.write_ahead(entry) {
            return Err(CommandError::NotStored { service, weights: before.weights, source: Box::new(source) });
        }
        if raises && let Err(source) = self.kernel.set_weights(index, &next.weights) {
            // Some shards may have it already.
            self.standings[index].kernel_behind = self.kernel.set_weights(index, &before.weights).is_err();
            let kept = Cause::new("weight_kept", "agent").by(Rule::Agent);
            let entry = self.entry(index, &before, &before, Some(kept));
            self.journal.write(entry);
            return Err(CommandError::NotRaised { service, weights: before.weights, source: Box::new(source) });
        }
        self.take(index, next);
        if raises {
            // The deed is done: from now on a lower weight in the kernel is one that somebody wanted.
            self.save(index);
        }
        Ok(())
    }

    /// First the kernel, then the store.
    fn lower(&mut self, index: usize, next: Release, cause: Cause<'_>) -> Result<(), CommandError> {
        let before = self.release(index).clone();
        let standing = &self.standings[index];
        // A rollback writes its zero again even where it should be there already.
        let writes = next.weights != before.weights || next.weights == Weights::ZERO || standing.kernel_behind;
        let written = if writes { self.kernel.set_weights(index, &next.weights) } else { Ok(()) };
        self.standings[index].kernel_behind = written.is_err();
        let next = if written.is_err() { self.told(index, next, Event::WeightsRefused) } else { next };
        let weights = next.weights.clone();
        let entry = self.entry(index, &next, &before, Some(cause));
        self.journal.write(entry);
        self.take(index, next);
        let service = &self.services[index].name;
        written.map_err(|source| {
            self.standings[index].retry_in = RETRY_AFTER;
            CommandError::NotLowered { service: service.clone(), weights, source: Box::new(source) }
        })
    }

    /// What becomes of a release by what the kernel says, which no state refuses.
    fn told(&self, index: usize, release: Release, event: Event) -> Release {
        controller::step(self.services[index].terms(), &release, event).unwrap_or(release)
    }

    fn lower_again(&mut self, index: usize) {
        let weights = self.release(index).weights.clone();
        let service = self.services[index].name.clone();
        let done = match self.kernel.set_weights(index, &weights) {
            Ok(()) => {
                self.standings[index].kernel_behind = false;
                tracing::info!(service, %weights, "weight_lowered");
                let before = self.release(index).clone();
                let after = self.told(index, before.clone(), Event::WeightsTaken);
                if after == before {
                    return self.standings[index].complaint = None;
                }
                let taken = Cause::new("weight_lowered", "agent");
                let entry = self.entry(index, &after, &before, Some(taken));
                self.journal.write(entry);
                log_change(&service, &before, &after, taken);
                self.tell(index, &before, &after, taken);
                self.take(index, after);
                self.sever(index)
            }
            Err(source) => Err(CommandError::NotLowered { service, weights, source: Box::new(source) }),
        };
        match done {
            Ok(()) => self.standings[index].complaint = None,
            Err(error) => self.complain(index, &error),
        }
    }

    /// Logs once, however often it is tried again.
    fn complain(&mut self, index: usize, error: &CommandError) {
        let standing = &mut self.standings[index];
        standing.retry_in = RETRY_AFTER;
        let complaint = error.to_string();
        if standing.complaint.as_ref() != Some(&complaint) {
            tracing::error!("weight_kept {complaint}");
            standing.complaint = Some(complaint);
        }
    }

    fn take(&mut self, index: usize, next: Release) {
        let standing = &mut self.standings[index];
        standing.unsaved = Duration::ZERO;
        standing.analysis.weights_changed(&next.weights);
        standing.release = next;
    }

    fn save(&mut self, index: usize) {
        self.note(index);
        self.journal.write_noted();
    }

    /// Where it stands is to be stored, with others.
    fn note(&mut self, index: usize) {
        let release = self.release(index).clone();
        let entry = self.entry(index, &release, &release, None);
        self.journal.note(entry);
        self.standings[index].unsaved = Duration::ZERO;
    }

    /// Gives the kernel back, with nothing stored.
    pub(super) fn into_kernel(self) -> K {
        self.kernel
    }

    /// Stores where all stand. Weights, pins and links stay as they are.
    pub(super) fn close(mut self, cause: Cause<'_>) -> (K, Result<(), StoreError>) {
        let rule = if cause.actor == "agent" { Rule::Agent } else { Rule::Command };
        for index in 0..self.services.len() {
            let release = self.release(index).clone();
            let entry = self.entry(index, &release, &release, Some(cause.by(rule)));
            self.journal.note(entry);
        }
        let closed = self.journal.close();
        (self.kernel, closed)
    }

    pub(super) fn release(&self, index: usize) -> &Release {
        &self.standings[index].release
    }

    pub(super) fn services(&self) -> &[ServiceConfig] {
        &self.services
    }

    pub(super) fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The kernel, to look into, and what the config says meanwhile.
    pub(super) fn kernel_and_services(&mut self) -> (&mut K, &[ServiceConfig]) {
        (&mut self.kernel, &self.services)
    }

    pub(super) fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Why weights are not raised now.
    pub(super) fn store_fault(&self) -> Option<&str> {
        self.journal.fault()
    }

    /// What to tell whoever has just changed a release, where the change would not outlive the agent.
    pub(super) fn unstored(&self, index: usize) -> Option<String> {
        let fault = self.journal.fault_for(&self.services[index].name)?;
        Some(format!(
            "this is done in the kernel, but not stored: {fault}. A restart of the agent or of this host before that is \
             mended may undo it; once it is mended, it is stored within seconds"
        ))
    }

    /// What the judge said last of a release; `None` where there is none to judge.
    pub(super) fn judgement(&self, index: usize) -> Option<&Judgement> {
        let standing = &self.standings[index];
        let is_judged = controller::is_judged(&self.services[index].policy, &standing.release);
        // What ended a release is what people want to know of it.
        standing.analysis.judgement().filter(|_| is_judged || standing.release.rule == Rule::Harm)
    }

    /// Whether nothing is counted of a service that its judge could go by.
    pub(super) fn is_blind(&self, index: usize) -> bool {
        self.standings[index].analysis.is_blind()
    }

    /// What was decided, the latest first.
    pub(super) fn decisions(&self, asked: Asked<'_>) -> Result<Vec<Recorded>, StoreError> {
        self.journal.decisions(asked)
    }

    /// An entry made now; a decision's with what the judge has seen up to it.
    fn entry(&mut self, index: usize, release: &Release, before: &Release, cause: Option<Cause<'_>>) -> Entry {
        let decision = cause.map(|cause| Decision {
            event: cause.event.to_owned(),
            from: before.weights.mean(),
            to: release.weights.mean(),
            state: release.state,
            rule: cause.rule.unwrap_or(release.rule),
            evidence: cause.evidence.cloned(),
            reason: release.reason.clone(),
            actor: cause.actor.to_owned(),
        });
        let standing = &mut self.standings[index];
        let analysis = decision.is_some().then(|| standing.analysis.take_unsaved()).flatten();
        let Standing { schedule_text, shards_text, canary, settings, .. } = standing;
        let stored = StoredRelease {
            release: release.clone(),
            schedule: schedule_text.clone(),
            shards: shards_text.clone(),
            canary: canary.clone(),
            raised_from: None,
            settings: settings.clone(),
        };
        Entry { service: self.services[index].name.clone(), stored, at: SystemTime::now(), decision, analysis }
    }
}

/// Whether v2 gets more by this change and no shard less, now or by itself later.
fn exposes_more(before: &Release, after: &Release) -> bool {
    let begins_to_move = after.state == State::Progressing && before.state != State::Progressing;
    before.weights.at_most(&after.weights) && (before.weights != after.weights || begins_to_move)
}

fn log_change(service: &str, before: &Release, after: &Release, cause: Cause<'_>) {
    let Cause { event, actor, .. } = cause;
    if before.weights != after.weights {
        tracing::info!(service, from = %before.weights, to = %after.weights, reason = after.reason, event, actor, "weight_changed");
    }
    if before.state != after.state {
        tracing::info!(
            service,
            from = before.state.name(),
            to = after.state.name(),
            reason = after.reason,
            event,
            actor,
            "state_changed"
        );
    }
}

#[cfg(test)]
mod tests;
