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
            hook::{Moment, Permission, Permits, Question, Raise},
        },
    },
};

/// What others have said of one release.
#[derive(Debug, Default)]
pub(super) struct Opinions {
    /// By query.
    watches: Vec<Watch>,
    permits: Permits,
    /// The raise that waits for permission, and what the release is to become with it.
    waiting: Option<(Raise, Release)>,
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
        self.go_on();
        self.permits.forget();
        self.waiting = None;
    }

    /// A person lets the release go on: what was missing so far has led to no more than this.
    pub(super) fn go_on(&mut self) {
        self.watches.iter_mut().for_each(|watch| *watch = Watch::default());
    }

    /// Nothing is to be asked any more: no raise is due.
    fn stop_asking(&mut self) {
        if self.waiting.take().is_some() {
            self.permits.forget();
        }
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
            Heard::Hook { service, question, answer } => {
                if let Some(standing) = self.standings.get_mut(service) {
                    standing.opinions.permits.answer(question, answer);
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
        let (mean, state) = (self.release(index).weights.mean(), self.release(index).state);
        let opinions = &mut self.standings[index].opinions;
        let raise = opinions.waiting.as_ref().map(|(raise, _)| *raise);
        // Stopped, or moved by somebody: whatever is wanted next is another raise.
        let raise = raise.filter(|raise| raise.from == mean && state == State::Progressing);
        match raise {
            None => opinions.stop_asking(),
            Some(raise) => {
                if let Err(why) = self.ask_for(index, raise) {
                    said.hold = said.hold.or(Some(why));
                }
            }
        }
        self.observe(index, Event::External(said));
    }

    /// What may be made now of a change that time brings. One that raises nothing may be made; a raise has to wait for
    /// permission (`None`), and is then made as it was asked for, however much time has passed since.
    pub(super) fn permitted(&mut self, index: usize, next: Release) -> Option<Release> {
        let before = self.release(index);
        if before.weights == next.weights || !exposes_more(before, &next) {
            return Some(next);
        }
        let raise = Raise { from: before.weights.mean(), to: next.weights.mean() };
        let waiting = self.standings[index].opinions.waiting.take();
        let (raise, asked_for) = waiting.filter(|(asked, _)| asked.from == raise.from).unwrap_or((raise, next.clone()));
        match self.ask_for(index, raise) {
            Ok(()) => {
                self.standings[index].opinions.permits.forget();
                Some(Release { outside: next.outside, ..asked_for })
            }
            Err(_) => {
                self.standings[index].opinions.waiting = Some((raise, asked_for));
                None
            }
        }
    }

    /// Permission for a raise, or what it waits for.
    fn ask_for(&mut self, index: usize, raise: Raise) -> Result<(), String> {
        match self.standings[index].opinions.permits.ask(raise) {
            Permission::Granted => Ok(()),
            Permission::Wait { reason, call } => {
                for question in call {
                    self.call(index, question, raise);
                }
                Err(reason)
            }
        }
    }

    fn call(&mut self, index: usize, question: Question, raise: Raise) {
        let release = self.release(index);
        let data = Data::of_raise(&self.services[index].name, release.state.name(), raise, release.reason.clone());
        let event = CloudEvent::new(&self.host, Kind::Question, SystemTime::now(), data);
        let is_sent = self.external.as_ref().is_some_and(|external| external.ask(index, question, event));
        if !is_sent {
            let full = "too many calls of it wait for an answer".to_owned();
            self.standings[index].opinions.permits.answer(question, Err(full));
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
