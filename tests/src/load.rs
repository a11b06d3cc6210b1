//! HTTP clients in the background: short connections at a steady rate, and long ones that must stay where they began.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    netns::Netns,
    topology::Version,
    traffic::{Connection, ask_once},
};

/// What clients do.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The service.
    pub target: SocketAddr,
    /// Source addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// Short connections at a time; each waits for its answer before the next.
    pub workers: u32,
    /// New short connections per second, over all workers, when answers come in time.
    pub rate_per_s: u32,
    /// When each keep-alive connection begins, from the start of the load.
    pub keep_alive_starts: Vec<Duration>,
    /// Pause between two requests of a keep-alive connection.
    pub keep_alive_pause: Duration,
    /// The load ends by itself after this time.
    pub time_max: Duration,
}

/// How a request was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// On a connection of its own.
    Short,
    /// On a keep-alive connection, which is counted by its number.
    KeepAlive {
        /// Place in [`LoadPlan::keep_alive_starts`].
        connection: usize,
    },
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How it was sent.
    pub kind: Kind,
    /// Before anything was sent.
    pub started: Instant,
    /// When the connection stood; the version was chosen between `started` and this.
    pub connected: Instant,
    /// When the answer was complete.
    pub finished: Instant,
    /// Who answered.
    pub version: Version,
}

/// One request's end.
#[derive(Debug)]
pub enum Event {
    /// Answered.
    Answered(Sample),
    /// Not answered, or by the wrong version.
    Failed {
        /// Before anything was sent.
        started: Instant,
        /// What went wrong, from which source.
        cause: String,
    },
}

/// Running clients. Dropping it stops them.
#[derive(Debug)]
pub struct Load {
    events: mpsc::Receiver<Event>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts the clients on a thread of their own inside `client`.
    pub fn start(client: &Netns, plan: LoadPlan) -> Result<Self> {
        if plan.sources.is_empty() || plan.workers == 0 || plan.rate_per_s == 0 {
            bail!("a load needs sources, workers and a rate");
        }
        let (sender, events) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = client.spawn("clients", move || runtime.block_on(drive(Arc::new(plan), sender, flag)))?;
        Ok(Self { events, stop, thread: Some(thread) })
    }

    /// What has ended since the last call.
    pub fn drain(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// An error if the clients are gone.
    pub fn check_running(&self) -> Result<()> {
        match &self.thread {
            Some(thread) if !thread.is_finished() => Ok(()),
            _ => bail!("the clients ended early"),
        }
    }

    /// Lets the clients end their open requests; returns what has ended since the last `drain`.
    pub fn stop(mut self) -> Result<Vec<Event>> {
        self.join()?;
        Ok(self.drain())
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the clients' thread panicked"),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join().ok();
    }
}

async fn drive(plan: Arc<LoadPlan>, events: mpsc::Sender<Event>, stop: Arc<AtomicBool>) {
    let clients = Clients { plan, events, stop, next_source: AtomicUsize::new(0), began: Instant::now() };
    let clients = Arc::new(clients);
    let mut tasks = JoinSet::new();
    for worker in 0..clients.plan.workers {
        tasks.spawn(Arc::clone(&clients).short_connections(worker));
    }
    for connection in 0..clients.plan.keep_alive_starts.len() {
        tasks.spawn(Arc::clone(&clients).keep_alive(connection));
    }
    tasks.join_all().await;
}

struct Clients {
    plan: Arc<LoadPlan>,
    events: mpsc::Sender<Event>,
    stop: Arc<AtomicBool>,
    next_source: AtomicUsize,
    began: Instant,
}

impl Clients {
    fn going_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.began.elapsed() < self.plan.time_max
    }

    fn source(&self) -> IpAddr {
        let index = self.next_source.fetch_add(1, Ordering::Relaxed);
        self.plan.sources[index % self.plan.sources.len()]
    }

    fn tell(&self, event: Event) {
        // The receiver lives as long as the thread is not joined.
        self.events.send(event).ok();
    }

    async fn short_connections(self: Arc<Self>, worker: u32) {
        let period = Duration::from_secs(1) * self.plan.workers / self.plan.rate_per_s;
        // Spread over the period, so that load is even.
        sleep(period * worker / self.plan.workers).await;
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.going_on() {
            ticks.tick().await;
            let (source, started) = (self.source(), Instant::now());
            self.tell(match ask_once(self.plan.target, source).await {
                Ok(answer) => Event::Answered(Sample {
                    kind: Kind::Short,
                    started,
                    connected: answer.connected,
                    finished: Instant::now(),
                    version: answer.version,
                }),
                Err(error) => Event::Failed { started, cause: format!("new connection from {source}: {error:#}") },
            });
        }
    }

    async fn keep_alive(self: Arc<Self>, connection: usize) {
        let start = self.plan.keep_alive_starts[connection];
        while self.began.elapsed() < start {
            if !self.going_on() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let (source, started) = (self.source(), Instant::now());
        if let Err(error) = self.talk(connection, source).await {
            let cause = format!("keep-alive connection {connection} from {source}: {error:#}");
            self.tell(Event::Failed { started, cause });
        }
    }

    async fn talk(&self, connection: usize, source: IpAddr) -> Result<()> {
        let opening = Instant::now();
        let mut http = Connection::open(self.plan.target, source).await?;
        let connected = Instant::now();
        let mut first = None;
        while self.going_on() {
            let started = if first.is_none() { opening } else { Instant::now() };
            let version = http.version().await.with_context(|| match first {
                Some(version) => format!("open since {:?} on {version}", connected.elapsed()),
                None => "first request".to_owned(),
            })?;
            if *first.get_or_insert(version) != version {
                bail!("an open connection moved to {version}");
            }
            let kind = Kind::KeepAlive { connection };
            self.tell(Event::Answered(Sample { kind, started, connected, finished: Instant::now(), version }));
            sleep(self.plan.keep_alive_pause).await;
        }
        Ok(())
    }
}

/// Counts over a load's events, as tests want them.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answered requests.
    pub answered: u64,
    /// Short connections that v2 answered.
    pub short_v2: u64,
    /// Short connections.
    pub short: u64,
    /// Causes of failures.
    pub failures: Vec<String>,
    /// The longest time from start to answer.
    pub slowest: Duration,
}

impl Tally {
    /// Adds up.
    pub fn of(events: &[Event]) -> Self {
        let mut tally = Self::default();
        for event in events {
            match event {
                Event::Failed { cause, .. } => tally.failures.push(cause.clone()),
                Event::Answered(sample) => {
                    tally.answered += 1;
                    tally.slowest = tally.slowest.max(sample.finished - sample.started);
                    if sample.kind == Kind::Short {
                        tally.short += 1;
                        tally.short_v2 += u64::from(sample.version == Version::V2);
                    }
                }
            }
        }
        tally
    }
}
