//! What the kernel counted, which flows there are, and what becomes of a test packet.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use aya::programs::{TestRun as _, TestRunOptions};
use grayxdp_common::{
    ids::{BackendId, ServiceId, Version},
    layout::{BackendCounters, BackendEntry, FLOW_SEVER, FlowHash, FlowState, IdleTicks, NO_SERVICE, Signal},
    limits::FLOW_ENTRIES_PER_BUCKET,
    verdict::Verdict,
};

use super::{
    Census, DataPlane, Flow, KernelError, TraceEvents, entries,
    flows::{Record, Watch, duration_of, now_ns, now_tick},
    idle_ticks,
    inventory::BackendSlot,
    load,
    signals::{Moment, SignalMaps},
};
use crate::config::Observe;

/// What the kernel counted for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReading {
    /// Index into the config's services.
    pub service: usize,
    /// The version that it serves.
    pub version: Version,
    /// Where it serves.
    pub address: SocketAddr,
    /// Since it was first seen; over all CPUs.
    pub counters: BackendCounters,
}

/// Flows of a backend, as the last sweep counted them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowReading {
    /// Index into the config's services.
    pub service: usize,
    /// The version that the backend serves, or served.
    pub version: Version,
    /// Where.
    pub address: SocketAddr,
    /// In the order of [`FlowState::ALL`].
    pub flows: [u32; FlowState::ALL.len()],
}

/// How a packet fared in [`DataPlane::test_run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOutcome {
    /// XDP action number.
    pub action: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
}

/// The last look through the flow table.
pub(super) struct Sweep {
    pub(super) began: Instant,
    pub(super) census: Census,
}

/// Counts what a sweep finds.
struct SignalWatch<'a> {
    signals: &'a SignalMaps,
    moment: Moment,
    default: IdleTicks,
    /// By number.
    subjects: Vec<Subject>,
}

/// How a sweep looks at a backend's flows.
#[derive(Clone, Copy)]
struct Subject {
    limits: IdleTicks,
    /// Where they are watched for signals: the backend.
    watched: Option<BackendEntry>,
    /// Whether a client that has sent something is owed an answer, by the protocol: of one that nobody knows, who can say?
    is_answer_owed: bool,
}

impl SignalWatch<'_> {
    fn subject(&self, backend: BackendId) -> Option<&Subject> {
        self.subjects.get(usize::from(backend.raw()))
    }

    fn watched(&self, backend: BackendId) -> Option<&BackendEntry> {
        self.subject(backend)?.watched.as_ref()
    }
}

impl Watch for SignalWatch<'_> {
    fn limits(&self, backend: BackendId) -> IdleTicks {
        self.subject(backend).map_or(self.default, |subject| subject.limits)
    }

    fn is_handshake_overdue(&self, entry: u32) -> bool {
        self.signals.is_handshake_overdue(entry, &self.moment)
    }

    fn is_answer_owed(&self, backend: BackendId) -> bool {
        self.subject(backend).is_some_and(|subject| subject.is_answer_owed)
    }

    fn tell(&self, entry: u32, backend: BackendId, error: Signal) {
        if let Some(of) = self.watched(backend) {
            self.signals.count_error(entry, backend, of, error);
        }
    }

    fn tell_waiting(&self, entry: u32, backend: BackendId, is_over: bool) {
        if self.watched(backend).is_some() && self.signals.mark_overdue(entry, &self.moment) {
            let signal = if is_over { Signal::OverdueGone } else { Signal::OverdueWaiting };
            self.signals.count_found(backend, signal);
        }
    }
}

