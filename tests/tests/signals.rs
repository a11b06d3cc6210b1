//! What the kernel counts of real servers' connections is what happened.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    process::{run, wait_until},
    scene::Scene,
    topology::{Family, Version},
};

/// Requests of one connection: most are answered well, some are not.
const STATUSES: [u16; 10] = [200, 200, 404, 200, 500, 200, 304, 200, 503, 200];
const CONNECTIONS: u16 = 20;

/// Counters of the page of metrics whose name and labels begin and contain these, added.
fn metric(page: &str, name: &str, labels: &[&str]) -> f64 {
    let is_meant = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
    page.lines().filter(is_meant).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[test]
fn the_kernels_status_counts_are_those_of_the_servers_access_logs_on_ipv4() -> Result<()> {
    status_counts(Family::V4)
}

#[test]
fn the_kernels_status_counts_are_those_of_the_servers_access_logs_on_ipv6() -> Result<()> {
    status_counts(Family::V6)
}

fn status_counts(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(family);
    web.key = "connection";
    web.more = "observe = \"http1\"".to_owned();
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    agent.set_weight("web", 50.0)?;
    let counts = || -> Result<Vec<f64>> {
        let page = agent.metrics()?;
        let answers = ["good", "client_error", "server_error", "unknown"];
        let mut counts: Vec<f64> =
            answers.map(|says| metric(&page, "grayxdp_answers_total", &[&format!("says=\"{says}\"")])).to_vec();
        counts.push(metric(&page, "grayxdp_requests_total", &[]));
        counts.push(metric(&page, "grayxdp_response_seconds_count", &[]));
        Ok(counts)
    };
    let before = counts()?;
    // Each is one keep-alive connection.
    for _ in 0..CONNECTIONS {
        let mut curl = scene.topology.client.command("curl")?;
        curl.args(["--silent", "--show-error", "--globoff", "--max-time", "20"]);
        for status in STATUSES {
            curl.args(["--output", "/dev/null"]).arg(format!("http://{}/status/{status}", web.endpoint()));
        }
        run(curl)?;
    }
    let logged = logged(&scene)?;
    let of = |hundreds: std::ops::RangeInclusive<u16>| {
        logged.iter().filter(|status| hundreds.contains(status)).count() as f64
    };
    let all = f64::from(CONNECTIONS) * STATUSES.len() as f64;
    assert_eq!(of(100..=599), all, "the servers logged every request");
    let grown: Vec<f64> = counts()?.iter().zip(&before).map(|(after, before)| after - before).collect();
    assert_eq!(grown, [of(200..=399), of(400..=499), of(500..=599), 0.0, all, all]);
    let page = agent.metrics()?;
    for version in Version::ALL {
        let label = format!("version=\"{version}\"");
        ensure!(metric(&page, "grayxdp_answers_total", &[&label, "server_error"]) > 0.0, "{version} had its share");
        assert_eq!(metric(&page, "grayxdp_server_resets_total", &[&label]), 0.0);
    }
    scene.check_checksums()
}

/// The statuses in both servers' access logs.
fn logged(scene: &Scene) -> Result<Vec<u16>> {
    let mut statuses = Vec::new();
    for version in Version::ALL {
        let text = fs::read_to_string(scene.server(version).access_log()).context("an access log")?;
        statuses.extend(text.lines().filter_map(|line| line.parse::<u16>().ok()));
    }
    Ok(statuses)
}

#[test]
fn refused_and_unanswered_connections_are_counted_for_the_version_that_failed() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut web = ServiceConfig::web(Family::V4);
    web.more = "fuse = { failures = 0 }".to_owned();
    scene.v2.stop()?;
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    agent.set_weight("web", 100.0)?;
    for source in 1..=5 {
        ensure!(scene.ask(&web, source).is_err(), "nobody listens");
    }
    let count = |name: &str, version: &str| -> Result<f64> {
        Ok(metric(&agent.metrics()?, name, &[&format!("version=\"{version}\"")]))
    };
    assert_eq!(count("grayxdp_refused_flows_total", "v2")?, 5.0);
    assert_eq!(count("grayxdp_refused_flows_total", "v1")?, 0.0);
    assert_eq!(count("grayxdp_fuse_blown", "")?, 0.0);
    // Its answers go nowhere, without a word.
    let mut silence = scene.topology.backend(Version::V2).command("ip")?;
    silence.args(["route", "replace", "blackhole", "10.20.0.0/17"]);
    run(silence)?;
    ensure!(scene.ask(&web, 6).is_err(), "nobody answers");
    wait_until("the sweep finds who is not answered", Duration::from_secs(10), || {
        let unanswered = count("grayxdp_unanswered_flows_total", "v2")?;
        ensure!(unanswered >= 1.0, "{unanswered}");
        Ok(())
    })
}
