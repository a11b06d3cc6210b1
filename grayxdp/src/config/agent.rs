//! The `[agent]` table.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use toml::Spanned;

use super::{AgentConfig, PortRange, XdpMode, section::Section, value};

pub(super) const KEYS: &[&str] =
    &["interfaces", "xdp_mode", "bpffs", "socket", "socket_group", "metrics", "state", "max_flows", "source_ports"];

/// Where the pins are unless the config says otherwise.
pub const BPFFS_DEFAULT: &str = "/sys/fs/bpf/grayxdp";
/// Where the control socket is unless the config says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/grayxdp/agent.sock";
const STATE_DEFAULT: &str = "/var/lib/grayxdp/state.db";
const METRICS_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);
const MAX_FLOWS_DEFAULT: u32 = 1 << 20;
const MAX_FLOWS_LEAST: u32 = 1 << 10;
const MAX_FLOWS_MOST: u32 = 1 << 24;
/// Clear of well-known ports. Sockets of this host's own that bind to a source address share these ports with it.
const SOURCE_PORTS_DEFAULT: PortRange = PortRange { first: 20_000, last: 60_999 };

pub(super) fn read(section: &Section<'_>) -> Option<AgentConfig> {
    let modes = [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
    // All are read before the first `?`, so that every problem is noted.
    let interfaces = interfaces(section);
    let xdp_mode = section.or("xdp_mode", XdpMode::Auto, |value| value::choice(value, &modes));
    let bpffs = section.or("bpffs", PathBuf::from(BPFFS_DEFAULT), value::path);
    let socket = section.or("socket", PathBuf::from(SOCKET_DEFAULT), value::socket_path);
    let socket_group = section.or("socket_group", None, |value| value::text(value).map(Some));
    let metrics = section.or("metrics", METRICS_DEFAULT, value::any_socket_address);
    let state = section.or("state", PathBuf::from(STATE_DEFAULT), value::path);
    let max_flows =
        section.or("max_flows", MAX_FLOWS_DEFAULT, |value| value::integer(value, MAX_FLOWS_LEAST..=MAX_FLOWS_MOST));
    let source_ports = section.or("source_ports", SOURCE_PORTS_DEFAULT, value::port_range);
    Some(AgentConfig {
        interfaces: interfaces?,
        xdp_mode: xdp_mode?.into_inner(),
        bpffs: bpffs?.into_inner(),
        socket: socket?.into_inner(),
        socket_group: socket_group?.into_inner(),
        metrics: metrics?.into_inner(),
        state: state?.into_inner(),
        max_flows: max_flows?.into_inner(),
        source_ports: source_ports?.into_inner(),
    })
}

fn interfaces(section: &Section<'_>) -> Option<Vec<String>> {
    let example = "interfaces = [\"eth0\"]";
    let item = section.required_item("interfaces", &format!("add `{example}`: each device that packets arrive on"))?;
    let mut names: Vec<String> = Vec::new();
    for element in item.elements("interface", example)? {
        let name = element.read(value::interface).map(Spanned::into_inner)?;
        if names.contains(&name) {
            element.note(format!("interface `{name}` is listed twice"), "remove one of the two");
        }
        names.push(name);
    }
    Some(names)
}
