//! The release itself: starts everything, starts the schedule, watches until v2 has all new connections.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use grayxdp_tests::{
    agent::Agent,
    api,
    config::{AgentConfig, ServiceConfig},
    load::{Load, LoadPlan},
    scene::Scene,
    topology::{Family, Version},
};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    args::Args,
    record::Record,
    screen::{Progress, Screen},
    share::{self, Reading},
    summary::Summary,
};

const SERVICE: &str = "web";
/// Client addresses, far more than connections at one weight: each of those counts as a draw of its own.
const SOURCES: u16 = 20_000;
const CONNECTIONS_PER_S: u32 = 1500;
const WORKERS: u32 = 32;
/// Traffic at 0 % before the start, and at 100 % after the end.
const QUIET: Duration = Duration::from_secs(2);
/// How often the kernel's weight is read.
const READING_PERIOD: Duration = Duration::from_millis(40);
/// The schedule's end may be that late.
const GRACE: Duration = Duration::from_secs(20);

/// Runs it all; everything that was made is gone when this returns.
pub(crate) async fn run(args: &Args, screen: &mut Screen) -> Result<Summary> {
    let family = args.family();
    let ramp = args.ramp();
    let (step, every) = (ramp.step, ramp.every.as_millis());
    let schedule = format!(r#"kind = "linear", from = 0, to = 100, step = {step}, every = "{every}ms""#);
    let service = ServiceConfig::web(family).with_schedule(&schedule);

    let mut scene = Scene::new()?;
    screen.line("client ── lb (grayxdp) ── v1, v2: four network namespaces, nginx serves each version.");
    let config = AgentConfig::new(vec![service.clone()])?;
    let mut agent = Agent::start(&scene.topology.lb, config)?;
    scene.wait_for_answer(&service).context("the service does not answer")?;
    let load = Load::start(&scene.topology.client, plan(args, &service))?;
    screen.line(&format!("http://{}/ is served by v1. Release: {schedule}.", service.endpoint()));

    let mut watch = Watch {
        socket: agent.config().socket.clone(),
        record: Record::default(),
        readings: Vec::new(),
        began: Instant::now(),
        expected: args.release_time() + 2 * QUIET,
        state: String::new(),
    };
    let mut ticks = interval(READING_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut started = None;
    let mut done: Option<Instant> = None;
    while done.is_none_or(|done| done.elapsed() < QUIET) {
        ticks.tick().await;
        watch.look(&load, screen).await.map_err(|error| agent.cause_of(error))?;
        scene.v1.check_running()?;
        scene.v2.check_running()?;
        load.check_running()?;
        if started.is_none() && watch.began.elapsed() >= QUIET {
            let said = agent.text(&["start", SERVICE])?;
            screen.line(&format!("$ grayxdp start {SERVICE}\n{}", said.trim_end()));
            started = Some(Instant::now());
        }
        if done.is_none() && watch.state == "promoted" {
            done = Some(Instant::now());
        }
        if watch.began.elapsed() > watch.expected + GRACE {
            bail!("the release is {} after {:.0} s, and should be promoted", watch.state, watch.expected.as_secs_f64());
        }
    }
    watch.record.take(load.stop()?);
    Ok(watch.summary(family))
}

struct Watch {
    socket: PathBuf,
    record: Record,
    readings: Vec<Reading>,
    began: Instant,
    expected: Duration,
    state: String,
}

impl Watch {
    /// Reads the kernel's weight, takes in what clients saw, shows both.
    async fn look(&mut self, load: &Load, screen: &mut Screen) -> Result<()> {
        let asked = Instant::now();
        let status = api::service_status(&self.socket, SERVICE).await.context("the agent does not answer")?;
        let answered = Instant::now();
        let weight_percent = status["kernel_weight"].as_f64().context("no kernel_weight in the agent's status")?;
        self.readings.push(Reading { asked, answered, weight_percent });
        self.state = text(&status, "state");
        self.record.take(load.drain());
        let progress = Progress {
            elapsed: self.began.elapsed(),
            expected: self.expected,
            state: self.state.clone(),
            weight_percent,
            recent_share: self.record.recent_share(answered),
            requests: self.record.requests,
            failed: self.record.failed,
            keep_alive: Version::ALL.map(|version| self.record.keep_alive_on(version)),
        };
        screen.show(answered, &progress);
        Ok(())
    }

    fn summary(self, family: Family) -> Summary {
        Summary {
            family,
            seconds: self.began.elapsed().as_secs_f64(),
            final_weight: self.readings.last().map_or(0.0, |reading| reading.weight_percent),
            final_state: self.state,
            shares: share::shares(&self.readings, &self.record.short),
            record: self.record,
        }
    }
}

fn plan(args: &Args, service: &ServiceConfig) -> LoadPlan {
    let time = args.release_time() + 2 * QUIET;
    LoadPlan {
        target: service.endpoint(),
        sources: args.family().sources(SOURCES),
        workers: WORKERS,
        rate_per_s: CONNECTIONS_PER_S,
        // Half from the start, half one after the other.
        keep_alive_starts: (0..20).map(|_| Duration::ZERO).chain((0..20).map(|n| time * n / 20)).collect(),
        keep_alive_pause: Duration::from_millis(100),
        time_max: time + GRACE,
    }
}

fn text(status: &Value, key: &str) -> String {
    status[key].as_str().unwrap_or("?").to_owned()
}
