//! Next hops follow the kernel's routes and neighbours, within a second of each change.

use std::{
    fmt::Write as _,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use grayxdp::agent::next_hops::{self, NextHop, Snapshot, Watcher};
use grayxdp_tests::{
    netns::Netns,
    process::{run, wait_until},
    sweep,
    topology::{Family, HOST_DEVICE, LB_DEVICES, Topology, Version},
};
use tokio::sync::watch::Receiver;

/// How soon a snapshot follows a change.
const TIME_MAX: Duration = Duration::from_secs(1);
/// How soon a neighbour is known that has to be asked for first; the kernel takes up to a second for a second question.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

struct Watched {
    topology: Topology,
    watcher: Watcher,
    snapshots: Receiver<Snapshot>,
}

impl Watched {
    /// Watches the backends of all versions and families on the load balancer.
    fn start() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root: run this as root, or with sudo");
        sweep::sweep()?;
        let topology = Topology::new(&sweep::unique_name())?;
        let devices = LB_DEVICES.map(|device| index_of(&topology.lb, device));
        let interfaces = devices.into_iter().collect::<Result<Vec<u32>>>()?;
        let backends = Family::ALL.iter().flat_map(|family| Version::ALL.map(|version| family.backend(version)));
        let (watcher, snapshots) = topology.lb.block_on(async {
            // On a runtime, as in the agent.
            Ok(next_hops::watch(backends.collect(), interfaces)?)
        })?;
        Ok(Self { topology, watcher, snapshots })
    }

    fn lb(&self) -> &Netns {
        &self.topology.lb
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshots.borrow().clone()
    }

    fn backend(&self, backend: IpAddr) -> Option<NextHop> {
        self.snapshot().backends.into_iter().find(|(address, _)| *address == backend)?.1
    }

    /// What the packet program would find for a reply to that address.
    fn reply(&self, client: IpAddr) -> Option<NextHop> {
        self.snapshot().routes.into_iter().find(|route| covers(route.destination, route.prefix_len, client))?.hop
    }

    fn expect(&self, what: &str, time_max: Duration, probe: impl Fn(&Self) -> bool) -> Result<()> {
        wait_until(what, time_max, || {
            ensure!(probe(self), "{:#?}", self.snapshot());
            Ok(())
        })
    }

    /// All backends and the client's prefixes have the next hops that they should have.
    fn expect_all(&self) -> Result<()> {
        let expected = Expected::of(&self.topology)?;
        self.expect("every next hop is right", ANSWER_TIME_MAX, |watched| expected.is_met_by(watched))
    }
}

/// Next hops as the devices themselves say.
struct Expected(Vec<(IpAddr, NextHop)>, Vec<(IpAddr, NextHop)>);

impl Expected {
    fn of(topology: &Topology) -> Result<Self> {
        let lb = &topology.lb;
        let [to_client, to_v1, to_v2] = LB_DEVICES;
        let mut expected = Self(Vec::new(), Vec::new());
        for family in Family::ALL {
            for (version, device) in [(Version::V1, to_v1), (Version::V2, to_v2)] {
                expected.0.push((family.backend(version), hop(lb, device, topology.backend(version))?));
            }
            expected.1.push((family.source(7), hop(lb, to_client, &topology.client)?));
        }
        Ok(expected)
    }

    fn is_met_by(&self, watched: &Watched) -> bool {
        self.0.iter().all(|(backend, hop)| watched.backend(*backend) == Some(*hop))
            && self.1.iter().all(|(client, hop)| watched.reply(*client) == Some(*hop))
    }
}

fn covers(network: IpAddr, len: u8, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    network.is_ipv4() == address.is_ipv4()
        && (bits(network) ^ bits(address)).checked_shr(128 - u32::from(len)).unwrap_or(0) == 0
}

fn hop(lb: &Netns, device: &str, host: &Netns) -> Result<NextHop> {
    let (destination_mac, source_mac) = (mac_of(host, HOST_DEVICE)?, mac_of(lb, device)?);
    Ok(NextHop { ifindex: index_of(lb, device)?, destination_mac, source_mac, mtu: 1500 })
}

fn link_of(namespace: &Netns, device: &str) -> Result<serde_json::Value> {
    let links: serde_json::Value = serde_json::from_str(&namespace.ip(&["-json", "link", "show", "dev", device])?)?;
    Ok(links[0].clone())
}

fn index_of(namespace: &Netns, device: &str) -> Result<u32> {
    let index = link_of(namespace, device)?["ifindex"].as_u64().context("no ifindex")?;
    Ok(u32::try_from(index)?)
}

fn mac_of(namespace: &Netns, device: &str) -> Result<[u8; 6]> {
    let link = link_of(namespace, device)?;
    mac(link["address"].as_str().context("no address")?)
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{text} is no MAC address"))
}

const NEW_MAC: &str = "02:99:99:99:99:99";

#[test]
fn neighbours_are_asked_for_without_any_packet_to_them() -> Result<()> {
    let watched = Watched::start()?;
    // Neither servers nor clients run here: whoever is known has been asked for.
    watched.expect_all()
}

