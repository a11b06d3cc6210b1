//! `grayxdp detach` takes everything down: no program on a device, no pin, nothing left in the kernel.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::{AgentConfig, ServiceConfig},
    netns::Netns,
    process::{run, wait_until},
    scene::Scene,
    server::HTTP_PORT,
    topology::{Family, LB_DEVICES, Version},
    traffic::ask_once,
};
use serde_json::Value;

#[test]
fn detach_asks_a_running_agent_to_take_everything_down_and_end() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    assert_eq!(scene.wait_for_answer(&web)?, Version::V1);
    let programs = attached_programs(&scene.topology.lb)?;
    assert_eq!(programs.len(), LB_DEVICES.len(), "one on each device");
    let output = agent.detach()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(agent.wait()?.success(), "{}", agent.log());
    assert_all_down(&scene, &agent, &programs)
}

#[test]
fn detach_without_an_agent_takes_down_what_a_killed_one_left() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V6);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 100.0)?;
    let programs = attached_programs(&scene.topology.lb)?;
    agent.kill()?;
    assert_eq!(scene.ask(&web, 1)?, Version::V2, "it still works");
    let output = agent.detach()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_all_down(&scene, &agent, &programs)?;
    assert!(agent.detach()?.status.success(), "nothing to take down is no error");
    agent.restart()?;
    scene.wait_for_answer(&web).map(drop)
}

#[test]
fn generic_mode_serves_too_and_is_told() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut config = AgentConfig::new(vec![web.clone()])?;
    config.xdp_mode = "generic";
    let agent = Agent::start(&scene.topology.lb, config)?;
    assert_eq!(modes(&agent)?, ["generic"; 3]);
    assert_eq!(scene.wait_for_answer(&web)?, Version::V1);
    agent.set_weight("web", 100.0)?;
    assert!(scene.ask_many(&web, 200)?.iter().all(|version| *version == Version::V2));
    Ok(())
}

#[test]
fn auto_mode_falls_back_to_generic_where_the_driver_has_no_native_xdp() -> Result<()> {
    let scene = Scene::new()?;
    let mut config = AgentConfig::new(vec![ServiceConfig::web(Family::V4)])?;
    config.xdp_mode = "auto";
    config.interfaces = vec!["to-client".to_owned(), "lo".to_owned()];
    let agent = Agent::start(&scene.topology.lb, config)?;
    assert_eq!(modes(&agent)?, ["native", "generic"]);
    assert!(agent.log().contains("generic"), "the log tells: {}", agent.log());
    Ok(())
}

fn modes(agent: &Agent<'_>) -> Result<Vec<String>> {
    let status = agent.json(&["status"])?;
    let interfaces = status["interfaces"].as_array().with_context(|| format!("no interfaces in {status}"))?;
    Ok(interfaces.iter().map(|interface| interface["mode"].as_str().unwrap_or_default().to_owned()).collect())
}

fn assert_all_down(scene: &Scene, agent: &Agent<'_>, programs: &[u64]) -> Result<()> {
    assert!(!agent.config().bpffs.exists(), "pins: {:?}", fs::read_dir(&agent.config().bpffs)?.collect::<Vec<_>>());
    assert_eq!(attached_programs(&scene.topology.lb)?, Vec::<u64>::new());
    // The kernel frees programs a little later.
    wait_until("the programs are gone", Duration::from_secs(10), || {
        let loaded = ids(&bpftool("prog")?, "id")?;
        let linked = ids(&bpftool("link")?, "prog_id")?;
        ensure!(!programs.iter().any(|program| loaded.contains(program)), "still loaded: {programs:?}");
        ensure!(!programs.iter().any(|program| linked.contains(program)), "still linked: {programs:?}");
        Ok(())
    })?;
    // Nobody answers for the VIP, and everything else is routed as ever.
    let client = &scene.topology.client;
    for family in Family::ALL {
        let backend = family.backend_endpoint(Version::V2, HTTP_PORT);
        assert_eq!(client.block_on(ask_once(backend, family.source(9)))?.version, Version::V2);
        let vip = (family.vip(), 80).into();
        assert!(client.block_on(ask_once(vip, family.source(9))).is_err(), "{vip} still answers");
    }
    Ok(())
}

/// Ids of the XDP programs on a host's devices.
fn attached_programs(host: &Netns) -> Result<Vec<u64>> {
    let links: Value = serde_json::from_str(&host.ip(&["-j", "-d", "link", "show"])?)?;
    let links = links.as_array().context("no list of links")?;
    Ok(links.iter().filter_map(|link| link["xdp"]["prog"]["id"].as_u64()).collect())
}

fn bpftool(what: &str) -> Result<Value> {
    let mut command = Command::new("bpftool");
    command.args(["-j", what, "show"]);
    Ok(serde_json::from_str(&run(command)?)?)
}

fn ids(list: &Value, key: &str) -> Result<Vec<u64>> {
    let list = list.as_array().context("not a list")?;
    Ok(list.iter().filter_map(|entry| entry[key].as_u64()).collect())
}
