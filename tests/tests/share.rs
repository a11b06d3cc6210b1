//! The measured share of clients on v2 follows the weight, and a change of the weight moves clients one way only.

use anyhow::Result;
use grayxdp_tests::{
    agent::Agent,
    config::ServiceConfig,
    scene::Scene,
    topology::{Family, Version},
};

const CLIENTS: u16 = 1000;

#[test]
fn clients_on_v2_are_as_many_as_the_weight_says_on_ipv4() -> Result<()> {
    follow_the_weight(Family::V4)
}

#[test]
fn clients_on_v2_are_as_many_as_the_weight_says_on_ipv6() -> Result<()> {
    follow_the_weight(Family::V6)
}

#[test]
fn with_key_connection_one_client_reaches_both_versions() -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(Family::V4);
    web.key = "connection";
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 50.0)?;
    let mut v2 = 0;
    for _ in 0..200 {
        v2 += i32::from(scene.ask(&web, 1)? == Version::V2);
    }
    // Ports differ from run to run: five standard deviations (35 connections) are passed once in a million runs.
    assert!((65..=135).contains(&v2), "{v2} of 200 connections on v2 at 50 %");
    Ok(())
}

/// Clients are the same in every run, and so is the hash: what is found once is found always.
fn follow_the_weight(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(family);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let mut before = clients_at(&scene, &agent, &web, 0.0)?;
    assert_eq!(count_on_v2(&before), 0, "at weight 0");
    for weight in [1.0, 5.0, 25.0, 50.0, 99.0, 100.0] {
        let now = clients_at(&scene, &agent, &web, weight)?;
        assert_binomial(&now, weight);
        assert_subset(&before, &now, &format!("raised to {weight} %: a client moved back to v1"));
        before = now;
    }
    assert_eq!(count_on_v2(&before), usize::from(CLIENTS), "at weight 100");
    for weight in [99.0, 50.0, 25.0, 5.0, 1.0, 0.0] {
        let now = clients_at(&scene, &agent, &web, weight)?;
        assert_binomial(&now, weight);
        assert_subset(&now, &before, &format!("lowered to {weight} %: a client moved on to v2"));
        before = now;
    }
    let status = agent.service("web")?;
    for version in ["v1", "v2"] {
        assert_eq!(status["versions"][version]["flow_misses"], 0, "{status}");
    }
    scene.check_checksums()
}

fn clients_at(scene: &Scene, agent: &Agent<'_>, web: &ServiceConfig, weight: f64) -> Result<Vec<Version>> {
    agent.set_weight("web", weight)?;
    scene.ask_many(web, CLIENTS)
}

fn count_on_v2(clients: &[Version]) -> usize {
    clients.iter().filter(|version| **version == Version::V2).count()
}

fn assert_binomial(clients: &[Version], weight_percent: f64) {
    let (count, weight) = (clients.len() as f64, weight_percent / 100.0);
    let (found, expected) = (count_on_v2(clients) as f64, count * weight);
    let deviation = (count * weight * (1.0 - weight)).sqrt();
    eprintln!("weight {weight_percent} %: {found} of {count} clients on v2, expected {expected} ± {deviation:.1}");
    assert!((found - expected).abs() <= 3.0 * deviation, "weight {weight_percent} %: {found} clients on v2");
}

fn assert_subset(smaller: &[Version], larger: &[Version], breach: &str) {
    let outside = smaller.iter().zip(larger).filter(|(small, large)| **small == Version::V2 && **large == Version::V1);
    assert_eq!(outside.count(), 0, "{breach}");
}
