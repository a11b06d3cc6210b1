//! Faults of real servers, found by what passes through the kernel: how fast, on what evidence, and who is blamed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
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
    load::{Load, LoadPlan},
    netns::Netns,
    sweep,
    topology::{Family, Topology, Version},
    traffic::Connection,
};
use serde_json::Value;
use tokio::task::JoinSet;

const SOURCES: u16 = 5000;
/// Time for the judge to learn what v1 is like.
const LEARNING: Duration = Duration::from_secs(6);
const HELD_FOR: Duration = Duration::from_secs(12);

/// Hosts with servers that can go bad, and as many backends of each version.
struct Stage {
    topology: Topology,
    backends: [Vec<SocketAddr>; 2],
}

impl Stage {
    fn new(count: u16) -> Result<Self> {
        sweep::sweep()?;
        let topology = Topology::new(&sweep::unique_name())?;
        let of = |version| topology.more_backends(Family::V4, version, count);
        let backends = [of(Version::V1)?, of(Version::V2)?];
        Ok(Self { topology, backends })
    }

    fn servers(&self, version: Version) -> Result<Vec<FaultyServer<'_>>> {
        let addresses = &self.backends[usize::from(version == Version::V2)];
        let host = self.topology.backend(version);
        addresses.iter().map(|&address| FaultyServer::start(host, version, address)).collect()
    }

    /// A release that stays at 10 %, looked into as HTTP.
    fn service(&self) -> ServiceConfig {
        let [v1, v2] = self.backends.clone();
        let mut service = ServiceConfig::web(Family::V4)
            .with_schedule(r#"kind = "linear", from = 10, to = 100, step = 10, every = "1h""#)
            .with_backends(v1, v2);
        service.more = "observe = \"http1\"".to_owned();
        service
    }

    fn load(&self, service: &ServiceConfig, rate_per_s: u32) -> Result<Load> {
        let plan = LoadPlan {
            target: service.endpoint(),
            sources: Family::V4.sources(SOURCES),
            workers: 64,
            rate_per_s,
            keep_alive_starts: Vec::new(),
            keep_alive_pause: Duration::from_secs(1),
            time_max: Duration::from_secs(60),
        };
        Load::start(&self.topology.client, plan)
    }
}

/// Starts the release and lets the judge learn.
fn begin(agent: &Agent<'_>) -> Result<()> {
    agent.text(&["start", "web"])?;
    sleep(LEARNING);
    let status = agent.service("web")?;
    ensure!(status["state"] == "progressing" && status["kernel_weight"] == 10.0, "before any fault: {status}");
    Ok(())
}

/// How long it took to roll back, and what is said of it.
fn rolled_back(agent: &Agent<'_>, since: Instant, time_max: Duration) -> Result<(Duration, Value)> {
    let status =
        agent.wait_for("web", time_max, |status| status["state"] == "rolled-back" && status["kernel_weight"] == 0.0)?;
    Ok((since.elapsed(), status))
}