#[test]
fn a_backend_that_tells_of_its_new_mac_is_followed() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    let v1 = watched.topology.backend(Version::V1);
    v1.sysctls(&[("net/ipv4/conf/eth0/arp_notify", "1"), ("net/ipv6/conf/eth0/ndisc_notify", "1")])?;
    v1.ip(&["link", "set", HOST_DEVICE, "address", NEW_MAC])?;
    for family in Family::ALL {
        let backend = family.backend(Version::V1);
        watched.expect("the new MAC", TIME_MAX, |watched| {
            watched.backend(backend).is_some_and(|hop| Ok(hop.destination_mac) == mac(NEW_MAC).map_err(|_| ()))
        })?;
    }
    watched.expect_all()
}

#[test]
fn a_neighbour_that_is_replaced_fails_or_goes_is_followed() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    for family in Family::ALL {
        let backend = family.backend(Version::V2);
        let address = backend.to_string();
        let neighbour = |arguments: &[&str]| {
            watched.lb().ip(&[&["neighbour", arguments[0], &address, "dev", "to-v2"], &arguments[1..]].concat())
        };
        neighbour(&["replace", "lladdr", NEW_MAC, "nud", "permanent"])?;
        let new_mac = mac(NEW_MAC)?;
        watched.expect("replaced", TIME_MAX, |watched| {
            watched.backend(backend).is_some_and(|hop| hop.destination_mac == new_mac)
        })?;
        neighbour(&["replace", "lladdr", NEW_MAC, "nud", "failed"])?;
        watched.expect("failed", TIME_MAX, |watched| {
            watched.backend(backend).is_none_or(|hop| hop.destination_mac != new_mac)
        })?;
        watched.expect_all()?;
        neighbour(&["delete"])?;
        watched.expect_all()?;
    }
    Ok(())
}

#[test]
fn a_backend_that_does_not_answer_has_no_next_hop_until_it_does() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    let v1 = watched.topology.backend(Version::V1);
    let backend = Family::V4.backend(Version::V1);
    let address = format!("{backend}/24");
    v1.ip(&["address", "del", &address, "dev", HOST_DEVICE])?;
    watched.lb().ip(&["neighbour", "flush", "dev", "to-v1"])?;
    watched.expect("not answering", TIME_MAX, |watched| watched.backend(backend).is_none())?;
    v1.ip(&["address", "add", &address, "dev", HOST_DEVICE])?;
    // It is asked for again and again, 5 s after the kernel has given up.
    watched.expect("answering", Duration::from_secs(14), |watched| watched.backend(backend).is_some())
}

#[test]
fn routes_that_are_replaced_added_or_removed_are_followed() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    let lb = watched.lb();
    let to_v1 = hop(lb, "to-v1", watched.topology.backend(Version::V1))?;
    let to_client = hop(lb, "to-client", &watched.topology.client)?;
    for (family, prefix, client_prefix) in
        [(Family::V4, "10.20.3.0/24", "10.20.0.0/16"), (Family::V6, "fd00:20::300/120", "fd00:20::/64")]
    {
        let ([gateway, client_gateway], inside, outside) = match family {
            Family::V4 => (["10.0.1.10", "10.10.0.2"], family.source(0x0305), family.source(0x0405)),
            Family::V6 => (["fd00:1::10", "fd00:10::2"], family.source(0x0305), family.source(0x0405)),
        };
        let both = |inside_hop, outside_hop| {
            watched.expect("both prefixes", TIME_MAX, |watched| {
                watched.reply(inside) == inside_hop && watched.reply(outside) == outside_hop
            })
        };
        lb.ip(&["route", "add", prefix, "via", gateway])?;
        both(Some(to_v1), Some(to_client))?;
        lb.ip(&["route", "replace", prefix, "via", client_gateway, "mtu", "1400"])?;
        both(Some(NextHop { mtu: 1400, ..to_client }), Some(to_client))?;
        lb.ip(&["route", "del", prefix])?;
        lb.ip(&["route", "add", "unreachable", prefix])?;
        both(None, Some(to_client))?;
        lb.ip(&["route", "del", "unreachable", prefix])?;
        both(Some(to_client), Some(to_client))?;
        let nexthops = ["nexthop", "via", gateway, "nexthop", "via", client_gateway];
        lb.ip(&[&["route", "replace", client_prefix][..], &nexthops].concat())?;
        both(None, None)?;
    }
    Ok(())
}

