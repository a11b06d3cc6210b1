//! What others say of the releases, and what they are told: answers to queries and of webhooks come in here, and go to the
//! controller; raises wait here for permission.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Cause, Releases, exposes_more};
use crate::{
    agent::{
        external::{CloudEvent, Data, External, Heard, Kind},
        kernel::Kernel,
    },
    config,
    decide::{
        controller::{self, Event, Release, State},
        external::{
            Standing, Watch,
            hook::{Moment, Permission, Permits, Raise},
        },
    },
};

/// What others have said of one release.
#[derive(Debug, Default)]
pub(super) struct Opinions {
    /// By query.
    watches: Vec<Watch>,
    permits: Permits,
    /// The raise that waits for permission, and the time that had passed with it: with as much, it is the same raise again.
    waiting: Option<(Raise, Duration)>,
}

impl Opinions {
    /// Of nobody yet.
    pub(super) fn new(config: &config::External) -> Self {
        let hooks = config.webhooks.iter().map(|webhook| (webhook.name.clone(), webhook.on));
        let watches = config.queries.iter().map(|_| Watch::default()).collect();
        Self { watches, permits: Permits::new(hooks), waiting: None }
    }

    /// What was said of a former try counts no more.
    pub(super) fn begin_anew(&mut self) {
        self.watches.iter_mut().for_each(|watch| *watch = Watch::default());
        self.permits.forget();
        self.waiting = None;
    }

    /// What all queries mean together: the worst of what each does.
    fn of_queries(&self, config: &config::External) -> controller::External {
        let mut said = controller::External::default();
        for (watch, query) in self.watches.iter().zip(&config.queries) {
            match watch.standing(&query.policy) {
                Standing::Pass => {}
                Standing::Hold(why) => said.hold = said.hold.or(Some(why)),
                Standing::Freeze(why) => said.freeze = said.freeze.or(Some(why)),
                Standing::Fail(evidence) => said.fail = said.fail.or(Some(evidence)),
            }
        }
        said
    }
}

impl<K: Kernel> Releases<K> {
    /// From now on these tasks ask and call. Without them nobody says anything, and what waits for others waits.
    pub(in crate::agent) fn set_external(&mut self, external: External) {
        self.external = Some(external);
    }

    /// Somebody has answered.
    pub(in crate::agent) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Answers { service, query, answers } => {
                let Some(config) = self.services.get(service).and_then(|service| service.external.queries.get(query))
                else {
                    return;
                };
                if let Some(watch) = self.standings[service].opinions.watches.get_mut(query) {
                    watch.take(&config.policy, &answers);
                }
                self.consult(service, Duration::ZERO);
            }
            Heard::Hook { service, webhook, raise, answer } => {
                if let Some(standing) = self.standings.get_mut(service) {
                    standing.opinions.permits.answer(webhook, raise, answer);
                }
            }
        }
    }

    /// Tells the controller what others say now.
    pub(super) fn consult(&mut self, index: usize, passed: Duration) {
        let config = &self.services[index].external;
        if config.queries.is_empty() && config.webhooks.is_empty() {
            return;
        }
        let opinions = &mut self.standings[index].opinions;
        opinions.watches.iter_mut().for_each(|watch| watch.elapsed(passed));
        opinions.permits.elapsed(passed);
        let mut said = opinions.of_queries(config);
        let mean = self.release(index).weights.mean();
        let opinions = &mut self.standings[index].opinions;
        // Somebody has moved the weight meanwhile: the raise is another one.
        let waiting = opinions.waiting.filter(|(raise, _)| raise.from == mean);
        opinions.waiting = waiting;
        if let Some((raise, _)) = waiting
            && let Err(why) = self.ask_for(index, raise)
        {
            said.hold = said.hold.or(Some(why));
        }
        self.observe(index, Event::External(said));
    }

    /// The time that passes for a release on this turn: with a raise that has waited, as much as had passed with it.
    pub(super) fn due(&self, index: usize, passed: Duration) -> Duration {
        self.standings[index].opinions.waiting.map_or(passed, |(_, passed)| passed)
    }

    /// Whether a change that time brings may be made now. One that raises nothing always may.
    pub(super) fn is_permitted(&mut self, index: usize, next: &Release, passed: Duration) -> bool {
        let before = self.release(index);
        if before.weights == next.weights || !exposes_more(before, next) {
            return true;
        }
        let raise = Raise { from: before.weights.mean(), to: next.weights.mean() };
        let is_granted = self.ask_for(index, raise).is_ok();
        self.standings[index].opinions.waiting = (!is_granted).then_some((raise, passed));
        is_granted
    }

    /// What a command makes of a release, where hooks are asked first: the raise that it brings is left to time.
    pub(super) fn without_unasked_raise(&self, index: usize, next: Release) -> Release {
        let before = self.release(index);
        let asks = self.services[index].external.webhooks.iter().any(|webhook| webhook.on.is_asked());
        let raises = before.weights != next.weights && exposes_more(before, &next);
        if asks && raises && next.state == State::Progressing {
            return Release { weights: before.weights.clone(), ..next };
        }
        next
    }

    /// Permission for a raise, or what it waits for.
    fn ask_for(&mut self, index: usize, raise: Raise) -> Result<(), String> {
        match self.standings[index].opinions.permits.ask(raise) {
            Permission::Granted => Ok(()),
            Permission::Wait { reason, call } => {
                for webhook in call {
                    self.call(index, webhook, raise);
                }
                Err(reason)
            }
        }
    }

    fn call(&mut self, index: usize, webhook: usize, raise: Raise) {
        let release = self.release(index);
        let data = Data::of_raise(&self.services[index].name, release.state.name(), raise, release.reason.clone());
        let event = CloudEvent::new(&self.host, Kind::Question, SystemTime::now(), data);
        let is_sent = self.external.as_ref().is_some_and(|external| external.ask(index, webhook, raise, event));
        if !is_sent {
            let full = "too many calls of it wait for an answer".to_owned();
            self.standings[index].opinions.permits.answer(webhook, raise, Err(full));
        }
    }

    /// Tells every webhook that wants to know of a change.
    pub(super) fn tell(&self, index: usize, before: &Release, after: &Release, cause: Cause<'_>) {
        let rolled_back = after.state.is_off() && !before.state.is_off();
        let wants = |moment: Moment| moment == Moment::Event || (moment == Moment::Rollback && rolled_back);
        let webhooks = &self.services[index].external.webhooks;
        let Some(external) = self.external.as_ref().filter(|_| webhooks.iter().any(|webhook| wants(webhook.on))) else {
            return;
        };
        let service = &self.services[index].name;
        let data = Data::of_change(service, before, after, cause.actor, cause.evidence);
        let event =
            Arc::new(CloudEvent::new(&self.host, Kind::Decision(cause.event.to_owned()), SystemTime::now(), data));
        for (webhook, config) in webhooks.iter().enumerate().filter(|(_, webhook)| wants(webhook.on)) {
            if !external.tell(index, webhook, &event) {
                tracing::warn!(service, webhook = config.name, "webhook_not_told: too many calls of it wait already");
            }
        }
    }
}

#[cfg(test)]
mod tests;
