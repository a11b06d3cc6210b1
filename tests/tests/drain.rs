//! A backend that is drained keeps what it has, and gets nothing new.

use std::net::IpAddr;

use anyhow::{Context, Result};
use grayxdp_tests::{
    config::ServiceConfig,
    scene::Scene,
    server::HTTP_PORT,
    topology::{Family, Version},
    traffic::Connection,
};

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_new_ones_on_ipv4() -> Result<()> {
    drained(Family::V4)
}

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_new_ones_on_ipv6() -> Result<()> {
    drained(Family::V6)
}

fn drained(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let backends = scene.more_backends(family, Version::V1, 3)?;
    let v2 = vec![family.backend_endpoint(Version::V2, HTTP_PORT)];
    let web = ServiceConfig::web(family).with_backends(backends.clone(), v2);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    let before = scene.backends(&web, 300)?;
    let address = backends.get(1).context("three")?;
    let client = before.iter().position(|found| *found == address.ip()).context("it serves somebody")?;
    let source: IpAddr = family.sources(300)[client];

    scene.topology.client.block_on(async {
        let mut open = Connection::open(web.endpoint(), source).await?;
        assert_eq!(open.address("/backend").await?, address.ip());
        agent.text(&["drain", "web", &address.to_string()])?;
        assert_eq!(agent.service("web")?["versions"]["v1"]["backends"][1]["state"], "draining");
        let now = scene.backends(&web, 300)?;
        assert!(!now.contains(&address.ip()), "a drained backend got a new connection");
        assert_eq!(open.address("/backend").await?, address.ip(), "what is open stays");
        // A new agent knows of it, too.
        agent.kill()?;
        agent.restart()?;
        assert_eq!(scene.backends(&web, 300)?, now);
        assert_eq!(open.address("/backend").await?, address.ip(), "what is open stays");
        agent.text(&["undrain", "web", &address.to_string()])?;
        assert_eq!(scene.backends(&web, 300)?, before, "each client is back where it was");
        Ok(())
    })?;
    scene.check_checksums()
}
