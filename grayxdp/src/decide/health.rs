//! Which backends are live, and when each is to be probed next. Pure: probes and the clock are the caller's.
//!
//! What holds whatever happens: a backend changes only after so many outcomes in a row as its [`Rules`] say; at most one
//! probe of a backend is under way; a probe that was called off, or whose backend left or is probed another way by now,
//! counts nothing. Every time is a length since one moment that the caller chooses once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use grayxdp_common::ids::Version;
use siphasher::sip::SipHasher13;

/// Whether a backend is to get new connections.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Health {
    /// It is.
    Live,
    /// It failed its checks.
    Down,
}

impl Health {
    /// As in output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Down => "down",
        }
    }
}

/// How a probe ended that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The backend answered as it should.
    Passed,
    /// It did not.
    Failed,
}

/// How often to probe, and how many outcomes make a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    every: Duration,
    rise: u32,
    fall: u32,
}

/// Shorter periods mean nothing: timers are no finer.
const EVERY_MIN: Duration = Duration::from_millis(1);

impl Rules {
    /// A probe `every` so often (at least 1 ms); live again after `rise` passed in a row, down after `fall` failed in a
    /// row (each at least 1). What is below its least is raised to it.
    pub fn new(every: Duration, rise: u32, fall: u32) -> Self {
        Self { every: every.max(EVERY_MIN), rise: rise.max(1), fall: fall.max(1) }
    }

    /// Time from one probe of a backend to its next; not zero.
    pub const fn every(&self) -> Duration {
        self.every
    }

    /// Passed probes in a row that make a backend live; not zero.
    pub const fn rise(&self) -> u32 {
        self.rise
    }

    /// Failed probes in a row that make a backend down; not zero.
    pub const fn fall(&self) -> u32 {
        self.fall
    }
}

/// The health of one backend, and how many outcomes in a row speak against it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Streak {
    health: Health,
    against: u32,
}

impl Streak {
    /// Nothing speaks against it yet.
    pub const fn new(health: Health) -> Self {
        Self { health, against: 0 }
    }

    /// What it is now.
    pub const fn health(self) -> Health {
        self.health
    }

    /// What it is after one more outcome.
    #[must_use]
    pub const fn after(self, outcome: Outcome, rules: &Rules) -> Self {
        let (other, against_max) = match (self.health, outcome) {
            (Health::Live, Outcome::Passed) | (Health::Down, Outcome::Failed) => return Self::new(self.health),
            (Health::Live, Outcome::Failed) => (Health::Down, rules.fall),
            (Health::Down, Outcome::Passed) => (Health::Live, rules.rise),
        };
        // Not `==`: the rules may ask for fewer than last time.
        if self.against + 1 >= against_max { Self::new(other) } else { Self { against: self.against + 1, ..self } }
    }
}

/// A backend of a service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    /// The caller's number for the service; it must mean the same service as long as the [`Roster`] lives.
    pub service: usize,
    /// Where clients' packets are sent.
    pub backend: SocketAddr,
}

/// A backend that is to be watched, and how; `P` is what the caller needs to probe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject<P> {
    /// Which backend.
    pub id: Id,
    /// The version that it serves.
    pub version: Version,
    /// When to probe it, and what to make of it.
    pub rules: Rules,
    /// How to probe it.
    pub plan: P,
    /// What it is taken for until outcomes say otherwise; only looked at when the backend is new.
    pub initial: Health,
}

/// Stands for one probe that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Which backend is probed.
    pub id: Id,
    number: u64,
}

/// The backends of one version of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolHealth {
    /// Backends that are live.
    pub live: usize,
    /// Backends that are watched.
    pub all: usize,
}

impl PoolHealth {
    /// Whether every backend is down. What is to be done then is not decided here: the fault may as well lie on the way
    /// to the backends, or with the check.
    pub const fn is_all_down(self) -> bool {
        self.live == 0 && self.all > 0
    }
}

/// A backend's health is another than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The version that the backend serves.
    pub version: Version,
    /// What it is now.
    pub health: Health,
    /// The pool of the backend, this change included.
    pub pool: PoolHealth,
}

/// All backends that are watched.
#[derive(Debug)]
pub struct Roster<P> {
    entries: BTreeMap<Id, Entry<P>>,
    /// Those without a probe under way, by when the next is due.
    waiting: BTreeSet<(Duration, Id)>,
    tickets: u64,
}

#[derive(Debug)]
struct Entry<P> {
    version: Version,
    rules: Rules,
    plan: P,
    streak: Streak,
    /// When the next probe is due.
    due: Duration,
    /// Number of the ticket of the probe that is under way.
    under_way: Option<u64>,
}

