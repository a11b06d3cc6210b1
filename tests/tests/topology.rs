//! The ground that the other tests stand on: without grayxdp, the routed network and its servers work.

use std::fs;

use anyhow::Result;
use grayxdp_tests::{
    load::{Load, Tally},
    scene::Scene,
    server::HTTP_PORT,
    topology::{Family, Version},
    traffic::{Connection, ask_all},
};

#[test]
fn every_source_address_reaches_every_version_on_both_families() -> Result<()> {
    let scene = Scene::new()?;
    for family in Family::ALL {
        for version in Version::ALL {
            let target = family.backend_endpoint(version, HTTP_PORT);
            let versions = scene.topology.client.block_on(ask_all(target, &family.sources(1000)))?;
            assert!(versions.iter().all(|answered| *answered == version), "{target}");
        }
    }
    scene.check_checksums()
}

#[test]
fn an_upload_arrives_as_a_file_and_comes_back() -> Result<()> {
    let scene = Scene::new()?;
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let copy = scene.v1.file("copy");
    let (content, target) = (&content, Family::V6.backend_endpoint(Version::V1, HTTP_PORT));
    scene.topology.client.block_on(async {
        let mut connection = Connection::open(target, Family::V6.source(7)).await?;
        connection.upload("/files/sent", content.clone().into()).await?;
        connection.download("/files/sent", &copy).await?;
        Ok(())
    })?;
    assert!(fs::read(scene.v1.file("sent"))? == *content);
    assert!(fs::read(copy)? == *content);
    Ok(())
}

#[test]
fn a_background_load_has_no_failures_on_plain_routing() -> Result<()> {
    let scene = Scene::new()?;
    let service = grayxdp_tests::config::ServiceConfig::web(Family::V4);
    let mut plan = scene.load_plan(&service);
    plan.target = Family::V4.backend_endpoint(Version::V2, HTTP_PORT);
    let load = Load::start(&scene.topology.client, plan)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    load.check_running()?;
    let tally = Tally::of(&load.stop()?);
    assert_eq!(tally.failures, Vec::<String>::new());
    assert!(tally.short > 400 && tally.short_v2 == tally.short, "{tally:?}");
    assert!(tally.answered > tally.short, "{tally:?}");
    Ok(())
}
