//! A real Prometheus can scrape the agent, and finds nothing to complain about.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Result, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    load::{Load, Tally},
    process::{output_within, wait_until},
    prometheus::{Prometheus, http_get},
    scene::Scene,
    topology::{Family, Version},
};

#[test]
fn prometheus_scrapes_the_agent_and_its_counters_agree_with_the_clients() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let prometheus = Prometheus::start(&scene.topology.lb, agent.config().metrics)?;
    agent.set_weight("web", 25.0)?;
    let load = Load::start(&scene.topology.client, scene.load_plan(&web))?;
    thread::sleep(Duration::from_secs(3));
    let tally = Tally::of(&load.stop()?);
    assert_eq!(tally.failures, Vec::<String>::new());
    let connections = tally.short as f64 + 8.0;
    wait_until("prometheus has seen all connections", Duration::from_secs(15), || {
        ensure!(prometheus.query("up")? == [1.0], "up is {:?}", prometheus.query("up")?);
        let flows = prometheus.query("sum(grayxdp_new_flows_total)")?;
        ensure!(flows.first() >= Some(&connections), "{flows:?} flows, {connections} connections");
        Ok(())
    })?;
    assert_eq!(prometheus.query("sum(grayxdp_new_flows_total)")?, [connections]);
    let v2 = prometheus.query("sum(grayxdp_new_flows_total{version=%22v2%22})")?;
    assert!(v2[0] > 0.0 && v2[0] < connections / 2.0, "{v2:?} of {connections} on v2 at 25 %");
    assert_eq!(prometheus.query("grayxdp_kernel_weight_percent")?, [25.0]);
    assert_eq!(prometheus.query("sum(grayxdp_flow_misses_total)")?, [0.0]);
    // Nearly all went from device to device in the program; the kernel resolved neighbours, and no more.
    let forwarded = prometheus.query("grayxdp_verdicts_total{reason=%22other_interface%22}")?;
    let handed = prometheus.query("sum(grayxdp_verdicts_total{action=%22forward%22,reason=~%22kernel_.*%22})")?;
    assert!(
        forwarded[0] > connections * 8.0 && handed[0] < connections,
        "{forwarded:?} in the program, {handed:?} not"
    );
    assert_eq!(prometheus.query("sum(grayxdp_verdicts_total{action=%22drop%22})")?, [0.0]);
    Ok(())
}

#[test]
fn promtool_finds_no_fault_with_the_metrics_page() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V6);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    assert_eq!(scene.wait_for_answer(&web)?, Version::V1);
    let page = scene.topology.lb.block_on(http_get(agent.config().metrics, "/metrics"))?;
    let file = agent.config().directory().join("metrics.txt");
    fs::write(&file, &page)?;
    let mut promtool = Command::new("sh");
    promtool.args(["-c", "promtool check metrics <\"$1\"", "sh"]).arg(&file);
    let output = output_within(promtool, Duration::from_secs(30))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{}", String::from_utf8_lossy(&page));
    Ok(())
}
