//! An agent that cannot start says why in one clear error, and leaves traffic and state as they were.
//!
//! Each case: an agent serves at 40 % and is killed; one with a fault is started in its place; it must be refused;
//! clients, pins and weight must be as before; and a sound agent must be able to take over.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result};
use grayxdp_tests::{
    agent::{self, Agent},
    config::{AgentConfig, ServiceConfig},
    netns::Netns,
    process::output_within,
    scene::Scene,
    topology::{Family, Version},
};

const CLIENTS: u16 = 200;
const WEIGHT: f64 = 40.0;

#[test]
fn an_unknown_interface_is_refused() -> Result<()> {
    with_other_config(|config| config.interfaces.push("nosuch0".to_owned()), &["nosuch0"])
}

#[test]
fn native_mode_on_a_device_without_native_xdp_is_refused() -> Result<()> {
    let change = |config: &mut AgentConfig| {
        config.xdp_mode = "native";
        config.interfaces.push("lo".to_owned());
    };
    with_other_config(change, &["lo", "native", "generic"])
}

#[test]
fn a_metrics_port_in_use_is_refused() -> Result<()> {
    refused(
        |lb, config| {
            let metrics = config.metrics;
            let taken = lb.run(|| TcpListener::bind(metrics))?.context("cannot take the port")?;
            let output = start(lb, config)?;
            drop(taken);
            Ok(output)
        },
        &["127.0.0.1:9465", "in use"],
    )
}

#[test]
fn a_missing_cap_bpf_is_refused() -> Result<()> {
    refused(|lb, config| without_capabilities(lb, config, "-bpf,-sys_admin"), &["CAP_BPF"])
}

#[test]
fn a_missing_cap_net_admin_is_refused() -> Result<()> {
    refused(|lb, config| without_capabilities(lb, config, "-net_admin"), &["CAP_NET_ADMIN"])
}

#[test]
fn a_kernel_that_is_too_old_is_refused() -> Result<()> {
    refused(|lb, config| wrapped(lb, config, &["setarch", "--uname-2.6"]), &["kernel", "2.6"])
}

#[test]
fn a_config_with_errors_is_refused_with_file_line_and_what_was_expected() -> Result<()> {
    let start_broken = |lb: &Netns, config: &AgentConfig| {
        let text = config.to_toml()?.replace("protocol = \"tcp\"", "protocol = \"sctp\"") + "\nwieght = 3\n";
        let path = config.directory().join("broken.toml");
        fs::write(&path, text)?;
        let mut command = lb.command(agent::binary()?)?;
        command.arg("run").arg("--config").arg(path);
        output_within(command, Duration::from_secs(30))
    };
    refused(start_broken, &["broken.toml", "sctp", "udp", "wieght"])
}

#[test]
fn a_config_that_does_not_exist_is_refused() -> Result<()> {
    let start_without = |lb: &Netns, _: &AgentConfig| {
        let mut command = lb.command(agent::binary()?)?;
        command.args(["run", "--config", "/nonexistent/grayxdp.toml"]);
        output_within(command, Duration::from_secs(30))
    };
    refused(start_without, &["/nonexistent/grayxdp.toml"])
}

#[test]
fn a_second_agent_on_the_same_pins_is_refused_and_the_first_one_does_not_notice() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut first = scene.start_agent(std::slice::from_ref(&web))?;
    first.set_weight("web", WEIGHT)?;
    let before = Observed::now(&scene, &web, &first)?;
    let second = first.config().with_other_files()?;
    let output = start(&scene.topology.lb, &second)?;
    assert_refused(&output, &["another agent", &second.bpffs.to_string_lossy()]);
    // Also with the same socket, which it must not take away.
    let output = start(&scene.topology.lb, first.config())?;
    assert_refused(&output, &["another agent"]);
    assert_eq!(Observed::now(&scene, &web, &first)?, before);
    first.check_running()?;
    assert_eq!(first.service("web")?["kernel_weight"], WEIGHT);
    Ok(fs::remove_dir_all(second.directory())?)
}

fn with_other_config(change: impl FnOnce(&mut AgentConfig), words: &[&str]) -> Result<()> {
    refused(
        |lb, config| {
            let mut config = config.clone();
            change(&mut config);
            start(lb, &config)
        },
        words,
    )
}

/// The story of every case; see the head of this file.
fn refused(start_faulty: impl FnOnce(&Netns, &AgentConfig) -> Result<Output>, words: &[&str]) -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let mut agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", WEIGHT)?;
    agent.kill()?;
    let before = Observed::now(&scene, &web, &agent)?;
    let output = start_faulty(&scene.topology.lb, agent.config())?;
    assert_refused(&output, words);
    assert_eq!(Observed::now(&scene, &web, &agent)?, before, "traffic or state changed");
    agent.restart()?;
    let status = agent.service("web")?;
    assert_eq!(status["kernel_weight"], WEIGHT, "{status}");
    assert_eq!(Observed::now(&scene, &web, &agent)?.clients, before.clients);
    Ok(())
}

/// What a refused agent must not change.
#[derive(PartialEq, Debug)]
struct Observed {
    clients: Vec<Version>,
    pins: BTreeSet<String>,
    programs: String,
}

impl Observed {
    fn now(scene: &Scene, web: &ServiceConfig, agent: &Agent<'_>) -> Result<Self> {
        let links = scene.topology.lb.ip(&["-d", "link", "show"])?;
        let programs = links.lines().filter(|line| line.contains("xdp")).collect::<Vec<_>>().join("\n");
        Ok(Self { clients: scene.ask_many(web, CLIENTS)?, pins: names_in(&agent.config().bpffs)?, programs })
    }
}

fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn start(lb: &Netns, config: &AgentConfig) -> Result<Output> {
    output_within(agent::run_command(lb, config)?, Duration::from_secs(30))
}

fn without_capabilities(lb: &Netns, config: &AgentConfig, capabilities: &str) -> Result<Output> {
    // Root gets back what is in the bounding set, and nothing else.
    wrapped(lb, config, &["setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities])
}

/// Starts the agent by way of another program.
fn wrapped(lb: &Netns, config: &AgentConfig, wrapper: &[&str]) -> Result<Output> {
    let plain: Command = agent::run_command(lb, config)?;
    let mut command = lb.command(wrapper[0])?;
    command.args(&wrapper[1..]).arg(plain.get_program()).args(plain.get_args());
    output_within(command, Duration::from_secs(30))
}

fn assert_refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "does not name `{word}`: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
    assert!(said.lines().count() <= 40, "that is not one clear error: {said}");
}
