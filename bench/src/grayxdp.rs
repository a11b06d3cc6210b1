//! The real packet path under test, on maps that the agent's own code fills.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use grayxdp::{
    config::{Fuse, Key, Observe, Protocol, XdpMode},
    kernel::{
        BackendSetup, DataPlane, ForwardMode, Network, PinRules, ServiceSetup, Setup, Shards, SignalSetup, SourcePorts,
        Standing, WhenEmpty, idle_ticks,
    },
};
use grayxdp_common::{
    layout::{Address, IdleTicks, NextHop, Route},
    limits::MAGLEV_SLOTS,
    verdict::Verdict,
    weight::Weight,
};

use crate::{
    case::{Subject, Traffic},
    world,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-grayxdp"));
/// Of the loopback device, which test packets come in on.
pub(crate) const INTERFACE: u32 = 1;
/// One packet in so many may be of a flow without an entry: at the flows that the table is made for, one bucket in
/// twenty is full.
const STRAY_ONE_IN: u64 = 12;
const HOUR: Duration = Duration::from_secs(3600);

/// The loaded program of a mode. Pins are removed when it is dropped.
pub(crate) struct Grayxdp {
    plane: Option<DataPlane>,
}

impl Grayxdp {
    pub(crate) fn new(subject: Subject, max_flows: u32) -> Result<Self> {
        let setup = setup(subject, max_flows)?;
        let hops: BTreeSet<IpAddr> =
            setup.services.iter().flat_map(|service| service.pools.iter().flatten()).map(|b| b.address.ip()).collect();
        let hops: Vec<_> = hops.into_iter().map(|address| (address, Some(next_hop()))).collect();
        let services = setup.services.len();
        let mut plane = DataPlane::open_object(OBJECT, setup)?;
        let half = Weight::from_hundredths(5000).context("half is a weight")?;
        for service in 0..services {
            plane.set_weight(service, half)?;
        }
        plane.set_next_hops(&hops);
        plane.set_routes(&default_routes())?;
        plane.trust_next_hops();
        Ok(Self { plane: Some(plane) })
    }

    pub(crate) fn plane(&mut self) -> Result<&mut DataPlane> {
        self.plane.as_mut().context("the program was taken down")
    }

    pub(crate) fn ebpf(&mut self) -> Result<&mut Ebpf> {
        Ok(self.plane()?.ebpf())
    }

    /// Packets that were sent on.
    pub(crate) fn forwarded(&mut self) -> Result<u64> {
        let counts = self.plane()?.verdict_counts()?;
        Ok(counts
            .iter()
            .find(|(verdict, _)| *verdict == Verdict::ForwardedSameInterface)
            .map_or(0, |(_, count)| *count))
    }

    /// Fails, naming what packets ended in, unless of so many all but a few were sent on since: flows that found no place in
    /// the table have replies that are nobody's.
    pub(crate) fn check_forwarded(&mut self, since: u64, packets: u64) -> Result<()> {
        let sent = self.forwarded()? - since;
        let counts = self.plane()?.verdict_counts()?;
        let others: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        let missing = packets.saturating_sub(sent);
        ensure!(
            missing <= packets / STRAY_ONE_IN,
            "{sent} of {packets} packets were sent on; verdicts so far: {others:?}"
        );
        Ok(())
    }
}

impl Drop for Grayxdp {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.plane.take().map(DataPlane::detach_all) {
            eprintln!("bench: {error}");
        }
    }
}

fn setup(subject: Subject, max_flows: u32) -> Result<Setup> {
    let mut services = Vec::new();
    for traffic in Traffic::ALL {
        for nth in 0..world::services(subject) {
            services.push(service(subject, traffic, nth)?);
        }
    }
    let hour = idle_ticks(HOUR);
    Ok(Setup {
        interfaces: vec!["lo".to_owned()],
        xdp_mode: XdpMode::Generic,
        bpffs: PathBuf::from(format!("/sys/fs/bpf/gx-bench-{}-{}", std::process::id(), subject.name())),
        max_flows,
        idle: IdleTicks { half_open: hour, established: hour, closing: hour, udp: hour },
        source_ports: SourcePorts { first: 1024, count: 64_512 },
        services,
    })
}

fn service(subject: Subject, traffic: Traffic, nth: u16) -> Result<ServiceSetup> {
    let pool = |first: u8| {
        (first..first + world::BACKENDS_PER_VERSION).map(|backend| BackendSetup {
            address: world::backend(subject, traffic, nth, backend),
            weight: 1,
            standing: Standing::Serving,
        })
    };
    Ok(ServiceSetup {
        vip: world::vip(traffic.is_v6),
        port: world::SERVICE_PORT + nth,
        protocol: if traffic.protocol == Protocol::Tcp { Protocol::Tcp } else { Protocol::Udp },
        canary_port: None,
        mode: mode(subject, traffic.is_v6, u8::try_from(nth)?),
        key: Key::Connection,
        hash_key: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908],
        shards: Shards::Hash { count: 16 },
        pins: PinRules::default(),
        udp_idle: HOUR,
        maglev_slots: MAGLEV_SLOTS,
        when_empty: WhenEmpty::OtherVersion,
        signals: SignalSetup {
            enabled: subject != Subject::NatBare,
            observe: Observe::None,
            fuse: Some(Fuse { failures: 20, window: Duration::from_secs(10) }),
        },
        pools: [pool(1).collect(), pool(1 + world::BACKENDS_PER_VERSION).collect()],
    })
}

fn mode(subject: Subject, is_v6: bool, nth: u8) -> ForwardMode {
    match subject {
        Subject::Lru | Subject::Nat | Subject::NatBare => ForwardMode::Nat,
        Subject::Dsr => ForwardMode::Dsr,
        Subject::FullNat => {
            let first = 1 + nth * world::SOURCES_PER_LIST;
            let sources = (first..first + world::SOURCES_PER_LIST).map(|source| world::source(is_v6, source));
            ForwardMode::FullNat { sources: sources.collect() }
        }
        Subject::Ipip => ForwardMode::Ipip {
            outer_v4: Some(Network { address: [100, 64, 0, 0].into(), prefix_len: 16 }),
            outer_v6: Some(Network { address: [0x100, 0, 0, 0, 0, 0, 0, 0].into(), prefix_len: 64 }),
        },
    }
}

fn next_hop() -> NextHop {
    NextHop {
        destination_mac: world::GATEWAY_MAC,
        mtu: 1500,
        source_mac: world::OWN_MAC,
        interface: INTERFACE,
        ..NextHop::default()
    }
}

fn default_routes() -> [Route; 2] {
    let next_hop = next_hop();
    let v4 = Route {
        network: Address::from(IpAddr::from([0, 0, 0, 0])),
        mask: Address::from_v6_wire([u32::MAX, u32::MAX, u32::MAX, 0]),
        next_hop,
    };
    [v4, Route { network: Address::NONE, mask: Address::NONE, next_hop }]
}
