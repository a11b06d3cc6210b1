//! What runs beside the loop and tells it news: the watch over next hops, and the checks of backends. Decides nothing.

use std::net::IpAddr;

use tokio::sync::{mpsc, watch};

use super::{
    external::Heard,
    health::{self, Checker, Event, Target},
    next_hops::{self, Snapshot, Watcher},
};

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
}

/// Whom to watch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Subjects {
    /// Addresses that packets are sent to; ascending, each once.
    pub(super) addresses: Vec<IpAddr>,
    /// Backends that are checked.
    pub(super) targets: Vec<Target>,
}

/// Both, as long as they run.
#[derive(Debug, Default)]
pub(super) struct Watches {
    subjects: Subjects,
    hops: Option<(Watcher, watch::Receiver<Snapshot>)>,
    checks: Option<(Checker, mpsc::Receiver<Event>)>,
    heard: Option<mpsc::Receiver<Heard>>,
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
        Self { subjects, hops, checks, heard: Some(heard) }
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
        let news = tokio::select! {
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
