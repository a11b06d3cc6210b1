//! A version's backends share its clients by their weights, and a backend that leaves or joins moves hardly anybody else.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result};
use grayxdp_tests::{
    config::ServiceConfig,
    scene::Scene,
    topology::{Family, Version},
    traffic::Connection,
};

const BACKENDS: u16 = 10;
const CLIENTS: u16 = 4000;
/// Of the clients of the other backends, in percent.
const MOVED_PERCENT_MAX: usize = 2;

#[test]
fn ten_backends_share_alike_and_one_that_leaves_moves_nobody_else_on_ipv4() -> Result<()> {
    shares(Family::V4)
}

#[test]
fn ten_backends_share_alike_and_one_that_leaves_moves_nobody_else_on_ipv6() -> Result<()> {
    shares(Family::V6)
}

fn shares(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let backends = scene.more_backends(family, Version::V1, BACKENDS)?;
    let v2 = vec![family.backend_endpoint(Version::V2, grayxdp_tests::server::HTTP_PORT)];
    let web = ServiceConfig::web(family).with_backends(backends.clone(), v2);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;

    let before = scene.backends(&web, CLIENTS)?;
    let counts = count(&before);
    // 400 each on average; a binomial share strays from that by more than 95 (five sigma) in no run.
    assert_eq!(counts.len(), usize::from(BACKENDS), "{counts:?}");
    assert!(counts.values().all(|count| (305..=495).contains(count)), "{counts:?}");
    assert_eq!(scene.backends(&web, CLIENTS)?, before, "with key source-ip a client stays on its backend");

    let gone = backends.get(3).context("ten backends")?;
    let first = before.iter().position(|address| *address == gone.ip()).context("somebody is there")?;
    let source = family.sources(CLIENTS)[first];
    let after = scene.topology.client.block_on(async {
        let mut open = Connection::open(web.endpoint(), source).await?;
        assert_eq!(open.address("/backend").await?, gone.ip());
        agent.text(&["backend", "remove", "web", &gone.to_string()])?;
        assert_eq!(open.address("/backend").await?, gone.ip(), "what is open stays");
        let after = scene.backends(&web, CLIENTS)?;
        assert_eq!(open.address("/backend").await?, gone.ip(), "what is open stays");
        Ok(after)
    })?;
    assert!(!after.contains(&gone.ip()), "it got new connections");
    check_moved(&before, &after, gone.ip());

    agent.text(&["backend", "add", "web", "v1", &gone.to_string()])?;
    assert_eq!(scene.backends(&web, CLIENTS)?, before, "the same backends, the same places");
    scene.check_checksums()
}

fn check_moved(before: &[IpAddr], after: &[IpAddr], gone: IpAddr) {
    let others = before.iter().zip(after).filter(|(before, _)| **before != gone);
    let (all, moved) = others.fold((0, 0), |(all, moved), (a, b)| (all + 1, moved + usize::from(a != b)));
    eprintln!("{moved} of {all} clients of other backends moved");
    assert!(moved * 100 <= all * MOVED_PERCENT_MAX, "{moved} of {all} clients of other backends moved");
}

fn count(addresses: &[IpAddr]) -> BTreeMap<IpAddr, u32> {
    let mut counts = BTreeMap::new();
    for address in addresses {
        *counts.entry(*address).or_default() += 1;
    }
    counts
}
