//! What the loop needs of the data plane: a seam for tests, which steer a kernel of their own.

use grayxdp_common::{verdict::Verdict, weight::Weight};

use crate::kernel::{BackendReading, DataPlane, KernelError};

/// The data plane, as far as releases are concerned. Services are indices into the config.
pub(super) trait Kernel {
    /// See [`DataPlane::pinned_weight`].
    fn pinned_weight(&self, service: usize) -> Option<Weight>;
    /// See [`DataPlane::weight`].
    fn weight(&self, service: usize) -> Result<Weight, KernelError>;
    /// See [`DataPlane::set_weight`].
    fn set_weight(&mut self, service: usize, weight: Weight) -> Result<(), KernelError>;
    /// See [`DataPlane::backend_readings`].
    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError>;
    /// See [`DataPlane::verdict_counts`].
    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError>;
}

impl Kernel for DataPlane {
    fn pinned_weight(&self, service: usize) -> Option<Weight> {
        self.pinned_weight(service)
    }

    fn weight(&self, service: usize) -> Result<Weight, KernelError> {
        self.weight(service)
    }

    fn set_weight(&mut self, service: usize, weight: Weight) -> Result<(), KernelError> {
        self.set_weight(service, weight)
    }

    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        self.backend_readings()
    }

    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.verdict_counts()
    }
}
