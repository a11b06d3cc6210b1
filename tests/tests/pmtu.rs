//! Path MTU discovery works through the load balancer in both directions, wherever the narrow place is.
//!
//! Packets as large as the servers' and clients' own networks allow must not be fragmented; whoever cannot send one on
//! says so by ICMP, and that has to reach the end that sent it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    netns::Netns,
    scene::Scene,
    server::{HTTP_PORT, HttpServer},
    topology::{self, Family, HOST_DEVICE, Version},
    traffic::Connection,
};

const NARROW: &str = "1300";
const LENGTH: usize = 3 << 20;
/// Far more than the transfer takes, and less than retransmissions in vain do.
const PROMPT: Duration = Duration::from_secs(3);

#[test]
fn a_narrow_link_to_the_client_on_ipv4() -> Result<()> {
    own_link(Family::V4, "to-client")
}

#[test]
fn a_narrow_link_to_the_client_on_ipv6() -> Result<()> {
    own_link(Family::V6, "to-client")
}

#[test]
fn a_narrow_link_to_the_backend_on_ipv4() -> Result<()> {
    own_link(Family::V4, "to-v1")
}

#[test]
fn a_narrow_link_to_the_backend_on_ipv6() -> Result<()> {
    own_link(Family::V6, "to-v1")
}

#[test]
fn a_narrow_place_far_behind_the_client_side_on_ipv4() -> Result<()> {
    far_client(Family::V4)
}

#[test]
fn a_narrow_place_far_behind_the_client_side_on_ipv6() -> Result<()> {
    far_client(Family::V6)
}

#[test]
fn a_narrow_place_far_behind_the_backend_side_on_ipv4() -> Result<()> {
    far_backend(Family::V4)
}

#[test]
fn a_narrow_place_far_behind_the_backend_side_on_ipv6() -> Result<()> {
    far_backend(Family::V6)
}

/// A device of the load balancer's own.
fn own_link(family: Family, device: &str) -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(family);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.topology.lb.ip(&["link", "set", device, "mtu", NARROW])?;
    scene.wait_for_answer(&web)?;
    // Only outwards: what comes in by the narrow device would not pass it at all.
    let transfer = if device == "to-client" { downloads } else { uploads };
    let began = Instant::now();
    transfer(&scene.topology.client, web.endpoint(), family.source(1), &scene.v1)?;
    ensure!(began.elapsed() < PROMPT, "it took {:?}: the answers came late", began.elapsed());
    let page = agent.metrics()?;
    let told = page.lines().any(|line| {
        line.strip_prefix("grayxdp_verdicts_total{action=\"forward\",reason=\"too_big\"} ")
            .is_some_and(|count| count != "0")
    });
    ensure!(told, "nobody was told:\n{page}");
    scene.check_checksums()
}

/// The client is behind a router with a narrow link; the client does not know.
fn far_client(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(family);
    let _agent = scene.start_agent(std::slice::from_ref(&web))?;
    let router = &scene.topology.client;
    let far = behind(router, "far", ["10.30.0.1/24", "fd00:30::1/64"], ["10.30.0.2/24", "fd00:30::2/64"])?;
    scene.topology.lb.ip(&["route", "add", "10.30.0.0/24", "via", "10.10.0.2"])?;
    scene.topology.lb.ip(&["route", "add", "fd00:30::/64", "via", "fd00:10::2"])?;
    let source = if family == Family::V4 { "10.30.0.2" } else { "fd00:30::2" };
    // Only towards the client: what the client sends would not pass the narrow device at all.
    downloads(&far, web.endpoint(), source.parse()?, &scene.v1)?;
    scene.check_checksums()
}

/// The backend is behind a router with a narrow link.
fn far_backend(family: Family) -> Result<()> {
    let scene = Scene::new()?;
    let router = scene.topology.backend(Version::V1);
    let far = behind(router, "far", ["10.40.0.1/24", "fd00:40::1/64"], ["10.40.0.2/24", "fd00:40::2/64"])?;
    scene.topology.lb.ip(&["route", "add", "10.40.0.0/24", "via", "10.0.1.10"])?;
    scene.topology.lb.ip(&["route", "add", "fd00:40::/64", "via", "fd00:1::10"])?;
    let server = HttpServer::start(&far, Version::V1)?;
    let address = if family == Family::V4 { "10.40.0.2" } else { "fd00:40::2" };
    let backend = SocketAddr::new(address.parse()?, HTTP_PORT);
    let web = ServiceConfig::web(family);
    let v2 = web.backends[1].clone();
    let web = web.with_backends(vec![backend], v2);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    scene.wait_for_answer(&web)?;
    uploads(&scene.topology.client, web.endpoint(), family.source(1), &server)?;
    let status = agent.service("web")?;
    assert!(status["versions"]["v1"]["icmp_errors"].as_u64() >= Some(1), "{status}");
    scene.check_checksums()
}

/// A host behind a router, whose link to it lets only narrow packets through. The host's own end is as wide as usual.
fn behind(router: &Netns, device: &str, near: [&str; 2], own: [&str; 2]) -> Result<Netns> {
    let host = Netns::new(&format!("{}-{device}", router.name()))?;
    router.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    topology::connect(router, device, &host)?;
    router.ip(&["link", "set", device, "mtu", NARROW])?;
    topology::address(router, device, &near)?;
    topology::address(&host, HOST_DEVICE, &own)?;
    for gateway in near {
        let (gateway, _) = gateway.split_once('/').unwrap_or((gateway, ""));
        host.ip(&["route", "add", "default", "via", gateway])?;
    }
    Ok(host)
}

fn downloads(client: &Netns, target: SocketAddr, source: std::net::IpAddr, server: &HttpServer) -> Result<()> {
    let content = content();
    fs::write(server.file("content.bin"), &content)?;
    let copy = server.file("copy.bin");
    client.block_on(async {
        Connection::open(target, source).await?.download("/files/content.bin", Path::new(&copy)).await
    })?;
    ensure!(fs::read(&copy)? == content, "the download is not what was sent");
    Ok(())
}

fn uploads(client: &Netns, target: SocketAddr, source: std::net::IpAddr, server: &HttpServer) -> Result<()> {
    let content = content();
    client.block_on(async {
        Connection::open(target, source).await?.upload("/files/sent.bin", content.clone().into()).await
    })?;
    ensure!(fs::read(server.file("sent.bin"))? == content, "the upload is not what was sent");
    Ok(())
}

fn content() -> Vec<u8> {
    (0..LENGTH).map(|nth| (nth.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}
