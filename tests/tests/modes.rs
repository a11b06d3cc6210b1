//! Every mode serves real clients from real servers, on IPv4 and IPv6: the right version answers, connections that are open
//! stay where they are, bytes arrive unharmed.

use std::{collections::BTreeSet, fs, net::IpAddr};

use anyhow::{Result, ensure};
use grayxdp_tests::{
    config::ServiceConfig,
    scene::Scene,
    server::SERVICE_PORT,
    topology::{Family, HOST_DEVICE, Version},
    traffic::{Connection, addresses},
    tunnel::TunnelEnd,
};

const CLIENTS: u16 = 200;
/// The load balancer's own addresses that `full-nat` sends from.
const SOURCES: [[&str; 2]; 2] = [["10.99.0.1", "10.99.0.2"], ["fd00:99::1", "fd00:99::2"]];

#[test]
fn nat_on_ipv4() -> Result<()> {
    nat(Family::V4)
}

#[test]
fn nat_on_ipv6() -> Result<()> {
    nat(Family::V6)
}

#[test]
fn full_nat_on_ipv4() -> Result<()> {
    full_nat(Family::V4)
}

#[test]
fn full_nat_on_ipv6() -> Result<()> {
    full_nat(Family::V6)
}

#[test]
fn dsr_on_ipv4() -> Result<()> {
    dsr(Family::V4)
}

#[test]
fn dsr_on_ipv6() -> Result<()> {
    dsr(Family::V6)
}

#[test]
fn ipip_from_ipv4_to_ipv4_backends() -> Result<()> {
    ipip(Family::V4, Family::V4)
}

#[test]
fn ipip_from_ipv6_to_ipv6_backends() -> Result<()> {
    ipip(Family::V6, Family::V6)
}

#[test]
fn ipip_from_ipv4_to_ipv6_backends() -> Result<()> {
    ipip(Family::V4, Family::V6)
}

fn nat(family: Family) -> Result<()> {
    let (scene, web) = (Scene::new()?, ServiceConfig::web(family));
    serves(&scene, &web, family)?;
    assert_eq!(clients_seen(&scene, &web, family)?, family.sources(20).into_iter().collect());
    Ok(())
}

fn full_nat(family: Family) -> Result<()> {
    let (scene, web) = (Scene::new()?, ServiceConfig::web(family));
    let (sources, length) = match family {
        Family::V4 => (SOURCES[0], 32),
        Family::V6 => (SOURCES[1], 128),
    };
    let lb = &scene.topology.lb;
    for source in sources {
        lb.ip(&["address", "add", &format!("{source}/{length}"), "dev", "lo"])?;
    }
    // Backends know no way to clients: replies come back by their destination alone.
    for version in Version::ALL {
        let host = scene.topology.backend(version);
        let router = if family == Family::V4 {
            format!("10.0.{}.1", number(version))
        } else {
            format!("fd00:{}::1", number(version))
        };
        let family_flag = if family == Family::V4 { "-4" } else { "-6" };
        host.ip(&[family_flag, "route", "del", "default"])?;
        for source in sources {
            host.ip(&[family_flag, "route", "add", source, "via", &router])?;
        }
    }
    let web = web.with_mode(&format!("mode = \"full-nat\"\nsource_addresses = {sources:?}"));
    serves(&scene, &web, family)?;
    let own: BTreeSet<IpAddr> = sources.iter().map(|source| source.parse()).collect::<Result<_, _>>()?;
    assert_eq!(clients_seen(&scene, &web, family)?, own, "both addresses are used, and no others");
    Ok(())
}

const fn number(version: Version) -> u8 {
    match version {
        Version::V1 => 1,
        Version::V2 => 2,
    }
}

fn dsr(family: Family) -> Result<()> {
    let (scene, web) = (Scene::new()?, ServiceConfig::web(family));
    hold_vip(&scene, family)?;
    let web = web.with_mode("mode = \"dsr\"");
    serves(&scene, &web, family)?;
    assert_eq!(clients_seen(&scene, &web, family)?, family.sources(20).into_iter().collect());
    Ok(())
}

