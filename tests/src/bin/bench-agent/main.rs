//! The benchmark of the agent: what it costs with many services in release at once, whose every backend is busy.
//!
//! The agent and the traffic have a CPU each, and change places once: else packets that the kernel handles in the agent's
//! time would count as its own.

mod cpu;
mod traffic;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use grayxdp_tests::{
    agent::{self, Agent},
    config::{AgentConfig, ServiceConfig},
    server::HTTP_PORT,
    sweep,
    topology::{Family, Topology, Version},
};
use serde_json::json;

use crate::{
    cpu::{Usage, watch},
    traffic::Traffic,
};

/// Measures the CPU time of the agent with many services in release at once, in network namespaces of this machine.
#[derive(Parser, Debug)]
#[command(name = "bench-agent", after_help = "Exit codes: 0 measured; 1 could not measure; 2 usage.")]
struct Args {
    /// Services, each with a release under way.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=250))]
    services: u16,
    /// Backends of a service, half of them v2's.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=250))]
    backends: u16,
    /// Length of each measurement.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..=600))]
    seconds: u32,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What was measured while something went on.
struct Row {
    what: &'static str,
    connections_per_s: f64,
    /// Which part of the backends took a new connection within a second.
    busy: f64,
    usage: Usage,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces and XDP need root: run this as root, or with sudo"
    );
    ensure!(cpu::count() >= 2, "this needs two CPUs: one for the agent, one for the traffic");
    sweep::sweep()?;
    agent::ensure_bpffs().context("the kernel's file system of pins cannot be mounted")?;
    let topology = Topology::new(&sweep::unique_name())?;
    for version in Version::ALL {
        own_all(&topology, version)?;
    }
    let services: Vec<ServiceConfig> = (0..args.services).map(|index| service(index, args.backends)).collect();
    let targets: Vec<SocketAddr> = services.iter().map(ServiceConfig::endpoint).collect();
    let agent = Agent::start(&topology.lb, AgentConfig::new(services.clone())?)?;
    for service in &services {
        agent.text(&["start", &service.name])?;
    }
    let length = Duration::from_secs(args.seconds.into());
    let backends = u32::from(args.services) * u32::from(args.backends);
    cpu::pin(agent.id()?, 0)?;
    let mut rows = Vec::new();
    let idle = watch(agent.id()?, length)?;
    rows.push(Row { what: "no traffic", connections_per_s: 0.0, busy: 0.0, usage: idle });
    let traffic = Traffic::start(&topology, &targets, 1)?;
    for (what, agent_cpu, traffic_cpu) in [("traffic on CPU 1", 0, 1), ("traffic on CPU 0", 1, 0)] {
        eprintln!("{what}: {} s", args.seconds);
        cpu::pin(agent.id()?, agent_cpu)?;
        traffic.move_to(traffic_cpu);
        sleep(Duration::from_secs(3));
        let before = traffic.connections();
        let busy = busy(&agent, backends)?;
        let usage = watch(agent.id()?, length)?;
        let grown = traffic.connections().saturating_sub(before);
        rows.push(Row { what, connections_per_s: grown as f64 / f64::from(args.seconds), busy, usage });
    }
    let failed = traffic.stop()?;
    ensure!(failed == 0, "{failed} connections failed");
    for service in &services {
        let state = agent.service(&service.name)?;
        ensure!(state["state"] == "progressing", "a release should be under way, but {state}");
    }
    print(args, &rows).context("cannot print")
}

/// Gives a version's host all addresses of its backends.
fn own_all(topology: &Topology, version: Version) -> Result<()> {
    let network = format!("{}/16", backend(version, 0));
    topology.backend(version).ip(&["route", "add", "local", &network, "dev", "lo"])?;
    topology.lb.ip(&["route", "add", &network, "via", &Family::V4.backend(version).to_string()])?;
    Ok(())
}

fn backend(version: Version, nth: u16) -> IpAddr {
    let [high, low] = nth.to_be_bytes();
    let network = match version {
        Version::V1 => 101,
        Version::V2 => 102,
    };
    Ipv4Addr::new(10, network, high, low).into()
}

fn service(index: u16, backends: u16) -> ServiceConfig {
    let mut service =
        ServiceConfig::web(Family::V4).with_schedule("kind = \"smooth\", from = 40, to = 60, over = \"1h\"");
    service.name = format!("web-{index}");
    service.port = 8000 + index;
    let of = |version| -> Vec<SocketAddr> {
        let count = if version == Version::V2 { backends / 2 } else { backends - backends / 2 };
        (0..count).map(|nth| SocketAddr::new(backend(version, 1 + index * 256 + nth), HTTP_PORT)).collect()
    };
    service.backends = Version::ALL.map(of);
    service
}

/// Which part of the backends takes a connection within a second.
fn busy(agent: &Agent<'_>, backends: u32) -> Result<f64> {
    let flows = || -> Result<Vec<String>> {
        let page = agent.metrics()?;
        Ok(page.lines().filter(|line| line.starts_with("grayxdp_tracked_flows")).map(str::to_owned).collect())
    };
    let before = flows()?;
    sleep(Duration::from_secs(1));
    let moved = flows()?.iter().zip(&before).filter(|(now, before)| now != before).count();
    Ok(f64::from(u32::try_from(moved)?) / f64::from(backends))
}

fn print(args: &Args, rows: &[Row]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} services with {} backends each, all in release", args.services, args.backends)?;
    writeln!(
        out,
        "{:<18} {:>13} {:>9} {:>13} {:>16}",
        "", "connections/s", "busy", "CPU a second", "turn with a look"
    )?;
    for row in rows {
        let mut line = String::new();
        let _ = write!(line, "{:<18} {:>13.0} {:>8.0}%", row.what, row.connections_per_s, row.busy * 100.0);
        let (second, turn) = (row.usage.second_ms, row.usage.turn_ms);
        writeln!(out, "{line} {second:>10.1} ms {turn:>13.1} ms")?;
    }
    if args.json {
        let cases: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "case": row.what, "connections_per_s": row.connections_per_s, "busy": row.busy,
                    "cpu_ms_per_s": row.usage.second_ms, "look_turn_ms": row.usage.turn_ms,
                })
            })
            .collect();
        writeln!(out, "{}", json!({ "services": args.services, "backends": args.backends, "cases": cases }))?;
    }
    out.flush()
}
