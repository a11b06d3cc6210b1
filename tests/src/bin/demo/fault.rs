//! A release whose v2 goes bad half-way: what the closed loop does about it, and how fast.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use grayxdp_tests::{
    agent::Agent,
    api,
    config::{AgentConfig, ServiceConfig},
    faulty::{Fault, FaultyServer},
    load::{Load, LoadPlan},
    process::wait_until,
    sweep,
    topology::{Topology, Version},
    traffic::ask_once,
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    args::Args,
    record::Record,
    screen::{BAD, GOOD, Progress, Screen},
};

const SERVICE: &str = "web";
const SOURCES: u16 = 20_000;
const CONNECTIONS_PER_S: u32 = 500;
/// Some wait for a server that is silent; the others go on.
const WORKERS: u32 = 256;
const KEEP_ALIVE: u32 = 20;
const READING_PERIOD: Duration = Duration::from_millis(20);
/// Good traffic before the start, and after the rollback.
const QUIET: Duration = Duration::from_secs(2);
/// The weight at which v2 goes bad, in percent.
const FAULT_AT: f64 = 20.0;
/// Backends of each version; with one, nobody could stand out.
const BACKENDS: u16 = 3;
/// How long the loop may take; far more than it should.
const DETECTION_MAX: Duration = Duration::from_secs(60);

/// How v2 goes bad.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum FaultKind {
    /// 5 % of the answers are HTTP 500.
    Errors,
    /// Every answer comes 500 ms later.
    Latency,
    /// Nobody listens any more.
    Refuse,
    /// The host swallows all packets.
    Blackhole,
    /// One of three backends answers half of its requests with HTTP 500.
    FlakyBackend,
}

impl FaultKind {
    const fn fault(self) -> Fault {
        match self {
            Self::Errors => Fault::Errors { per_mille: 50 },
            Self::Latency => Fault::Slow(Duration::from_millis(500)),
            Self::Refuse => Fault::Refuse,
            Self::Blackhole => Fault::Blackhole,
            Self::FlakyBackend => Fault::Errors { per_mille: 500 },
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Errors => "answers 5 % of all requests with HTTP 500",
            Self::Latency => "answers 500 ms later",
            Self::Refuse => "refuses new connections",
            Self::Blackhole => "swallows every packet",
            Self::FlakyBackend => "has one backend of three that answers every second request with HTTP 500",
        }
    }
}

/// What came of it.
pub(crate) struct FaultSummary {
    kind: FaultKind,
    record: Record,
    seconds: f64,
    weight_at_fault: f64,
    final_state: String,
    final_weight: f64,
    reason: String,
    /// From the first bad answer to the weight 0 in the kernel.
    detection: Option<Duration>,
    /// Of requests that began after the rollback.
    failed_after: u64,
    bad_backend: Option<SocketAddr>,
}

