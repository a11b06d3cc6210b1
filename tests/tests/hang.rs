//! A v2 that hangs: it accepts connections, reads requests, and never answers; clients lose patience and go.

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
    traffic::Connection,
};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

const SOURCES: u16 = 5000;
const LEARNING: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(2);
/// From the first request that hangs.
const FOUND_MAX: Duration = Duration::from_secs(15);
/// 200 new connections a second.
const PERIOD: Duration = Duration::from_millis(5);

/// Clients that ask once on each connection, wait for [`PATIENCE`] and then close it.
struct Impatient {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    gave_up: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Impatient {
    fn start(client: &Netns, target: SocketAddr) -> Result<Self> {
        let [answered, gave_up] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let job = {
            let (stop, answered, gave_up) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&gave_up));
            move || runtime.block_on(ask_on_and_on(target, stop, answered, gave_up))
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
            match timeout(PATIENCE, connection.status()).await {
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

fn service() -> ServiceConfig {
    let mut service = ServiceConfig::web(Family::V4)
        .with_schedule(r#"kind = "linear", from = 10, to = 100, step = 10, every = "1h""#);
    service.more = "observe = \"http1\"".to_owned();
    service
}

#[test]
fn a_v2_that_hangs_is_rolled_back_within_15_s_at_200_connections_a_second_and_each_is_counted_once() -> Result<()> {
    sweep::sweep()?;
    let topology = Topology::new(&sweep::unique_name())?;
    let service = service();
    let start =
        |version| FaultyServer::start(topology.backend(version), version, service.backends[version as usize][0]);
    let (v1, v2) = (start(Version::V1)?, start(Version::V2)?);
    let agent = Agent::start(&topology.lb, AgentConfig::new(vec![service.clone()])?)?;
    let clients = Impatient::start(&topology.client, service.endpoint())?;
    agent.text(&["start", "web"])?;
    sleep(LEARNING);
    let status = agent.service("web")?;
    ensure!(status["state"] == "progressing" && status["kernel_weight"] == 10.0, "before any fault: {status}");

    v2.set(Fault::Hang)?;
    let since = Instant::now();
    let is_off = |status: &serde_json::Value| status["state"] == "rolled-back" && status["kernel_weight"] == 0.0;
    let status = agent.wait_for("web", FOUND_MAX, is_off)?;
    eprintln!("rolled back {:?} after the server began to hang: {}", since.elapsed(), status["reason"]);
    let (answered, gave_up) = clients.stop()?;
    assert_eq!((v1.hung(), v2.hung()), (0, gave_up), "{answered} were answered");

    // Every connection that hung is an error of v2, once, however long one looks; nobody else's is one.
    let errors = |version: &str| -> Result<f64> {
        let page = agent.metrics()?;
        let of = |line: &&str| {
            line.starts_with("grayxdp_closed_unanswered_total{") && line.contains(&format!("version=\"{version}\""))
        };
        Ok(page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    };
    wait_until("all that hung are counted", Duration::from_secs(15), || {
        let counted = errors("v2")?;
        ensure!(counted >= gave_up as f64, "{counted} of {gave_up}");
        Ok(())
    })?;
    sleep(Duration::from_secs(3));
    assert_eq!((errors("v1")?, errors("v2")?), (0.0, gave_up as f64));
    Ok(())
}
