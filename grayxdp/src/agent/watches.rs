//! What runs beside the loop and tells it news: the watch over next hops, the checks of backends, those who ask others, and
//! the kernel, when a fuse blows. Decides nothing.

use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch},
};

use super::{
    external::Heard,
    health::{self, Checker, Event, Target},
    next_hops::{self, Snapshot, Watcher},
};
use crate::kernel::FuseAlarms;

/// What the loop hears.
#[derive(Debug)]
pub(super) enum News {
    /// Ways have changed.
    NextHops(Snapshot),
    /// Nobody watches over next hops any more.
    NextHopsLost,
    /// A backend's health is another than before.
    Health(Event),
    /// A query or a webhook was answered.
    External(Heard),
    /// Fuses have blown; the kernel's tables say which.
    FuseBlown,
}

/// Where the kernel says that a fuse has blown. Readable where there is an alarm.
pub(super) trait Alarms: AsFd {
    /// Takes an alarm, if there is one.
    fn take(&mut self) -> bool;
}

impl Alarms for FuseAlarms {
    fn take(&mut self) -> bool {
        self.next_alarm().is_some()
    }
}

/// Alarms that are waited for.
struct Ring {
    /// Another name for the alarms' descriptor.
    descriptor: AsyncFd<OwnedFd>,
    alarms: Box<dyn Alarms>,
}

impl Ring {
    fn new(alarms: impl Alarms + 'static) -> io::Result<Self> {
        let descriptor = alarms.as_fd().try_clone_to_owned()?;
        // SAFETY: it is open as long as whoever owns it.
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self { descriptor: descriptor.map_err(io::Error::from)?, alarms: Box::new(alarms) })
    }

    /// Waits for alarms, and takes all that there are.
    async fn alarm(&mut self) {
        loop {
            // Fails only when the runtime ends, and all with it.
            let Ok(mut readable) = self.descriptor.readable().await else { return std::future::pending().await };
            // Before they are taken: what comes meanwhile makes it readable again.
            readable.clear_ready();
            let mut count = 0;
            while self.alarms.take() {
                count += 1;
            }
            if count > 0 {
                return;
            }
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

/// Whom to watch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Subjects {
    /// Addresses that packets are sent to; ascending, each once.
    pub(super) addresses: Vec<IpAddr>,
    /// Backends that are checked.
    pub(super) targets: Vec<Target>,
}

/// All of them, as long as they run.
#[derive(Debug, Default)]
pub(super) struct Watches {
    subjects: Subjects,
    hops: Option<(Watcher, watch::Receiver<Snapshot>)>,
    checks: Option<(Checker, mpsc::Receiver<Event>)>,
    heard: Option<mpsc::Receiver<Heard>>,
    alarms: Option<Ring>,
}

impl Watches {
    /// Begins, as tasks of the present tokio runtime. `interfaces` are those that packets may leave by, by index. Where next
    /// hops cannot be watched the packet program asks the kernel for each packet, which costs time and nothing else. `heard`
    /// is what comes from those who ask others.
    pub(super) fn start(interfaces: Vec<u32>, subjects: Subjects, heard: mpsc::Receiver<Heard>) -> Self {
        let hops = match next_hops::watch(subjects.addresses.clone(), interfaces) {
            Ok((watcher, mut snapshots)) => {
                // The first reading is news, too.
                snapshots.mark_changed();
                Some((watcher, snapshots))
            }
            Err(error) => {
                tracing::warn!("next_hops_not_watched {error}; the kernel is asked for the way of each packet");
                None
            }
        };
        let checks = Some(health::start(subjects.targets.clone()));
        Self { subjects, hops, checks, heard: Some(heard), alarms: None }
    }

    /// Listens for blown fuses, too. Where that is not possible, the loop's ticks find them.
    pub(super) fn listen(&mut self, alarms: impl Alarms + 'static) {
        match Ring::new(alarms) {
            Ok(alarms) => self.alarms = Some(alarms),
            Err(error) => tracing::warn!("fuse_alarms_not_heard {error}; a blown fuse is found at the next tick"),
        }
    }

    /// Watches these from now on.
    pub(super) fn follow(&mut self, subjects: Subjects) {
        if let Some((watcher, _)) = self.hops.as_ref().filter(|_| subjects.addresses != self.subjects.addresses) {
            watcher.set_backends(subjects.addresses.clone());
        }
        if let Some((checker, _)) = self.checks.as_ref().filter(|_| subjects.targets != self.subjects.targets) {
            checker.set_targets(subjects.targets.clone());
        }
        self.subjects = subjects;
    }

    /// The next news; waits for ever where nothing runs. Loses nothing when it is called off.
    pub(super) async fn next(&mut self) -> News {
        let hops = async {
            let Some((_, snapshots)) = &mut self.hops else { return std::future::pending().await };
            snapshots.changed().await.ok().map(|()| snapshots.borrow_and_update().clone())
        };
        let checks = async {
            let event = match &mut self.checks {
                Some((_, events)) => events.recv().await,
                None => None,
            };
            match event {
                Some(event) => event,
                // The checks have ended: nothing changes any more.
                None => std::future::pending().await,
            }
        };
        let external = async {
            let heard = match &mut self.heard {
                Some(heard) => heard.recv().await,
                None => None,
            };
            match heard {
                Some(heard) => heard,
                // Nobody is asked.
                None => std::future::pending().await,
            }
        };
        let fuses = async {
            match &mut self.alarms {
                Some(alarms) => alarms.alarm().await,
                None => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            () = fuses => News::FuseBlown,
            heard = external => News::External(heard),
            snapshot = hops => snapshot.map_or(News::NextHopsLost, News::NextHops),
            event = checks => News::Health(event),
        };
        if matches!(news, News::NextHopsLost) {
            self.hops = None;
        }
        news
    }
}
