//! What the loop does on each turn and for each request. Knows no HTTP and no sockets.

use std::time::{Duration, Instant, SystemTime};

use super::{
    kernel::Kernel,
    releases::Releases,
    request::{AnswerError, Command, Deed, Health},
    shapes::{
        AgentStatus, DecisionStatus, HISTORY_LIMIT_DEFAULT, HistoryQuery, HistoryStatus, InterfaceStatus, PinsStatus,
        ServiceStatus,
    },
    signals::{SHARE_WINDOW, ShareWindow},
    status::{self, Counted},
    trace::Tracer,
    watches::{News, Subjects},
};
use crate::{
    agent::releases::Cause,
    kernel::{BackendReading, FlowReading, KernelError},
    metrics::Snapshot,
    store::Asked,
};

/// The most time that passes for a release at once: an agent that was stopped or starved for a while does not make up
/// for it in one jump.
const ELAPSED_MAX: Duration = Duration::from_secs(1);
/// How often counters are read when nobody asks.
const READ_EVERY: Duration = Duration::from_secs(1);

/// How often the flow table is looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// It takes at most one part in so many of the time.
const SWEEP_REST: u32 = 50;
/// For how long next hops are told to hold. Longer than anything that may hold the loop up; a MAC address that moves while
/// the agent is gone is missed for so long.
const NEXT_HOPS_LEASE: Duration = Duration::from_secs(10);

/// The agent between two turns of its loop.
#[derive(Debug)]
pub(super) struct Agent<K> {
    pub(super) releases: Releases<K>,
    pub(super) tracer: Tracer,
    interfaces: Vec<InterfaceStatus>,
    window: ShareWindow,
    started: Instant,
    last_advance: Instant,
    last_read: Option<Instant>,
    flows: Vec<FlowReading>,
    next_sweep: Instant,
    /// Whether the last turn left the rest of its work to this one.
    is_put_off: bool,
    /// Whether next hops are kept fresh.
    has_next_hops: bool,
    last_tick: SystemTime,
}

impl<K: Kernel> Agent<K> {
    pub(super) fn new(releases: Releases<K>, interfaces: Vec<InterfaceStatus>, now: Instant) -> Self {
        Self {
            releases,
            tracer: Tracer::default(),
            interfaces,
            window: ShareWindow::new(SHARE_WINDOW),
            started: now,
            last_advance: now,
            last_read: None,
            flows: Vec::new(),
            next_sweep: now,
            is_put_off: false,
            has_next_hops: false,
            last_tick: SystemTime::now(),
        }
    }

    /// One turn: time passes.
    pub(super) fn tick(&mut self, now: Instant) {
        self.advance(now);
        self.turn_trace(now);
        self.last_tick = SystemTime::now();
        self.lend();
        // A look is enough for one turn, for commands wait for its end; where each turn has one, every other does it all.
        self.is_put_off = self.releases.take_looked() && !self.is_put_off;
        if self.is_put_off {
            return;
        }
        self.sweep(now);
        if self.last_read.is_none_or(|last| now.duration_since(last) >= READ_EVERY)
            && let Err(error) = self.read(now)
        {
            tracing::warn!("counters_not_read {error}");
        }
    }

