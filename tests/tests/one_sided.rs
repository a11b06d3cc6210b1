//! Where replies do not pass, v2's faults are found in what clients do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::ServiceConfig,
    load::Load,
    scene::Scene,
    topology::{Family, Version},
};
use serde_json::Value;

/// A release in mode `dsr` that stays at 10 %.
fn service(more: &str) -> ServiceConfig {
    let mut web = ServiceConfig::web(Family::V4)
        .with_mode("mode = \"dsr\"")
        .with_schedule(r#"kind = "linear", from = 10, to = 100, step = 10, every = "1h""#);
    web.more = more.to_owned();
    web
}

fn hold_vip(scene: &Scene, version: Version) -> Result<()> {
    let vip = format!("{}/32", Family::V4.vip());
    scene.topology.backend(version).ip(&["address", "add", &vip, "dev", "lo"]).map(drop)
}

/// Starts the release under load; the last decision, when v2 was rolled back.
fn rolled_back(scene: &Scene, agent: &Agent<'_>, web: &ServiceConfig, time_max: Duration) -> Result<Value> {
    scene.wait_for_answer(web)?;
    let load = Load::start(&scene.topology.client, scene.load_plan(web))?;
    agent.text(&["start", "web"])?;
    let began = Instant::now();
    let ended = agent.wait_for("web", time_max, |status| status["state"] == "rolled-back");
    load.stop()?;
    let status = ended.with_context(|| format!("after {:?}: {}", began.elapsed(), agent.log()))?;
    ensure!(status["kernel_weight"] == 0.0, "{status}");
    let history = agent.json(&["history", "web"])?;
    history["decisions"].as_array().and_then(|all| all.last()).cloned().context("decisions")
}

/// Its host does not know the VIP, and drops what comes for it.
#[test]
fn a_black_holed_v2_in_dsr_blows_the_fuse() -> Result<()> {
    let scene = Scene::new()?;
    hold_vip(&scene, Version::V1)?;
    let web = service("fuse = { failures = 10, window = \"30s\" }");
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let last = rolled_back(&scene, &agent, &web, Duration::from_secs(15))?;
    ensure!(last["rule"] == "fuse", "{last}");
    Ok(())
}

/// Its resets go to clients directly: here, nothing more is seen of a connection than its SYN.
#[test]
fn a_v2_that_refuses_in_dsr_is_judged_by_those_who_do_not_go_on() -> Result<()> {
    let mut scene = Scene::new()?;
    for version in Version::ALL {
        hold_vip(&scene, version)?;
    }
    scene.v2.stop()?;
    let web = service("fuse = { failures = 0 }");
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let last = rolled_back(&scene, &agent, &web, Duration::from_secs(40))?;
    ensure!(last["rule"] == "harm" && last["evidence"]["signal"] == "errors", "{last}");
    let judgement = &agent.service("web")?["judgement"];
    let unseen = judgement["unseen"].as_array().context("what is not seen")?;
    ensure!(unseen.iter().any(|name| name == "latency-first"), "{judgement}");
    let sentence = judgement["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains("not judged, for replies do not pass here"), "{sentence}");
    // What is not known is absent, and no zero.
    let metrics = agent.metrics()?;
    let has = |start: &str| metrics.lines().any(|line| line.starts_with(start));
    for name in ["unanswered_flows", "established_flows", "client_resets", "closed_flows", "syn_retransmissions"] {
        ensure!(has(&format!("grayxdp_{name}_total{{service=\"web\"")), "{name}: {metrics}");
    }
    for name in ["refused_flows_total", "server_resets_total", "responses_total", "handshake_seconds_count"] {
        ensure!(!has(&format!("grayxdp_{name}{{")), "{name}: {metrics}");
    }
    ensure!(metrics.contains("direction=\"in\"") && !metrics.contains("direction=\"out\""), "{metrics}");
    Ok(())
}
