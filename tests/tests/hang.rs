//! A v2 that hangs: it accepts connections, reads requests, and never answers; clients lose patience and go, or wait.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::{AgentConfig, ServiceConfig},
    faulty::{Fault, FaultyServer},
    netns::Netns,
    process::wait_until,
    sweep,
    topology::{Family, Topology, Version},
    traffic::{Connection, REQUEST_MAX},
};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

const SOURCES: u16 = 5000;
const LEARNING: Duration = Duration::from_secs(6);
/// From the first request that hangs.
const FOUND_MAX: Duration = Duration::from_secs(15);
/// 200 new connections a second.
const PERIOD: Duration = Duration::from_millis(5);

/// Clients that ask once on each connection, and close it when they have waited for so long.
struct Impatient {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    gave_up: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Impatient {
    fn start(client: &Netns, target: SocketAddr, patience: Duration) -> Result<Self> {
        let [answered, gave_up] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let job = {
            let (stop, answered, gave_up) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&gave_up));
            move || runtime.block_on(ask_on_and_on(target, patience, stop, answered, gave_up))
        };
        Ok(Self { thread: Some(client.spawn("impatient clients", job)?), stop, answered, gave_up })
    }

    /// Lets those that wait go on waiting; returns how many were answered, and how many gave up.
    fn stop(mut self) -> Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))???;
        Ok((self.answered.load(Ordering::Relaxed), self.gave_up.load(Ordering::Relaxed)))
    }
}

impl Drop for Impatient {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn ask_on_and_on(
    target: SocketAddr,
    patience: Duration,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    gave_up: Arc<AtomicU64>,
) -> Result<()> {
    let sources = Family::V4.sources(SOURCES);
    let mut open = JoinSet::new();
    let mut ticks = interval(PERIOD);
    for source in sources.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        while let Some(ended) = open.try_join_next() {
            ended??;
        }
        let (source, answered, gave_up) = (*source, Arc::clone(&answered), Arc::clone(&gave_up));
        open.spawn(async move {
            let mut connection = Connection::open(target, source).await?;
            match timeout(patience, connection.status()).await {
                Ok(status) => status.map(|_| answered.fetch_add(1, Ordering::Relaxed))?,
                Err(_) => gave_up.fetch_add(1, Ordering::Relaxed),
            };
            anyhow::Ok(())
        });
    }
    while let Some(ended) = open.join_next().await {
        ended??;
    }
    Ok(())
}

/// A release whose v2 has begun to hang, and that was rolled back.
struct Hung<'a> {
    agent: Agent<'a>,
    /// What it said then.
    rolled_back: serde_json::Value,
    gave_up: u64,
    _servers: [FaultyServer<'a>; 2],
}

fn hang<'a>(topology: &'a Topology, observe: Option<&str>, patience: Duration) -> Result<Hung<'a>> {
    let mut service = ServiceConfig::web(Family::V4)
        .with_schedule(r#"kind = "linear", from = 10, to = 100, step = 10, every = "1h""#);
    service.more = observe.map(|observe| format!("observe = \"{observe}\"")).unwrap_or_default();
    let start =
        |version| FaultyServer::start(topology.backend(version), version, service.backends[version as usize][0]);
    let (v1, v2) = (start(Version::V1)?, start(Version::V2)?);
    let agent = Agent::start(&topology.lb, AgentConfig::new(vec![service.clone()])?)?;
    let clients = Impatient::start(&topology.client, service.endpoint(), patience)?;
    agent.text(&["start", "web"])?;
    sleep(LEARNING);
    let status = agent.service("web")?;
    ensure!(status["state"] == "progressing" && status["kernel_weight"] == 10.0, "before any fault: {status}");

    v2.set(Fault::Hang)?;
    let since = Instant::now();
    let is_off = |status: &serde_json::Value| status["state"] == "rolled-back" && status["kernel_weight"] == 0.0;
    let rolled_back = agent.wait_for("web", FOUND_MAX, is_off)?;
    eprintln!("rolled back {:?} after the server began to hang: {}", since.elapsed(), rolled_back["reason"]);
    let (answered, gave_up) = clients.stop()?;
    assert_eq!((v1.hung(), v2.hung()), (0, gave_up), "{answered} were answered");
    Ok(Hung { agent, rolled_back, gave_up, _servers: [v1, v2] })
}

impl Hung<'_> {
    /// The sum of a metric over a version's backends; `None` where there is no such metric.
    fn metric(&self, name: &str, version: &str) -> Result<Option<f64>> {
        let page = self.agent.metrics()?;
        let of =
            |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(&format!("version=\"{version}\""));
        let values: Vec<f64> =
            page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }
}

#[test]
fn a_v2_that_hangs_is_rolled_back_within_15_s_at_200_connections_a_second_and_each_is_counted_once() -> Result<()> {
    sweep::sweep()?;
    let topology = Topology::new(&sweep::unique_name())?;
    let hung = hang(&topology, Some("http1"), Duration::from_secs(2))?;
    // Every connection that hung is an error of v2, once, however long one looks; nobody else's is one.
    let (name, gave_up) = ("grayxdp_closed_unanswered_total", hung.gave_up as f64);
    wait_until("all that hung are counted", Duration::from_secs(15), || {
        let counted = hung.metric(name, "v2")?;
        ensure!(counted >= Some(gave_up), "{counted:?} of {gave_up}");
        Ok(())
    })?;
    sleep(Duration::from_secs(3));
    assert_eq!((hung.metric(name, "v1")?, hung.metric(name, "v2")?), (Some(0.0), Some(gave_up)));
    Ok(())
}

#[test]
fn it_is_found_as_soon_where_nobody_knows_the_protocol_and_clients_go_on_waiting() -> Result<()> {
    sweep::sweep()?;
    let topology = Topology::new(&sweep::unique_name())?;
    let hung = hang(&topology, None, REQUEST_MAX - Duration::from_millis(500))?;
    let reason = hung.rolled_back["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("latency-first"), "{reason}");
    let (name, gave_up) = ("grayxdp_overdue_requests_total", hung.gave_up as f64);
    wait_until("each request that hung is counted", Duration::from_secs(5), || {
        let counted = (hung.metric(name, "v1")?, hung.metric(name, "v2")?);
        ensure!(counted == (Some(0.0), Some(gave_up)), "{counted:?} of {gave_up}");
        Ok(())
    })?;
    assert_eq!(hung.metric("grayxdp_closed_unanswered_total", "v2")?, None, "nobody knows whether it is an error");
    Ok(())
}
