//! A release that watches itself: what becomes of it, what it says meanwhile, and the exit codes of whoever waits for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use grayxdp_tests::{
    agent::Agent,
    config::{AgentConfig, ServiceConfig},
    load::{Load, Tally},
    scene::Scene,
    topology::Family,
};

/// Two servers on one busy machine differ in times of some microseconds, which is not what is tested here.
const WHATEVER_THE_TIMES: &str = "analysis = { negligible_latency = \"20ms\" }";
/// Far above what it takes to see that nobody is there any more.
const FOUND_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_v2_that_is_gone_is_rolled_back_and_whoever_waits_hears_why() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut web = ServiceConfig::web(Family::V4)
        .with_schedule("kind = \"linear\", from = 10, to = 100, step = 10, every = \"1h\"");
    web.release = WHATEVER_THE_TIMES.to_owned();
    let plan = scene.load_plan(&web);
    let config = AgentConfig::new(vec![web])?;
    // The agent holds on to the network only, so that the server can be stopped.
    let Scene { v2, topology, .. } = &mut scene;
    let agent = Agent::start(&topology.lb, config)?;
    agent.text(&["start", "web"])?;
    let load = Load::start(&topology.client, plan)?;
    std::thread::sleep(Duration::from_secs(5));
    let before = agent.service("web")?;
    assert_eq!((&before["state"], &before["kernel_weight"]), (&"progressing".into(), &10.0.into()), "{before}");

    v2.stop()?;
    let stopped = Instant::now();
    let output = agent.cli(&["status", "web", "--wait", "--timeout", "60s"])?;
    let took = stopped.elapsed();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{said} {complaint}");
    assert!(took < FOUND_MAX, "{took:?}");
    let last = said.lines().last().context("a line")?;
    assert!(last.starts_with("web: v2 10.00 % → 0.00 %: rolled back from 10.00 %"), "{said}");
    assert!(complaint.contains("web was rolled back"), "{complaint}");

    let history = agent.json(&["history", "web", "--limit", "1"])?;
    let decision = &history["decisions"][0];
    assert!(["harm", "fuse"].map(Into::into).contains(&decision["rule"]), "{history}");
    assert!(decision["evidence"]["e2"].as_u64() > Some(0), "{history}");
    assert_eq!(agent.service("web")?["kernel_weight"], 0.0);
    load.stop()?;
    Ok(())
}

#[test]
fn a_v2_as_good_as_v1_waits_at_its_gate_and_is_promoted() -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(Family::V4)
        .with_schedule("kind = \"linear\", from = 0, to = 100, step = 25, every = \"2s\"");
    let release = "gates = [{ at = 50, pause = \"approve\" }]\nrollback_window = \"2s\"";
    web.release = format!("{release}\n{WHATEVER_THE_TIMES}");
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    let wait = |agent: &Agent<'_>, arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = agent.cli(&[&["status", "web"], arguments].concat())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout) + &text(&output.stderr)))
    };
    for (arguments, code, words) in [
        (&["--wait=nowhere"][..], 1, "promoted"),
        (&["--timeout", "5s"], 2, "--wait"),
        (&["--wait", "--timeout", "5s"], 1, "`grayxdp start web`"),
    ] {
        let (found, said) = wait(&agent, arguments)?;
        assert!(found == Some(code) && said.contains(words), "{arguments:?}: {found:?} {said}");
    }
    agent.text(&["start", "web"])?;
    for (arguments, code, words) in [
        (&["--wait", "--timeout", "1s"][..], 124, "not there within 1s"),
        (&["--wait=paused", "--timeout", "30s"], 0, "web: v2 25.00 % → 50.00 %: "),
        (&["--wait", "--timeout", "30s"], 3, "`approve`"),
    ] {
        let (found, said) = wait(&agent, arguments)?;
        assert!(found == Some(code) && said.contains(words), "{arguments:?}: {found:?} {said}");
    }
    agent.text(&["approve", "web"])?;
    let (found, said) = wait(&agent, &["--wait=done", "--timeout", "30s"])?;
    assert!(found == Some(0) && said.contains("web: v2 75.00 % → 100.00 %: "), "{found:?} {said}");
    // Each raise rests on what was counted.
    let history = agent.json(&["history", "web"])?;
    let decisions = history["decisions"].as_array().context("a list")?;
    let last = decisions.iter().rfind(|decision| decision["to"] == 75.0).context("a raise")?;
    assert!(last["evidence"]["n1"].as_u64() > Some(100) && last["evidence"]["n2"].as_u64() > Some(100), "{last}");
    assert_eq!(Tally::of(&load.stop()?).failures, Vec::<String>::new());

    agent.kill()?;
    let (found, said) = wait(&agent, &["--wait"])?;
    assert!(found == Some(5) && said.contains("no agent answers"), "{found:?} {said}");
    Ok(())
}
