//! Network namespaces, removed on drop.
//!
//! Processes enter by setns and nothing else: `ip netns exec` would hide the file system of pins from them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    process::run,
    sweep::{self, NETNS_DIRECTORY},
};

/// `ip netns add` prepares its directory on first use, which two at once get wrong.
static CREATION: Mutex<()> = Mutex::new(());

/// A network namespace with its loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes a namespace of that full name.
    pub fn new(name: &str) -> Result<Self> {
        sweep::watch_this_process()?;
        {
            let _one_at_a_time = CREATION.lock().unwrap_or_else(PoisonError::into_inner);
            ip(&["netns", "add", name])?;
        }
        let path = format!("{NETNS_DIRECTORY}/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let namespace = Self { name: name.to_owned(), file };
        // Addresses must be usable at once, and any address of a routed prefix as a source.
        namespace.sysctls(&[
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/ip_nonlocal_bind", "1"),
        ])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }

    /// Writes settings under `/proc/sys`, where the writer's namespace decides whose `net` they are.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{key}");
                fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
            }
            Ok(())
        })?
    }

    /// Packets that TCP and UDP have thrown away here for a wrong checksum.
    pub fn checksum_errors(&self) -> Result<u64> {
        // The thread's own: a process's `net` is that of its first thread.
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let (v4, v6) = self.run(|| anyhow::Ok((read("snmp")?, read("snmp6")?)))??;
        Ok(column(&v4, "Tcp:")? + column(&v4, "Udp:")? + row(&v6, "Udp6InCsumErrors")?)
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let file = self.file.try_clone().context("cannot duplicate the namespace's descriptor")?;
        let mut command = Command::new(program);
        // SAFETY: the closure makes one system call, with a descriptor that it owns; it allocates nothing.
        unsafe {
            command.pre_exec(move || enter(&file));
        }
        Ok(command)
    }

    /// Runs a closure on a thread that has entered the namespace, and waits for it.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                enter(&self.file).with_context(|| format!("cannot enter {}", self.name))?;
                Ok(job())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that has entered the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread_name: &str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = self.file.try_clone().context("cannot duplicate the namespace's descriptor")?;
        let name = self.name.clone();
        let worker = thread::Builder::new().name(thread_name.to_owned()).spawn(move || {
            enter(&file).with_context(|| format!("cannot enter {name}"))?;
            Ok(job())
        })?;
        Ok(worker)
    }

    /// Runs an async job on a runtime whose every socket is in the namespace, and waits for it.
    pub fn block_on<T: Send>(&self, job: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(job))?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]).ok();
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// `InCsumErrors` of a protocol, of whose two lines the first one has the names.
fn column(snmp: &str, protocol: &str) -> Result<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with(protocol)).map(str::split_whitespace);
    let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("no {protocol} in {snmp}"))?;
    let (_, value) = names.zip(values).find(|(name, _)| *name == "InCsumErrors").context("no InCsumErrors")?;
    Ok(value.parse()?)
}

fn row(snmp6: &str, name: &str) -> Result<u64> {
    let mut rows = snmp6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let (_, value) = rows.find(|(found, _)| *found == name).with_context(|| format!("no {name} in {snmp6}"))?;
    Ok(value.trim().parse()?)
}

fn ip(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(arguments);
    run(command)
}