    /// Flows that were idle for too long go, the others are counted. A large table is looked through less often.
    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        let began = Instant::now();
        self.flows = self.releases.kernel_mut().sweep();
        self.next_sweep = now + SWEEP_EVERY.max(began.elapsed() * SWEEP_REST);
    }

    /// News of what runs beside the loop.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::NextHops(snapshot) => {
                let told = self.releases.kernel_mut().set_next_hops(&snapshot);
                self.has_next_hops = told.is_ok();
                if let Err(error) = told {
                    tracing::warn!("next_hops_not_applied {error}; the kernel is asked for the way of each packet");
                }
            }
            News::NextHopsLost => {
                self.has_next_hops = false;
                tracing::warn!("next_hops_lost: the kernel is asked for the way of each packet");
            }
            News::Health(event) => self.releases.health_changed(&event),
            News::External(heard) => self.releases.hear(heard),
            News::FuseBlown => self.releases.hear_fuses(),
        }
        self.lend();
    }

    /// Next hops hold for a while only, so that nobody goes by them when the agent is gone.
    fn lend(&mut self) {
        let lease = if self.has_next_hops { NEXT_HOPS_LEASE } else { Duration::ZERO };
        self.releases.kernel_mut().lease_hops(lease);
    }

    /// Whom to watch.
    pub(super) fn subjects(&self) -> Subjects {
        let mut addresses = self.releases.kernel().backend_addresses();
        addresses.sort_unstable();
        addresses.dedup();
        Subjects { addresses, targets: self.releases.targets() }
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.duration_since(self.last_advance).min(ELAPSED_MAX);
        self.last_advance = now;
        self.releases.advance(passed);
    }

    fn read(&mut self, now: Instant) -> Result<Vec<BackendReading>, KernelError> {
        // Before the `?`: a read that fails is tried again a second later, not on each turn.
        self.last_read = Some(now);
        let readings = self.releases.kernel().backend_readings()?;
        self.window.observe(now.duration_since(self.started), &readings);
        Ok(readings)
    }

    pub(super) fn status(&mut self, now: Instant) -> Result<AgentStatus, KernelError> {
        let readings = self.read(now)?;
        let services = 0..self.releases.services().len();
        Ok(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: status::seconds(now.duration_since(self.started)),
            interfaces: self.interfaces.clone(),
            services: services.map(|index| self.service(index, &readings)).collect(),
        })
    }

    fn service(&self, index: usize, readings: &[BackendReading]) -> ServiceStatus {
        let counted = Counted { readings, flows: &self.flows };
        status::service_status(&self.releases, index, counted, self.window.measured_share(index))
    }

    pub(super) fn snapshot(&mut self, now: Instant) -> Result<Snapshot, KernelError> {
        let status = self.status(now)?;
        let verdicts = self.releases.kernel().verdict_counts()?;
        let signals = self.releases.kernel_mut().signal_readings().clone();
        let fuses = (0..status.services.len()).map(|service| self.releases.kernel().fuse(service)).collect();
        Ok(Snapshot { status, verdicts, signals, fuses, last_tick: self.last_tick })
    }

    pub(super) fn health(&self) -> Health {
        Health { trouble: self.releases.store_fault().map(str::to_owned) }
    }

    pub(super) fn command(&mut self, command: &Command, now: Instant) -> Result<ServiceStatus, AnswerError> {
        // Up to this moment the release was what it was.
        self.advance(now);
        let cause = Cause::new(command.name, &command.actor);
        let done = match &command.deed {
            Deed::Release(event) => self.releases.command(&command.service, event.clone(), cause),
            Deed::SetShardWeight { shard, weight } => {
                self.releases.set_shard_weight(&command.service, shard, *weight, cause)
            }
            Deed::Change(change) => self.releases.change(&command.service, change, cause),
        };
        let index = done.inspect_err(|error| {
            tracing::warn!(
                service = command.service,
                command = command.name,
                actor = command.actor,
                "command_refused {error}"
            );
        })?;
        let readings = self.read(now)?;
        Ok(self.service(index, &readings))
    }

    pub(super) fn history(&self, query: &HistoryQuery) -> Result<HistoryStatus, AnswerError> {
        // A name that nobody has is a mistake, not a service to which nothing has happened.
        query.service.as_deref().map(|name| self.releases.index(name)).transpose()?;
        let asked = Asked {
            service: query.service.as_deref(),
            after: query.after.unwrap_or(0),
            count_max: query.limit.unwrap_or(HISTORY_LIMIT_DEFAULT),
        };
        let decisions = self.releases.decisions(asked)?.into_iter().rev();
        Ok(HistoryStatus { decisions: decisions.map(DecisionStatus::from).collect() })
    }

    pub(super) fn pins(&self, service: &str) -> Result<PinsStatus, AnswerError> {
        Ok(status::pins(&self.releases, self.releases.index(service)?))
    }

    /// Stores all, and gives the kernel back. Nothing in the kernel changes.
    pub(super) fn close(mut self, now: Instant, event: &str, actor: &str) -> K {
        self.advance(now);
        self.has_next_hops = false;
        self.lend();
        self.tracer.stop(self.releases.kernel_mut());
        let (kernel, stored) = self.releases.close(Cause::new(event, actor));
        if let Err(error) = stored {
            tracing::error!("state_not_stored {error}");
        }
        kernel
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::{
            fd::{AsFd, BorrowedFd},
            unix::net::UnixStream,
        },
    };

    use grayxdp_common::{
        ids::Version,
        layout::{FlowState, FuseTally},
    };

    use super::*;
    use crate::{
        agent::{
            fake_kernel::{FakeKernel, config},
            watches::{Alarms, Watches},
        },
        decide::controller::{Event, State},
        store::Store,
    };

    /// Alarms that a test sends: a byte each.
    struct Bytes(UnixStream);

    impl AsFd for Bytes {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Alarms for Bytes {
        fn take(&mut self) -> bool {
            self.0.read(&mut [0]).is_ok_and(|count| count == 1)
        }
    }

    fn agent(directory: &std::path::Path, now: Instant) -> Agent<FakeKernel> {
        let config = config(directory);
        let store = Store::open(&config.agent.state).expect("a store");
        let mut releases = Releases::new(config.services, FakeKernel::with_pinned(&[None, None]), store);
        releases.take_over().expect("taken over");
        Agent::new(releases, Vec::new(), now)
    }

    fn command(event: Event) -> Command {
        Command { service: "web".to_owned(), name: "test", deed: Deed::Release(event), actor: "uid 0".to_owned() }
    }

    #[test]
    fn an_agent_that_was_suspended_does_not_jump() {
        let directory = tempfile::tempdir().expect("a directory");
        let start = Instant::now();
        let mut agent = agent(directory.path(), start);
        agent.command(&command(Event::Start), start).expect("started");
        agent.tick(start + Duration::from_millis(100));
        agent.tick(start + Duration::from_secs(3600));
        let status = agent.status(start + Duration::from_secs(3600)).expect("a status");
        assert_eq!((status.services[0].schedule.elapsed_s, status.services[0].weight), (1.1, 0.0));
        assert_eq!(status.services[0].schedule.next_in_s, Some(8.9));
    }

    #[test]
    fn flows_are_swept_and_counters_read_also_where_every_turn_has_a_look() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let start = Instant::now();
        let mut agent = agent(directory.path(), start);
        let reading = FlowReading {
            service: 0,
            version: Version::V1,
            address: "10.0.0.1:80".parse().expect("an address"),
            flows: [1; FlowState::ALL.len()],
        };
        agent.releases.kernel_mut().flows = vec![reading];
        agent.command(&command(Event::Start), start).expect("started");
        for turn in 1..=3 {
            agent.tick(start + turn * Duration::from_secs(1));
        }
        assert!(!agent.flows.is_empty() && agent.last_read >= Some(start + Duration::from_secs(1)));
    }

    #[test]
    fn a_command_counts_from_its_own_moment() {
        let directory = tempfile::tempdir().expect("a directory");
        let start = Instant::now();
        let mut agent = agent(directory.path(), start);
        agent.command(&command(Event::Start), start + Duration::from_millis(90)).expect("started");
        let frozen = agent.command(&command(Event::Freeze), start + Duration::from_millis(140)).expect("frozen");
        assert_eq!(frozen.schedule.elapsed_s, 0.05);
        assert_eq!((frozen.schedule.next_weight, frozen.schedule.next_in_s), (None, None));
    }

    #[tokio::test]
    async fn a_blown_fuse_rolls_back_when_the_kernel_says_so_and_not_at_the_next_turn() {
        let directory = tempfile::tempdir().expect("a directory");
        let start = Instant::now();
        let mut agent = agent(directory.path(), start);
        let (mut kernel, alarms) = UnixStream::pair().expect("a pair");
        alarms.set_nonblocking(true).expect("a socket");
        let mut watches = Watches::default();
        watches.listen(Bytes(alarms));
        let is_silent = async |watches: &mut Watches| {
            tokio::time::timeout(Duration::from_millis(20), watches.next()).await.is_err()
        };
        // Again after the first: what was taken must not hide what comes later.
        for nth in 1..=2 {
            agent.command(&command(Event::Start), start).expect("started");
            assert!(is_silent(&mut watches).await, "nothing has blown");
            let tally = FuseTally { flows: [900, 100], failures: [9, 50] };
            agent.releases.kernel_mut().blown = vec![(0, tally)];
            // Two services at once: one piece of news will do.
            kernel.write_all(&[0; 2]).expect("written");
            let news = tokio::time::timeout(Duration::from_secs(10), watches.next()).await.expect("news");
            assert!(matches!(news, News::FuseBlown), "{news:?}");
            agent.hear(news);
            let state = agent.releases.release(0).state;
            assert_eq!(state, State::RolledBack, "try {nth}");
            assert!(is_silent(&mut watches).await, "all alarms were taken");
        }
        let told = agent.history(&HistoryQuery::default()).expect("a history").decisions;
        assert_eq!(told.iter().filter(|decision| decision.rule == "fuse").count(), 2, "recorded");
    }
}
