//! Child processes: ended on drop, with a bound on every wait.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, kill_process, kill_process_group};

pub use rustix::process::Signal;

const POLL: Duration = Duration::from_millis(10);
const STOP_MAX: Duration = Duration::from_secs(5);
const LOG_TAIL_LINES: usize = 10;

/// A child that runs for long. Ended on drop, with all of its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`, in a process group of its own: Ctrl-C is for us alone.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let (stdout, stderr) = (open()?, open()?);
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log, unless it runs.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its last words:\n{}", self.name, self.log_tail()),
        }
    }

    /// Like [`wait_until`], but ends at once with the process.
    pub fn wait_until<T>(&mut self, what: &str, time_max: Duration, probe: impl Fn() -> Result<T>) -> Result<T> {
        wait_until(what, time_max, || match self.check_running() {
            // The inner result ends the wait.
            Err(ended) => Ok(Err(ended)),
            Ok(()) => probe().map(Ok),
        })?
    }

    /// The last lines that it has written.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end.
    pub fn wait_within(&mut self, time_max: Duration) -> Result<ExitStatus> {
        match wait_within(&mut self.child, time_max)? {
            Some(status) => Ok(status),
            None => bail!("{} did not end within {time_max:?}; its last words:\n{}", self.name, self.log_tail()),
        }
    }

    fn pid(&self) -> Result<Pid> {
        let raw = i32::try_from(self.child.id())?;
        Pid::from_raw(raw).context("process id 0")
    }

    fn stop(&mut self) -> Result<()> {
        let group = self.pid()?;
        if self.child.try_wait()?.is_none() {
            kill_process_group(group, Signal::TERM).ok();
            wait_within(&mut self.child, STOP_MAX)?;
        }
        // Itself, if it did not obey, and children of one that was killed: theirs is the group as long as they live.
        kill_process_group(group, Signal::KILL).ok();
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop().ok();
    }
}

fn wait_within(child: &mut Child, time_max: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + time_max;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Runs a command to its end and returns what it printed; kills it when it takes too long.
pub fn output_within(mut command: Command, time_max: Duration) -> Result<Output> {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = wait_within(&mut child, time_max)?;
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let collect = |reader: Option<thread::JoinHandle<Vec<u8>>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    match status {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => bail!("{name} took longer than {time_max:?}\n{}", String::from_utf8_lossy(&stderr)),
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        bytes
    })
}

/// Runs a command that must succeed; returns its standard output.
pub fn run(command: Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = output_within(command, Duration::from_secs(60))?;
    if !output.status.success() {
        bail!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks again and again until the answer is `Ok`; the last error tells what was missing.
pub fn wait_until<T>(what: &str, time_max: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + time_max;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {time_max:?} in vain: {what}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