#[test]
fn the_way_to_a_backend_is_what_the_kernel_says_with_rules_and_all() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    let lb = watched.lb();
    let backend = Family::V4.backend(Version::V1);
    let direct = watched.backend(backend);
    let by_v2 = hop(lb, "to-v2", watched.topology.backend(Version::V2))?;
    let is = |what: &str, hop: Option<NextHop>, has_routes: bool| {
        watched.expect(what, TIME_MAX, |watched| {
            watched.backend(backend) == hop && watched.reply(Family::V4.source(7)).is_some() == has_routes
        })
    };
    lb.ip(&["route", "add", &format!("{backend}/32"), "via", "10.0.2.10"])?;
    is("a route of its own", Some(by_v2), true)?;
    lb.ip(&["route", "del", &format!("{backend}/32")])?;
    is("the connected network again", direct, true)?;
    lb.ip(&["route", "add", "default", "via", "10.0.2.10", "table", "100"])?;
    lb.ip(&["rule", "add", "to", &format!("{backend}/32"), "lookup", "100"])?;
    is("a rule by destination", Some(by_v2), false)?;
    lb.ip(&["rule", "add", "from", "10.20.0.0/16", "lookup", "100"])?;
    is("a rule by source", None, false)?;
    lb.ip(&["rule", "del", "from", "10.20.0.0/16", "lookup", "100"])?;
    lb.ip(&["rule", "del", "to", &format!("{backend}/32"), "lookup", "100"])?;
    is("no more rules", direct, true)?;
    lb.ip(&["route", "add", "10.0.1.0/24", "tos", "0x10", "via", "10.0.2.10"])?;
    is("a route for some packets", None, true)
}

#[test]
fn a_device_that_goes_down_comes_up_or_changes_is_followed() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    let lb = watched.lb();
    let backend = Family::V4.backend(Version::V1);
    lb.ip(&["link", "set", "to-v1", "down"])?;
    watched.expect("down", TIME_MAX, |watched| watched.backend(backend).is_none())?;
    ensure!(watched.reply(Family::V4.source(7)).is_some(), "the other devices are still up");
    lb.ip(&["link", "set", "to-v1", "up"])?;
    watched.expect("up", ANSWER_TIME_MAX, |watched| watched.backend(backend).is_some())?;

    lb.ip(&["link", "set", "to-v1", "address", NEW_MAC, "mtu", "1300"])?;
    let new_mac = mac(NEW_MAC)?;
    watched.expect("changed", TIME_MAX, |watched| {
        watched.backend(backend).is_some_and(|hop| hop.source_mac == new_mac && hop.mtu == 1300)
    })?;

    lb.sysctls(&[("net/ipv4/conf/to-v2/forwarding", "0")])?;
    watched.expect("not forwarding", TIME_MAX, |watched| {
        watched.backend(backend).is_none() && watched.reply(Family::V4.source(7)).is_none()
    })?;
    let v6 = watched.backend(Family::V6.backend(Version::V2));
    ensure!(v6.is_some(), "IPv6 is still forwarded");
    lb.sysctls(&[("net/ipv4/conf/to-v2/forwarding", "1")])?;
    watched.expect("forwarding", TIME_MAX, |watched| watched.backend(backend).is_some())
}

#[test]
fn the_backends_may_change() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    let (known, unknown) = (Family::V4.backend(Version::V1), "10.0.2.99".parse::<IpAddr>()?);
    watched.watcher.set_backends(vec![unknown, known, unknown]);
    watched.expect("the new list", TIME_MAX, |watched| {
        let backends = watched.snapshot().backends;
        backends.len() == 2 && backends[0].0 == known && backends[0].1.is_some() && backends[1] == (unknown, None)
    })
}

#[test]
fn a_storm_of_changes_ends_in_the_right_snapshot() -> Result<()> {
    let watched = Watched::start()?;
    watched.expect_all()?;
    // More than a socket's buffer holds, so that some are never heard of.
    let mut batch = String::new();
    for round in 0..4 {
        for number in 1..=250 {
            writeln!(batch, "route replace 10.{}.{number}.0/24 via 10.10.0.2", 100 + round)?;
            writeln!(batch, "neighbour replace 10.0.1.{number} lladdr {NEW_MAC} dev to-v1 nud stale")?;
        }
        writeln!(batch, "route flush table main 10.{}.0.0/16 via 10.10.0.2", 100 + round)?;
        writeln!(batch, "route flush root 10.{}.0.0/16", 100 + round)?;
    }
    let directory = sweep::temporary_directory(&sweep::unique_name())?;
    let file = directory.join("storm");
    std::fs::write(&file, &batch)?;
    let mut command = watched.lb().command("ip")?;
    command.arg("-force").arg("-batch").arg(&file);
    let began = Instant::now();
    let ran = run(command);
    std::fs::remove_dir_all(directory)?;
    ran?;
    let client = Family::V4.source(7);
    watched.expect("routes are there again", TIME_MAX, |watched| watched.reply(client).is_some())?;
    let backend = Family::V4.backend(Version::V1);
    let new_mac = mac(NEW_MAC)?;
    watched.expect("the last word about the neighbour", TIME_MAX, |watched| {
        watched.backend(backend).is_some_and(|hop| hop.destination_mac == new_mac)
    })?;
    ensure!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn dropping_the_watcher_ends_the_watch() -> Result<()> {
    let Watched { topology: _topology, watcher, snapshots } = Watched::start()?;
    drop(watcher);
    wait_until("the thread has ended", TIME_MAX, || {
        ensure!(snapshots.has_changed().is_err(), "it still runs");
        Ok(())
    })
}
