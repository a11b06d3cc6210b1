//! A rollback that severs ends v2's open connections at both ends, and nobody else's.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    process::{run, wait_until},
    scene::Scene,
    topology::{Family, Version},
    traffic::Connection,
};

/// Ten seconds at the speed of `/slow/`.
const SLOW: usize = 20 << 20;
/// The download speaks all the time.
const RESET_MAX: Duration = Duration::from_secs(2);

#[test]
fn a_severing_rollback_resets_what_is_open_on_v2_on_ipv4() -> Result<()> {
    severed(Family::V4)
}

#[test]
fn a_severing_rollback_resets_what_is_open_on_v2_on_ipv6() -> Result<()> {
    severed(Family::V6)
}

#[test]
fn without_it_open_connections_outlive_a_rollback() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    agent.set_weight("web", 100.0)?;
    scene.topology.client.block_on(async {
        let mut open = Connection::open(web.endpoint(), Family::V4.source(1)).await?;
        assert_eq!(open.version().await?, Version::V2);
        agent.text(&["rollback", "web"])?;
        assert_eq!(open.version().await?, Version::V2);
        Ok(())
    })
}

fn severed(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let mut web = ServiceConfig::web(family);
    web.on_rollback = "sever";
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    fs::write(scene.v2.file("slow.bin"), vec![7; SLOW])?;
    let copy = scene.v1.file("copy.bin");
    let client = &scene.topology.client;
    client.block_on(async {
        let mut on_v1 = Connection::open(web.endpoint(), family.source(1)).await?;
        assert_eq!(on_v1.version().await?, Version::V1);
        agent.set_weight("web", 100.0)?;
        let mut idle = Connection::open(web.endpoint(), family.source(2)).await?;
        assert_eq!(idle.version().await?, Version::V2);
        let mut busy = Connection::open(web.endpoint(), family.source(3)).await?;
        let download = tokio::spawn({
            let copy = copy.clone();
            async move { busy.download("/slow/slow.bin", &copy).await }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(!download.is_finished(), "the download is not under way");
        assert_eq!(open_on_v2(&scene)?, 2);
        agent.wait_for("web", Duration::from_secs(5), |status| {
            status["versions"]["v2"]["flows"]["established"] == 2
                && status["versions"]["v1"]["flows"]["established"] == 1
        })?;

        agent.text(&["rollback", "web"])?;
        let Ok(ended) = tokio::time::timeout(RESET_MAX, download).await else { bail!("the download goes on") };
        let error = ended?.err().context("the download came to its end")?;
        ensure!(format!("{error:#}").contains("broke off"), "{error:#}");
        // One that is silent learns of it when it speaks.
        let error = idle.version().await.err().context("the idle connection still answers")?;
        ensure!(!format!("{error:#}").contains("no answer in time"), "it was left to its time-out: {error:#}");
        assert_eq!(on_v1.version().await?, Version::V1, "v1's connections are none of this");
        Ok(())
    })?;
    // The servers' ends are gone, too.
    wait_until("v2 has no connection", Duration::from_secs(10), || {
        let open = open_on_v2(&scene)?;
        ensure!(open == 0, "{open} are open");
        Ok(())
    })?;
    assert_eq!(scene.ask(&web, 2)?, Version::V1);
    let status = agent.service("web")?;
    assert_eq!(status["versions"]["v2"]["severed_flows"], 2, "{status}");
    assert_eq!(status["versions"]["v1"]["severed_flows"], 0, "{status}");
    ensure!(agent.log().contains("flows_severed"), "the log says how many");
    // A release that begins anew is not severed.
    agent.set_weight("web", 100.0)?;
    assert_eq!(scene.ask(&web, 2)?, Version::V2);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(scene.ask(&web, 3)?, Version::V2);
    scene.check_checksums()
}

/// Connections that v2's server takes for open.
fn open_on_v2(scene: &Scene) -> Result<usize> {
    let mut command = scene.topology.backend(Version::V2).command("ss")?;
    command.args(["-Htn", "state", "established", "sport", "=", ":8080"]);
    Ok(run(command)?.lines().count())
}
