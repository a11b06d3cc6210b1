//! What the loop needs of the data plane: a seam for tests, which steer a kernel of their own.

use grayxdp_common::{ids::Version, verdict::Verdict};

use crate::{
    decide::{
        pin::Pin,
        settings::{BackendSetting, BackendState},
        weights::Weights,
    },
    kernel::{BackendReading, BackendSetup, DataPlane, KernelError, PinRules, Standing},
};

/// The data plane, as far as releases are concerned. Services are indices into the config.
pub(super) trait Kernel {
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
    /// Ends v2's open connections and conversations, those of backends that left included. Returns how many there were.
    fn sever(&mut self, service: usize) -> Result<u64, KernelError>;
    /// See [`DataPlane::backend_readings`].
    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError>;
    /// See [`DataPlane::verdict_counts`].
    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError>;
}

impl Kernel for DataPlane {
    fn pinned_weights(&self, service: usize) -> Option<Weights> {
        self.pinned_weights(service).map(|weights| Weights::of_shards(weights.to_vec()))
    }

    fn weights(&self, service: usize) -> Result<Weights, KernelError> {
        self.weights(service).map(Weights::of_shards)
    }

    fn set_weights(&mut self, service: usize, weights: &Weights) -> Result<(), KernelError> {
        let shards = self.shard_count(service);
        self.set_weights(service, &weights.each(shards).collect::<Vec<_>>())
    }

    fn set_pins(&mut self, service: usize, pins: &[Pin]) -> Result<(), KernelError> {
        self.set_pins(service, PinRules::from(pins))
    }

    fn set_backends(&mut self, service: usize, backends: &[BackendSetting]) -> Result<(), KernelError> {
        let pool = |version: Version| {
            let own = backends.iter().filter(|backend| backend.version == version);
            own.map(BackendSetup::from).collect::<Vec<_>>()
        };
        self.set_backends(service, Version::ALL.map(pool))
    }

    fn sever(&mut self, service: usize) -> Result<u64, KernelError> {
        let backends = self.backends(service).into_iter();
        let v2: Vec<_> = backends.filter(|(_, version, _)| *version == Version::V2).map(|(id, ..)| id).collect();
        Ok(Self::sever(self, &v2))
    }

    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        self.backend_readings()
    }

    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.verdict_counts()
    }
}

impl From<&BackendSetting> for BackendSetup {
    fn from(backend: &BackendSetting) -> Self {
        Self {
            address: backend.address,
            weight: backend.weight,
            standing: match backend.state {
                BackendState::Live => Standing::Serving,
                BackendState::Draining => Standing::Draining,
                BackendState::Down => Standing::Down,
            },
        }
    }
}
