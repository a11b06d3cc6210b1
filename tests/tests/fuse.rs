//! The kernel itself sends new connections back to v1, with the agent dead or alive.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    api,
    config::ServiceConfig,
    scene::Scene,
    topology::{Family, Version},
};

const BUDGET: u16 = 10;

fn fused(family: Family) -> ServiceConfig {
    let mut web = ServiceConfig::web(family);
    web.more = format!("fuse = {{ failures = {BUDGET}, window = \"30s\" }}");
    web
}

fn is_blown(agent: &Agent<'_>) -> Result<bool> {
    Ok(agent.metrics()?.lines().any(|line| line == "grayxdp_fuse_blown{service=\"web\"} 1.0"))
}

#[test]
fn a_v2_that_refuses_gets_its_budget_and_no_more_also_with_the_agent_killed_on_ipv4() -> Result<()> {
    refuses(Family::V4)
}

#[test]
fn a_v2_that_refuses_gets_its_budget_and_no_more_also_with_the_agent_killed_on_ipv6() -> Result<()> {
    refuses(Family::V6)
}

fn refuses(family: Family) -> Result<()> {
    let mut scene = Scene::new()?;
    scene.v2.stop()?;
    let web = fused(family);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    agent.set_weight("web", 50.0)?;
    ensure!(!is_blown(&agent)?, "it is whole");
    agent.kill()?;
    let mut failures = 0;
    for source in 1..=500 {
        match scene.ask(&web, source) {
            Ok(version) => assert_eq!(version, Version::V1),
            Err(_) => failures += 1,
        }
    }
    assert_eq!(failures, BUDGET, "connections that v2 refused");
    agent.restart()?;
    ensure!(is_blown(&agent)?, "the next agent knows of it");
    assert_eq!(scene.ask(&web, 1)?, Version::V1);
    Ok(())
}

#[test]
fn a_fault_that_both_versions_share_blows_no_fuse() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.v1.stop()?;
    scene.v2.stop()?;
    let web = fused(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 50.0)?;
    for source in 1..=200 {
        ensure!(scene.ask(&web, source).is_err(), "nobody listens");
    }
    ensure!(!is_blown(&agent)?, "both failed alike");
    Ok(())
}

/// The kernel tells the agent of it: it does not wait for its next tick, which comes ten times a second.
#[test]
fn the_agent_hears_of_a_blown_fuse_at_once() -> Result<()> {
    /// By ticks alone it would be later than this three times in five, and on time in eight tries of ten once in eighty.
    const SOON: Duration = Duration::from_millis(40);
    const TRIES: usize = 10;
    const SOON_ENOUGH: usize = 8;

    let mut scene = Scene::new()?;
    scene.v2.stop()?;
    let web = fused(Family::V4).with_schedule("kind = \"linear\", from = 50, to = 100, step = 1, every = \"1h\"");
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    let mut delays = Vec::new();
    for _ in 0..TRIES {
        agent.text(&["start", "web"])?;
        let mut failures = 0;
        for source in 1..=500 {
            failures += u16::from(scene.ask(&web, source).is_err());
            if failures == BUDGET {
                break;
            }
        }
        let blown = Instant::now();
        assert_eq!(failures, BUDGET, "connections that v2 refused");
        let socket = &agent.config().socket;
        let state = || scene.topology.lb.block_on(api::service_status(socket, "web"));
        while state()?["state"] != "rolled-back" {
            ensure!(blown.elapsed() < Duration::from_secs(5), "nobody told the agent: {}", agent.log());
        }
        delays.push(blown.elapsed());
        let history = agent.json(&["history", "web"])?;
        let last = history["decisions"].as_array().and_then(|all| all.last()).context("decisions")?;
        assert_eq!((last["rule"].as_str(), last["to"].as_f64()), (Some("fuse"), Some(0.0)), "{last}");
    }
    let soon = delays.iter().filter(|delay| **delay < SOON).count();
    ensure!(soon >= SOON_ENOUGH, "recorded after {delays:?}");
    Ok(())
}
