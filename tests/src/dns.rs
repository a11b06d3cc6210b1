//! A real DNS server (dnsmasq) whose answers name its version.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;

use crate::{netns::Netns, process::Process, sweep, topology::Version};

/// The port that every DNS backend listens on; not 53, so that the port is rewritten too.
pub const DNS_PORT: u16 = 5300;
/// The name whose TXT record is the version's name.
pub const VERSION_RECORD: &str = "version.test";

/// dnsmasq in a namespace.
#[derive(Debug)]
pub struct DnsServer {
    process: Process,
    directory: PathBuf,
}

impl DnsServer {
    /// Starts one and waits until it answers.
    pub fn start(host: &Netns, version: Version) -> Result<Self> {
        let directory = sweep::temporary_directory(&format!("{}-dnsmasq-{version}", sweep::unique_name()))?;
        let mut command = host.command("dnsmasq")?;
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file",
            "--log-facility=-",
            &format!("--port={DNS_PORT}"),
            &format!("--txt-record={VERSION_RECORD},{version}"),
        ]);
        let process = Process::spawn(&format!("dnsmasq {version}"), command, &directory.join("output.log"))?;
        let mut server = Self { process, directory };
        server.process.wait_until("dnsmasq accepts connections", Duration::from_secs(10), || {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT));
            host.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))??;
            Ok(())
        })?;
        Ok(server)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).ok();
    }
}