/// Runs it all; everything that was made is gone when this returns.
pub(crate) async fn run(args: &Args, kind: FaultKind, screen: &mut Screen) -> Result<FaultSummary> {
    sweep::sweep()?;
    let family = args.family();
    let topology = Topology::new(&sweep::unique_name())?;
    let [v1, v2] = Version::ALL.map(|version| topology.more_backends(family, version, BACKENDS));
    let (v1, v2) = (v1?, v2?);
    let start = |version, addresses: &[SocketAddr]| -> Result<Vec<FaultyServer<'_>>> {
        let host = topology.backend(version);
        addresses.iter().map(|&address| FaultyServer::start(host, version, address)).collect()
    };
    let _good = start(Version::V1, &v1)?;
    let servers = start(Version::V2, &v2)?;
    let (step, every) = (10, args.release_time() / 10);
    let schedule = format!(r#"kind = "linear", from = 0, to = 100, step = {step}, every = "{}ms""#, every.as_millis());
    let mut service = ServiceConfig::web(family).with_schedule(&schedule).with_backends(v1, v2.clone());
    // No error of HTTP can be seen below HTTP.
    service.more = "observe = \"http1\"".to_owned();
    let mut agent = Agent::start(&topology.lb, AgentConfig::new(vec![service.clone()])?)?;
    screen.line("client ── lb (grayxdp) ── v1, v2: three backends each, real HTTP servers in network namespaces.");
    let first = || topology.client.block_on(ask_once(service.endpoint(), family.source(1)));
    wait_until("the service answers", Duration::from_secs(10), first)?;
    let load = Load::start(&topology.client, plan(args, &service))?;
    screen.line(&format!("http://{}/ is served by v1. Release: {schedule}.", service.endpoint()));

    let mut watch = Watch::new(agent.config().socket.clone(), args);
    let mut course = Course::new(kind, &servers);
    let mut ticks = interval(READING_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !course.is_over() {
        ticks.tick().await;
        watch.look(&load, screen).await.map_err(|error| agent.cause_of(error))?;
        load.check_running()?;
        course.go_on(&agent, &watch, screen)?;
    }
    watch.record.take(load.stop()?);
    let first_bad = servers.iter().filter_map(FaultyServer::first_bad).min();
    let (_, weight_at_fault) = course.fault_at.context("the weight never got to where v2 goes bad")?;
    let ended = course.ended;
    // A client that waits in vain has not failed yet when the rollback comes; what began later must not fail.
    let settled = ended.map(|ended| ended + Duration::from_millis(100));
    Ok(FaultSummary {
        kind,
        seconds: watch.began.elapsed().as_secs_f64(),
        weight_at_fault,
        detection: ended.zip(first_bad).map(|(ended, bad)| ended.saturating_duration_since(bad)),
        failed_after: settled.map_or(0, |settled| watch.record.failed_since(settled)),
        final_state: watch.state,
        final_weight: watch.weight,
        reason: watch.reason,
        record: watch.record,
        bad_backend: (kind == FaultKind::FlakyBackend).then(|| v2.first().copied()).flatten(),
    })
}

/// What happens when.
struct Course<'s, 'h> {
    kind: FaultKind,
    servers: &'s [FaultyServer<'h>],
    started: bool,
    /// When v2 went bad, and at which weight.
    fault_at: Option<(Instant, f64)>,
    /// When the release was rolled back.
    ended: Option<Instant>,
}

impl<'s, 'h> Course<'s, 'h> {
    fn new(kind: FaultKind, servers: &'s [FaultyServer<'h>]) -> Self {
        Self { kind, servers, started: false, fault_at: None, ended: None }
    }

    /// Rolled back, and quiet since; or bad for so long that nothing more will come.
    fn is_over(&self) -> bool {
        let waited_in_vain = self.fault_at.is_some_and(|(at, _)| at.elapsed() > DETECTION_MAX);
        self.ended.map_or(waited_in_vain, |ended| ended.elapsed() >= QUIET)
    }

    fn go_on(&mut self, agent: &Agent<'_>, watch: &Watch, screen: &mut Screen) -> Result<()> {
        if !self.started && watch.began.elapsed() >= QUIET {
            self.started = true;
            let said = agent.text(&["start", SERVICE])?;
            screen.line(&format!("$ grayxdp start {SERVICE}\n{}", said.trim_end()));
        }
        if self.fault_at.is_none() && watch.weight >= FAULT_AT {
            let bad = if self.kind == FaultKind::FlakyBackend { &self.servers[..1] } else { self.servers };
            bad.iter().try_for_each(|server| server.set(self.kind.fault()))?;
            screen.line(&format!("At {:.2} %, v2 {} from now on.", watch.weight, self.kind.sentence()));
            self.fault_at = Some((Instant::now(), watch.weight));
        }
        if self.fault_at.is_some() && self.ended.is_none() && watch.state == "rolled-back" && watch.weight == 0.0 {
            self.ended = Some(Instant::now());
        }
        if watch.began.elapsed() > watch.expected + DETECTION_MAX {
            let seconds = watch.began.elapsed().as_secs_f64();
            bail!("the release is {} after {seconds:.0} s: {}", watch.state, watch.reason);
        }
        Ok(())
    }
}

