//! Every schedule takes the weight from its first to its last value, never back, and obeys the commands on the way.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::ServiceConfig,
    scene::Scene,
    topology::{Family, Version},
};
use serde_json::Value;

#[test]
fn every_kind_of_schedule_ends_at_100_percent_and_never_falls() -> Result<()> {
    let scene = Scene::new()?;
    for schedule in [
        "kind = \"linear\", from = 0, to = 100, step = 25, every = \"500ms\"",
        "kind = \"step\", weights = [1, 10, 30, 80, 100], every = \"500ms\"",
        "kind = \"exponential\", from = 10, to = 100, factor = 2, every = \"500ms\"",
        "kind = \"smooth\", from = 0, to = 100, over = \"2s\"",
    ] {
        let web = ServiceConfig::web(Family::V4).with_schedule(schedule);
        let agent = scene.start_agent(std::slice::from_ref(&web))?;
        agent.text(&["start", "web"])?;
        let weights = watch_until(&agent, "promoted")?;
        assert!(weights.is_sorted(), "{schedule}: {weights:?}");
        assert!(weights.len() > 3 && weights.last() == Some(&100.0), "{schedule}: {weights:?}");
        assert_eq!(scene.ask(&web, 1)?, Version::V2, "{schedule}");
    }
    Ok(())
}

#[test]
fn an_exponential_schedule_with_a_rate_closes_in_on_its_end() -> Result<()> {
    let scene = Scene::new()?;
    let schedule = "kind = \"exponential\", from = 0, to = 50, rate = 0.9, every = \"200ms\"";
    let web = ServiceConfig::web(Family::V4).with_schedule(schedule);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.text(&["start", "web"])?;
    let weights = watch_until(&agent, "paused")?;
    assert!(weights.is_sorted() && weights.last() == Some(&50.0), "{weights:?}");
    Ok(())
}

#[test]
fn frozen_stands_still_and_resume_goes_on_without_a_jump() -> Result<()> {
    let scene = Scene::new()?;
    let schedule = "kind = \"linear\", from = 0, to = 100, step = 5, every = \"200ms\"";
    let web = ServiceConfig::web(Family::V4).with_schedule(schedule);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.text(&["start", "web"])?;
    agent.wait_for("web", Duration::from_secs(10), |status| weight(status) >= 20.0)?;
    let frozen = agent.json(&["freeze", "web"])?;
    assert_eq!(frozen["state"], "frozen");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(agent.service("web")?["kernel_weight"], frozen["kernel_weight"]);
    let resumed = agent.json(&["resume", "web"])?;
    assert!(weight(&resumed) - weight(&frozen) <= 5.0, "{frozen} {resumed}");
    agent.wait_for("web", Duration::from_secs(15), |status| status["state"] == "promoted")?;
    Ok(())
}

#[test]
fn resume_stays_on_a_weight_set_between_two_steps_for_a_whole_period() -> Result<()> {
    let scene = Scene::new()?;
    let schedule = "kind = \"linear\", from = 0, to = 100, step = 50, every = \"2s\"";
    let web = ServiceConfig::web(Family::V4).with_schedule(schedule);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 20.0)?;
    let resumed = agent.json(&["resume", "web"])?;
    assert_eq!((&resumed["state"], weight(&resumed)), (&Value::from("progressing"), 20.0), "{resumed}");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(weight(&agent.service("web")?), 20.0);
    agent.wait_for("web", Duration::from_secs(10), |status| weight(status) == 50.0)?;
    Ok(())
}

#[test]
fn rollback_sends_new_connections_back_and_the_release_can_start_again() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4).with_schedule("kind = \"smooth\", from = 0, to = 100, over = \"1s\"");
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.text(&["start", "web"])?;
    agent.wait_for("web", Duration::from_secs(10), |status| weight(status) >= 30.0)?;
    let rolled_back = agent.json(&["rollback", "web"])?;
    assert_eq!((&rolled_back["state"], weight(&rolled_back)), (&Value::from("rolled-back"), 0.0));
    assert!(scene.ask_many(&web, 100)?.iter().all(|version| *version == Version::V1));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(weight(&agent.service("web")?), 0.0, "it stays rolled back");
    agent.text(&["start", "web"])?;
    agent.wait_for("web", Duration::from_secs(10), |status| status["state"] == "promoted")?;
    assert_eq!(scene.ask(&web, 1)?, Version::V2);
    Ok(())
}

fn weight(status: &Value) -> f64 {
    status["kernel_weight"].as_f64().unwrap_or(f64::NAN)
}

/// All weights on the way to a state.
fn watch_until(agent: &Agent<'_>, state: &str) -> Result<Vec<f64>> {
    let (began, mut weights) = (Instant::now(), Vec::new());
    loop {
        let status = agent.service("web")?;
        let weight = status["kernel_weight"].as_f64().context("no kernel_weight")?;
        if weights.last() != Some(&weight) {
            weights.push(weight);
        }
        if status["state"] == state {
            return Ok(weights);
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "{state} was not reached: {status}");
        thread::sleep(Duration::from_millis(20));
    }
}
