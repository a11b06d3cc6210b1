//! Shards: each has a weight of its own, by hand and by the schedule, and keeps it over restarts.

use std::time::Duration;

use anyhow::Result;
use grayxdp_tests::{
    config::ServiceConfig,
    scene::Scene,
    topology::{Family, Version},
};

/// Sources 64 to 127 are internal, 128 to 191 are partners, all others the rest.
const RANGES_V4: &str = "method = \"range\", default = \"rest\", \
                         ranges = { internal = [\"10.20.0.64/26\"], partner = [\"10.20.0.128/26\"] }";
const RANGES_V6: &str = "method = \"range\", default = \"rest\", \
                         ranges = { internal = [\"fd00:20::40/122\"], partner = [\"fd00:20::80/122\"] }";
const INTERNAL: std::ops::Range<u16> = 64..128;
const PARTNER: std::ops::Range<u16> = 128..192;
const CLIENTS: u16 = 255;

#[test]
fn a_shard_of_networks_has_a_weight_of_its_own_on_ipv4() -> Result<()> {
    by_hand(Family::V4, RANGES_V4)
}

#[test]
fn a_shard_of_networks_has_a_weight_of_its_own_on_ipv6() -> Result<()> {
    by_hand(Family::V6, RANGES_V6)
}

#[test]
fn shards_go_one_by_one_where_the_schedule_says_so() -> Result<()> {
    let scene = Scene::new()?;
    let schedule = "kind = \"step\", weights = [0, 100], every = \"2s\"";
    let mut web = ServiceConfig::web(Family::V4).with_schedule(schedule);
    web.order = "one-by-one";
    web.shards = RANGES_V4.to_owned();
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    agent.text(&["start", "web"])?;
    for (weight, sources) in [(33.33, INTERNAL), (66.67, INTERNAL.start..PARTNER.end), (100.0, 1..CLIENTS + 1)] {
        agent.wait_for("web", Duration::from_secs(20), |status| status["kernel_weight"] == weight)?;
        assert_eq!(on_v2(&scene, &web)?, sources.collect::<Vec<_>>(), "{weight} %");
    }
    Ok(())
}

#[test]
fn random_placement_draws_each_connection_and_keeps_it() -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(Family::V4);
    web.shards = "method = \"random\"".to_owned();
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    agent.set_weight("web", 50.0)?;
    let (first, second) = (on_v2(&scene, &web)?, on_v2(&scene, &web)?);
    for drawn in [&first, &second] {
        assert!((80..=175).contains(&drawn.len()), "{} of {CLIENTS} on v2 at 50 %", drawn.len());
    }
    assert_ne!(first, second, "each connection is drawn by itself");
    let moved = scene.topology.client.block_on(async {
        let mut open = grayxdp_tests::traffic::Connection::open(web.endpoint(), Family::V4.source(1)).await?;
        let first = open.version().await?;
        for _ in 0..50 {
            if open.version().await? != first {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    assert!(!moved, "an open connection moved");
    Ok(())
}

fn by_hand(family: Family, ranges: &str) -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(family);
    web.shards = ranges.to_owned();
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    let internal: Vec<u16> = INTERNAL.collect();
    assert_eq!(on_v2(&scene, &web)?, Vec::<u16>::new());
    agent.text(&["set-weight", "web", "100", "--shard", "internal"])?;
    assert_eq!(on_v2(&scene, &web)?, internal);
    agent.kill()?;
    assert_eq!(on_v2(&scene, &web)?, internal, "the kernel goes on");
    agent.restart()?;
    assert_eq!(on_v2(&scene, &web)?, internal, "the next agent, too");
    agent.text(&["set-weight", "web", "100", "--shard", "partner"])?;
    assert_eq!(on_v2(&scene, &web)?, (INTERNAL.start..PARTNER.end).collect::<Vec<_>>());
    agent.text(&["rollback", "web"])?;
    assert_eq!(on_v2(&scene, &web)?, Vec::<u16>::new());
    scene.check_checksums()
}

/// Indices of the sources that v2 answers.
fn on_v2(scene: &Scene, web: &ServiceConfig) -> Result<Vec<u16>> {
    let answers = scene.ask_many(web, CLIENTS)?;
    Ok((1..).zip(answers).filter(|(_, version)| *version == Version::V2).map(|(index, _)| index).collect())
}
