//! The agent may die, end or be replaced at any time: traffic flows on, and the next agent goes on with the release.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context, Result};
use grayxdp_tests::{
    agent,
    config::{AgentConfig, ServiceConfig},
    load::{Load, Tally},
    process::Process,
    scene::Scene,
    topology::{Family, Version},
};
use rustix::process::Signal;
use serde_json::Value;

/// `ip netns exec` gives the agent a mount namespace of its own, without the BPF file system, that ends with it.
#[test]
fn an_agent_started_by_ip_netns_exec_leaves_traffic_flowing_when_it_is_killed() -> Result<()> {
    const START_MAX: Duration = Duration::from_secs(10);
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    agent::ensure_bpffs()?;
    let config = AgentConfig::new(vec![web.clone()])?;
    let lb = &scene.topology.lb;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", lb.name()]).arg(agent::binary()?).arg("run").arg("--config").arg(config.write()?);
    let mut process = Process::spawn("ip netns exec", command, &config.directory().join("outer.log"))?;
    process.wait_until("the first answer", START_MAX, || scene.ask(&web, 1))?;
    process.signal(Signal::KILL)?;
    process.wait_within(START_MAX)?;
    assert_eq!(scene.ask(&web, 2)?, Version::V1, "traffic ended with the agent");
    // Also removes what the killed one left.
    drop(agent::Agent::start(lb, config)?);
    Ok(())
}

#[test]
fn a_killed_agent_costs_no_request_and_the_next_one_goes_on_where_the_release_stood() -> Result<()> {
    let scene = Scene::new()?;
    let schedule = "kind = \"linear\", from = 0, to = 100, step = 10, every = \"1s\"";
    let web = ServiceConfig::web(Family::V4).with_schedule(schedule);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    agent.text(&["start", "web"])?;
    let before = agent.wait_for("web", Duration::from_secs(10), |status| weight(status) >= 30.0)?;
    agent.kill()?;

    // Nobody moves the weight meanwhile, and what moved stays moved.
    let clients = scene.ask_many(&web, 300)?;
    thread::sleep(Duration::from_secs(3));
    assert_eq!(scene.ask_many(&web, 300)?, clients);

    agent.restart()?;
    let after = agent.service("web")?;
    assert_eq!(after["state"], "progressing", "{after}");
    let (found, stood) = (weight(&after), weight(&before));
    assert!((stood..=stood + 20.0).contains(&found), "from {before} to {after}");
    let jump = elapsed(&after)? - elapsed(&before)?;
    assert!((-1.0..2.0).contains(&jump), "schedule time moved by {jump} s over a pause of three");
    agent.wait_for("web", Duration::from_secs(20), |status| status["state"] == "promoted")?;
    assert_eq!(scene.ask(&web, 1)?, Version::V2);

    let tally = Tally::of(&load.stop()?);
    eprintln!("{} requests, the slowest took {:?}", tally.answered, tally.slowest);
    assert_eq!(tally.failures, Vec::<String>::new());
    assert!(tally.answered > 1000, "{tally:?}");
    Ok(())
}

#[test]
fn a_weight_set_by_hand_and_the_counters_survive_a_killed_agent_on_ipv6() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V6);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 37.5)?;
    let clients = scene.ask_many(&web, 300)?;
    let flows = new_flows(&agent.service("web")?)?;
    assert!(flows >= 300, "{flows} flows");
    agent.kill()?;
    assert_eq!(scene.ask_many(&web, 300)?, clients);
    agent.restart()?;
    let status = agent.service("web")?;
    assert_eq!((weight(&status), &status["weight"]), (37.5, &Value::from(37.5)), "{status}");
    assert!(new_flows(&status)? >= flows + 300, "{flows} flows before, now {status}");
    assert_eq!(scene.ask_many(&web, 300)?, clients);
    Ok(())
}

#[test]
fn killing_it_again_and_again_under_traffic_costs_no_request() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    for weight in [20.0, 40.0, 60.0, 80.0, 100.0] {
        agent.set_weight("web", weight)?;
        agent.kill()?;
        agent.restart()?;
        assert_eq!(agent.service("web")?["kernel_weight"], weight);
    }
    let tally = Tally::of(&load.stop()?);
    assert_eq!(tally.failures, Vec::<String>::new());
    assert!(tally.answered > 200, "{tally:?}");
    Ok(())
}

#[test]
fn sigterm_ends_the_agent_in_order_and_leaves_traffic_flowing() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 50.0)?;
    let clients = scene.ask_many(&web, 300)?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    let status = agent.terminate()?;
    assert!(status.success(), "{status}: {}", agent.log());
    thread::sleep(Duration::from_secs(1));
    assert_eq!(scene.ask_many(&web, 300)?, clients);
    agent.restart()?;
    assert_eq!(agent.service("web")?["kernel_weight"], 50.0);
    let tally = Tally::of(&load.stop()?);
    assert_eq!(tally.failures, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_new_config_is_taken_up_by_a_restart_without_a_failed_request() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    thread::sleep(Duration::from_millis(500));
    agent.terminate()?;
    // v1's host leaves the pool of v1: its open connections stay, new ones go to the other host.
    agent.config_mut().services[0].backends.swap(0, 1);
    agent.restart()?;
    assert_eq!(scene.ask(&web, 1)?, Version::V2, "what is v1 now is v2's host");
    thread::sleep(Duration::from_millis(500));
    let tally = Tally::of(&load.stop()?);
    assert_eq!(tally.failures, Vec::<String>::new());
    assert!(tally.short_v2 > 0 && tally.short_v2 < tally.short, "{tally:?}");
    Ok(())
}

fn weight(status: &Value) -> f64 {
    status["kernel_weight"].as_f64().unwrap_or(f64::NAN)
}

fn elapsed(status: &Value) -> Result<f64> {
    status["schedule"]["elapsed_s"].as_f64().with_context(|| format!("no elapsed_s in {status}"))
}

fn new_flows(status: &Value) -> Result<u64> {
    let of = |version: &str| status["versions"][version]["new_flows"].as_u64();
    of("v1").zip(of("v2")).map(|(v1, v2)| v1 + v2).with_context(|| format!("no new_flows in {status}"))
}
