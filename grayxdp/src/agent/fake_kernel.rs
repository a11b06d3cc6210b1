//! A kernel for tests: remembers weights, and fails when told to.

use std::net::SocketAddr;

use grayxdp_common::{ids::Version, layout::BackendCounters, verdict::Verdict, weight::Weight};

use super::kernel::Kernel;
use crate::{
    config::Config,
    kernel::{BackendReading, KernelError},
};

/// A config of two services; paths lie in this directory.
pub(super) fn config(directory: &std::path::Path) -> Config {
    let text = format!(
        r#"
[agent]
interfaces = ["lo"]
socket = "{directory}/agent.sock"
state = "{directory}/state.db"
bpffs = "/sys/fs/bpf/fake"

[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
hash_seed = "a"
v1 = {{ backends = [{{ address = "10.0.1.10:8080" }}, {{ address = "10.0.1.11:8080", weight = 3 }}] }}
v2 = {{ backends = [{{ address = "10.0.2.10:8080" }}] }}
[service.release]
schedule = {{ kind = "linear", from = 0, to = 100, step = 10, every = "10s" }}

[[service]]
name = "dns"
vip = "203.0.113.10"
port = 53
protocol = "udp"
hash_seed = "b"
v1 = {{ backends = [{{ address = "10.0.1.10:53" }}] }}
v2 = {{ backends = [{{ address = "10.0.2.10:53" }}] }}
"#,
        directory = directory.display()
    );
    Config::parse("test.toml", &text).expect("a valid config")
}

/// When an agent is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dies {
    /// When it is about to write a weight.
    BeforeTheWrite,
    /// When the kernel has the weight, and nothing else has been done yet.
    AfterTheWrite,
}

/// See the module.
#[derive(Debug)]
pub(super) struct FakeKernel {
    pub(super) pinned: Vec<Option<Weight>>,
    pub(super) weights: Vec<Weight>,
    pub(super) readings: Vec<BackendReading>,
    /// Writes of a higher weight fail.
    pub(super) fails_to_raise: bool,
    /// Writes of a lower or equal weight fail.
    pub(super) fails_to_lower: bool,
    /// The agent dies (by a panic, which a test catches) at the next write.
    pub(super) dies: Option<Dies>,
    /// Every weight that was ever written, by service.
    pub(super) written: Vec<(usize, Weight)>,
}

impl FakeKernel {
    /// What a former agent left; `None` for services that are new.
    pub(super) fn with_pinned(pinned: &[Option<Weight>]) -> Self {
        Self {
            pinned: pinned.to_vec(),
            weights: pinned.iter().map(|weight| weight.unwrap_or_default()).collect(),
            readings: Vec::new(),
            fails_to_raise: false,
            fails_to_lower: false,
            dies: None,
            written: Vec::new(),
        }
    }

    /// Lets a backend have had so many new flows.
    pub(super) fn count(&mut self, service: usize, version: Version, address: &str, new_flows: u64) {
        let address: SocketAddr = address.parse().expect("an address");
        self.readings.retain(|reading| reading.address != address);
        let counters = BackendCounters { new_flows, packets_in: 10 * new_flows, ..BackendCounters::default() };
        self.readings.push(BackendReading { service, version, address, counters });
    }
}

impl Kernel for FakeKernel {
    fn pinned_weight(&self, service: usize) -> Option<Weight> {
        self.pinned[service]
    }

    fn weight(&self, service: usize) -> Result<Weight, KernelError> {
        Ok(self.weights[service])
    }

    fn set_weight(&mut self, service: usize, weight: Weight) -> Result<(), KernelError> {
        assert_ne!(self.dies, Some(Dies::BeforeTheWrite), "killed before its write");
        let fails = if weight > self.weights[service] { self.fails_to_raise } else { self.fails_to_lower };
        if fails {
            return Err(KernelError::Map { what: "write a weight", reason: "the test wants it so".to_owned() });
        }
        self.weights[service] = weight;
        self.written.push((service, weight));
        assert_ne!(self.dies, Some(Dies::AfterTheWrite), "killed after its write");
        Ok(())
    }

    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        Ok(self.readings.clone())
    }

    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        Ok(Verdict::ALL.into_iter().zip(1..).collect())
    }
}
