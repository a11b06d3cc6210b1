//! The machine, and the place on it where nothing disturbs.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, UnshareFlags};

/// What figures are only comparable within.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) kernel: String,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn this() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
        let model = model.map_or("unknown CPU", |(_, model)| model);
        let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let cache = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").unwrap_or_default();
        let cache = if cache.is_empty() { String::new() } else { format!(", L3 {}", cache.trim()) };
        let virtual_machine = if cpuinfo.contains(" hypervisor ") { ", virtual machine" } else { "" };
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let output = Command::new("date").arg("+%F").output().context("date")?;
        let date = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { name: format!("{model}, {cpus} CPUs{cache}{virtual_machine}"), kernel, date })
    }
}

/// Keeps this thread on the last CPU, in a network namespace of its own that forwards.
pub(crate) fn settle() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "loading a packet program needs root: run this as root, or with sudo"
    );
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu)).context("no CPU is allowed")?;
    let mut only = CpuSet::new();
    only.set(last);
    rustix::thread::sched_setaffinity(None, &only).context("cannot stay on one CPU")?;
    // SAFETY: no other thread runs; file descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;
    ensure!(status.success(), "the loopback device cannot be set up");
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{key}"), "1").with_context(|| key.to_owned())?;
    }
    Ok(())
}
