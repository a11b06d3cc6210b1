//! The ways from client to server that are compared, each set up for as long as it is measured.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::ServiceConfig,
    netns::Netns,
    process::{self, Process},
    scene::Scene,
    sweep,
    topology::Family,
};

/// A way from client to server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contender {
    /// The client talks to the backend itself; the load balancer's kernel routes.
    Routed,
    /// The load balancer's kernel rewrites, with connection tracking.
    Nftables,
    /// A proxy on the load balancer: two TCP connections for each one.
    Haproxy,
    /// The packet program rewrites.
    Grayxdp,
}

/// A way that is set up; taken down on drop.
pub(crate) struct Path<'a> {
    target: SocketAddr,
    table_on: Option<&'a Netns>,
    vip_on: Option<&'a Netns>,
    _proxy: Option<Process>,
    _agent: Option<Agent<'a>>,
}

const TABLE: &str = "grayxdp-bench";

impl Contender {
    pub(crate) const ALL: [Self; 4] = [Self::Routed, Self::Nftables, Self::Haproxy, Self::Grayxdp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::Grayxdp => "grayxdp",
        }
    }

    pub(crate) fn set_up(self, scene: &Scene) -> Result<Path<'_>> {
        let web = ServiceConfig::web(Family::V4);
        let backend = web.backends[0][0];
        let mut path = Path { target: web.endpoint(), table_on: None, vip_on: None, _proxy: None, _agent: None };
        match self {
            Self::Routed => path.target = backend,
            Self::Nftables => {
                let lb = &scene.topology.lb;
                let rule = format!("ip daddr {} tcp dport {} dnat to {backend}", web.vip, web.port);
                let hook = "type nat hook prerouting priority dstnat; policy accept;";
                nft(lb, &[&format!("table ip {TABLE} {{\nchain prerouting {{\n{hook}\n{rule}\n}}\n}}")])?;
                path.table_on = Some(lb);
            }
            Self::Haproxy => {
                let lb = &scene.topology.lb;
                lb.ip(&["address", "add", &format!("{}/32", web.vip), "dev", "lo"])?;
                path.vip_on = Some(lb);
                path._proxy = Some(start_haproxy(lb, web.endpoint(), backend)?);
                let open = || {
                    let listeners = process::run(listening(lb)?)?;
                    ensure!(listeners.contains(&web.endpoint().to_string()), "HAProxy does not listen yet");
                    Ok(())
                };
                process::wait_until("HAProxy listens", Duration::from_secs(5), open)?;
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
        if let Some(lb) = self.vip_on
            && let Err(error) = lb.ip(&["address", "del", &format!("{}/32", self.target.ip()), "dev", "lo"])
        {
            eprintln!("bench: {error:#}");
        }
    }
}

/// As Debian has it, in mode tcp, with as many threads as it wants; checks and logs off.
fn start_haproxy(host: &Netns, frontend: SocketAddr, backend: SocketAddr) -> Result<Process> {
    let directory = sweep::temporary_directory(&format!("{}-haproxy", sweep::unique_name()))?;
    let config = directory.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\nlisten web\n  bind {frontend}\n  server v1 {backend}\n"
        ),
    )?;
    let mut command = host.command("haproxy")?;
    command.arg("-db").arg("-f").arg(&config);
    Process::spawn("HAProxy", command, &directory.join("haproxy.log"))
}

fn listening(host: &Netns) -> Result<std::process::Command> {
    let mut command = host.command("ss")?;
    command.args(["-Hltn"]);
    Ok(command)
}

fn nft(host: &Netns, arguments: &[&str]) -> Result<String> {
    let mut command = host.command("nft")?;
    command.args(arguments);
    process::run(command)
}
