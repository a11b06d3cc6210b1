//! What a command says is done is done: the very next connection obeys.

use anyhow::Result;
use grayxdp_tests::{
    config::ServiceConfig,
    scene::Scene,
    topology::{Family, Version},
};

#[test]
fn the_next_connection_after_set_weight_obeys_it() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    for round in 1..=50 {
        for (weight, expected) in [(100.0, Version::V2), (0.0, Version::V1)] {
            agent.set_weight("web", weight)?;
            assert_eq!(scene.ask(&web, round)?, expected, "round {round}, weight {weight}");
        }
    }
    Ok(())
}

#[test]
fn the_next_connection_after_promote_and_rollback_obeys_them() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V6);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    for round in 1..=10 {
        agent.text(&["promote", "web"])?;
        assert_eq!(scene.ask(&web, round)?, Version::V2, "round {round}");
        agent.text(&["rollback", "web"])?;
        assert_eq!(scene.ask(&web, round)?, Version::V1, "round {round}");
    }
    Ok(())
}

#[test]
fn the_answer_to_a_command_shows_the_weight_that_the_kernel_has() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    for weight in ["0.01", "12.5", "33.33", "99.99", "100", "0"] {
        let status = agent.json(&["set-weight", "web", weight])?;
        let wanted: f64 = weight.parse()?;
        assert_eq!((&status["weight"], &status["kernel_weight"]), (&wanted.into(), &wanted.into()), "{status}");
    }
    Ok(())
}

#[test]
fn a_service_may_be_left_out_where_there_is_one() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.text(&["set-weight", "100"])?;
    assert_eq!(scene.ask(&web, 1)?, Version::V2);
    agent.text(&["rollback"])?;
    assert_eq!(scene.ask(&web, 1)?, Version::V1);
    Ok(())
}
