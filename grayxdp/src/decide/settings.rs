//! What is changed in a service at run time, beside its release: pins and backends. Laid over what the config says, which
//! stays as it is.

use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr};

use grayxdp_common::ids::Version;

use super::pin::{Pin, PinRule, version_from_name};

/// A backend of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// What it serves.
    pub version: Version,
    /// Where.
    pub address: SocketAddr,
    /// Its share among its version's backends, 1 to 1000.
    pub weight: u32,
}

/// Whether a backend gets new connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendState {
    /// It does.
    Live,
    /// It keeps those that it has, and gets no new ones.
    Draining,
    /// Its health checks fail: as draining, and what is not established yet goes elsewhere.
    Down,
}

impl BackendState {
    /// As in output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

/// A backend as the kernel is to treat it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendSetting {
    /// What it serves.
    pub version: Version,
    /// Where.
    pub address: SocketAddr,
    /// Its share among its version's live backends, 1 to 1000.
    pub weight: u32,
    /// Whether it gets new connections.
    pub state: BackendState,
}

/// Where something comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The config file.
    Config,
    /// A command.
    RunTime,
}

impl Origin {
    /// As in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::RunTime => "run-time",
        }
    }
}

/// Why a change does not fit; each message says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misfit {
    /// No backend is there.
    #[error("{address} is no backend of this service; there are: {}", addresses(known))]
    NoBackend {
        /// As asked for.
        address: SocketAddr,
        /// All that there are.
        known: Vec<SocketAddr>,
    },
    /// `undrain` of one that is not drained.
    #[error("backend {address} is not drained: it gets new connections as it is")]
    NotDrained {
        /// Of the backend.
        address: SocketAddr,
    },
    /// `backend add` of one that is there.
    #[error("{address} is a backend of {} already. `backend remove` takes it out, `undrain` gives it new connections", version.name())]
    AlreadyThere {
        /// Of the backend.
        address: SocketAddr,
        /// What it serves.
        version: Version,
    },
    /// `backend remove` of a version's last one.
    #[error(
        "{address} is the last backend of {}. Add another one first (`backend add`); or `drain` it, and `when_empty` in the \
         config says what becomes of new connections",
        version.name()
    )]
    LastOne {
        /// Of the backend.
        address: SocketAddr,
        /// What it serves.
        version: Version,
    },
    /// `unpin` of what is not pinned.
    #[error("nothing is pinned by {rule}; `grayxdp pins` lists what is")]
    NotPinned {
        /// As asked for.
        rule: PinRule,
    },
    /// `unpin` of a pin of the config.
    #[error(
        "the pin of {rule} is in the config file: take it out there and start the agent again, or lay another one over it \
         (`grayxdp pin … --to {}`)",
        if *version == Version::V1 { "v2" } else { "v1" }
    )]
    PinOfConfig {
        /// As asked for.
        rule: PinRule,
        /// Where it sends its traffic.
        version: Version,
    },
}

fn addresses(known: &[SocketAddr]) -> String {
    known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// All that was changed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settings {
    /// Each rule once.
    pins: Vec<Pin>,
    /// Each address once.
    added: Vec<Member>,
    /// Backends of the config.
    removed: BTreeSet<SocketAddr>,
    /// Backends of the config, or added ones.
    drained: BTreeSet<SocketAddr>,
}

impl Settings {
    /// The pins that hold, by rule. A pin that was set at run time counts before one of the config.
    pub fn pins(&self, config: &[Pin]) -> Vec<(Pin, Origin)> {
        let own = self.pins.iter().map(|pin| (*pin, Origin::RunTime));
        let is_laid_over = |pin: &Pin| self.pins.iter().any(|own| own.rule == pin.rule);
        let of_config = config.iter().filter(|pin| !is_laid_over(pin)).map(|pin| (*pin, Origin::Config));
        let mut pins: Vec<_> = own.chain(of_config).collect();
        pins.sort_by_key(|(pin, _)| pin.rule);
        pins
    }

    /// The backends that there are: the config's in their order, without removed ones, then added ones.
    pub fn members(&self, config: &[Member]) -> Vec<(Member, Origin)> {
        let of_config = config.iter().filter(|member| !self.removed.contains(&member.address));
        let of_config = of_config.map(|member| (*member, Origin::Config));
        of_config.chain(self.added.iter().map(|member| (*member, Origin::RunTime))).collect()
    }

    /// The config's backends that are not there.
    pub fn removed<'a>(&'a self, config: &'a [Member]) -> impl Iterator<Item = &'a Member> {
        config.iter().filter(|member| self.removed.contains(&member.address))
    }

    /// The backends as the kernel is to treat them, but for their health.
    pub fn backends(&self, config: &[Member]) -> Vec<BackendSetting> {
        let setting = |(Member { version, address, weight }, _)| BackendSetting {
            version,
            address,
            weight,
            state: if self.drained.contains(&address) { BackendState::Draining } else { BackendState::Live },
        };
        self.members(config).into_iter().map(setting).collect()
    }

    /// Whether a backend of the config was removed.
    pub fn removes(&self, address: SocketAddr) -> bool {
        self.removed.contains(&address)
    }

    /// Without the backends that were added to a version.
    #[must_use]
    pub fn without_added(mut self, version: Version) -> Self {
        self.added.retain(|member| member.version != version);
        self
    }

    /// Whether any backend is drained.
    pub fn drains(&self) -> bool {
        !self.drained.is_empty()
    }

