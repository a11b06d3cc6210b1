//! Time passes: the judges look at what the kernel has counted since, and the releases go on, wait, or go back.

use std::time::Duration;

use super::{Cause, CommandError, Releases, Standing};
use crate::{
    agent::kernel::Kernel,
    decide::{
        controller::{self, Event, Release, Rule},
        evidence::Evidence,
    },
    store::Entry,
};
use grayxdp_common::layout::FuseTally;

/// While something of a release passes it is stored at least this often.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How often judges look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After so many looks what a judge has seen is stored, for each service in its turn; with each decision, too.
const LOOKS_A_SAVE: usize = 10;

/// When the judges look again, and what keeps them from it.
#[derive(Debug, Default)]
pub(super) struct Looks {
    next_in: Duration,
    since_last: Duration,
    /// Before that, since signals could be read last; zero where they could.
    unread: Duration,
    /// How many there were.
    count: usize,
    /// Whether there was one since somebody asked.
    has_been: bool,
    complaint: Option<String>,
}

impl Looks {
    /// The next look is due.
    pub(super) const fn at_once(&mut self) {
        self.next_in = Duration::ZERO;
    }
}

impl<K: Kernel> Releases<K> {
    /// Lets time pass for all releases.
    pub(in crate::agent) fn advance(&mut self, passed: Duration) {
        self.journal.begin_turn(passed);
        self.hear_fuses();
        // First, so that nothing is raised on what was true before.
        if self.looks.next_in.is_zero() {
            self.look();
        }
        self.looks.since_last = self.looks.since_last.saturating_add(passed);
        self.looks.next_in = self.looks.next_in.saturating_sub(passed);
        for index in 0..self.services.len() {
            self.advance_one(index, passed);
        }
        self.journal.end_turn();
    }

    /// Whether judges have looked since this was asked last.
    pub(in crate::agent) fn take_looked(&mut self) -> bool {
        std::mem::take(&mut self.looks.has_been)
    }

    /// A fuse that has blown stays so until it is armed again: also one that blew while no agent was there is heard of. Done
    /// when the kernel says that one has blown, and on every turn, for what it said may have got lost.
    pub(in crate::agent) fn hear_fuses(&mut self) {
        for (index, tally) in self.kernel.blown_fuses() {
            let Some(service) = self.services.get(index) else { continue };
            let release = self.release(index);
            if release.state.is_off() {
                continue;
            }
            if controller::is_open(&service.policy, release) {
                let budget = service.fuse.map_or(0, |fuse| fuse.failures);
                self.observe(index, Event::FuseBlown(Box::new(evidence_of(tally, budget))));
            } else {
                tracing::warn!(
                    service = service.name,
                    "fuse_ignored: the release was promoted long ago; it is armed again"
                );
                self.arm_fuse(index);
            }
        }
    }

    pub(super) fn arm_fuse(&mut self, index: usize) {
        if let Err(error) = self.kernel.arm_fuse(index) {
            tracing::error!(service = self.services[index].name, "fuse_not_armed {error}");
        }
    }