fn ipip(family: Family, outer: Family) -> Result<()> {
    let (scene, web) = (Scene::new()?, ServiceConfig::web(family));
    hold_vip(&scene, family)?;
    for version in Version::ALL {
        // What GRO merges has no checksum inside that a raw socket could hand on. GRO itself has to stay on.
        let limits = ["link", "set", HOST_DEVICE, "gro_max_size", "1500"];
        scene.topology.backend(version).ip(&limits)?;
    }
    let ends = Version::ALL.map(|version| TunnelEnd::start(scene.topology.backend(version)));
    let backends = Version::ALL.map(|version| vec![outer.backend_endpoint(version, SERVICE_PORT)]);
    let [v1, v2] = backends;
    let web = web.with_mode("mode = \"ipip\"").with_backends(v1, v2);
    serves(&scene, &web, family)?;
    assert_eq!(clients_seen(&scene, &web, family)?, family.sources(20).into_iter().collect());
    for end in ends {
        let unwrapped = end?.unwrapped();
        ensure!(unwrapped > u64::from(CLIENTS), "only {unwrapped} packets came through the tunnel");
    }
    Ok(())
}

/// Both hosts answer for the VIP, which they tell nobody.
fn hold_vip(scene: &Scene, family: Family) -> Result<()> {
    let length = if family == Family::V4 { 32 } else { 128 };
    for version in Version::ALL {
        let vip = format!("{}/{length}", family.vip());
        scene.topology.backend(version).ip(&["address", "add", &vip, "dev", "lo"])?;
        ensure!(
            scene.topology.backend(version).ip(&["address", "show", "dev", HOST_DEVICE])?.contains("UP"),
            "the host is up"
        );
    }
    Ok(())
}

/// The release goes from v1 to v2 and back; what is open stays.
fn serves(scene: &Scene, web: &ServiceConfig, family: Family) -> Result<()> {
    let content: Vec<u8> = (0..1_000_000_u32).map(|nth| (nth.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for version in Version::ALL {
        fs::write(scene.server(version).file("content.bin"), &content)?;
    }
    let agent = scene.start_agent(std::slice::from_ref(web))?;
    scene.wait_for_answer(web)?;
    assert!(scene.ask_many(web, CLIENTS)?.iter().all(|version| *version == Version::V1));
    let copy = scene.v1.file("copy.bin");
    scene.topology.client.block_on(async {
        let mut open = Connection::open(web.endpoint(), family.source(1)).await?;
        assert_eq!(open.version().await?, Version::V1);
        agent.set_weight("web", 50.0)?;
        assert_eq!(open.version().await?, Version::V1, "it was open");
        agent.set_weight("web", 100.0)?;
        assert_eq!(open.version().await?, Version::V1, "it was open");
        assert_eq!(open.download("/files/content.bin", &copy).await?, Version::V1);
        ensure!(fs::read(&copy)? == content, "the download is not what was sent");
        // Large segments towards the backend, too.
        assert_eq!(open.upload("/files/sent.bin", content.clone().into()).await?, Version::V1);
        ensure!(fs::read(scene.v1.file("sent.bin"))? == content, "the upload is not what was sent");
        Ok(())
    })?;
    assert!(scene.ask_many(web, CLIENTS)?.iter().all(|version| *version == Version::V2));
    agent.set_weight("web", 50.0)?;
    let v2 = scene.ask_many(web, CLIENTS)?.iter().filter(|version| **version == Version::V2).count();
    assert!((70..=130).contains(&v2), "{v2} of {CLIENTS} on v2 at 50 %");
    let status = agent.service("web")?;
    assert_eq!(status["versions"]["v1"]["flow_misses"], 0, "{status}");
    assert_eq!(status["versions"]["v2"]["flow_misses"], 0, "{status}");
    scene.check_checksums()
}

/// Whom the server takes for its clients.
fn clients_seen(scene: &Scene, web: &ServiceConfig, family: Family) -> Result<BTreeSet<IpAddr>> {
    let agent = scene.start_agent(std::slice::from_ref(web))?;
    scene.wait_for_answer(web)?;
    let seen = scene.topology.client.block_on(addresses(web.endpoint(), &family.sources(20), "/client"))?;
    drop(agent);
    Ok(seen.into_iter().collect())
}
