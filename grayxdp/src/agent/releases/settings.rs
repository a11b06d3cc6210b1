//! Pins and backends at run time: what is asked for is laid over the config, stored, and brought to the kernel.
//!
//! What keeps traffic away (drain, remove, unpin, a pin to v1) is done even where it cannot be stored, and told so; all else
//! is stored first.

use std::net::SocketAddr;

use grayxdp_common::{ids::Version, limits::BACKENDS_PER_VERSION_MAX};

use super::{Cause, CommandError, Releases, health};
use crate::{
    agent::kernel::Kernel,
    config::{Backend, Config, Pool, ServiceConfig},
    decide::{
        controller::Rule,
        pin::{Pin, PinRule},
        settings::{Member, Settings},
    },
    kernel::KernelError,
    store::{Store, StoreError, StoredRelease},
};

/// What may be changed beside the release. Addresses are as people write them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::agent) enum Change {
    /// Send some traffic to one version.
    Pin(Pin),
    /// And no longer.
    Unpin(PinRule),
    /// No new connections for a backend.
    Drain(String),
    /// And again.
    Undrain(String),
    /// Another backend.
    AddBackend { version: Version, address: String, weight: u32 },
    /// One less.
    RemoveBackend(String),
}

/// Whether a change brings traffic somewhere, or keeps it away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Brings,
    KeepsAway,
}

/// A change that fits.
struct Planned {
    settings: Settings,
    way: Way,
    /// For the history.
    sentence: String,
}

impl<K: Kernel> Releases<K> {
    /// Carries a change out. When this returns, the kernel has it.
    pub(in crate::agent) fn change(
        &mut self,
        name: &str,
        change: &Change,
        cause: Cause<'_>,
    ) -> Result<usize, CommandError> {
        let index = self.index(name)?;
        let Planned { settings, way, sentence } = self.plan_change(index, change)?;
        let before = self.replace_settings(index, settings);
        health::still_there(&self.services[index], change, &mut self.standings[index].down);
        let cause = cause.by(Rule::Command);
        let entry = |releases: &mut Self, cause: Cause<'_>, sentence: &str| {
            let release = releases.release(index).clone();
            let mut entry = releases.entry(index, &release, &release, Some(cause));
            entry.decision.iter_mut().for_each(|decision| sentence.clone_into(&mut decision.reason));
            entry
        };
        if way == Way::Brings {
            let entry = entry(self, cause, &sentence);
            if let Err(source) = self.journal.write_ahead(entry) {
                self.replace_settings(index, before);
                let weights = self.release(index).weights.clone();
                return Err(CommandError::NotStored { service: name.to_owned(), weights, source: Box::new(source) });
            }
        }
        if let Err(source) = self.set(index, change) {
            self.replace_settings(index, before);
            if way == Way::Brings {
                let kept = Cause::new("settings_kept", "agent").by(Rule::Agent);
                let entry = entry(self, kept, "the kernel did not take the change before");
                self.journal.write(entry);
            }
            return Err(CommandError::NotSet { service: name.to_owned(), source: Box::new(source) });
        }
        if way == Way::KeepsAway {
            let entry = entry(self, cause, &sentence);
            self.journal.write(entry);
        }
        tracing::info!(service = name, actor = cause.actor, event = cause.event, sentence, "settings_changed");
        Ok(index)
    }

    /// Gives the former ones. Backends that are v2 now are so for the next agent, too.
    fn replace_settings(&mut self, index: usize, settings: Settings) -> Settings {
        let standing = &mut self.standings[index];
        standing.canary = canary(&self.services[index], &settings);
        std::mem::replace(&mut standing.settings, settings)
    }

    fn plan_change(&self, index: usize, change: &Change) -> Result<Planned, CommandError> {
        let service = &self.services[index];
        let (settings, members) = (self.settings(index), service.members());
        let misfit = |misfit| CommandError::Misfit { service: service.name.clone(), misfit: Box::new(misfit) };
        let wrong = |wrong: String| CommandError::Wrong { service: service.name.clone(), wrong };
        let address = |text: &str| service.backend_address(text).map_err(|error| wrong(error.to_string()));
        let (settings, way, sentence) = match change {
            Change::Pin(pin) => {
                check_pin(service, pin).map_err(wrong)?;
                let way = if pin.version == Version::V2 { Way::Brings } else { Way::KeepsAway };
                (settings.pin(*pin), way, format!("{} goes to {}", pin.rule, pin.version.name()))
            }
            Change::Unpin(rule) => {
                let settings = settings.unpin(&service.pins, *rule).map_err(misfit)?;
                (settings, Way::KeepsAway, format!("{rule} is pinned no longer"))
            }
            Change::Drain(text) => {
                let address = address(text)?;
                let settings = settings.drain(&members, address).map_err(misfit)?;
                (settings, Way::KeepsAway, format!("{address} is drained"))
            }
            Change::Undrain(text) => {
                let address = address(text)?;
                let settings = settings.undrain(&members, address).map_err(misfit)?;
                (settings, Way::Brings, format!("{address} gets new connections again"))
            }
            Change::AddBackend { version, address: text, weight } => {
                let (version, weight, address) = (*version, *weight, address(text)?);
                self.check_new_backend(index, version, address).map_err(wrong)?;
                let settings = settings.add(&members, Member { version, address, weight }).map_err(misfit)?;
                (settings, Way::Brings, format!("{address} serves {} with weight {weight}", version.name()))
            }
            Change::RemoveBackend(text) => {
                let address = address(text)?;
                let settings = settings.remove(&members, address).map_err(misfit)?;
                (settings, Way::KeepsAway, format!("{address} is a backend no longer"))
            }
        };
        Ok(Planned { settings, way, sentence })
    }

    /// A reply must name one version of one service, as in the config; and there are as many as a version can have.
    fn check_new_backend(&self, index: usize, version: Version, address: SocketAddr) -> Result<(), String> {
        let own = self.settings(index).members(&self.services[index].members());
        let count = own.iter().filter(|(member, _)| member.version == version).count();
        if count >= BACKENDS_PER_VERSION_MAX {
            return Err(format!(
                "{} has {count} backends: at most {BACKENDS_PER_VERSION_MAX} are possible; remove one first",
                version.name()
            ));
        }
        let protocol = self.services[index].protocol;
        for (other, service) in self.services.iter().enumerate().filter(|(_, service)| service.protocol == protocol) {
            if service.meets_clients_at(address) {
                return Err(format!("{address} is where clients meet service `{}`", service.name));
            }
            let theirs = self.standings.get(other).map(|standing| standing.settings.members(&service.members()));
            if other != index && theirs.unwrap_or_default().iter().any(|(member, _)| member.address == address) {
                return Err(format!(
                    "{address} ({}) is a backend of service `{}`: a reply must name one version of one service",
                    protocol.name(),
                    service.name
                ));
            }
        }
        Ok(())
    }

    fn set(&mut self, index: usize, change: &Change) -> Result<(), KernelError> {
        match change {
            Change::Pin(_) | Change::Unpin(_) => self.set_pins(index),
            _ => self.set_backends(index),
        }
    }

    pub(super) fn set_pins(&mut self, index: usize) -> Result<(), KernelError> {
        let pins: Vec<Pin> =
            self.settings(index).pins(&self.services[index].pins).into_iter().map(|(pin, _)| pin).collect();
        self.kernel.set_pins(index, &pins)
    }

    /// The one place where the kernel is told of backends.
    pub(super) fn set_backends(&mut self, index: usize) -> Result<(), KernelError> {
        let backends = self.backends(index);
        self.kernel.set_backends(index, &backends)
    }

    /// What has been changed at run time.
    pub(in crate::agent) fn settings(&self, index: usize) -> &Settings {
        &self.standings[index].settings
    }
}

