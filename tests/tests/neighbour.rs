//! A backend's MAC address changes: forwarding goes on, with and without an agent.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    load::{Load, Tally},
    process::wait_until,
    scene::Scene,
    topology::{Family, HOST_DEVICE, Version},
};

const NEW_MAC: &str = "02:00:00:00:aa:01";

#[test]
fn a_backend_that_changes_its_mac_is_followed_on_ipv4() -> Result<()> {
    followed(Family::V4)
}

#[test]
fn a_backend_that_changes_its_mac_is_followed_on_ipv6() -> Result<()> {
    followed(Family::V6)
}

fn followed(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(family);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    thread::sleep(Duration::from_secs(1));
    change_mac(&scene, NEW_MAC)?;
    thread::sleep(Duration::from_secs(3));
    agent.text(&["status"])?;
    let tally = Tally::of(&load.stop()?);
    assert_eq!(tally.failures, Vec::<String>::new(), "lost segments come again; nothing more may happen");
    Ok(())
}

/// What the agent has told of next hops is void some seconds after its death; then the kernel is asked, which knows.
#[test]
fn without_an_agent_the_kernel_knows_the_new_mac() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    agent.kill()?;
    change_mac(&scene, NEW_MAC)?;
    wait_until("the service answers", Duration::from_secs(20), || {
        ensure!(scene.ask(&web, 1)? == Version::V1, "it is v1");
        Ok(())
    })
}

/// With an announcement, as hosts send one that take an address over.
fn change_mac(scene: &Scene, mac: &str) -> Result<()> {
    let host = scene.topology.backend(Version::V1);
    host.sysctls(&[("net/ipv4/conf/eth0/arp_notify", "1"), ("net/ipv6/conf/eth0/ndisc_notify", "1")])?;
    host.ip(&["link", "set", HOST_DEVICE, "address", mac])?;
    Ok(())
}
