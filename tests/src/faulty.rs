//! An HTTP server that can be made to go bad while it serves: what fault demos and tests of the closed loop run as v2.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{
    netns::Netns,
    process::{run, wait_until},
    server::VERSION_HEADER,
    topology::Version,
};

/// How soon a change of the listener shows.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// What is wrong with the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// So many of a thousand requests are answered with status 500, evenly spread.
    Errors {
        /// 0 to 1000.
        per_mille: u64,
    },
    /// Every answer comes that much later.
    Slow(Duration),
    /// Nobody listens: the host answers connections with RST. Open connections go on.
    Refuse,
    /// The host swallows every packet for the port.
    Blackhole,
    /// Connections are accepted, requests are read, and nobody ever answers or closes: a deadlock in the application.
    Hang,
}

impl Fault {
    /// Evenly spread errors over the whole: whether the request of this number, from 0 on, is one.
    const fn is_error(self, number: u64) -> bool {
        match self {
            Self::Errors { per_mille } => (number + 1) * per_mille / 1000 > number * per_mille / 1000,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Shared {
    version: Version,
    fault: Mutex<Fault>,
    seen: Mutex<Seen>,
    stop: AtomicBool,
    listens: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    since_fault: u64,
    hung: u64,
    statuses: BTreeMap<u16, u64>,
    first_bad: Option<Instant>,
}

/// A running server. Dropping it ends it; the namespace must outlive it.
#[derive(Debug)]
pub struct FaultyServer<'h> {
    host: &'h Netns,
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The outer result is the namespace's.
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl<'h> FaultyServer<'h> {
    /// Starts a good one on an address of the host, and waits until it listens.
    pub fn start(host: &'h Netns, version: Version, address: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared {
            version,
            fault: Mutex::new(Fault::None),
            seen: Mutex::new(Seen::default()),
            stop: AtomicBool::new(false),
            listens: AtomicBool::new(false),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let job = {
            let shared = Arc::clone(&shared);
            move || runtime.block_on(serve(address, shared))
        };
        let thread = host.spawn(&format!("faulty {version}"), job)?;
        let server = Self { host, address, shared, thread: Some(thread) };
        wait_until(&format!("{address} listens"), Duration::from_secs(5), || server.listens(true))?;
        Ok(server)
    }

    /// Makes it bad, or good again. When this returns, it is so.
    pub fn set(&self, fault: Fault) -> Result<()> {
        let before = std::mem::replace(&mut *lock(&self.shared.fault), fault);
        if before == Fault::Blackhole && fault != before {
            self.nft("delete table inet faulty")?;
        }
        {
            let mut seen = lock(&self.shared.seen);
            seen.since_fault = 0;
            seen.first_bad = matches!(fault, Fault::Refuse | Fault::Blackhole).then(Instant::now);
        }
        if fault == Fault::Blackhole && before != fault {
            let port = self.address.port();
            self.nft(&format!(
                "table inet faulty {{ chain input {{ type filter hook input priority 0; tcp dport {port} drop; }}; }}"
            ))?;
        }
        let listens = fault != Fault::Refuse;
        wait_until("the listener follows", Duration::from_secs(5), || self.listens(listens))
    }

    /// How many requests were answered with each status.
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        lock(&self.shared.seen).statuses.clone()
    }

    /// How many requests were read and will never be answered.
    pub fn hung(&self) -> u64 {
        lock(&self.shared.seen).hung
    }

    /// When the first bad answer was given, or could have been, since the last [`Self::set`].
    pub fn first_bad(&self) -> Option<Instant> {
        lock(&self.shared.seen).first_bad
    }

    fn listens(&self, wanted: bool) -> Result<()> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the server on {} has ended", self.address);
        }
        if self.shared.listens.load(Ordering::Acquire) == wanted {
            return Ok(());
        }
        bail!("the server on {} has not followed yet", self.address)
    }

    fn nft(&self, ruleset: &str) -> Result<()> {
        let mut command = self.host.command("nft")?;
        command.arg(ruleset);
        run(command).map(drop)
    }
}

impl Drop for FaultyServer<'_> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn serve(address: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    let mut connections = JoinSet::new();
    let mut look = interval(LOOK_PERIOD);
    let mut listener = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let wanted = *lock(&shared.fault) != Fault::Refuse;
        if wanted && listener.is_none() {
            listener = Some(listen(address)?);
        } else if !wanted {
            listener = None;
        }
        shared.listens.store(listener.is_some(), Ordering::Release);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = service_fn(|_| answer(Arc::clone(&shared)));
                    // A client that goes away is no fault of the server.
                    // Nor does a hanging application see it go.
                    http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), answer).await.ok();
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = look.tick() => {}
        }
    }
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot bind {address}"))?;
    Ok(socket.listen(4096)?)
}

async fn answer(shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let fault = *lock(&shared.fault);
    let status = {
        let mut seen = lock(&shared.seen);
        let is_error = fault.is_error(seen.since_fault);
        seen.since_fault += 1;
        seen.requests += 1;
        if is_error || matches!(fault, Fault::Slow(_) | Fault::Hang) {
            seen.first_bad.get_or_insert_with(Instant::now);
        }
        let status = if is_error { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        if fault == Fault::Hang {
            seen.hung += 1;
        } else {
            *seen.statuses.entry(status.as_u16()).or_default() += 1;
        }
        status
    };
    match fault {
        Fault::Slow(pause) => sleep(pause).await,
        Fault::Hang => std::future::pending().await,
        _ => {}
    }
    let mut response = Response::new(Full::new(Bytes::from(format!("{}\n", shared.version))));
    *response.status_mut() = status;
    response.headers_mut().insert(VERSION_HEADER, hyper::header::HeaderValue::from_static(shared.version.name()));
    Ok(response)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a thread that panicked left is whole: every change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_as_many_as_wanted_and_evenly_spread() {
        for per_mille in [0, 1, 50, 333, 1000] {
            let fault = Fault::Errors { per_mille };
            let errors: Vec<u64> = (0..10_000).filter(|&number| fault.is_error(number)).collect();
            assert_eq!(errors.len() as u64, 10 * per_mille);
            let gaps = errors.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(gaps.max().unwrap_or(0) <= 1000_u64.div_ceil(per_mille.max(1)), "{per_mille}");
        }
        assert!(!Fault::Slow(Duration::from_secs(1)).is_error(999));
    }
}
