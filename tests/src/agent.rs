//! The agent under test: started in the load balancer's namespace, taken down on drop with all that it pinned.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    api::pick_service,
    config::AgentConfig,
    netns::Netns,
    process::{Process, Signal, output_within, run, wait_until},
    sweep::BPFFS,
};

/// How long a command may take.
pub const COMMAND_MAX: Duration = Duration::from_secs(30);
const START_MAX: Duration = Duration::from_secs(30);
/// From a socket's last words until its process is known to have ended.
const ENDING: Duration = Duration::from_millis(500);

/// The binary: `GRAYXDP_BIN`, or the release build of this workspace.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("GRAYXDP_BIN") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/grayxdp"),
    };
    path.canonicalize().with_context(|| {
        format!(
            "no binary {}: run `cargo build --release -p grayxdp`, or set GRAYXDP_BIN to where it is",
            path.display()
        )
    })
}

/// Sees to it that the file system of pins is there.
pub fn ensure_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        return Ok(());
    }
    let mut mount = Command::new("mount");
    mount.args(["-t", "bpf", "bpf", BPFFS]);
    run(mount).map(drop)
}

/// A running agent (or one that was killed, to be started again).
#[derive(Debug)]
pub struct Agent<'a> {
    lb: &'a Netns,
    config: AgentConfig,
    process: Option<Process>,
}

impl<'a> Agent<'a> {
    /// Writes the config, starts the agent, waits until its socket answers.
    pub fn start(lb: &'a Netns, config: AgentConfig) -> Result<Self> {
        ensure_bpffs()?;
        let mut agent = Self { lb, config, process: None };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it (again), and waits until its socket answers.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the agent runs already");
        let command = run_command(self.lb, &self.config)?;
        let mut process = Process::spawn("grayxdp run", command, &self.config.directory().join("agent.log"))?;
        process.wait_until("the agent's socket answers", START_MAX, || self.json(&["status"]))?;
        self.process = Some(process);
        Ok(())
    }

    /// Its config.
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// Changes the config for the next start.
    pub fn config_mut(&mut self) -> &mut AgentConfig {
        &mut self.config
    }

    /// Runs a command against its socket; the caller judges the exit code.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.lb.command(binary()?)?;
        command.arg("--socket").arg(&self.config.socket).args(arguments);
        output_within(command, COMMAND_MAX)
    }

    /// Runs a command that must succeed.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        if !output.status.success() {
            bail!("grayxdp {arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command with `-o json` that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.text(&[&["-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("grayxdp {arguments:?} printed {text:?}"))
    }

    /// The status object of a service.
    pub fn service(&self, name: &str) -> Result<Value> {
        pick_service(&self.json(&["status"])?, name)
    }

    /// Sets a weight in percent.
    pub fn set_weight(&self, service: &str, percent: f64) -> Result<()> {
        self.text(&["set-weight", service, &percent.to_string()]).map(drop)
    }

    /// Waits until a service satisfies `condition`.
    pub fn wait_for(&self, service: &str, time_max: Duration, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_until("the service gets there", time_max, || {
            let status = self.service(service)?;
            ensure!(condition(&status), "it is at {status}");
            Ok(status)
        })
    }

    /// An error with the end of its log, unless it runs.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.as_mut().context("the agent was not started")?.check_running()
    }

    /// Why its socket does not answer: that it has ended, which may show a moment later; else that error.
    pub fn cause_of(&mut self, error: anyhow::Error) -> anyhow::Error {
        sleep(ENDING);
        self.check_running().err().unwrap_or(error)
    }

    /// Its process id.
    pub fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the agent does not run")?.id())
    }

    /// Ends it without a chance to react.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.end(Signal::KILL)
    }

    /// Asks it to end, as the service manager does.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end(Signal::TERM)
    }

    /// Takes notice that it has ended by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.wait_within(COMMAND_MAX)
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.config.directory().join("agent.log")).unwrap_or_default()
    }

    /// The page of metrics, in the classic format.
    pub fn metrics(&self) -> Result<String> {
        let mut command = self.lb.command("curl")?;
        command.args(["--silent", "--show-error", "--fail", "--max-time", "10"]);
        command.arg(format!("http://{}/metrics", self.config.metrics));
        run(command)
    }

    /// Takes everything down without an agent.
    pub fn detach(&self) -> Result<Output> {
        let mut command = self.lb.command(binary()?)?;
        command.arg("--socket").arg(&self.config.socket).arg("detach").arg("--bpffs").arg(&self.config.bpffs);
        output_within(command, COMMAND_MAX)
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.signal(signal)?;
        process.wait_within(COMMAND_MAX)
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        drop(self.process.take());
        self.detach().ok();
        fs::remove_dir_all(&self.config.bpffs).ok();
        fs::remove_dir_all(self.config.directory()).ok();
    }
}

/// `grayxdp run` for a config, which is written first.
pub fn run_command(lb: &Netns, config: &AgentConfig) -> Result<Command> {
    let path = config.write()?;
    let mut command = lb.command(binary()?)?;
    command.arg("run").arg("--config").arg(path);
    Ok(command)
}
