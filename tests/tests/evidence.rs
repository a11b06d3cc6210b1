//! The agent dies in the middle of a release that it watches: nothing that was gathered is lost, nothing is counted twice, and
//! what begins while nobody looks is found.

use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::{AgentConfig, ServiceConfig},
    faulty::{Fault, FaultyServer},
    load::{Load, LoadPlan},
    process::wait_until,
    sweep,
    topology::{Family, Topology, Version},
};
use serde_json::Value;

const GATHERED_FOR: Duration = Duration::from_secs(6);
const DEAD_FOR: Duration = Duration::from_secs(3);

/// How an agent ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Killed,
    Terminated,
}

impl End {
    fn of(self, agent: &mut Agent<'_>) -> Result<()> {
        match self {
            Self::Killed => agent.kill().map(drop),
            Self::Terminated => agent.terminate().map(drop),
        }
    }
}

struct Stage {
    topology: Topology,
    service: ServiceConfig,
}

impl Stage {
    /// A service whose responses are read as HTTP.
    fn new(schedule: &str) -> Result<Self> {
        sweep::sweep()?;
        let topology = Topology::new(&sweep::unique_name())?;
        let mut service = ServiceConfig::web(Family::V4).with_schedule(schedule);
        service.more = "observe = \"http1\"".to_owned();
        // Two servers on one busy machine differ in times of some milliseconds, which is not what is tested here.
        service.release = "analysis = { negligible_latency = \"50ms\" }".to_owned();
        Ok(Self { topology, service })
    }

    fn server(&self, version: Version) -> Result<FaultyServer<'_>> {
        let backend = Family::V4.backend_endpoint(version, grayxdp_tests::server::HTTP_PORT);
        FaultyServer::start(self.topology.backend(version), version, backend)
    }

    fn agent(&self) -> Result<Agent<'_>> {
        Agent::start(&self.topology.lb, AgentConfig::new(vec![self.service.clone()])?)
    }

    /// 200 connections a second, whose status does not matter.
    fn load(&self) -> Result<Load> {
        let plan = LoadPlan {
            target: self.service.endpoint(),
            sources: Family::V4.sources(5000),
            workers: 32,
            rate_per_s: 200,
            keep_alive_starts: Vec::new(),
            keep_alive_pause: Duration::from_secs(1),
            time_max: Duration::from_secs(90),
        };
        Load::start(&self.topology.client, plan)
    }
}