fn reason(status: &Value) -> &str {
    status["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_v2_that_is_500_ms_slower_is_rolled_back_within_10_s_at_200_connections_a_second() -> Result<()> {
    let stage = Stage::new(1)?;
    let (_v1, v2) = (stage.servers(Version::V1)?, stage.servers(Version::V2)?);
    let service = stage.service();
    let agent = Agent::start(&stage.topology.lb, AgentConfig::new(vec![service.clone()])?)?;
    let load = stage.load(&service, 200)?;
    begin(&agent)?;
    v2[0].set(Fault::Slow(Duration::from_millis(500)))?;
    let (took, status) = rolled_back(&agent, Instant::now(), Duration::from_secs(10))?;
    assert!(reason(&status).contains("latency"), "after {took:?}: {status}");
    load.stop()?;
    Ok(())
}

#[test]
fn one_bad_backend_of_three_is_named() -> Result<()> {
    let stage = Stage::new(3)?;
    let (_v1, v2) = (stage.servers(Version::V1)?, stage.servers(Version::V2)?);
    let service = stage.service();
    let agent = Agent::start(&stage.topology.lb, AgentConfig::new(vec![service.clone()])?)?;
    let load = stage.load(&service, 500)?;
    begin(&agent)?;
    v2[1].set(Fault::Errors { per_mille: 500 })?;
    let (took, status) = rolled_back(&agent, Instant::now(), Duration::from_secs(20))?;
    let bad = stage.backends[1][1].to_string();
    assert!(reason(&status).contains(&bad), "after {took:?}, not {bad}: {status}");
    load.stop()?;
    Ok(())
}

#[test]
fn a_fault_of_both_versions_at_once_holds_the_release_and_rolls_nothing_back() -> Result<()> {
    let stage = Stage::new(1)?;
    let (v1, v2) = (stage.servers(Version::V1)?, stage.servers(Version::V2)?);
    let mut service = stage.service();
    // A step that would come while both are bad.
    let step = LEARNING + Duration::from_secs(4);
    service.schedule = format!(r#"kind = "linear", from = 10, to = 100, step = 10, every = "{}s""#, step.as_secs());
    let agent = Agent::start(&stage.topology.lb, AgentConfig::new(vec![service.clone()])?)?;
    let load = stage.load(&service, 400)?;
    begin(&agent)?;
    for server in v1.iter().chain(&v2) {
        server.set(Fault::Errors { per_mille: 300 })?;
    }
    let until = Instant::now() + HELD_FOR;
    while Instant::now() < until {
        let status = agent.service("web")?;
        ensure!(status["state"] == "progressing" && status["kernel_weight"] == 10.0, "{status}");
        sleep(Duration::from_millis(500));
    }
    let status = agent.service("web")?;
    assert!(status["waits"].to_string().contains("v1 fails as v2 does"), "{status}");
    load.stop()?;
    Ok(())
}

/// Clients that keep their connections, and take every status.
struct Talkers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Talkers {
    fn start(client: &Netns, target: SocketAddr, connections: u16, pause: Duration) -> Result<Self> {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let job = {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            move || {
                runtime.block_on(async {
                    let mut tasks = JoinSet::new();
                    for (nth, source) in (0..).zip(Family::V4.sources(connections)) {
                        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                        tasks.spawn(async move {
                            // Spread over the pause, so that load is even.
                            tokio::time::sleep(pause * nth / u32::from(connections)).await;
                            talk(target, source, pause, stop, answered).await
                        });
                    }
                    tasks.join_all().await.into_iter().collect()
                })
            }
        };
        Ok(Self { thread: Some(client.spawn("talkers", job)?), stop, answered })
    }

    /// Ends the connections, each after its last answer; returns how many answers there were.
    fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))???;
        Ok(self.answered.load(Ordering::Relaxed))
    }
}

impl Drop for Talkers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn talk(
    target: SocketAddr,
    source: IpAddr,
    pause: Duration,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> Result<()> {
    let mut connection = Connection::open(target, source).await?;
    while !stop.load(Ordering::Relaxed) {
        connection.status().await?;
        answered.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

#[test]
fn five_percent_of_status_500_over_keep_alive_connections_are_found_within_15_s_and_counted_to_the_last() -> Result<()>
{
    let stage = Stage::new(1)?;
    let (v1, v2) = (stage.servers(Version::V1)?, stage.servers(Version::V2)?);
    for server in v1.iter().chain(&v2) {
        server.set(Fault::Errors { per_mille: 1 })?;
    }
    let service = stage.service();
    let agent = Agent::start(&stage.topology.lb, AgentConfig::new(vec![service.clone()])?)?;
    agent.text(&["start", "web"])?;
    // 200 requests a second; a tenth of the connections begin on v2, and stay there.
    let talkers = Talkers::start(&stage.topology.client, service.endpoint(), 400, Duration::from_secs(2))?;
    sleep(LEARNING);
    v2[0].set(Fault::Errors { per_mille: 50 })?;
    let (took, status) = rolled_back(&agent, Instant::now(), Duration::from_secs(15))?;
    assert!(reason(&status).contains("answers v2/v1"), "after {took:?}: {status}");
    let answered = talkers.stop()?;
    // The sum of what the servers have sent is what clients have got, and what the kernel has seen.
    let mut sent = BTreeMap::new();
    for (status, count) in v1[0].statuses().into_iter().chain(v2[0].statuses()) {
        *sent.entry(status).or_insert(0) += count;
    }
    assert_eq!(sent.values().sum::<u64>(), answered);
    let page = agent.metrics()?;
    let counted = |kind: &str| -> f64 {
        let of_kind = |line: &&str| line.starts_with("grayxdp_answers_total{") && line.contains(&format!("\"{kind}\""));
        page.lines().filter(of_kind).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let (good, bad) = (sent.get(&200).copied().unwrap_or(0), sent.get(&500).copied().unwrap_or(0));
    assert_eq!((counted("good"), counted("server_error")), (good as f64, bad as f64), "{page}");
    Ok(())
}