impl DataPlane {
    /// What the kernel counted, for every backend of the config.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        let backends = &self.blueprint.inventory.backends;
        let end = backends.iter().map(|slot| u32::from(slot.id.raw()) + 1).max().unwrap_or(0);
        let counters = self.maps.counters(end)?;
        let read = |slot: &BackendSlot| BackendReading {
            service: slot.service,
            version: slot.version,
            address: slot.setup.address,
            counters: counters.get(usize::from(slot.id.raw())).copied().unwrap_or_default(),
        };
        Ok(backends.iter().map(read).collect())
    }

    /// How many packets ended in which way.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.maps.verdicts()
    }

    /// Numbers of a service's backends, those that left included, as [`Census`] counts them.
    pub fn backends(&self, service: usize) -> Vec<(BackendId, Version, SocketAddr)> {
        let Some(slot) = self.blueprint.inventory.services.get(service) else { return Vec::new() };
        let own = |(_, entry): &(BackendId, BackendEntry)| u32::from(entry.service) == slot.id.0;
        let named = |(id, entry): (BackendId, BackendEntry)| (id, entry.serves(), entries::address_of(&entry));
        self.blueprint.inventory.entries().filter(own).map(named).collect()
    }

    /// Removes flows that have been idle for too long, and counts the others. Some milliseconds for a million.
    pub fn sweep(&mut self) -> &Census {
        let moment = Moment::new(now_ns());
        let began = Instant::now();
        let watch =
            SignalWatch { signals: &self.maps.signals, moment, default: self.setup.idle, subjects: self.subjects() };
        let census = self.maps.flows.sweep(now_tick(), &watch);
        &self.last_sweep.insert(Sweep { began, census }).census
    }

    /// What the last sweep counted for every backend of the services, those that left included; nothing before the first.
    pub fn flow_readings(&self) -> Vec<FlowReading> {
        let Some(Sweep { census, .. }) = &self.last_sweep else { return Vec::new() };
        let services = self.blueprint.inventory.service_indices();
        let reading = |(id, entry): (BackendId, BackendEntry)| {
            Some(FlowReading {
                service: *services.get(&entry.service)?,
                version: entry.serves(),
                address: entries::address_of(&entry),
                flows: FlowState::ALL.map(|state| census.active(id, state)),
            })
        };
        self.blueprint.inventory.entries().filter_map(reading).collect()
    }

    /// How a sweep looks at each backend's flows, by number. A UDP conversation's limit is its service's own.
    fn subjects(&self) -> Vec<Subject> {
        let inventory = &self.blueprint.inventory;
        let end = inventory.entries().map(|(id, _)| usize::from(id.raw()) + 1).max().unwrap_or(0);
        let nobody = Subject { limits: self.setup.idle, watched: None, is_answer_owed: false };
        let mut subjects = vec![nobody; end];
        let services = inventory.service_indices();
        for (id, entry) in inventory.entries() {
            let service = services.get(&entry.service).and_then(|&index| self.setup.services.get(index));
            if let Some((subject, service)) = subjects.get_mut(usize::from(id.raw())).zip(service) {
                subject.limits.udp = idle_ticks(service.udp_idle);
                subject.watched = service.signals.enabled.then_some(entry);
                subject.is_answer_owed = service.signals.enabled && service.signals.observe != Observe::None;
            }
        }
        subjects
    }

    /// Ends the flows of these backends: TCP connections are reset with their next packets, UDP conversations are chosen
    /// for anew. Returns how many there were.
    pub fn sever(&self, backends: &[BackendId]) -> u64 {
        self.maps.flows.sever(|backend| backends.contains(&backend))
    }

    /// Forgets every flow, as if none had ever been: what comes next begins anew. Returns how many there were.
    pub fn forget_flows(&self) -> u64 {
        self.maps.flows.forget(|_| true)
    }

    /// Every flow, while the table goes on changing.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.flows_in(0..self.flow_buckets())
    }

    /// Buckets of the flow table.
    pub fn flow_buckets(&self) -> u32 {
        self.maps.flows.buckets()
    }

    /// The flows of some buckets: who looks at all of them may do so in parts.
    pub fn flows_in(&self, buckets: std::ops::Range<u32>) -> impl Iterator<Item = Flow> {
        let now = now_tick();
        let entries: HashMap<BackendId, BackendEntry> = self.blueprint.inventory.entries().collect();
        self.maps.flows.records_in(buckets).filter_map(move |record| {
            let entry = *entries.get(&record.backend)?;
            Some(self.flow(&record, &entry, now))
        })
    }

    fn flow(&self, record: &Record, backend: &BackendEntry, now: u16) -> Flow {
        let seen = record.entry.seen;
        let inventory = &self.blueprint.inventory;
        let service = (backend.service != NO_SERVICE).then(|| ServiceId(backend.service.into()));
        let index = service.and_then(|id| inventory.service_index(id));
        let source = self.blueprint.sources.addresses.get(&u32::from(seen.source));
        let port = seen.source_port.to_host();
        let client = service.and_then(|id| self.client(record, id));
        Flow {
            service: index,
            by_canary_port: client.is_some_and(|(_, by_canary_port)| by_canary_port),
            version: backend.serves(),
            backend: entries::address_of(backend),
            state: seen.state(),
            idle: duration_of(seen.idle_ticks(now)),
            severed: seen.kind & FLOW_SEVER != 0,
            source: source.filter(|_| port != 0).map(|address| SocketAddr::new(*address, port)),
            client: client.map(|(client, _)| client),
        }
    }

    /// The client, and whether it came by the canary port.
    fn client(&self, record: &Record, service: ServiceId) -> Option<(SocketAddr, bool)> {
        if record.entry.seen.source_port.to_host() != 0 {
            return self.holder(record, service);
        }
        let index = self.blueprint.inventory.service_index(service)?;
        let setup = self.setup.services.get(index)?;
        if !setup.vip.is_ipv4() {
            return None;
        }
        let at = |id| {
            let (key, buckets) = (self.flow_key, self.maps.flows.buckets());
            FlowHash::client_v4(key, id, buckets, record.bucket, record.entry.owner)
        };
        let by_canary_port = || setup.canary_port.and_then(|_| at(service.canary())).map(|client| (client, true));
        let ((address, port), by_canary_port) = at(service).map(|client| (client, false)).or_else(by_canary_port)?;
        Some((SocketAddr::new(IpAddr::from(address), port.to_host()), by_canary_port))
    }

    /// `full-nat`: whoever has the flow's source port.
    fn holder(&self, record: &Record, service: ServiceId) -> Option<(SocketAddr, bool)> {
        let (seen, ports) = (record.entry.seen, self.setup.source_ports);
        let port = seen.source_port.to_host().checked_sub(ports.first).filter(|nth| *nth < ports.count)?;
        let slot = self.maps.slots.load(u32::from(seen.source) * u32::from(ports.count) + u32::from(port))?;
        let entry = u32::try_from(FLOW_ENTRIES_PER_BUCKET).ok()? * record.bucket + record.slot;
        let is_its = slot.owner == record.entry.owner && slot.entry == entry;
        let client = SocketAddr::new(IpAddr::from(slot.client), slot.client_port.to_host());
        is_its.then_some((client, u32::from(slot.service) != service.0))
    }

    /// Traced packets; once.
    pub fn trace_events(&mut self) -> Option<TraceEvents> {
        self.maps.events.take().map(TraceEvents::new)
    }

    /// Runs one packet, from its Ethernet header on, through the program without sending it (BPF_PROG_TEST_RUN), as if it
    /// had come in by the loopback device.
    ///
    /// # Errors
    /// Where the kernel refuses: under 14 bytes, or more than a page.
    pub fn test_run(&mut self, packet: &[u8]) -> Result<TestOutcome, KernelError> {
        self.run(packet, None)
    }

    /// The same, as if it had come in by the device of this index.
    ///
    /// # Errors
    /// As for [`Self::test_run`]; also where there is no such device, or it has no receive queue that XDP knows of.
    pub fn test_run_on(&mut self, packet: &[u8], interface: u32) -> Result<TestOutcome, KernelError> {
        self.run(packet, Some(interface))
    }

    fn run(&mut self, packet: &[u8], interface: Option<u32>) -> Result<TestOutcome, KernelError> {
        const ROOM: usize = 256;
        let mut data_out = vec![0; packet.len() + ROOM];
        let context = interface.map(|interface| context(packet, interface));
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut data_out),
            ctx_in: context.as_ref().map(<[u8; 24]>::as_slice),
            ..TestRunOptions::default()
        };
        let result = load::xdp(&mut self.ebpf)?.test_run(options).map_err(KernelError::map("run a test packet"))?;
        data_out.truncate(result.data_size_out as usize);
        Ok(TestOutcome { action: result.return_value, packet: data_out })
    }
}

/// `struct xdp_md` (linux/bpf.h): data, its end, metadata, device and queue of arrival, device of departure.
fn context(packet: &[u8], interface: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    let fields = [0, u32::try_from(packet.len()).unwrap_or(u32::MAX), 0, interface, 0, 0];
    for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
        to.copy_from_slice(&field.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_context_says_where_the_packet_ends_and_came_in() {
        let bytes = context(&[0; 60], 7);
        assert_eq!((bytes[4], bytes[12], bytes.iter().filter(|&&byte| byte != 0).count()), (60, 7, 2));
    }
}
