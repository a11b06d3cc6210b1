//! Who is pinned meets one version, whatever the weight.

use anyhow::Result;
use grayxdp_tests::{
    config::ServiceConfig,
    scene::Scene,
    topology::{Family, Version},
    traffic::ask_all,
};

#[test]
fn the_canary_port_leads_to_v2_and_sources_where_they_are_pinned_on_ipv4() -> Result<()> {
    pinned(Family::V4, ["10.20.0.64/26", "10.20.0.70"])
}

#[test]
fn the_canary_port_leads_to_v2_and_sources_where_they_are_pinned_on_ipv6() -> Result<()> {
    pinned(Family::V6, ["fd00:20::40/122", "fd00:20::46"])
}

/// Sources 64 to 127 are the network, source 70 is the address.
fn pinned(family: Family, [network, address]: [&str; 2]) -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(family);
    web.more = "canary_port = 8888".to_owned();
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    let on_v2 = |port: Option<u16>| -> Result<Vec<u16>> {
        let mut target = web.endpoint();
        port.into_iter().for_each(|port| target.set_port(port));
        let answers = scene.topology.client.block_on(ask_all(target, &family.sources(200)))?;
        Ok((1..).zip(answers).filter(|(_, version)| *version == Version::V2).map(|(index, _)| index).collect())
    };
    let (all, ours): (Vec<u16>, Vec<u16>) = ((1..=200).collect(), (64..=127).collect());
    assert_eq!(on_v2(None)?, Vec::<u16>::new());
    assert_eq!(on_v2(Some(8888))?, all, "the canary port");

    agent.text(&["pin", "web", "--source", network, "--to", "v2"])?;
    assert_eq!(on_v2(None)?, ours);
    agent.text(&["pin", "web", "--source", address, "--to", "v1"])?;
    let without: Vec<u16> = ours.iter().copied().filter(|index| *index != 70).collect();
    assert_eq!(on_v2(None)?, without, "the longest prefix counts");
    agent.set_weight("web", 100.0)?;
    let others: Vec<u16> = all.iter().copied().filter(|index| *index != 70).collect();
    assert_eq!(on_v2(None)?, others);
    assert_eq!(on_v2(Some(8888))?, all, "the port counts before the source");
    agent.text(&["unpin", "web", "--source", address])?;
    agent.text(&["unpin", "web", "--source", network])?;
    assert_eq!(on_v2(None)?, all);
    let status = agent.service("web")?;
    assert!(status["versions"]["v2"]["pinned_flows"].as_u64() >= Some(400 + 64), "{status}");
    assert_eq!(status["versions"]["v1"]["pinned_flows"], 2, "{status}");
    scene.check_checksums()
}