impl<P> Default for Roster<P> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), waiting: BTreeSet::new(), tickets: 0 }
    }
}

impl<P: Clone + PartialEq> Roster<P> {
    /// Watches these and no others from now on. Who stays keeps its health; who also stays as it was keeps its streak and
    /// the probe that is under way. Of two with the same id the last counts.
    pub fn replace(&mut self, now: Duration, subjects: Vec<Subject<P>>) {
        let mut before = std::mem::take(&mut self.entries);
        for Subject { id, version, rules, plan, initial } in subjects {
            let known = before.remove(&id).or_else(|| self.entries.remove(&id));
            let entry = match known {
                Some(entry) if entry.rules == rules && entry.plan == plan => Entry { version, ..entry },
                known => {
                    let health = known.map_or(initial, |entry| entry.streak.health());
                    let due = not_before(now, phase(id, &rules), &rules);
                    Entry { version, rules, plan, streak: Streak::new(health), due, under_way: None }
                }
            };
            self.entries.insert(id, entry);
        }
        let idle = self.entries.iter().filter(|(_, entry)| entry.under_way.is_none());
        self.waiting = idle.map(|(id, entry)| (entry.due, *id)).collect();
    }

    /// When [`Self::begin`] will have something; may lie in the past.
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Begins the probe that has been due for the longest time, if any is due. It ends by [`Self::end`] or
    /// [`Self::call_off`].
    pub fn begin(&mut self, now: Duration) -> Option<(Ticket, P)> {
        let (_, id) = *self.waiting.first().filter(|(due, _)| *due <= now)?;
        self.waiting.pop_first();
        let entry = self.entries.get_mut(&id)?;
        self.tickets += 1;
        entry.under_way = Some(self.tickets);
        // Half a period at least lies between two probes, also when this one is late.
        let earliest = now.saturating_add(entry.rules.every / 2);
        entry.due = not_before(earliest, phase(id, &entry.rules), &entry.rules);
        Some((Ticket { id, number: self.tickets }, entry.plan.clone()))
    }

    /// Whether the outcome of this probe would still count.
    pub fn is_wanted(&self, ticket: Ticket) -> bool {
        self.entries.get(&ticket.id).is_some_and(|entry| entry.under_way == Some(ticket.number))
    }

    /// A probe has ended so; returns what that changes.
    pub fn end(&mut self, ticket: Ticket, outcome: Outcome) -> Option<Change> {
        let entry = self.take(ticket)?;
        let before = entry.streak.health();
        entry.streak = entry.streak.after(outcome, &entry.rules);
        let (version, health) = (entry.version, entry.streak.health());
        (health != before).then(|| Change { version, health, pool: self.pool(ticket.id.service, version) })
    }

    /// A probe has ended, and nothing can be said of the backend.
    pub fn call_off(&mut self, ticket: Ticket) {
        self.take(ticket);
    }

    /// The entry that a ticket stands for, made to wait again; `None` if the probe is no longer wanted.
    fn take(&mut self, ticket: Ticket) -> Option<&mut Entry<P>> {
        let entry = self.entries.get_mut(&ticket.id).filter(|entry| entry.under_way == Some(ticket.number))?;
        entry.under_way = None;
        self.waiting.insert((entry.due, ticket.id));
        Some(entry)
    }

    /// How a version of a service stands.
    pub fn pool(&self, service: usize, version: Version) -> PoolHealth {
        let pool = self.entries.iter().filter(|(id, entry)| id.service == service && entry.version == version);
        pool.fold(PoolHealth { live: 0, all: 0 }, |sum, (_, entry)| PoolHealth {
            live: sum.live + usize::from(entry.streak.health() == Health::Live),
            all: sum.all + 1,
        })
    }
}

/// When, within each period, a backend is probed: always the same for the same backend, and spread evenly over all
/// backends, so that a thousand of them are not probed in one burst.
fn phase(id: Id, rules: &Rules) -> Duration {
    let ip = match id.backend.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let port_and_service = u64::from(id.backend.port()) << 48 ^ u64::try_from(id.service).unwrap_or(u64::MAX);
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&port_and_service.to_le_bytes());
    Duration::from_nanos(SipHasher13::new_with_keys(0, 0).hash(&bytes) % nanos(rules.every).max(1))
}

/// The first moment of a phase that is not before another moment.
fn not_before(moment: Duration, phase: Duration, rules: &Rules) -> Duration {
    let every = nanos(rules.every).max(1);
    let periods = nanos(moment.saturating_sub(phase)).div_ceil(every);
    phase.saturating_add(Duration::from_nanos(every.saturating_mul(periods)))
}

/// Whole nanoseconds, as far as 64 bits reach: 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