/// The addresses that are v2.
pub(super) fn canary(service: &ServiceConfig, settings: &Settings) -> std::collections::BTreeSet<SocketAddr> {
    let members = settings.members(&service.members()).into_iter();
    members.filter(|(member, _)| member.version == Version::V2).map(|(member, _)| member.address).collect()
}

fn check_pin(service: &ServiceConfig, pin: &Pin) -> Result<(), String> {
    match pin.rule {
        PinRule::Source(network) if network.is_ipv4() != service.vip.is_ipv4() => Err(format!(
            "no client comes from {network}, for the VIP is {}: give a network of the VIP's family",
            crate::cidr::family(service.vip)
        )),
        PinRule::Source(_) | PinRule::Dscp(_) => Ok(()),
    }
}

/// Whether v2 is another one than that of the last release.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Canary {
    Same,
    Another,
}

/// What of the stored settings still fits the config, and whether the config's v2 is the one that was released before.
///
/// It is another one if none of the config's v2 was v2 before, be it that a command had removed it. What commands added to
/// the former canary is then no part of this one.
pub(super) fn fitted(services: &[ServiceConfig], index: usize, stored: &StoredRelease) -> (Settings, Canary) {
    let Some(service) = services.get(index) else { return (Settings::default(), Canary::Same) };
    let was_v2 =
        |backend: &Backend| stored.canary.contains(&backend.address) || stored.settings.removes(backend.address);
    let canary = if service.v2.backends.iter().any(was_v2) { Canary::Same } else { Canary::Another };
    let elsewhere = |address: SocketAddr| {
        services.iter().enumerate().any(|(other, each)| {
            let is_backend = || each.members().iter().any(|member| member.address == address);
            each.protocol == service.protocol && (each.meets_clients_at(address) || (other != index && is_backend()))
        })
    };
    let settings = match canary {
        Canary::Same => stored.settings.clone(),
        Canary::Another => stored.settings.clone().without_added(Version::V2),
    };
    (settings.fitted(&service.members(), elsewhere), canary)
}

/// The config as the kernel is to begin with: with the pins and backends that were changed at run time.
pub(in crate::agent) fn applied(config: &Config, store: &Store) -> Result<Config, StoreError> {
    let mut applied = config.clone();
    for (index, service) in config.services.iter().enumerate() {
        let Some(stored) = store.release(&service.name)? else { continue };
        let (settings, _) = fitted(&config.services, index, &stored);
        let members = settings.members(&service.members());
        let pool = |version: Version| {
            let own = members.iter().map(|(member, _)| member).filter(|member| member.version == version);
            Pool { backends: own.map(|member| Backend { address: member.address, weight: member.weight }).collect() }
        };
        let target = &mut applied.services[index];
        (target.v1, target.v2) = (pool(Version::V1), pool(Version::V2));
        target.pins = settings.pins(&service.pins).into_iter().map(|(pin, _)| pin).collect();
    }
    Ok(applied)
}

#[cfg(test)]
mod tests;
