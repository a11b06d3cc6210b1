//! Connections to all services, each with one turn, as fast as one CPU makes them.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use grayxdp_tests::{
    server::HTTP_PORT,
    topology::{Family, Topology, Version},
};
use socket2::{Domain, Socket, Type};

use crate::cpu;

/// Threads of clients, and of each version's server.
const WORKERS: u16 = 8;
/// How long each step of a connection may take.
const STEP_MAX: Duration = Duration::from_secs(5);

/// Clients and servers at work.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<Result<()>>>>,
}

struct Shared {
    targets: Vec<SocketAddr>,
    cpu: AtomicUsize,
    done: AtomicU64,
    failed: AtomicU64,
    is_over: AtomicBool,
}

impl Traffic {
    /// Starts servers on both versions' hosts, and clients.
    pub(crate) fn start(topology: &Topology, targets: &[SocketAddr], cpu: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            targets: targets.to_vec(),
            cpu: AtomicUsize::new(cpu),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        for version in Version::ALL {
            let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, HTTP_PORT));
            let listener = Arc::new(topology.backend(version).run(bind)?.context("cannot listen")?);
            for _ in 0..WORKERS {
                let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
                thread::spawn(move || serve(&listener, &shared));
            }
        }
        let client = |worker| {
            let shared = Arc::clone(&shared);
            topology.client.spawn("client", move || ask(worker, &shared))
        };
        let clients = (0..WORKERS).map(client).collect::<Result<_>>()?;
        Ok(Self { shared, clients })
    }

    /// Goes on on another CPU.
    pub(crate) fn move_to(&self, cpu: usize) {
        self.shared.cpu.store(cpu, Ordering::Relaxed);
    }

    /// Connections that have ended well.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Ends it; returns how many connections did not end well.
    pub(crate) fn stop(self) -> Result<u64> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        }
        Ok(self.shared.failed.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// Takes the thread to where the traffic is to be.
    fn follow(&self, at: &mut Option<usize>) -> Result<()> {
        let cpu = self.cpu.load(Ordering::Relaxed);
        if *at != Some(cpu) {
            cpu::pin_this_thread(cpu)?;
            *at = Some(cpu);
        }
        Ok(())
    }
}

/// Answers a byte with a byte, and closes. Ends with the process.
fn serve(listener: &TcpListener, shared: &Shared) -> Result<()> {
    let mut at = None;
    loop {
        shared.follow(&mut at)?;
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let mut byte = [0];
        // Clients count what fails.
        let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
    }
}

/// One connection after the other, each to the next service and from another address.
fn ask(worker: u16, shared: &Shared) -> Result<()> {
    let mut at = None;
    let mut nth = 0_u32;
    while !shared.is_over.load(Ordering::Relaxed) {
        shared.follow(&mut at)?;
        let place = (nth * u32::from(WORKERS) + u32::from(worker)) as usize;
        let target = shared.targets[place % shared.targets.len()];
        // Coprime to the number of addresses, which it spreads over services and versions; not the network's own.
        let source = Family::V4.source(u16::try_from(1 + place * 40_504 % usize::from(u16::MAX))?);
        let counter = if exchange(source, target).is_ok() { &shared.done } else { &shared.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        nth = nth.wrapping_add(1);
    }
    Ok(())
}

fn exchange(source: IpAddr, target: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&target.into(), STEP_MAX)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(STEP_MAX))?;
    stream.write_all(b"?")?;
    // Up to the server's close.
    let mut answer = Vec::with_capacity(1);
    stream.read_to_end(&mut answer)?;
    if answer == b"?" { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
