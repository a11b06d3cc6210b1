//! The network of the demo and of most tests: client, load balancer and one host for each version, routed.
//!
//! ```text
//! client eth0 ── to-client  lb  to-v1 ── eth0 v1
//!                               to-v2 ── eth0 v2
//! ```
//! The client owns a whole prefix of source addresses, and reaches the VIPs by way of `lb`, as do both versions' hosts
//! reach the client: replies pass `lb`, which mode `nat` needs.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;

use crate::{netns::Netns, process::run, server::HTTP_PORT};

/// One of the two versions of a service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    /// The running version.
    V1,
    /// The new version.
    V2,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// Lower-case name, which is also the host's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }

    const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// IPv4 or IPv6; the topology has both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The service's address.
    pub const fn vip(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)),
        }
    }

    /// The address of a version's host.
    pub const fn backend(self, version: Version) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, version.number(), 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, version.number() as u16, 0, 0, 0, 0, 0, 0x10)),
        }
    }

    /// The endpoint of a version's host.
    pub const fn backend_endpoint(self, version: Version, port: u16) -> SocketAddr {
        SocketAddr::new(self.backend(version), port)
    }

    /// One of the client's 65,536 source addresses.
    pub const fn source(self, index: u16) -> IpAddr {
        let [high, low] = index.to_be_bytes();
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 20, high, low)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, index)),
        }
    }

    /// The first `count` source addresses, from the second on (the first one is the prefix itself).
    pub fn sources(self, count: u16) -> Vec<IpAddr> {
        (1..=count).map(|index| self.source(index)).collect()
    }
}

/// The device towards a host, on `lb`.
pub const LB_DEVICES: [&str; 3] = ["to-client", "to-v1", "to-v2"];
/// The device of every other host.
pub const HOST_DEVICE: &str = "eth0";

/// The four hosts.
#[derive(Debug)]
pub struct Topology {
    /// Where clients are.
    pub client: Netns,
    /// Where the agent runs.
    pub lb: Netns,
    v1: Netns,
    v2: Netns,
}

impl Topology {
    /// Makes all; `name` comes from [`crate::sweep::unique_name`].
    pub fn new(name: &str) -> Result<Self> {
        let host = |role: &str| Netns::new(&format!("{name}-{role}"));
        let topology = Self { client: host("client")?, lb: host("lb")?, v1: host("v1")?, v2: host("v2")? };
        topology.lb.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        topology.connect_client()?;
        for version in Version::ALL {
            topology.connect_backend(version)?;
        }
        Ok(topology)
    }

    /// The host of a version.
    pub fn backend(&self, version: Version) -> &Netns {
        match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        }
    }

    /// Gives a version's host more addresses, from the one after [`Family::backend`] on; returns all `count` backends.
    pub fn more_backends(&self, family: Family, version: Version, count: u16) -> Result<Vec<SocketAddr>> {
        let first = family.backend_endpoint(version, HTTP_PORT);
        let nth = |nth: u16| match first.ip() {
            IpAddr::V4(address) => IpAddr::V4((u32::from(address) + u32::from(nth)).into()),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) + u128::from(nth)).into()),
        };
        let all: Vec<SocketAddr> = (0..count).map(|each| SocketAddr::new(nth(each), HTTP_PORT)).collect();
        for address in all.iter().skip(1) {
            self.add_address(version, address.ip())?;
        }
        Ok(all)
    }

    /// Gives a version's host another address of its network.
    pub fn add_address(&self, version: Version, added: IpAddr) -> Result<()> {
        address(self.backend(version), HOST_DEVICE, &[&in_its_network(added)])
    }

    fn connect_client(&self) -> Result<()> {
        let (client, lb) = (&self.client, &self.lb);
        connect(lb, "to-client", client)?;
        address(lb, "to-client", &["10.10.0.1/24", "fd00:10::1/64"])?;
        address(client, HOST_DEVICE, &["10.10.0.2/24", "fd00:10::2/64"])?;
        // A local prefix makes each of its addresses usable as a source without configuring 65,536 of them.
        client.ip(&["route", "add", "local", "10.20.0.0/16", "dev", "lo"])?;
        client.ip(&["route", "add", "local", "fd00:20::/64", "dev", "lo"])?;
        lb.ip(&["route", "add", "10.20.0.0/16", "via", "10.10.0.2"])?;
        lb.ip(&["route", "add", "fd00:20::/64", "via", "fd00:10::2"])?;
        client.ip(&["route", "add", "default", "via", "10.10.0.1"])?;
        client.ip(&["route", "add", "default", "via", "fd00:10::1"])?;
        Ok(())
    }

    fn connect_backend(&self, version: Version) -> Result<()> {
        let (host, device, number) = (self.backend(version), format!("to-{version}"), version.number());
        connect(&self.lb, &device, host)?;
        address(&self.lb, &device, &[&format!("10.0.{number}.1/24"), &format!("fd00:{number}::1/64")])?;
        for family in Family::ALL {
            let prefix = if family == Family::V4 { 24 } else { 64 };
            address(host, HOST_DEVICE, &[&format!("{}/{prefix}", family.backend(version))])?;
        }
        host.ip(&["route", "add", "default", "via", &format!("10.0.{number}.1")])?;
        host.ip(&["route", "add", "default", "via", &format!("fd00:{number}::1")])?;
        Ok(())
    }
}

/// A veth pair between a router (`lb` in most cases) and a host, whose end is [`HOST_DEVICE`]; both ends up.
pub fn connect(lb: &Netns, device: &str, host: &Netns) -> Result<()> {
    lb.ip(&["link", "add", device, "type", "veth", "peer", "name", HOST_DEVICE, "netns", host.name()])?;
    let ends = [(lb, device), (host, HOST_DEVICE)];
    // veth leaves checksums to the receiver, who is never the far end of a rewritten packet: computed by the sender.
    // GRO gives the far end the receive queue without which veth drops what XDP sends there; before either end goes
    // up, for that is when the near end looks.
    for (namespace, device) in ends {
        let mut ethtool = namespace.command("ethtool")?;
        ethtool.args(["-K", device, "tx", "off", "gro", "on"]);
        run(ethtool)?;
    }
    for (namespace, device) in ends {
        namespace.ip(&["link", "set", device, "up"])?;
    }
    Ok(())
}

/// An address with the length of the networks here.
pub fn in_its_network(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

/// Gives a device addresses (with prefix lengths), usable at once.
pub fn address(namespace: &Netns, device: &str, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let mut arguments = vec!["address", "add", address, "dev", device];
        if address.contains(':') {
            arguments.push("nodad");
        }
        namespace.ip(&arguments)?;
    }
    Ok(())
}
