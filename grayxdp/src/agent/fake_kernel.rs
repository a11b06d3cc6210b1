//! A kernel for tests: remembers weights, and fails when told to.

use std::{
    cell::RefCell,
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use grayxdp_common::{
    ids::Version,
    layout::{BackendCounters, FuseTally, TraceEvent},
    verdict::Verdict,
};

use super::{insight::Insight, kernel::Kernel, next_hops::Snapshot, trace::TraceSource};
use crate::{
    config::Config,
    decide::{explain::Explanation, pin::Pin, settings::BackendSetting, signals::ServiceSignals, weights::Weights},
    kernel::{BackendReading, Blown, Flow, FlowReading, FuseState, KernelError, SignalReadings, Traced},
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
    pub(super) pinned: Vec<Option<Weights>>,
    pub(super) weights: Vec<Weights>,
    /// By service; `None` where they were never set.
    pub(super) pins: Vec<Option<Vec<Pin>>>,
    /// By service; `None` where they were never set.
    pub(super) backends: Vec<Option<Vec<BackendSetting>>>,
    /// Services whose v2 was severed, in order.
    pub(super) severed: Vec<usize>,
    pub(super) readings: Vec<BackendReading>,
    /// What the former program took for down, by service.
    pub(super) down: Vec<(usize, SocketAddr)>,
    /// What every sweep finds.
    pub(super) flows: Vec<FlowReading>,
    /// As last told.
    pub(super) next_hops: Snapshot,
    /// How long they were last lent for.
    pub(super) lease: Duration,
    /// Writes of a higher weight fail.
    pub(super) fails_to_raise: bool,
    /// Writes of lower or equal weights fail.
    pub(super) fails_to_lower: bool,
    /// Pins, backends and severing fail.
    pub(super) fails_to_set: bool,
    /// The agent dies (by a panic, which a test catches) at the next write.
    pub(super) dies: Option<Dies>,
    /// What every look at the signals finds; `None` where they cannot be read.
    pub(super) signals: Option<Vec<ServiceSignals>>,
    /// What there is for metrics.
    pub(super) signal_readings: SignalReadings,
    /// How many clients a test has let come.
    pub(super) clients: u64,
    /// Fuses that have blown, and were not armed again.
    pub(super) blown: Vec<(usize, FuseTally)>,
    /// Every weight that was ever written, by service.
    pub(super) written: Vec<(usize, Weights)>,
    /// What is traced: one packet in so many, of which service.
    pub(super) trace: (u32, Option<usize>),
    /// How often it was said what is traced.
    pub(super) trace_orders: usize,
    /// Traced packets that nobody has taken yet.
    pub(super) events: Rc<RefCell<VecDeque<TraceEvent>>>,
}

impl FakeKernel {
    /// What a former agent left; `None` for services that are new.
    pub(super) fn with_pinned(pinned: &[Option<Weights>]) -> Self {
        Self {
            pinned: pinned.to_vec(),
            weights: pinned.iter().map(|weights| weights.clone().unwrap_or_default()).collect(),
            pins: vec![None; pinned.len()],
            backends: vec![None; pinned.len()],
            severed: Vec::new(),
            readings: Vec::new(),
            down: Vec::new(),
            flows: Vec::new(),
            next_hops: Snapshot::default(),
            lease: Duration::ZERO,
            fails_to_raise: false,
            fails_to_lower: false,
            fails_to_set: false,
            dies: None,
            signals: Some(Vec::new()),
            signal_readings: SignalReadings::default(),
            clients: 0,
            blown: Vec::new(),
            written: Vec::new(),
            trace: (0, None),
            trace_orders: 0,
            events: Rc::default(),
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

/// The ring's reading end.
struct Events(Rc<RefCell<VecDeque<TraceEvent>>>);

impl TraceSource for Events {
    fn next_event(&mut self) -> Option<TraceEvent> {
        self.0.borrow_mut().pop_front()
    }
}

impl Insight for FakeKernel {
    fn explain(&self, _: usize, by_canary_port: bool, client: SocketAddr, dscp: u8) -> Option<Explanation> {
        Some(crate::agent::explain::tests::explanation(by_canary_port, client, dscp))
    }

    /// Of more than one part; a flow in every hundredth bucket.
    fn flow_buckets(&self) -> u32 {
        10_000
    }

    fn each_flow(&self, buckets: std::ops::Range<u32>, take: &mut dyn FnMut(&Flow)) {
        for bucket in buckets.filter(|bucket| bucket % 100 == 0) {
            take(&crate::agent::flows::tests::flow(u16::try_from(bucket / 100).expect("small")));
        }
    }

    fn verdicts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.verdict_counts()
    }

    fn set_trace(&mut self, one_in: u32, service: Option<usize>) -> Result<(), KernelError> {
        self.trace = (one_in, service);
        self.trace_orders += 1;
        Ok(())
    }

    fn trace_source(&mut self) -> Option<Box<dyn TraceSource>> {
        Some(Box::new(Events(Rc::clone(&self.events))))
    }

    fn traced(&self, event: &TraceEvent) -> Traced {
        let backend = (event.backend == 1).then(|| SocketAddr::from(([10, 0, 1, 10], 8080)));
        Traced { service: (event.service == 0).then_some(0), by_canary_port: false, backend }
    }

    fn interface_name(&self, index: u32) -> Option<String> {
        Some(format!("eth{index}"))
    }
}

impl Kernel for FakeKernel {
    fn pinned_weights(&self, service: usize) -> Option<Weights> {
        self.pinned[service].clone()
    }

    fn weights(&self, service: usize) -> Result<Weights, KernelError> {
        Ok(self.weights[service].clone())
    }

    fn set_weights(&mut self, service: usize, weights: &Weights) -> Result<(), KernelError> {
        assert_ne!(self.dies, Some(Dies::BeforeTheWrite), "killed before its write");
        let raises = !weights.at_most(&self.weights[service]);
        if if raises { self.fails_to_raise } else { self.fails_to_lower } {
            return Err(refusal("write a weight"));
        }
        self.weights[service] = weights.clone();
        self.written.push((service, weights.clone()));
        assert_ne!(self.dies, Some(Dies::AfterTheWrite), "killed after its write");
        Ok(())
    }

    fn set_pins(&mut self, service: usize, pins: &[Pin]) -> Result<(), KernelError> {
        if self.fails_to_set {
            return Err(refusal("write pins"));
        }
        self.pins[service] = Some(pins.to_vec());
        Ok(())
    }

    fn set_backends(&mut self, service: usize, backends: &[BackendSetting]) -> Result<(), KernelError> {
        if self.fails_to_set {
            return Err(refusal("write backends"));
        }
        self.backends[service] = Some(backends.to_vec());
        Ok(())
    }

    fn sever(&mut self, service: usize) -> Result<u64, KernelError> {
        if self.fails_to_set {
            return Err(refusal("sever connections"));
        }
        self.severed.push(service);
        Ok(1)
    }

    fn sweep(&mut self) -> Vec<FlowReading> {
        self.flows.clone()
    }

    fn backend_addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    fn set_next_hops(&mut self, hops: &Snapshot) -> Result<(), KernelError> {
        self.next_hops = hops.clone();
        Ok(())
    }

    fn lease_hops(&mut self, time: Duration) {
        self.lease = time;
    }

    fn found_down(&self, service: usize) -> Vec<SocketAddr> {
        self.down.iter().filter(|(of, _)| *of == service).map(|(_, address)| *address).collect()
    }

    fn signals(&mut self) -> Result<Vec<&ServiceSignals>, KernelError> {
        self.signals.as_ref().map(|all| all.iter().collect()).ok_or_else(|| refusal("read signals"))
    }

    fn signal_readings(&mut self) -> &SignalReadings {
        &self.signal_readings
    }

    fn fuse(&self, service: usize) -> FuseState {
        let blown = self.blown.iter().find(|(blown, _)| *blown == service);
        blown.map_or(FuseState::Armed, |(_, tally)| FuseState::Blown(Blown { at_ns: 0, tally: *tally }))
    }

    fn blown_fuses(&self) -> Vec<(usize, FuseTally)> {
        self.blown.clone()
    }

    fn arm_fuse(&mut self, service: usize) -> Result<(), KernelError> {
        self.blown.retain(|(blown, _)| *blown != service);
        Ok(())
    }

    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        Ok(self.readings.clone())
    }

    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        Ok(Verdict::ALL.into_iter().zip(1..).collect())
    }
}

fn refusal(what: &'static str) -> KernelError {
    KernelError::Map { what, reason: "the test wants it so".to_owned() }
}
