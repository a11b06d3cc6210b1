//! `grayxdp flows` shows the connections that are there, whose they are, and how they are.

use std::time::Duration;

use anyhow::{Result, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    process::wait_until,
    scene::Scene,
    topology::{Family, Version},
};

#[test]
fn connections_are_listed_with_client_version_and_state_and_filters_pick_them() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    ensure!(agent.json(&["flows"])?["totals"]["all"] == 0, "nobody has come yet");
    agent.set_weight("web", 100.0)?;
    ensure!(scene.ask(&web, 1)? == Version::V2);
    agent.set_weight("web", 0.0)?;
    ensure!(scene.ask(&web, 2)? == Version::V1);
    // Closed from both sides once the last FIN has passed.
    let closed = || {
        let status = agent.json(&["flows", "web"])?;
        ensure!(status["totals"]["closing"] == 2, "{status}");
        Ok(status)
    };
    let status = wait_until("both connections are closed", Duration::from_secs(5), closed)?;
    for (index, version) in [(1, "v2"), (2, "v1")] {
        let client = Family::V4.source(index).to_string();
        let flows = agent.json(&["flows", "web", "--client", &client])?;
        let [flow] = flows["flows"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            anyhow::bail!("one flow of {client}: {flows}\nof {status}");
        };
        ensure!(flow["version"] == version && flow["service"] == "web" && flow["state"] == "closing", "{flow}");
        ensure!(flow["client"].as_str().is_some_and(|found| found.starts_with(&format!("{client}:"))), "{flow}");
        let port = flow["client"].as_str().unwrap_or_default();
        ensure!(agent.json(&["flows", "--client", port])?["totals"]["all"] == 1);
    }
    for (arguments, count) in [
        (vec!["flows", "--version", "v2"], 1),
        (vec!["flows", "--state", "established"], 0),
        (vec!["flows", "--limit", "0"], 2),
        (vec!["flows", "--client", "192.0.2.1"], 0),
    ] {
        let status = agent.json(&arguments)?;
        ensure!(status["totals"]["all"] == count, "{arguments:?}: {status}");
    }
    let text = agent.text(&["flows"])?;
    ensure!(text.contains("2 flows: 0 half-open, 0 established, 2 closing, 0 udp"), "{text}");
    ensure!(!agent.cli(&["flows", "wob"])?.status.success());
    Ok(())
}
