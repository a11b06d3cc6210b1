//! A backend that dies gets no new connections within its checks' time, and gets them again when it is back; a version
//! of which nobody is live leaves its share to the other one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::ServiceConfig,
    load::{Load, Tally},
    scene::Scene,
    server::{HTTP_PORT, HttpServer},
    topology::{Family, HOST_DEVICE, Version, in_its_network},
};
use serde_json::Value;

const CHECK: &str = "check = \"http\"\npath = \"/\"\nevery = \"200ms\"\ntimeout = \"100ms\"\nrise = 2\nfall = 2";
/// Far above what two failed checks take.
const CHANGE_MAX: Duration = Duration::from_secs(10);

#[test]
fn a_backend_that_dies_is_left_out_until_it_is_back_on_ipv4() -> Result<()> {
    one_of_two(Family::V4)
}

#[test]
fn a_backend_that_dies_is_left_out_until_it_is_back_on_ipv6() -> Result<()> {
    one_of_two(Family::V6)
}

#[test]
fn a_version_without_a_live_backend_leaves_its_share_to_the_other_one() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut web = ServiceConfig::web(Family::V4);
    web.health = Some(CHECK.to_owned());
    let config = grayxdp_tests::config::AgentConfig::new(vec![web.clone()])?;
    // The agent holds on to the network only, so that servers can be stopped.
    let Scene { v2, topology, .. } = &mut scene;
    let agent = Agent::start(&topology.lb, config)?;
    agent.set_weight("web", 100.0)?;
    wait_for_answer(topology, &web, Version::V2)?;

    stop(v2, topology)?;
    let down = agent.wait_for("web", CHANGE_MAX, |status| state(status, "v2", 0) == "down")?;
    assert_eq!(down["warning"], "v2 has no live backend: new connections meant for it go to the other version");
    wait_for_answer(topology, &web, Version::V1)?;
    let after = agent.service("web")?;
    assert!(after["versions"]["v1"]["fallback_flows"].as_u64() >= Some(1), "{after}");
    assert_eq!(after["weight"], 100.0, "the weight is what people have set");
    let log = agent.log();
    assert!(log.contains("backend_down") && log.contains("version_down"), "{log}");

    *v2 = HttpServer::start(topology.backend(Version::V2), Version::V2)?;
    let up = agent.wait_for("web", CHANGE_MAX, |status| state(status, "v2", 0) == "live")?;
    assert_eq!(up["warning"], Value::Null);
    wait_for_answer(topology, &web, Version::V2)?;
    assert!(agent.log().contains("backend_live"));
    Ok(())
}

#[test]
fn checks_that_find_nobody_alive_are_not_gone_by() -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(Family::V4);
    web.health = Some(CHECK.replace("path = \"/\"", "path = \"/nothing-there\""));
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let status = agent
        .wait_for("web", CHANGE_MAX, |status| state(status, "v1", 0) == "down" && state(status, "v2", 0) == "down")?;
    assert!(status["warning"].as_str().is_some_and(|warning| warning.contains("at fault")), "{status}");
    assert_eq!(scene.ask(&web, 1)?, Version::V1);
    Ok(())
}

fn one_of_two(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let backends = scene.more_backends(family, Version::V1, 2)?;
    let dies = backends.get(1).context("two")?.ip();
    let v2 = vec![family.backend_endpoint(Version::V2, HTTP_PORT)];
    let mut web = ServiceConfig::web(family).with_backends(backends.clone(), v2);
    web.health = Some(CHECK.to_owned());
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    let before = scene.backends(&web, 200)?;
    assert!(before.contains(&dies), "both serve");

    scene.topology.backend(Version::V1).ip(&["address", "del", &in_its_network(dies), "dev", HOST_DEVICE])?;
    agent.wait_for("web", CHANGE_MAX, |status| state(status, "v1", 1) == "down")?;
    let metrics =
        metric(&agent, &format!("grayxdp_backend_live{{service=\"web\",version=\"v1\",backend=\"{}\"}}", backends[1]))?;
    assert_eq!(metrics, "0.0");
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(Tally::of(&load.stop()?).failures, Vec::<String>::new(), "nobody is sent to the dead one");
    // The next agent begins with what this one knew.
    agent.kill()?;
    agent.restart()?;
    assert_eq!(state(&agent.service("web")?, "v1", 1), "down");
    assert!(!scene.backends(&web, 200)?.contains(&dies));

    scene.add_address(Version::V1, dies)?;
    agent.wait_for("web", CHANGE_MAX, |status| state(status, "v1", 1) == "live")?;
    assert_eq!(scene.backends(&web, 200)?, before, "each client is back where it was");
    Ok(())
}

fn state<'a>(status: &'a Value, version: &str, nth: usize) -> &'a str {
    status["versions"][version]["backends"][nth]["state"].as_str().unwrap_or_default()
}

/// The value of a metric.
fn metric(agent: &Agent<'_>, name: &str) -> Result<String> {
    let page = agent.metrics()?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {page}"))?;
    Ok(line.trim().to_owned())
}

fn stop(server: &mut HttpServer, topology: &grayxdp_tests::topology::Topology) -> Result<()> {
    server.stop()?;
    let host = topology.backend(Version::V2);
    let refused = host.run(|| std::net::TcpStream::connect(("127.0.0.1", HTTP_PORT)).is_err())?;
    ensure!(refused, "the server still listens");
    Ok(())
}

fn wait_for_answer(topology: &grayxdp_tests::topology::Topology, web: &ServiceConfig, expected: Version) -> Result<()> {
    let source = Family::V4.source(1);
    let ask = || -> Result<()> {
        let answer = topology.client.block_on(grayxdp_tests::traffic::ask_once(web.endpoint(), source))?;
        ensure!(answer.version == expected, "{} answers", answer.version);
        Ok(())
    };
    grayxdp_tests::process::wait_until("the right version answers", CHANGE_MAX, ask)
}
