//! The ways from client to server that are compared, each set up for as long as it is measured.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use grayxdp_tests::{agent::Agent, config::ServiceConfig, netns::Netns, process, scene::Scene, topology::Family};

/// A way from client to server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contender {
    /// The client talks to the backend itself; the load balancer's kernel routes.
    Routed,
    /// The load balancer's kernel rewrites, with connection tracking.
    Nftables,
    /// The packet program rewrites.
    Grayxdp,
}

/// A way that is set up; taken down on drop.
pub(crate) struct Path<'a> {
    target: SocketAddr,
    table_on: Option<&'a Netns>,
    _agent: Option<Agent<'a>>,
}

const TABLE: &str = "grayxdp-bench";

impl Contender {
    pub(crate) const ALL: [Self; 3] = [Self::Routed, Self::Nftables, Self::Grayxdp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Nftables => "nftables",
            Self::Grayxdp => "grayxdp",
        }
    }

    pub(crate) fn set_up(self, scene: &Scene) -> Result<Path<'_>> {
        let web = ServiceConfig::web(Family::V4);
        let backend = web.backends[0][0];
        let mut path = Path { target: web.endpoint(), table_on: None, _agent: None };
        match self {
            Self::Routed => path.target = backend,
            Self::Nftables => {
                let lb = &scene.topology.lb;
                let rule = format!("ip daddr {} tcp dport {} dnat to {backend}", web.vip, web.port);
                let hook = "type nat hook prerouting priority dstnat; policy accept;";
                nft(lb, &[&format!("table ip {TABLE} {{\nchain prerouting {{\n{hook}\n{rule}\n}}\n}}")])?;
                path.table_on = Some(lb);
            }
            Self::Grayxdp => {
                let agent = scene.start_agent(std::slice::from_ref(&web))?;
                agent.wait_for("web", Duration::from_secs(10), |service| service["state"] == "idle")?;
                path._agent = Some(agent);
            }
        }
        Ok(path)
    }
}

impl Path<'_> {
    /// Where the client connects to.
    pub(crate) const fn target(&self) -> SocketAddr {
        self.target
    }
}

impl Drop for Path<'_> {
    fn drop(&mut self) {
        if let Some(lb) = self.table_on
            && let Err(error) = nft(lb, &["delete", "table", "ip", TABLE])
        {
            eprintln!("bench: {error:#}");
        }
    }
}

fn nft(host: &Netns, arguments: &[&str]) -> Result<String> {
    let mut command = host.command("nft")?;
    command.args(arguments);
    process::run(command)
}