fn plan(args: &Args, service: &ServiceConfig) -> LoadPlan {
    let time = args.release_time() + DETECTION_MAX + 2 * QUIET;
    LoadPlan {
        target: service.endpoint(),
        sources: args.family().sources(SOURCES),
        workers: WORKERS,
        rate_per_s: CONNECTIONS_PER_S,
        keep_alive_starts: (0..KEEP_ALIVE).map(|_| Duration::ZERO).collect(),
        keep_alive_pause: Duration::from_millis(100),
        time_max: time,
    }
}

struct Watch {
    socket: PathBuf,
    record: Record,
    began: Instant,
    expected: Duration,
    weight: f64,
    state: String,
    reason: String,
}

impl Watch {
    fn new(socket: PathBuf, args: &Args) -> Self {
        Self {
            socket,
            record: Record::default(),
            began: Instant::now(),
            expected: args.release_time() + 2 * QUIET,
            weight: 0.0,
            state: String::new(),
            reason: String::new(),
        }
    }

    async fn look(&mut self, load: &Load, screen: &mut Screen) -> Result<()> {
        let status = api::service_status(&self.socket, SERVICE).await.context("the agent does not answer")?;
        let now = Instant::now();
        self.weight = status["kernel_weight"].as_f64().context("no kernel_weight in the agent's status")?;
        let text = |key: &str| status[key].as_str().unwrap_or("?").to_owned();
        (self.state, self.reason) = (text("state"), text("reason"));
        self.record.take(load.drain());
        let progress = Progress {
            elapsed: self.began.elapsed(),
            expected: self.expected,
            state: self.state.clone(),
            weight_percent: self.weight,
            recent_share: self.record.recent_share(now),
            requests: self.record.requests,
            failed: self.record.failed,
            keep_alive: Version::ALL.map(|version| self.record.keep_alive_on(version)),
        };
        screen.show(now, &progress);
        Ok(())
    }
}

impl FaultSummary {
    /// Whether the release was rolled back, and the clients who came afterwards noticed nothing.
    pub(crate) fn is_good(&self) -> bool {
        self.final_state == "rolled-back" && self.final_weight == 0.0 && self.failed_after == 0 && self.names_backend()
    }

    fn names_backend(&self) -> bool {
        self.bad_backend.is_none_or(|backend| self.reason.contains(&backend.to_string()))
    }

    pub(crate) fn print(&self, screen: &mut Screen) {
        screen.line("");
        if let Some(detection) = self.detection {
            screen.line(&format!(
                "From v2's first bad answer to weight 0 in the kernel: {:.2} s, at {:.2} %.",
                detection.as_secs_f64(),
                self.weight_at_fault
            ));
        }
        screen.line(&format!("The agent says: {}.", self.reason.trim_end_matches('.')));
        screen.line(&format!(
            "{} requests in {:.1} s; {} failed, of them {} that began after the rollback.",
            self.record.requests, self.seconds, self.record.failed, self.failed_after
        ));
        for cause in &self.record.causes {
            screen.line(&format!("  failed: {cause}"));
        }
        let verdict = if self.is_good() {
            screen.paint("Rolled back by itself: clients are on v1, and nothing fails any more.", GOOD)
        } else {
            screen.paint(&format!("Not as promised: {}.", self.faults().join("; ")), BAD)
        };
        screen.line(&verdict);
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.final_state != "rolled-back" || self.final_weight != 0.0 {
            faults.push(format!("the release is {} at {:.2} %", self.final_state, self.final_weight));
        }
        if self.failed_after > 0 {
            faults.push(format!("{} requests failed after the rollback", self.failed_after));
        }
        if !self.names_backend() {
            faults.push("the report does not name the bad backend".to_owned());
        }
        faults
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "fault": self.kind.to_possible_value().map(|value| value.get_name().to_owned()),
            "requests": self.record.requests,
            "failed": self.record.failed,
            "failed_after_rollback": self.failed_after,
            "weight_at_fault": self.weight_at_fault,
            "final_weight": self.final_weight,
            "final_state": self.final_state,
            "detection_s": self.detection.map(|detection| detection.as_secs_f64()),
            "evidence": self.reason,
            "seconds": self.seconds,
            "ok": self.is_good(),
        })
    }
}
