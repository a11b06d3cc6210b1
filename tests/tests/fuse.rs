//! The kernel itself sends new connections back to v1, with the agent dead or alive.

use anyhow::{Result, ensure};
use grayxdp_tests::{
    agent::Agent,
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
