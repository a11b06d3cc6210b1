//! Checks of backends: one task that has them probed when they are due, and tells the agent's loop what changed.
//!
//! It decides nothing: `decide/health.rs` says when to probe and what outcomes make of a backend. It takes nobody out
//! either; what becomes of a backend that is down, or of a version whose backends are all down, is the loop's to say.
//!
//! It fails static. A backend is what the caller says it is until enough probes have ended otherwise; a probe that this
//! host could not make, or that was called off, counts nothing. When the task ends, nothing changes any more.

mod probe;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use grayxdp_common::ids::Version;
use tokio::{
    sync::{mpsc, watch},
    task::{self, AbortHandle, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use self::probe::{Failure, Pass, Plan};
use crate::{
    config::HealthCheck,
    decide::health::{Health, Id, Outcome, PoolHealth, Roster, Subject, Ticket},
};

/// Probes under way at the same time: each is a file descriptor, of which a process may have 1024 if nobody raised it.
const PROBES_MAX: usize = 256;
/// Changes that the loop has not taken yet. While there are more, the checks wait.
const EVENTS_MAX: usize = 1024;
/// Own trouble is logged no more often.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

/// A backend that is to be checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The caller's number for the service; it must mean the same service as long as the [`Checker`] lives.
    pub service: usize,
    /// The version that the backend serves.
    pub version: Version,
    /// Where clients' packets are sent.
    pub backend: SocketAddr,
    /// How to check it.
    pub check: Arc<HealthCheck>,
    /// What it is taken for until probes say otherwise; only looked at when it is new to the [`Checker`].
    pub initial: Health,
}

/// A backend's health is another than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// As in its [`Target`].
    pub service: usize,
    /// As in its [`Target`].
    pub version: Version,
    /// As in its [`Target`].
    pub backend: SocketAddr,
    /// What it is now.
    pub health: Health,
    /// Why: the end of the last probe, such as "HTTP 503" or "timed out after 1 s: no connection".
    pub reason: String,
    /// How the version of the service stands, this change included.
    pub pool: PoolHealth,
}

/// Holds the checks; dropping it ends them.
#[derive(Debug)]
pub struct Checker {
    targets: watch::Sender<Vec<Target>>,
}

impl Checker {
    /// Checks these backends and no others from now on; does not wait. A backend that stays, by service and address,
    /// keeps its health, whatever `initial` says and whichever version it serves now. If its check changes too, the
    /// probes that have failed or passed in a row are forgotten. An event of a backend that leaves may still be in the
    /// channel; the receiver has to ignore it.
    pub fn set_targets(&self, targets: Vec<Target>) {
        self.targets.send_replace(targets);
    }
}

/// Begins to check these backends, as a task of the present tokio runtime. Each is probed for the first time within the
/// period of its check. The checks end with the [`Checker`] or the receiver, whichever is dropped first.
pub fn start(targets: Vec<Target>) -> (Checker, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let (sender, targets) = watch::channel(targets);
    tokio::spawn(Task::new(targets, events, PROBES_MAX).run());
    (Checker { targets: sender }, receiver)
}

/// What a probe comes to.
type Ended = Result<(task::Id, Result<Pass, Failure>), JoinError>;

struct Task {
    /// From here the roster's time is counted.
    origin: Instant,
    roster: Roster<Plan>,
    targets: watch::Receiver<Vec<Target>>,
    events: mpsc::Sender<Event>,
    probes_max: usize,
    probes: JoinSet<Result<Pass, Failure>>,
    /// Of the probes under way.
    tickets: HashMap<task::Id, (Ticket, AbortHandle)>,
    complained: Option<Instant>,
}

impl Task {
    fn new(targets: watch::Receiver<Vec<Target>>, events: mpsc::Sender<Event>, probes_max: usize) -> Self {
        let mut task = Self {
            origin: Instant::now(),
            roster: Roster::default(),
            targets,
            events,
            probes_max,
            probes: JoinSet::new(),
            tickets: HashMap::new(),
            complained: None,
        };
        task.take_targets();
        task
    }

    async fn run(mut self) {
        // A clone, for the task itself is borrowed when it sends.
        let receiver_gone = self.events.clone();
        loop {
            self.begin_due();
            let has_place = self.probes.len() < self.probes_max;
            let next_due = self.roster.next_due().filter(|_| has_place).map(|due| self.origin + due);
            tokio::select! {
                changed = self.targets.changed() => match changed {
                    Ok(()) => self.take_targets(),
                    Err(_) => return,
                },
                () = receiver_gone.closed() => return,
                Some(ended) = self.probes.join_next_with_id() => {
                    if let Some(event) = self.end(ended) && self.events.send(event).await.is_err() {
                        return;
                    }
                }
                () = sleep_until(next_due.unwrap_or(self.origin)), if next_due.is_some() => {}
            }
        }
    }

    fn take_targets(&mut self) {
        let targets = self.targets.borrow_and_update().clone();
        let subject = |Target { service, version, backend, check, initial }| Subject {
            id: Id { service, backend },
            version,
            rules: check.rules,
            plan: Plan::new(backend, check),
            initial,
        };
        self.roster.replace(self.origin.elapsed(), targets.into_iter().map(subject).collect());
        for (ticket, probe) in self.tickets.values() {
            if !self.roster.is_wanted(*ticket) {
                probe.abort();
            }
        }
    }

    fn begin_due(&mut self) {
        while self.probes.len() < self.probes_max
            && let Some((ticket, plan)) = self.roster.begin(self.origin.elapsed())
        {
            let handle = self.probes.spawn(async move { probe::probe(&plan).await });
            self.tickets.insert(handle.id(), (ticket, handle));
        }
    }

    /// Tells the roster how a probe ended; returns what the loop has to hear.
    fn end(&mut self, ended: Ended) -> Option<Event> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (ticket, _) = self.tickets.remove(&id)?;
        let (outcome, reason) = match ended {
            Ok((_, Ok(pass))) => (Outcome::Passed, pass.to_string()),
            Ok((_, Err(failure))) if failure.counts() => (Outcome::Failed, failure.to_string()),
            Ok((_, Err(failure))) => {
                self.complain(ticket.id, &failure);
                self.roster.call_off(ticket);
                return None;
            }
            Err(aborted) => {
                tracing::debug!("health_probe_ended_early {aborted}");
                self.roster.call_off(ticket);
                return None;
            }
        };
        let change = self.roster.end(ticket, outcome)?;
        let Id { service, backend } = ticket.id;
        Some(Event { service, version: change.version, backend, health: change.health, reason, pool: change.pool })
    }

    fn complain(&mut self, id: Id, failure: &Failure) {
        if self.complained.is_none_or(|before| before.elapsed() >= COMPLAINT_PERIOD) {
            self.complained = Some(Instant::now());
            tracing::warn!(backend = %id.backend, reason = %failure, "health_probe_void");
        }
    }
}

#[cfg(test)]
mod tests;