    /// Lets the judges look at what has been counted since they did last. What they have seen is stored together with the
    /// reading that it ends with.
    fn look(&mut self) {
        let elapsed = std::mem::take(&mut self.looks.since_last);
        self.looks.next_in = LOOK_EVERY;
        self.looks.count = self.looks.count.wrapping_add(1);
        let is_judged = |index: &usize| controller::is_judged(&self.services[*index].policy, self.release(*index));
        let (judged, others): (Vec<usize>, Vec<usize>) = (0..self.services.len()).partition(is_judged);
        for index in others {
            let Standing { analysis, release, .. } = &mut self.standings[index];
            analysis.pass(&release.weights, elapsed);
        }
        if judged.is_empty() {
            self.looks.unread = Duration::ZERO;
            return;
        }
        self.looks.has_been = true;
        let elapsed = elapsed + self.looks.unread;
        match self.kernel.signals() {
            Ok(signals) => {
                for &index in &judged {
                    let Standing { analysis, release, .. } = &mut self.standings[index];
                    let reading = signals.iter().find(|signals| signals.service == index);
                    analysis.look(reading.copied(), &release.weights, elapsed);
                }
            }
            Err(error) => {
                let complaint = error.to_string();
                if self.looks.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(
                        "signals_not_read {complaint}. No release gets further until they can be read again"
                    );
                    self.looks.complaint = Some(complaint);
                }
                self.looks.unread = elapsed;
                return;
            }
        }
        self.looks.unread = Duration::ZERO;
        if self.looks.complaint.take().is_some() {
            tracing::info!("signals_read_again");
        }
        for index in judged {
            if let Some(judgement) = self.judgement(index).cloned() {
                self.observe(index, Event::Judged(judgement));
            }
            // What is not stored yet is read again, all in one, by an agent that comes after a kill.
            let analysis = &mut self.standings[index].analysis;
            let is_due = (self.looks.count + index).is_multiple_of(LOOKS_A_SAVE) || analysis.is_first_unsaved();
            if let Some(state) = is_due.then(|| analysis.take_unsaved()).flatten() {
                let release = self.release(index).clone();
                let entry = self.entry(index, &release, &release, None);
                self.journal.note(Entry { analysis: Some(state), ..entry });
            }
        }
    }

    /// Something was found out about a release: whatever follows from it is done when this returns, or is tried again.
    pub(in crate::agent) fn observe(&mut self, index: usize, event: Event) {
        let evidence = event.evidence().cloned();
        let before = self.release(index).clone();
        let Ok(next) = controller::step(self.services[index].terms(), &before, event) else { return };
        if next.weights == before.weights && next.state == before.state && next.rule == before.rule {
            self.standings[index].release = next;
            return;
        }
        // What brings v2 away from users waits for nothing.
        self.standings[index].retry_in = Duration::ZERO;
        if let Err(error) = self.decide(index, next, evidence.as_ref()) {
            self.complain(index, &error);
        }
    }

    /// Carries out what was decided by nobody's command.
    fn decide(&mut self, index: usize, next: Release, evidence: Option<&Evidence>) -> Result<(), CommandError> {
        let rule = next.rule;
        let event = match rule.cause() {
            controller::Cause::Schedule if next.weights != self.release(index).weights => "weight_changed",
            controller::Cause::Schedule => "state_changed",
            _ => rule.name(),
        };
        let cause = Cause { evidence, ..Cause::new(event, rule.cause().name()) };
        self.apply(index, next, cause)
    }

    fn advance_one(&mut self, index: usize, passed: Duration) {
        let standing = &mut self.standings[index];
        standing.retry_in = standing.retry_in.saturating_sub(passed);
        if !standing.retry_in.is_zero() {
            return;
        }
        if standing.kernel_behind {
            self.lower_again(index);
        } else if standing.severs_again {
            standing.severs_again = false;
            // Whatever has been started since is not to be severed.
            if standing.release.state.is_off()
                && let Err(error) = self.sever_once(index)
            {
                self.complain(index, &error);
            }
        }
        if self.standings[index].health_behind {
            self.bring_health(index);
        }
        self.consult(index, passed);
        let before = self.release(index);
        let Ok(next) = controller::step(self.services[index].terms(), before, Event::Elapsed(passed)) else { return };
        let Some(next) = self.permitted(index, next) else { return };
        let before = self.release(index);
        if next.weights != before.weights || next.state != before.state {
            let evidence = self.judgement(index).and_then(|judgement| judgement.evidence().cloned());
            match self.decide(index, next, evidence.as_ref()) {
                Ok(()) => self.standings[index].complaint = None,
                Err(error) => self.complain(index, &error),
            }
            return;
        }
        self.pass(index, next, passed);
    }

    /// Nothing has changed but time, and what holds a release up.
    fn pass(&mut self, index: usize, next: Release, passed: Duration) {
        let before = std::mem::replace(&mut self.standings[index].release, next);
        let after = self.release(index).clone();
        let rule = |release: &Release| release.outside.held.as_ref().map(|held| held.rule);
        if rule(&before) != rule(&after) {
            self.note_held(index, &after);
        }
        let is_same = (before.schedule_time, before.progress) == (after.schedule_time, after.progress);
        let standing = &mut self.standings[index];
        if !is_same {
            standing.unsaved = standing.unsaved.saturating_add(passed);
        }
        if standing.unsaved >= SAVE_EVERY {
            self.note(index);
        }
    }

    /// That schedule time stands still, or goes on, is no other state, but something to know.
    fn note_held(&mut self, index: usize, release: &Release) {
        let (rule, reason) = match &release.outside.held {
            Some(held) => (held.rule, format!("held at {}: {}", release.weights, held.why)),
            None => (Rule::GoesOn, format!("goes on at {}", release.weights)),
        };
        let evidence = self.judgement(index).and_then(|judgement| judgement.evidence().cloned());
        let cause = Cause { evidence: evidence.as_ref(), ..Cause::new(rule.name(), rule.cause().name()).by(rule) };
        let mut entry = self.entry(index, release, release, Some(cause));
        tracing::info!(service = self.services[index].name, reason, "release_held");
        let told = Release { reason: reason.clone(), ..release.clone() };
        self.tell(
            index,
            release,
            &told,
            Cause { evidence: evidence.as_ref(), ..Cause::new(rule.name(), rule.cause().name()) },
        );
        entry.decision.iter_mut().for_each(|decision| reason.clone_into(&mut decision.reason));
        self.journal.write(entry);
    }
}

fn evidence_of(FuseTally { flows: [n1, n2], failures: [e1, e2] }: FuseTally, budget: u32) -> Evidence {
    let rate = |errors: u32, flows: u32| f64::from(errors) / f64::from(flows);
    Evidence {
        signal: "failures".to_owned(),
        rule: "fuse".to_owned(),
        n1: n1.into(),
        n2: n2.into(),
        e1: e1.into(),
        e2: e2.into(),
        ratio: (e1 > 0 && n2 > 0).then(|| rate(e2, n2) / rate(e1, n1)),
        interval: None,
        value: e2.into(),
        limit: budget.into(),
        backend: None,
        lately: None,
    }
}

#[cfg(test)]
mod tests;
