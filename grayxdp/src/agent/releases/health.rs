//! Backends whose checks fail: laid over everything else, and kept in the kernel only. The next agent begins with what it
//! finds there, so that it sends nobody to a dead backend while its own checks are young.
//!
//! Where checks find nobody alive in either version, they are not believed: it is more likely that the check, or the way
//! from here, is at fault than that all died at once; and dropping everybody helps nobody. A service whose `when_empty` is
//! `drop` has asked for just that.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use super::{Releases, settings::Change};
use crate::{
    agent::{
        health::{Event, Target},
        kernel::Kernel,
    },
    config::{ServiceConfig, WhenEmpty},
    decide::{
        health::Health,
        settings::{BackendSetting, BackendState},
    },
};

impl<K: Kernel> Releases<K> {
    /// Backends that are to be checked: all of the services that have a check.
    pub(in crate::agent) fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for (service, (config, standing)) in self.services.iter().zip(&self.standings).enumerate() {
            let Some(check) = config.health.clone().map(Arc::new) else { continue };
            let members = standing.settings.members(&config.members()).into_iter();
            targets.extend(members.map(|(member, _)| Target {
                service,
                version: member.version,
                backend: member.address,
                check: Arc::clone(&check),
                initial: if standing.down.contains(&member.address) { Health::Down } else { Health::Live },
            }));
        }
        targets
    }

    /// Backends that the former agent's checks had found dead; nobody where there are no checks now.
    pub(super) fn found_down(&self, index: usize) -> BTreeSet<SocketAddr> {
        match self.services[index].health {
            Some(_) => self.kernel.found_down(index).into_iter().collect(),
            None => BTreeSet::new(),
        }
    }

    /// Takes notice of a backend's health; the kernel has it when this returns, or is told later.
    pub(in crate::agent) fn health_changed(&mut self, event: &Event) {
        let Some((config, standing)) = self.services.get(event.service).zip(self.standings.get_mut(event.service))
        else {
            return;
        };
        let members = standing.settings.members(&config.members());
        // It may have left since.
        if !members.iter().any(|(member, _)| (member.address, member.version) == (event.backend, event.version)) {
            return;
        }
        let changed = match event.health {
            Health::Down => standing.down.insert(event.backend),
            Health::Live => standing.down.remove(&event.backend),
        };
        if !changed {
            return;
        }
        let (service, backend, version) = (config.name.as_str(), event.backend, event.version.name());
        let (live, all, reason) = (event.pool.live, event.pool.all, event.reason.as_str());
        match event.health {
            Health::Down => tracing::warn!(service, version, %backend, reason, live, all, "backend_down"),
            Health::Live => tracing::info!(service, version, %backend, reason, live, all, "backend_live"),
        }
        if event.pool.is_all_down() {
            let then = then(config.when_empty, self.is_disbelieved(event.service));
            tracing::warn!(service = self.services[event.service].name, version, "version_down: {then}");
        }
        self.bring_health(event.service);
    }

    /// Tells the kernel; on a failure once more a second later.
    pub(super) fn bring_health(&mut self, index: usize) {
        let told = self.set_backends(index);
        let standing = &mut self.standings[index];
        standing.health_behind = told.is_err();
        if let Err(error) = told {
            standing.retry_in = super::RETRY_AFTER;
            tracing::error!(service = self.services[index].name, "health_not_applied {error}");
        }
    }

    /// Whether the checks of a service are not believed.
    pub(in crate::agent) fn is_disbelieved(&self, index: usize) -> bool {
        let backends = self.settings(index).backends(&self.services[index].members());
        disbelieved(&self.services[index], &self.standings[index].down, &backends)
    }

    /// The backends as the kernel is to treat them.
    pub(in crate::agent) fn backends(&self, index: usize) -> Vec<BackendSetting> {
        let (service, down) = (&self.services[index], &self.standings[index].down);
        let backends = self.settings(index).backends(&service.members());
        if disbelieved(service, down, &backends) { backends } else { with_down(backends, down) }
    }

    /// The backends as they are shown.
    pub(in crate::agent) fn shown_backends(&self, index: usize) -> Vec<BackendSetting> {
        let backends = self.settings(index).backends(&self.services[index].members());
        with_down(backends, &self.standings[index].down)
    }
}

/// What becomes of new connections that are meant for a version of which nobody is live.
pub(in crate::agent) const fn then(when_empty: WhenEmpty, is_disbelieved: bool) -> &'static str {
    match (when_empty, is_disbelieved) {
        (_, true) => "nor has the other version; the checks are taken to be at fault, and nobody goes by them",
        (WhenEmpty::OtherVersion, false) => "new connections meant for it go to the other version",
        (WhenEmpty::Drop, false) => "new connections meant for it are dropped",
    }
}

/// What is known of those that are still there.
pub(super) fn still_there(service: &ServiceConfig, change: &Change, down: &mut BTreeSet<SocketAddr>) {
    if let Change::RemoveBackend(text) = change
        && let Ok(address) = service.backend_address(text)
    {
        down.remove(&address);
    }
}

fn disbelieved(service: &ServiceConfig, down: &BTreeSet<SocketAddr>, backends: &[BackendSetting]) -> bool {
    let mut wanted = backends.iter().filter(|backend| backend.state == BackendState::Live);
    service.when_empty == WhenEmpty::OtherVersion && !down.is_empty() && wanted.all(|each| down.contains(&each.address))
}