    /// With this pin.
    #[must_use]
    pub fn pin(&self, pin: Pin) -> Self {
        let mut changed = self.clone();
        changed.pins.retain(|other| other.rule != pin.rule);
        changed.pins.push(pin);
        changed
    }

    /// Without the pin of this rule.
    pub fn unpin(&self, config: &[Pin], rule: PinRule) -> Result<Self, Misfit> {
        let mut changed = self.clone();
        changed.pins.retain(|pin| pin.rule != rule);
        if changed.pins.len() < self.pins.len() {
            return Ok(changed);
        }
        match config.iter().find(|pin| pin.rule == rule) {
            Some(pin) => Err(Misfit::PinOfConfig { rule, version: pin.version }),
            None => Err(Misfit::NotPinned { rule }),
        }
    }

    /// With no new connections for this backend.
    pub fn drain(&self, config: &[Member], address: SocketAddr) -> Result<Self, Misfit> {
        self.find(config, address)?;
        let mut changed = self.clone();
        changed.drained.insert(address);
        Ok(changed)
    }

    /// With new connections for this backend again.
    pub fn undrain(&self, config: &[Member], address: SocketAddr) -> Result<Self, Misfit> {
        self.find(config, address)?;
        let mut changed = self.clone();
        if changed.drained.remove(&address) { Ok(changed) } else { Err(Misfit::NotDrained { address }) }
    }

    /// With this backend.
    pub fn add(&self, config: &[Member], member: Member) -> Result<Self, Misfit> {
        let address = member.address;
        if let Ok(Member { version, .. }) = self.find(config, address) {
            return Err(Misfit::AlreadyThere { address, version });
        }
        let mut changed = self.clone();
        if config.contains(&member) {
            changed.removed.remove(&address);
        } else {
            changed.added.push(member);
        }
        Ok(changed)
    }

    /// Without this backend.
    pub fn remove(&self, config: &[Member], address: SocketAddr) -> Result<Self, Misfit> {
        let Member { version, .. } = self.find(config, address)?;
        let left = self.members(config).into_iter().filter(|(member, _)| member.version == version).count();
        if left <= 1 {
            return Err(Misfit::LastOne { address, version });
        }
        let mut changed = self.clone();
        changed.drained.remove(&address);
        changed.added.retain(|member| member.address != address);
        if changed.added.len() == self.added.len() {
            changed.removed.insert(address);
        }
        Ok(changed)
    }

    fn find(&self, config: &[Member], address: SocketAddr) -> Result<Member, Misfit> {
        let members = self.members(config);
        let found = members.iter().map(|(member, _)| *member).find(|member| member.address == address);
        let known = || members.iter().map(|(member, _)| member.address).collect();
        found.ok_or_else(|| Misfit::NoBackend { address, known: known() })
    }

    /// What still means something under another config, which may have got what was added, or lost what was removed.
    /// `elsewhere` says whether another service is at an address.
    #[must_use]
    pub fn fitted(&self, config: &[Member], elsewhere: impl Fn(SocketAddr) -> bool) -> Self {
        let of_config: BTreeSet<SocketAddr> = config.iter().map(|member| member.address).collect();
        let mut fitted = self.clone();
        fitted.removed.retain(|address| of_config.contains(address));
        let removed = &fitted.removed;
        fitted.added.retain(|Member { address, .. }| {
            !elsewhere(*address) && (!of_config.contains(address) || removed.contains(address))
        });
        for version in Version::ALL {
            // What the config says of a version counts where nothing else would be left of it.
            if !fitted.members(config).iter().any(|(member, _)| member.version == version) {
                let own = config.iter().filter(|member| member.version == version).map(|member| member.address);
                own.for_each(|address| {
                    fitted.removed.remove(&address);
                    fitted.added.retain(|member| member.address != address);
                });
            }
        }
        let there: BTreeSet<_> = fitted.members(config).into_iter().map(|(member, _)| member.address).collect();
        fitted.drained.retain(|address| there.contains(address));
        fitted
    }
}

impl fmt::Display for Settings {
    /// As the store keeps it: a line for each change.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pin in &self.pins {
            writeln!(f, "pin {} {}", pin.version.name(), pin.rule)?;
        }
        for Member { version, address, weight } in &self.added {
            writeln!(f, "added {} {address} {weight}", version.name())?;
        }
        self.removed.iter().try_for_each(|address| writeln!(f, "removed {address}"))?;
        self.drained.iter().try_for_each(|address| writeln!(f, "drained {address}"))
    }
}

/// Why a text is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot read the setting `{0}`")]
pub struct NoSetting(String);

impl FromStr for Settings {
    type Err = NoSetting;

    fn from_str(text: &str) -> Result<Self, NoSetting> {
        let mut settings = Self::default();
        for line in text.lines() {
            settings.read_line(line).ok_or_else(|| NoSetting(line.to_owned()))?;
        }
        Ok(settings)
    }
}

impl Settings {
    fn read_line(&mut self, line: &str) -> Option<()> {
        let (what, rest) = line.split_once(' ')?;
        match what {
            "pin" => {
                let (version, rule) = rest.split_once(' ')?;
                self.pins.push(Pin { version: version_from_name(version)?, rule: rule.parse().ok()? });
            }
            "added" => {
                let mut words = rest.split(' ');
                self.added.push(Member {
                    version: version_from_name(words.next()?)?,
                    address: words.next()?.parse().ok()?,
                    weight: words.next()?.parse().ok()?,
                });
            }
            "removed" => drop(self.removed.insert(rest.parse().ok()?)),
            "drained" => drop(self.drained.insert(rest.parse().ok()?)),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
