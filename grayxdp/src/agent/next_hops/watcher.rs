//! The thread that keeps next hops: hears of changes, reads, resolves, hands over.

use std::{
    io,
    net::IpAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::watch};

use super::{
    NextHopError, Snapshot,
    changes::{Changes, Outdated},
    freshness::Freshness,
    kernel::Kernel,
    resolve::{Resolution, resolve},
    tables::Tables,
};

/// Changes come in bursts, and more will follow the first.
const BURST: Duration = Duration::from_millis(5);
/// Reading takes at most one part in so many of the time, however often tables change.
const REST_PER_WORK: u32 = 10;
/// How often neighbours are looked at though nothing was heard of them: not every change of state is told.
const NEIGHBOURS_PAUSE: Duration = Duration::from_secs(2);
/// How often everything is read though nothing was heard.
pub(super) const FULL_PAUSE: Duration = Duration::from_secs(30);
/// How long nothing is tried after netlink has failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Ends the watch when it is dropped.
#[derive(Debug)]
pub struct Watcher {
    backends: watch::Sender<Vec<IpAddr>>,
}

impl Watcher {
    /// Watches these backends from now on, instead of those before. A snapshot that has them follows at once.
    pub fn set_backends(&self, backends: Vec<IpAddr>) {
        self.backends.send_replace(in_order(backends));
    }
}

/// Keeps the next hops of these backends, and those of replies, out of these interfaces (by index), as seen from the
/// network namespace of the calling thread.
///
/// Returns after the first reading (milliseconds; longer while others hold the kernel's lock on network configuration).
/// The receiver has a snapshot from the beginning, and hears of each that differs. While the kernel cannot be asked the
/// snapshot is [`Snapshot::unresolved`]. Should the thread ever end by itself, [`watch::Receiver::changed`] fails: the
/// last snapshot must not be used any more then, for nobody keeps it fresh.
pub fn watch(
    backends: Vec<IpAddr>,
    interfaces: Vec<u32>,
) -> Result<(Watcher, watch::Receiver<Snapshot>), NextHopError> {
    let (backends, changed_backends) = watch::channel(in_order(backends));
    let (tell, told) = mpsc::sync_channel(1);
    // All of it over there: a runtime must not be dropped on another runtime's thread, not even after an error.
    let keep = move || {
        let started = start(changed_backends, interfaces);
        let told = match started {
            Ok((runtime, mut keeper, snapshots)) => tell.send(Ok(snapshots)).map(|()| runtime.block_on(keeper.keep())),
            Err(error) => tell.send(Err(error)),
        };
        // Whoever asked has waited, unless it has panicked.
        told.ok();
    };
    thread::Builder::new().name("next-hops".to_owned()).spawn(keep).map_err(NextHopError::Thread)?;
    let ended = |_| NextHopError::Thread(io::Error::other("it ended before its first reading"));
    let snapshots = told.recv().map_err(ended)??;
    Ok((Watcher { backends }, snapshots))
}

type Started = (Runtime, Keeper, watch::Receiver<Snapshot>);

fn start(backends: watch::Receiver<Vec<IpAddr>>, interfaces: Vec<u32>) -> Result<Started, NextHopError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NextHopError::Thread)?;
    let (keeper, snapshots) = Keeper::new(backends, interfaces, &runtime)?;
    Ok((runtime, keeper, snapshots))
}

fn in_order(mut backends: Vec<IpAddr>) -> Vec<IpAddr> {
    backends.sort_unstable();
    backends.dedup();
    backends
}

/// The state of the thread.
struct Keeper {
    backends: watch::Receiver<Vec<IpAddr>>,
    interfaces: Vec<u32>,
    snapshots: watch::Sender<Snapshot>,
    freshness: Freshness,
    sources: Option<Sources>,
}

/// Where knowledge comes from.
struct Sources {
    changes: Changes,
    kernel: Kernel,
}

/// What the last reading has found.
struct Found {
    tables: Tables,
    resolution: Resolution,
    full_read: Instant,
}

/// Why the thread has something to do.
enum Reason {
    Outdated(Outdated),
    /// Nobody wants next hops any more.
    Unwatched,
}

