//! `grayxdp trace` shows what becomes of packets, and samples only while somebody looks.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use grayxdp_tests::{
    agent::{Agent, binary},
    config::ServiceConfig,
    process::wait_until,
    scene::Scene,
    topology::{Family, Version},
};
use serde_json::Value;

/// A trace that runs beside the test.
struct Trace {
    child: Child,
    output: BufReader<ChildStdout>,
    lines: Vec<Value>,
}

impl Trace {
    /// Returns once packets are sampled; `arguments` must name a rate.
    fn begin(scene: &Scene, agent: &Agent<'_>, arguments: &[&str]) -> Result<Self> {
        let mut command: Command = scene.topology.lb.command(binary()?)?;
        command.arg("--socket").arg(&agent.config().socket).args(["-o", "json", "trace"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().context("the trace starts")?;
        let output = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let mut trace = Self { child, output, lines: Vec::new() };
        ensure!(trace.read()?, "the trace ends at once");
        Ok(trace)
    }

    /// Reads a line; says whether there was one.
    fn read(&mut self) -> Result<bool> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        self.lines.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        Ok(true)
    }

    /// All lines, once it has ended by itself.
    fn finish(mut self) -> Result<Vec<Value>> {
        while self.read()? {}
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        Ok(self.lines)
    }
}

fn address(packet: &Value, name: &str) -> String {
    let part = |name: &str| packet[name].to_string().trim_matches('"').to_owned();
    format!("{}:{}", part(name), part(&format!("{name}_port")))
}

#[test]
fn a_connection_is_seen_both_ways_with_its_verdicts() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 100.0)?;
    let trace = Trace::begin(&scene, &agent, &["web", "--one-in", "1", "--for", "2s"])?;
    ensure!(scene.ask(&web, 3)? == Version::V2);
    let lines = trace.finish()?;
    ensure!(lines.first().is_some_and(|line| line["type"] == "sampling" && line["one_in"] == 1), "{lines:?}");
    let packets: Vec<&Value> = lines.iter().filter(|line| line["type"] == "packet").collect();
    let client = Family::V4.source(3).to_string();
    let vip: SocketAddr = web.endpoint();
    let syn = packets.iter().find(|packet| packet["tcp_flags"] == "SYN").context("a SYN")?;
    ensure!(syn["source"] == client.as_str() && address(syn, "destination") == vip.to_string(), "{syn}");
    ensure!(syn["service"] == "web" && syn["action"] == "forward" && syn["vip"] == vip.to_string(), "{syn}");
    let answer = packets.iter().find(|packet| packet["tcp_flags"] == "SYN,ACK").context("a SYN,ACK")?;
    ensure!(answer["destination"] == client.as_str() && answer["backend"] == syn["backend"], "{answer}");
    ensure!(address(answer, "source") == answer["backend"].as_str().unwrap_or_default(), "{answer}");
    let sent = |flags: &str| packets.iter().filter(|packet| packet["tcp_flags"].as_str() == Some(flags)).count();
    ensure!(sent("SYN") == 1 && sent("SYN,ACK") == 1 && packets.len() >= 6, "{packets:?}");
    Ok(())
}

#[test]
fn nothing_is_sampled_once_the_command_is_killed_and_drops_are_picked() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let mut killed = Trace::begin(&scene, &agent, &["--one-in", "1"])?;
    let busy = String::from_utf8_lossy(&agent.cli(&["trace"])?.stderr).into_owned();
    ensure!(busy.contains("somebody is tracing already"), "{busy}");
    killed.child.kill()?;
    killed.child.wait()?;
    // The agent has noticed as soon as another may trace.
    let another = || agent.text(&["trace", "--for", "300ms"]).map(drop);
    wait_until("another may trace", Duration::from_secs(5), another)?;
    let trace = Trace::begin(&scene, &agent, &["--drops", "--one-in", "1", "--for", "1s"])?;
    scene.ask(&web, 1)?;
    let lines = trace.finish()?;
    ensure!(lines.iter().all(|line| line["type"] == "sampling"), "nothing was dropped: {lines:?}");
    Ok(())
}

#[test]
fn a_capture_file_is_read_by_tcpdump_and_has_the_packets() -> Result<()> {
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    let file = agent.config().directory().join("trace.pcapng");
    let path = file.to_string_lossy().into_owned();
    let arguments = ["trace", "web", "--count", "4", "--for", "10s", "--one-in", "1", "--write", &path];
    thread::scope(|scope| -> Result<()> {
        let trace = scope.spawn(|| agent.cli(&arguments));
        let ask = || {
            scene.ask(&web, 1)?;
            ensure!(trace.is_finished(), "not enough packets yet");
            Ok(())
        };
        wait_until("the trace ends after its packets", Duration::from_secs(10), ask)?;
        let output = trace.join().map_err(|_| anyhow::anyhow!("the trace panicked"))??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && output.stdout.is_empty() && said.starts_with("4 packets"), "{said}");
        Ok(())
    })?;
    let bytes = fs::read(&file)?;
    let comment = b"grayxdp: forward ";
    ensure!(bytes.windows(comment.len()).filter(|window| window == comment).count() == 4, "a comment each");
    // Where tcpdump is missing, the unit tests' reader must do.
    let Ok(read) = Command::new("tcpdump").args(["-n", "-r", &path]).output() else { return Ok(()) };
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    ensure!(text.lines().count() == 4 && text.contains("Flags [S]"), "{text}{}", String::from_utf8_lossy(&read.stderr));
    Ok(())
}