fn with_down(mut backends: Vec<BackendSetting>, down: &BTreeSet<SocketAddr>) -> Vec<BackendSetting> {
    for backend in backends.iter_mut().filter(|backend| down.contains(&backend.address)) {
        backend.state = BackendState::Down;
    }
    backends
}

#[cfg(test)]
mod tests {
    use grayxdp_common::ids::Version;

    use super::*;
    use crate::{
        agent::{
            fake_kernel::{self, FakeKernel},
            releases::Cause,
        },
        config::sample,
        decide::health::PoolHealth,
        store::Store,
    };

    const WEB: usize = 0;
    const PERSON: Cause<'static> = Cause::new("test", "uid 0");
    const V1: [&str; 2] = ["10.0.1.10:8080", "10.0.1.11:8080"];
    const V2: &str = "10.0.2.10:8080";

    fn releases(directory: &std::path::Path, health: &str) -> Releases<FakeKernel> {
        taken_over(directory, health, FakeKernel::with_pinned(&[None, None]))
    }

    fn taken_over(directory: &std::path::Path, health: &str, kernel: FakeKernel) -> Releases<FakeKernel> {
        let mut config = fake_kernel::config(directory);
        config.services[WEB].health = sample::service(&format!("[service.health]\n{health}")).health;
        let store = Store::open(&config.agent.state).expect("a store");
        let mut releases = Releases::new(config.services, kernel, store);
        releases.take_over().expect("taken over");
        releases
    }

    fn event(backend: &str, health: Health) -> Event {
        Event {
            service: WEB,
            version: if backend == V2 { Version::V2 } else { Version::V1 },
            backend: backend.parse().expect("an address"),
            health,
            reason: "a test".to_owned(),
            pool: PoolHealth { live: 1, all: 2 },
        }
    }

    fn down(releases: &Releases<FakeKernel>) -> Vec<String> {
        let told = releases.kernel.backends[WEB].as_ref().expect("told");
        let down = told.iter().filter(|backend| backend.state == BackendState::Down);
        down.map(|backend| backend.address.to_string()).collect()
    }

    #[test]
    fn a_backend_that_fails_is_down_in_the_kernel_until_it_passes() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = releases(directory.path(), "check = \"tcp\"");
        assert_eq!(releases.targets().len(), 3, "the other service has no check");
        releases.health_changed(&event(V1[1], Health::Down));
        assert_eq!(down(&releases), [V1[1]]);
        // What commands change leaves it down.
        releases.change("web", &Change::Drain(V1[0].to_owned()), PERSON).expect("drained");
        assert_eq!(down(&releases), [V1[1]]);
        releases.health_changed(&event(V1[1], Health::Live));
        assert_eq!(down(&releases), Vec::<String>::new());
    }

    #[test]
    fn checks_that_find_nobody_alive_are_not_believed() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = releases(directory.path(), "check = \"tcp\"");
        for backend in V1 {
            releases.health_changed(&event(backend, Health::Down));
        }
        assert_eq!(down(&releases), V1, "v2 takes them");
        releases.health_changed(&event(V2, Health::Down));
        assert_eq!(down(&releases), Vec::<String>::new());
        assert!(releases.shown_backends(WEB).iter().all(|backend| backend.state == BackendState::Down));
        releases.health_changed(&event(V1[0], Health::Live));
        assert_eq!(down(&releases), [V1[1], V2]);
        releases.services[WEB].when_empty = WhenEmpty::Drop;
        releases.health_changed(&event(V1[0], Health::Down));
        assert_eq!(down(&releases), [V1[0], V1[1], V2], "that is what `drop` asks for");
    }

    #[test]
    fn who_was_down_under_the_former_agent_is_so_until_it_passes() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut kernel = FakeKernel::with_pinned(&[None, None]);
        kernel.down = vec![(WEB, V1[1].parse().expect("an address")), (1, "10.0.1.10:53".parse().expect("an address"))];
        let mut releases = taken_over(directory.path(), "check = \"tcp\"", kernel);
        assert_eq!(down(&releases), [V1[1]]);
        assert!(releases.kernel.backends[1].is_none(), "without checks all are live");
        let targets = releases.targets();
        assert_eq!(targets.iter().filter(|target| target.initial == Health::Down).count(), 1);
        releases.health_changed(&event(V1[1], Health::Live));
        assert_eq!(down(&releases), Vec::<String>::new());
    }

    #[test]
    fn a_kernel_that_could_not_be_told_is_told_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = releases(directory.path(), "check = \"tcp\"");
        releases.kernel.fails_to_set = true;
        releases.health_changed(&event(V2, Health::Down));
        assert!(releases.kernel.backends[WEB].is_none());
        releases.kernel.fails_to_set = false;
        releases.advance(std::time::Duration::from_secs(2));
        assert_eq!(down(&releases), [V2]);
    }

    #[test]
    fn a_backend_that_left_or_came_again_is_not_down() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = releases(directory.path(), "check = \"tcp\"");
        releases.health_changed(&event(V1[1], Health::Down));
        releases.change("web", &Change::RemoveBackend(V1[1].to_owned()), PERSON).expect("removed");
        assert_eq!(releases.targets().len(), 2);
        releases.health_changed(&event(V1[1], Health::Down));
        let again = Change::AddBackend { version: Version::V1, address: V1[1].to_owned(), weight: 3 };
        releases.change("web", &again, PERSON).expect("added");
        assert_eq!(down(&releases), Vec::<String>::new());
    }
}
