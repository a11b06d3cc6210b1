//! The end of IP-in-IP tunnels in a namespace, in user space: kernels without `ipip` devices have no other one.
//!
//! Raw sockets get what comes in with protocol 4 (IPv4 in IP) and 41 (IPv6 in IP); what is inside goes back to the host's
//! own stack by another raw socket, as if it had just come in.

use std::{
    io::{ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;

const IPV4_IN_IP: i32 = 4;
const IPV6_IN_IP: i32 = 41;
/// Raw sockets of this protocol write IP headers of their own (raw(7), ipv6(7)).
const RAW: i32 = 255;
/// How long a read may keep a thread from noticing its end.
const READ_MAX: Duration = Duration::from_millis(100);

/// Unwraps until it is dropped.
#[derive(Debug)]
pub struct TunnelEnd {
    ends: Arc<AtomicBool>,
    unwrapped: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl TunnelEnd {
    /// Begins in a namespace, for tunnels over IPv4 and IPv6.
    pub fn start(host: &Netns) -> Result<Self> {
        let mut end = Self { ends: Arc::default(), unwrapped: Arc::default(), threads: Vec::new() };
        for outer in [Domain::IPV4, Domain::IPV6] {
            for protocol in [IPV4_IN_IP, IPV6_IN_IP] {
                let [from, to] = host.run(|| sockets(outer, protocol))??;
                let (ends, unwrapped) = (Arc::clone(&end.ends), Arc::clone(&end.unwrapped));
                let work = move || unwrap_all(from, &to, outer, &ends, &unwrapped);
                end.threads.push(std::thread::Builder::new().name("tunnel".to_owned()).spawn(work)?);
            }
        }
        Ok(end)
    }

    /// Packets so far.
    pub fn unwrapped(&self) -> u64 {
        self.unwrapped.load(Ordering::Relaxed)
    }
}

impl Drop for TunnelEnd {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// The one that outer packets come in by, and the one that inner packets go out by.
fn sockets(outer: Domain, protocol: i32) -> Result<[Socket; 2]> {
    let from = Socket::new(outer, Type::RAW, Some(Protocol::from(protocol))).context("a raw socket needs root")?;
    from.set_read_timeout(Some(READ_MAX))?;
    let inner = if protocol == IPV4_IN_IP { Domain::IPV4 } else { Domain::IPV6 };
    let to = Socket::new(inner, Type::RAW, Some(Protocol::from(RAW))).context("a raw socket needs root")?;
    Ok([from, to])
}

fn unwrap_all(mut from: Socket, to: &Socket, outer: Domain, ends: &AtomicBool, unwrapped: &AtomicU64) -> Result<()> {
    let mut packet = vec![0; 1 << 16];
    while !ends.load(Ordering::Relaxed) {
        let length = match from.read(&mut packet) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error.into()),
        };
        // IPv4 raw sockets give the header too, IPv6 ones do not.
        let header_len = if outer == Domain::IPV4 { usize::from(packet[0] & 0x0f) * 4 } else { 0 };
        let Some(inner) = packet.get(header_len..length) else { continue };
        // What is broken inside is lost, as it would be in the kernel.
        let sent = destination(inner).and_then(|address| Ok(to.send_to(inner, &SockAddr::from(address))?));
        if sent.is_ok() {
            unwrapped.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn destination(packet: &[u8]) -> Result<SocketAddr> {
    let version = packet.first().context("nothing inside")? >> 4;
    let address: IpAddr = if version == 4 {
        let bytes: [u8; 4] = packet.get(16..20).context("cut off")?.try_into()?;
        Ipv4Addr::from(bytes).into()
    } else {
        ensure!(version == 6, "no IP packet");
        let bytes: [u8; 16] = packet.get(24..40).context("cut off")?.try_into()?;
        Ipv6Addr::from(bytes).into()
    };
    Ok(SocketAddr::new(address, 0))
}
