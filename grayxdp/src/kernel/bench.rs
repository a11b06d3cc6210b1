//! What only the benchmark needs: the same set-up around another object, and the flow table as a whole.

use std::sync::atomic::Ordering;

use aya::Ebpf;

use super::{DataPlane, KernelError, Setup};

impl DataPlane {
    /// As [`Self::open`], with another object: one that has the same maps, and a program of the same name.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_object(object: &[u8], setup: Setup) -> Result<Self, KernelError> {
        Self::open_with(object, setup)
    }

    /// The object: its other programs, and the maps that the agent knows nothing of.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Lets next hops and routes in the maps be gone by from now on, as an agent does that watches them.
    pub fn trust_next_hops(&self) {
        self.maps.trust_next_hops();
    }

    /// The whole flow table, word by word. Only while no packet comes.
    pub fn flow_words(&self) -> Vec<u64> {
        self.maps.flows.words().iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Puts the flow table back as it was. Only while no packet comes.
    pub fn set_flow_words(&self, words: &[u64]) {
        for (to, word) in self.maps.flows.words().iter().zip(words) {
            to.store(*word, Ordering::Relaxed);
        }
    }
}