impl Keeper {
    fn new(
        backends: watch::Receiver<Vec<IpAddr>>,
        interfaces: Vec<u32>,
        runtime: &Runtime,
    ) -> Result<(Self, watch::Receiver<Snapshot>), NextHopError> {
        let _entered = runtime.enter();
        let failed = |what| move |source| NextHopError::Netlink { what, source };
        let changes = Changes::subscribe().map_err(failed("hear of changes to routes and neighbours"))?;
        let mut kernel = Kernel::open().map_err(failed("open a socket to the kernel's routes"))?;
        let wanted = backends.borrow().clone();
        let tables = kernel.tables(&wanted, &interfaces).map_err(failed("read routes and neighbours"))?;
        let (snapshots, receiver) = watch::channel(resolve(&tables, &wanted, &interfaces).snapshot);
        let sources = Some(Sources { changes, kernel });
        Ok((Self { backends, interfaces, snapshots, freshness: Freshness::default(), sources }, receiver))
    }

    /// Until nobody wants next hops any more.
    async fn keep(&mut self) {
        loop {
            let sources = match self.sources.take() {
                Some(sources) => Ok(sources),
                None => Sources::open(),
            };
            let kept = match sources {
                Ok(sources) => self.keep_by(sources).await,
                Err(error) => Err(error),
            };
            let Err(error) = kept else { return };
            tracing::warn!(%error, "next_hops_lost");
            self.publish(Snapshot::unresolved(&self.backends.borrow().clone()));
            tokio::time::sleep(FAILURE_PAUSE).await;
            if self.backends.has_changed().is_err() {
                return;
            }
        }
    }

    async fn keep_by(&mut self, mut sources: Sources) -> io::Result<()> {
        let mut started = Instant::now();
        let mut found = self.read_all(&mut sources.kernel)?;
        loop {
            self.publish(found.resolution.snapshot.clone());
            self.probe(&mut sources.kernel, &found);
            let rest = started.elapsed().saturating_mul(REST_PER_WORK).max(BURST);
            let outdated = match self.next_reason(&mut sources.changes, &found).await? {
                Reason::Unwatched => return Ok(()),
                Reason::Outdated(outdated) => {
                    tokio::time::sleep(rest).await;
                    outdated.max(sources.changes.drain(&found.resolution.neighbours)?)
                }
            };
            started = Instant::now();
            if outdated == Outdated::All || found.full_read.elapsed() >= FULL_PAUSE {
                found = self.read_all(&mut sources.kernel)?;
                self.freshness.try_again(&found.tables.neighbours);
            } else {
                found.tables.neighbours = sources.kernel.neighbours()?;
                let backends = self.backends.borrow().clone();
                found.resolution = resolve(&found.tables, &backends, &self.interfaces);
            }
        }
    }

    fn read_all(&mut self, kernel: &mut Kernel) -> io::Result<Found> {
        let full_read = Instant::now();
        let backends = self.backends.borrow_and_update().clone();
        let tables = kernel.tables(&backends, &self.interfaces)?;
        let resolution = resolve(&tables, &backends, &self.interfaces);
        Ok(Found { tables, resolution, full_read })
    }

    async fn next_reason(&mut self, changes: &mut Changes, found: &Found) -> io::Result<Reason> {
        tokio::select! {
            outdated = changes.next(&found.resolution.neighbours) => Ok(Reason::Outdated(outdated?)),
            changed = self.backends.changed() => Ok(match changed {
                Ok(()) => Reason::Outdated(Outdated::All),
                Err(_) => Reason::Unwatched,
            }),
            () = tokio::time::sleep(NEIGHBOURS_PAUSE) => Ok(Reason::Outdated(Outdated::Neighbours)),
        }
    }

    /// A neighbour that cannot be asked for is one that stays unknown: the program asks the kernel.
    fn probe(&mut self, kernel: &mut Kernel, found: &Found) {
        let probes = self.freshness.due(&found.resolution.neighbours, &found.tables.neighbours, Instant::now());
        for probe in probes {
            if let Err(error) = kernel.probe(probe) {
                tracing::debug!(?probe, %error, "neighbour_not_probed");
            }
        }
    }

    fn publish(&self, snapshot: Snapshot) {
        let is_changed = self.snapshots.send_if_modified(|last| {
            let is_changed = *last != snapshot;
            *last = snapshot;
            is_changed
        });
        if is_changed {
            let snapshot = self.snapshots.borrow();
            let resolved = snapshot.backends.iter().filter(|(_, hop)| hop.is_some()).count();
            tracing::debug!(
                backends = snapshot.backends.len(),
                resolved,
                routes = snapshot.routes.len(),
                "next_hops_changed"
            );
        }
    }
}

impl Sources {
    /// Changes first: what happens while tables are read is heard of afterwards.
    fn open() -> io::Result<Self> {
        Ok(Self { changes: Changes::subscribe()?, kernel: Kernel::open()? })
    }
}
