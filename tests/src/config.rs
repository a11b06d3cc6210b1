//! The agent's config file, as data that tests may bend.

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{
    dns::DNS_PORT,
    server::HTTP_PORT,
    sweep,
    topology::{Family, LB_DEVICES, Version},
};

/// The `[agent]` table and the services; every path is one that nobody else uses.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `interfaces`.
    pub interfaces: Vec<String>,
    /// `xdp_mode`.
    pub xdp_mode: &'static str,
    /// `bpffs`.
    pub bpffs: PathBuf,
    /// `socket`, and beside it the config and the log.
    pub socket: PathBuf,
    /// `metrics`; every load balancer has its own loopback.
    pub metrics: SocketAddr,
    /// `state`.
    pub state: PathBuf,
    /// `[[service]]`.
    pub services: Vec<ServiceConfig>,
}

impl AgentConfig {
    /// For the load balancer of a [`crate::topology::Topology`].
    pub fn new(services: Vec<ServiceConfig>) -> Result<Self> {
        let name = sweep::unique_name();
        let directory = sweep::temporary_directory(&format!("{name}-agent"))?;
        Ok(Self {
            interfaces: LB_DEVICES.map(str::to_owned).to_vec(),
            xdp_mode: "native",
            bpffs: Path::new(sweep::BPFFS).join(name),
            socket: directory.join("agent.sock"),
            metrics: SocketAddr::from(([127, 0, 0, 1], 9465)),
            state: directory.join("state.db"),
            services,
        })
    }

    /// Where socket, config and log are.
    pub fn directory(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("/"))
    }

    /// Another directory for socket and state, same pins: what a second agent of the same host would have.
    pub fn with_other_files(&self) -> Result<Self> {
        let mut other = Self::new(self.services.clone())?;
        other.bpffs.clone_from(&self.bpffs);
        other.metrics.set_port(self.metrics.port() + 1);
        Ok(other)
    }

    /// Writes the file; returns its path.
    pub fn write(&self) -> Result<PathBuf> {
        let path = self.directory().join("grayxdp.toml");
        fs::write(&path, self.to_toml()?)?;
        Ok(path)
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "[agent]")?;
        writeln!(text, "interfaces = {:?}", self.interfaces)?;
        writeln!(text, "xdp_mode = {:?}", self.xdp_mode)?;
        writeln!(text, "bpffs = {:?}", self.bpffs)?;
        writeln!(text, "socket = {:?}", self.socket)?;
        writeln!(text, "metrics = \"{}\"", self.metrics)?;
        writeln!(text, "state = {:?}", self.state)?;
        writeln!(text, "max_flows = 262144")?;
        for service in &self.services {
            service.append_toml(&mut text)?;
        }
        Ok(text)
    }
}

/// One `[[service]]`.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// `name`.
    pub name: String,
    /// `vip`.
    pub vip: IpAddr,
    /// `port`.
    pub port: u16,
    /// `protocol`.
    pub protocol: &'static str,
    /// `key`.
    pub key: &'static str,
    /// `v1`, `v2`.
    pub backends: [Vec<SocketAddr>; 2],
    /// The inline table of `shards`.
    pub shards: String,
    /// `mode`, and keys that belong to it, as lines.
    pub mode: String,
    /// More keys of the service, as lines.
    pub more: String,
    /// The inline table of `schedule`.
    pub schedule: String,
    /// `order`.
    pub order: &'static str,
    /// `on_rollback`.
    pub on_rollback: &'static str,
    /// More keys of `[service.release]`, as lines.
    pub release: String,
    /// Lines of `[service.health]`, if it is there.
    pub health: Option<String>,
}

impl ServiceConfig {
    /// HTTP on port 80, from v1's to v2's nginx, weights by hand.
    pub fn web(family: Family) -> Self {
        Self::new("web", family, (80, HTTP_PORT), "tcp")
    }

    /// DNS over UDP, from v1's to v2's dnsmasq, weights by hand.
    pub fn dns(family: Family) -> Self {
        Self::new("dns", family, (53, DNS_PORT), "udp")
    }

    /// The same with a schedule, such as `kind = "smooth", from = 0, to = 100, over = "10s"`.
    pub fn with_schedule(mut self, schedule: &str) -> Self {
        self.schedule = schedule.to_owned();
        self
    }

    /// The same in another mode. In `dsr` and `ipip` backends answer on the service's own port.
    pub fn with_mode(mut self, lines: &str) -> Self {
        self.mode = lines.to_owned();
        self
    }

    /// The same with these backends of v1 and of v2.
    pub fn with_backends(mut self, v1: Vec<SocketAddr>, v2: Vec<SocketAddr>) -> Self {
        self.backends = [v1, v2];
        self
    }

    /// Where clients connect to.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.port)
    }

    fn new(name: &str, family: Family, (port, backend_port): (u16, u16), protocol: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            vip: family.vip(),
            port,
            protocol,
            key: "source-ip",
            backends: Version::ALL.map(|version| vec![family.backend_endpoint(version, backend_port)]),
            shards: "method = \"hash\", count = 16".to_owned(),
            mode: "mode = \"nat\"".to_owned(),
            more: String::new(),
            schedule: "kind = \"manual\"".to_owned(),
            order: "together",
            on_rollback: "keep",
            release: String::new(),
            health: None,
        }
    }

    fn append_toml(&self, text: &mut String) -> Result<()> {
        writeln!(text, "\n[[service]]")?;
        writeln!(text, "name = {:?}", self.name)?;
        writeln!(text, "vip = \"{}\"", self.vip)?;
        writeln!(text, "port = {}", self.port)?;
        writeln!(text, "protocol = {:?}", self.protocol)?;
        writeln!(text, "{}", self.mode)?;
        writeln!(text, "key = {:?}", self.key)?;
        writeln!(text, "shards = {{ {} }}", self.shards)?;
        // One seed for ever: which client is on v2 at which weight is then the same in every run.
        writeln!(text, "hash_seed = \"grayxdp end-to-end\"")?;
        if !self.more.is_empty() {
            writeln!(text, "{}", self.more)?;
        }
        let keeps_port = ["dsr", "ipip"].iter().any(|mode| self.mode.contains(mode));
        let written = |address: &SocketAddr| if keeps_port { address.ip().to_string() } else { address.to_string() };
        for (version, backends) in Version::ALL.into_iter().zip(&self.backends) {
            let entry = |address| format!("{{ address = \"{}\" }}", written(address));
            let list: Vec<String> = backends.iter().map(entry).collect();
            writeln!(text, "{version} = {{ backends = [{}] }}", list.join(", "))?;
        }
        writeln!(text, "[service.release]\nschedule = {{ {} }}", self.schedule)?;
        writeln!(text, "order = {:?}", self.order)?;
        writeln!(text, "on_rollback = {:?}", self.on_rollback)?;
        writeln!(text, "{}", self.release)?;
        if let Some(lines) = &self.health {
            writeln!(text, "[service.health]\n{lines}")?;
        }
        Ok(())
    }
}
