//! The emulator: boots a kernel, hands its console on line by line, and is ended when its time is up.
//!
//! Software emulation only, also where /dev/kvm is: in a virtual machine that lets one in, guests have crashed.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{kernel::Kernel, tools::Tools};

/// The guest ends itself a little earlier; this is for one that hangs.
const TIME_MAX: Duration = Duration::from_secs(930);
const MEMORY_MIB: &str = "512";

/// How a guest came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Exited,
    /// After so long.
    Killed(Duration),
}

/// Boots, and gives each line of the console to `line`; all of them are in the file `log` afterwards.
pub(super) fn run(
    tools: &Tools,
    kernel: &Kernel,
    initrd: &Path,
    log: &Path,
    line: impl FnMut(&str) -> Result<()>,
) -> Result<End> {
    let log = File::create(log).with_context(|| format!("{}", log.display()))?;
    watch(&mut command(tools, kernel, initrd), TIME_MAX, log, line)
}

fn command(tools: &Tools, kernel: &Kernel, initrd: &Path) -> Command {
    let mut qemu = tools.command("usr/bin/qemu-system-x86_64");
    let usr = tools.root.join("usr");
    qemu.env("QEMU_MODULE_DIR", usr.join("lib/x86_64-linux-gnu/qemu"));
    for firmware in ["share/qemu", "share/seabios"] {
        qemu.arg("-L").arg(usr.join(firmware));
    }
    qemu.args(["-M", "q35", "-accel", "tcg", "-cpu", "qemu64", "-smp", "1", "-m", MEMORY_MIB]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initrd);
    // A panic reboots at once, which ends qemu; `suite` is a variable in the environment of process 1.
    let suite = kernel.suite().name();
    qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1 mitigations=off nokaslr suite={suite}")]);
    qemu
}

fn watch(
    command: &mut Command,
    time_max: Duration,
    mut log: File,
    mut line: impl FnMut(&str) -> Result<()>,
) -> Result<End> {
    let deadline = Instant::now() + time_max;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("qemu does not start")?;
    let console = child.stdout.take().context("a pipe was asked for")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for bytes in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned()).is_err() {
                return;
            }
        }
    });
    let ended = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(text) => {
                if let Err(error) = writeln!(log, "{text}").map_err(Into::into).and_then(|()| line(&text)) {
                    break Err(error);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break Ok(End::Exited),
            Err(RecvTimeoutError::Timeout) => break Ok(End::Killed(time_max)),
        }
    };
    // Whatever has happened, no emulator is left behind.
    let _ = child.kill();
    child.wait().context("qemu")?;
    drop(lines);
    // A thread that panics has nothing to say that the lines do not.
    let _ = reader.join();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(script: &str, time_max: Duration) -> (Vec<String>, Result<End>) {
        let log = File::create("/dev/null").unwrap();
        let mut lines = Vec::new();
        let end = watch(Command::new("sh").args(["-c", script]), time_max, log, |line| {
            lines.push(line.to_owned());
            Ok(())
        });
        (lines, end)
    }

    #[test]
    fn lines_come_without_their_ends() {
        let (lines, end) = watched("printf 'one\\r\\ntwo\\n\\nlast'", Duration::from_secs(60));
        assert_eq!(lines, ["one", "two", "", "last"]);
        assert_eq!(end.unwrap(), End::Exited);
    }

    #[test]
    fn what_hangs_is_ended() {
        let time_max = Duration::from_millis(200);
        let (lines, end) = watched("echo here; exec sleep 60", time_max);
        assert_eq!(lines, ["here"]);
        assert_eq!(end.unwrap(), End::Killed(time_max));
    }
}
