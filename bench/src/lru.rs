//! The baseline: its maps, filled with the same services and backends.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use grayxdp::{config::Protocol, decide::maglev};
use grayxdp_bench_ebpf::lru::{Backend, Counters, EndpointKey, Hop, IS_BACKEND, SLOTS, Service, Slots};
use grayxdp_common::{ids::BackendId, weight::Weight};

use crate::{
    case::{Subject, Traffic},
    grayxdp::INTERFACE,
    world,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-lru"));

macro_rules! values {
    ($($name:ident($inner:ty)),+) => {$(
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name($inner);
        // SAFETY: `repr(C)` or an array, integers only, no implicit padding.
        unsafe impl aya::Pod for $name {}
    )+};
}

values!(
    KeyValue(EndpointKey),
    ServiceValue(Service),
    BackendValue(Backend),
    TableValue(Slots),
    CountersValue(Counters)
);

/// The loaded baseline.
pub(crate) struct Lru {
    pub(crate) ebpf: Ebpf,
}

impl Lru {
    /// For so many flows: none of them may be evicted while there are not more.
    pub(crate) fn new(max_flows: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().map_max_entries("FLOWS", max_flows + max_flows / 16).load(OBJECT)?;
        let traffic = Traffic::TCP4;
        let IpAddr::V4(vip) = world::vip(false) else { anyhow::bail!("the baseline has IPv4 only") };
        let vip = u32::from_ne_bytes(vip.octets());
        let hop = hop();
        let half = Weight::from_hundredths(5000).context("half is a weight")?;
        let service = Service {
            hash_key: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908],
            threshold: half.threshold().raw(),
            address: vip,
            port: world::SERVICE_PORT.to_be(),
            reserved: 0,
            hop,
            reserved_2: [0; 2],
        };
        let mut services: Array<_, ServiceValue> = array(&mut ebpf, "SERVICES")?;
        services.set(0, ServiceValue(service), 0)?;
        own(&mut ebpf, vip, world::SERVICE_PORT, traffic, 0)?;
        for version in 0..2_u8 {
            let first = 1 + version * world::BACKENDS_PER_VERSION;
            let mut pool = Vec::new();
            for nth in first..first + world::BACKENDS_PER_VERSION {
                let at = world::backend(Subject::Lru, traffic, 0, nth);
                let IpAddr::V4(address) = at.ip() else { anyhow::bail!("the baseline has IPv4 only") };
                let address = u32::from_ne_bytes(address.octets());
                let backend = Backend { address, port: at.port().to_be(), service: 0, hop, reserved: 0 };
                let mut backends: Array<_, BackendValue> = array(&mut ebpf, "BACKENDS")?;
                backends.set(nth.into(), BackendValue(backend), 0)?;
                own(&mut ebpf, address, at.port(), traffic, u32::from(nth) | IS_BACKEND)?;
                pool.push((BackendId::from_raw(nth.into()).context("not zero")?, 1, u64::from(nth)));
            }
            let mut slots: Slots = [0; SLOTS + 3];
            for (slot, backend) in slots.iter_mut().zip(maglev::table(&pool, u32::try_from(SLOTS)?)) {
                *slot = backend;
            }
            let mut tables: Array<_, TableValue> = array(&mut ebpf, "TABLES")?;
            tables.set(version.into(), TableValue(slots), 0)?;
        }
        Ok(Self { ebpf })
    }

    /// Packets in the middle of flows that it had forgotten.
    pub(crate) fn misses(&mut self) -> Result<u64> {
        let map = self.ebpf.map("COUNTERS").context("the object has no map COUNTERS")?;
        let counters: PerCpuArray<_, CountersValue> = PerCpuArray::try_from(map)?;
        let mut misses = 0;
        for backend in 1..=u32::from(2 * world::BACKENDS_PER_VERSION) {
            misses += counters.get(&backend, 0)?.iter().map(|value| value.0.misses).sum::<u64>();
        }
        Ok(misses)
    }
}

fn hop() -> Hop {
    let [a, b, c] = world::GATEWAY_MAC;
    let [d, e, f] = world::OWN_MAC;
    Hop { macs: [a, b, c, d, e, f], interface: INTERFACE }
}

fn array<'a, T: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, T>> {
    let map: &mut Map = ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
    Ok(Array::try_from(map)?)
}

fn own(ebpf: &mut Ebpf, address: u32, port: u16, traffic: Traffic, owner: u32) -> Result<()> {
    let map = ebpf.map_mut("ENDPOINTS").context("the object has no map ENDPOINTS")?;
    let mut endpoints: HashMap<_, KeyValue, u32> = HashMap::try_from(map)?;
    let protocol = if traffic.protocol == Protocol::Tcp { 6 } else { 17 };
    endpoints.insert(KeyValue(EndpointKey { address, port: port.to_be(), protocol }), owner, 0)?;
    Ok(())
}
