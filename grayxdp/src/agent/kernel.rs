//! What the loop needs of the data plane: a seam for tests, which steer a kernel of their own.

use grayxdp_common::{limits::MAGLEV_SLOTS, verdict::Verdict};

use super::insight::Insight;
use crate::{
    config::{Config, Mode, WhenEmpty},
    decide::{pin::Pin, settings::BackendSetting, shards::Sharding, weights::Weights},
    kernel::{BackendReading, DataPlane, KernelError},
};

/// The data plane, as far as releases are concerned. Services are indices into the config.
pub(super) trait Kernel: Insight {
    /// The weights that a former agent left; `None` for a service new to the maps, or whose v2 is another canary now.
    /// They may be of another number of shards than there are now.
    fn pinned_weights(&self, service: usize) -> Option<Weights>;
    /// The weights that the kernel applies now.
    fn weights(&self, service: usize) -> Result<Weights, KernelError>;
    /// Makes the kernel apply these weights; it does when this returns. On an error some shards may have theirs.
    fn set_weights(&mut self, service: usize, weights: &Weights) -> Result<(), KernelError>;
    /// Makes these the service's pins, all of them.
    fn set_pins(&mut self, service: usize, pins: &[Pin]) -> Result<(), KernelError>;
    /// Makes these the service's backends, all of them; one that is left out keeps its flows, and gets no new ones.
    fn set_backends(&mut self, service: usize, backends: &[BackendSetting]) -> Result<(), KernelError>;
    /// Ends v2's open connections and conversations.
    fn sever(&mut self, service: usize) -> Result<(), KernelError>;
    /// See [`DataPlane::backend_readings`].
    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError>;
    /// See [`DataPlane::verdict_counts`].
    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError>;
}

impl Kernel for DataPlane {
    fn pinned_weights(&self, service: usize) -> Option<Weights> {
        self.pinned_weight(service).map(Weights::equal)
    }

    fn weights(&self, service: usize) -> Result<Weights, KernelError> {
        self.weight(service).map(Weights::equal)
    }

    fn set_weights(&mut self, service: usize, weights: &Weights) -> Result<(), KernelError> {
        match weights.differing() {
            None => self.set_weight(service, weights.lowest()),
            Some(_) => Err(unable("write weights that differ between shards")),
        }
    }

    fn set_pins(&mut self, _: usize, _: &[Pin]) -> Result<(), KernelError> {
        Err(unable("change pins"))
    }

    fn set_backends(&mut self, _: usize, _: &[BackendSetting]) -> Result<(), KernelError> {
        Err(unable("change backends"))
    }

    fn sever(&mut self, _: usize) -> Result<(), KernelError> {
        Err(unable("sever connections"))
    }

    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        self.backend_readings()
    }

    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.verdict_counts()
    }
}

/// Refuses a config that the packet program cannot follow, before anything is touched.
pub(super) fn check(config: &Config) -> Result<(), KernelError> {
    for service in &config.services {
        let reason = match service {
            _ if service.mode != Mode::Nat => format!("mode `{}`", service.mode.name()),
            _ if service.sharding != Sharding::Hash => "other shards than those by hash".to_owned(),
            _ if !service.pins.is_empty() || service.canary_port.is_some() => "pins and canary ports".to_owned(),
            _ if service.when_empty != WhenEmpty::OtherVersion => "`when_empty`".to_owned(),
            _ if service.maglev_slots != MAGLEV_SLOTS => "other `maglev_slots`".to_owned(),
            _ => continue,
        };
        let reason =
            format!("service `{}` has {reason}, which the packet program of this release cannot do", service.name);
        return Err(KernelError::Map { what: "run this config", reason });
    }
    Ok(())
}

fn unable(what: &'static str) -> KernelError {
    KernelError::Map { what, reason: "the packet program of this release cannot do that while it runs".to_owned() }
}
