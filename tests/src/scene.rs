//! A topology with an HTTP server for each version: what nearly every test begins with.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    agent::Agent,
    config::{AgentConfig, ServiceConfig},
    load::LoadPlan,
    process::wait_until,
    server::HttpServer,
    sweep,
    topology::{Family, Topology, Version},
    traffic::{addresses, ask_all, ask_once},
};

/// Fields in the order of their end: servers before the network.
#[derive(Debug)]
pub struct Scene {
    /// v1's server.
    pub v1: HttpServer,
    /// v2's server.
    pub v2: HttpServer,
    /// The network.
    pub topology: Topology,
}

impl Scene {
    /// Makes one. Needs root.
    pub fn new() -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces and XDP need root: run this as root, or with sudo"
        );
        sweep::sweep()?;
        let topology = Topology::new(&sweep::unique_name())?;
        let start = |version| HttpServer::start(topology.backend(version), version);
        Ok(Self { v1: start(Version::V1)?, v2: start(Version::V2)?, topology })
    }

    /// The server of a version.
    pub fn server(&self, version: Version) -> &HttpServer {
        match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        }
    }

    /// An agent on the load balancer, in native mode.
    pub fn start_agent(&self, services: &[ServiceConfig]) -> Result<Agent<'_>> {
        Agent::start(&self.topology.lb, AgentConfig::new(services.to_vec())?)
    }

    /// Who answers one new connection from the client's source address of that index.
    pub fn ask(&self, service: &ServiceConfig, index: u16) -> Result<Version> {
        let source = family_of(service.endpoint()).source(index);
        Ok(self.topology.client.block_on(ask_once(service.endpoint(), source))?.version)
    }

    /// Who answers the first `count` source addresses, on a new connection each.
    pub fn ask_many(&self, service: &ServiceConfig, count: u16) -> Result<Vec<Version>> {
        let sources = family_of(service.endpoint()).sources(count);
        self.topology.client.block_on(ask_all(service.endpoint(), &sources))
    }

    /// The backend of each of the first `count` source addresses, by a new connection each.
    pub fn backends(&self, service: &ServiceConfig, count: u16) -> Result<Vec<IpAddr>> {
        let sources = family_of(service.endpoint()).sources(count);
        self.topology.client.block_on(addresses(service.endpoint(), &sources, "/backend"))
    }

    /// See [`Topology::more_backends`].
    pub fn more_backends(&self, family: Family, version: Version, count: u16) -> Result<Vec<SocketAddr>> {
        self.topology.more_backends(family, version, count)
    }

    /// Gives a version's host another address of its network.
    pub fn add_address(&self, version: Version, address: IpAddr) -> Result<()> {
        self.topology.add_address(version, address)
    }

    /// An error if client or servers have got a packet with a wrong checksum.
    pub fn check_checksums(&self) -> Result<()> {
        let backends = Version::ALL.map(|version| self.topology.backend(version));
        for host in backends.into_iter().chain([&self.topology.client]) {
            let errors = host.checksum_errors()?;
            ensure!(errors == 0, "{}: {errors} packets with a wrong checksum", host.name());
        }
        Ok(())
    }

    /// Waits until the service answers.
    pub fn wait_for_answer(&self, service: &ServiceConfig) -> Result<Version> {
        wait_until("the service answers", Duration::from_secs(10), || self.ask(service, 1))
    }

    /// A moderate load on a service: 400 new connections per second from 2,000 addresses, and 8 keep-alive connections.
    pub fn load_plan(&self, service: &ServiceConfig) -> LoadPlan {
        LoadPlan {
            target: service.endpoint(),
            sources: family_of(service.endpoint()).sources(2000),
            workers: 16,
            rate_per_s: 400,
            keep_alive_starts: vec![Duration::ZERO; 8],
            keep_alive_pause: Duration::from_millis(20),
            time_max: Duration::from_secs(120),
        }
    }
}

fn family_of(endpoint: SocketAddr) -> Family {
    if endpoint.is_ipv4() { Family::V4 } else { Family::V6 }
}