/// The sum of a metric's values, over lines that contain all of `labels`.
fn metric(agent: &Agent<'_>, name: &str, labels: &[&str]) -> Result<f64> {
    let page = agent.metrics()?;
    let of = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|each| line.contains(each))
    };
    Ok(page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

fn status_counts(servers: [&FaultyServer<'_>; 2]) -> BTreeMap<u16, u64> {
    let mut sum = BTreeMap::new();
    for (status, count) in servers.into_iter().flat_map(FaultyServer::statuses) {
        *sum.entry(status).or_insert(0) += count;
    }
    sum
}

/// n1, n2, e1, e2 of status codes, which are what is least clear here: all else shows no fault at all.
fn gathered(status: &Value) -> Result<[u64; 4]> {
    let evidence = &status["judgement"]["evidence"];
    ensure!(evidence["signal"] == "answers", "{status}");
    let number = |key: &str| evidence[key].as_u64().with_context(|| format!("no {key} in {status}"));
    Ok([number("n1")?, number("n2")?, number("e1")?, number("e2")?])
}

fn no_evidence_is_lost_or_counted_twice(end: End) -> Result<()> {
    let stage = Stage::new(r#"kind = "linear", from = 20, to = 100, step = 10, every = "1h""#)?;
    let (v1, v2) = (stage.server(Version::V1)?, stage.server(Version::V2)?);
    let mut agent = stage.agent()?;
    // Both fail alike, and so rarely that little follows from it: it is the evidence that is shown.
    for server in [&v1, &v2] {
        server.set(Fault::Errors { per_mille: 5 })?;
    }
    agent.text(&["start", "web"])?;
    // Counting begins with the first look.
    sleep(Duration::from_secs(2));
    let load = stage.load()?;
    sleep(GATHERED_FOR);
    let before = agent.service("web")?;
    let (seen, elapsed) = (gathered(&before)?, before["schedule"]["elapsed_s"].as_f64().context("elapsed_s")?);
    ensure!(seen[0] > 300 && seen[1] > 50, "{before}");

    end.of(&mut agent)?;
    sleep(DEAD_FOR);
    agent.restart()?;
    // The first look of the new agent.
    let after = agent.wait_for("web", Duration::from_secs(5), |status| !status["judgement"]["evidence"].is_null())?;
    ensure!(after["state"] == "progressing" && after["kernel_weight"] == 20.0, "{after}");
    let now = gathered(&after)?;
    ensure!(seen.iter().zip(&now).all(|(seen, now)| seen <= now), "{end:?}: {seen:?} before, {now:?} after");
    let jump = after["schedule"]["elapsed_s"].as_f64().context("elapsed_s")? - elapsed;
    ensure!((-1.0..3.0).contains(&jump), "schedule time moved by {jump} s");
    sleep(Duration::from_secs(2));
    let events = load.stop()?.len() as u64;

    // What servers have answered, the kernel has counted, and the judge has taken in; to the last.
    let sent = status_counts([&v1, &v2]);
    let (good, bad) = (sent.get(&200).copied().unwrap_or(0), sent.get(&500).copied().unwrap_or(0));
    assert_eq!(good + bad, events);
    assert_eq!(metric(&agent, "grayxdp_tracked_flows_total", &[])?, events as f64);
    assert_eq!(metric(&agent, "grayxdp_answers_total", &["\"good\""])?, good as f64);
    assert_eq!(metric(&agent, "grayxdp_answers_total", &["\"server_error\""])?, bad as f64);
    let of_v2 = v2.statuses();
    wait_until("the judge has taken in all, and no more", Duration::from_secs(5), || {
        let status = agent.service("web")?;
        let [n1, n2, e1, e2] = gathered(&status)?;
        let sent2: u64 = of_v2.values().sum();
        ensure!((n1 + n2, n2) == (events, sent2), "{n1} + {n2} of {events}, {sent2} of v2: {status}");
        let bad2 = of_v2.get(&500).copied().unwrap_or(0);
        ensure!((e1, e2) == (bad - bad2, bad2), "{e1}, {e2} of {bad}, {bad2} of v2: {status}");
        Ok(())
    })
}

#[test]
fn a_killed_agent_loses_no_evidence_and_counts_nothing_twice() -> Result<()> {
    no_evidence_is_lost_or_counted_twice(End::Killed)
}

#[test]
fn an_agent_that_is_asked_to_end_loses_no_evidence_and_counts_nothing_twice() -> Result<()> {
    no_evidence_is_lost_or_counted_twice(End::Terminated)
}

#[test]
fn a_fault_that_begins_while_no_agent_runs_is_found_by_the_next_one() -> Result<()> {
    let stage = Stage::new(r#"kind = "linear", from = 20, to = 100, step = 10, every = "1h""#)?;
    let (_v1, v2) = (stage.server(Version::V1)?, stage.server(Version::V2)?);
    let mut agent = stage.agent()?;
    agent.text(&["start", "web"])?;
    let load = stage.load()?;
    sleep(GATHERED_FOR);
    agent.kill()?;
    v2.set(Fault::Errors { per_mille: 300 })?;
    sleep(DEAD_FOR);
    agent.restart()?;
    let restarted = Instant::now();
    let is_off = |status: &Value| status["state"] == "rolled-back" && status["kernel_weight"] == 0.0;
    let status = agent.wait_for("web", Duration::from_secs(10), is_off)?;
    eprintln!("rolled back {:?} after the start: {}", restarted.elapsed(), status["reason"]);
    let decision = &agent.json(&["history", "web", "--limit", "1"])?["decisions"][0];
    let counted = |key: &str| decision["evidence"][key].as_u64().unwrap_or(0);
    // What came before it died is in the figures, and what came while it was dead.
    assert!(counted("n1") + counted("n2") >= 200 * (GATHERED_FOR + DEAD_FOR).as_secs() * 3 / 4, "{decision}");
    assert!(counted("e2") > 0, "{decision}");
    load.stop()?;
    Ok(())
}

#[test]
fn an_agent_that_dies_at_every_step_comes_to_the_end_of_the_schedule_all_the_same() -> Result<()> {
    let stage = Stage::new(r#"kind = "linear", from = 20, to = 100, step = 20, every = "1500ms""#)?;
    let (_v1, _v2) = (stage.server(Version::V1)?, stage.server(Version::V2)?);
    let mut agent = stage.agent()?;
    let load = stage.load()?;
    agent.text(&["start", "web"])?;
    let mut last = 0.0;
    for end in [End::Killed, End::Terminated, End::Killed] {
        let status =
            agent.wait_for("web", Duration::from_secs(15), |status| status["kernel_weight"].as_f64() > Some(last))?;
        last = status["kernel_weight"].as_f64().context("a weight")?;
        end.of(&mut agent)?;
        // Far longer than a step: nobody moves anything meanwhile.
        sleep(DEAD_FOR);
        agent.restart()?;
        let after = agent.service("web")?;
        let weight = after["kernel_weight"].as_f64().context("a weight")?;
        ensure!((last..=last + 20.0).contains(&weight), "{end:?}: from {last} to {after}");
    }
    agent.wait_for("web", Duration::from_secs(20), |status| status["state"] == "promoted")?;
    let failed: Vec<_> =
        load.stop()?.into_iter().filter(|event| matches!(event, grayxdp_tests::load::Event::Failed { .. })).collect();
    assert!(failed.is_empty(), "{failed:?}");
    Ok(())
}
