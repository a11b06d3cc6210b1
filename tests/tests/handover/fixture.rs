//! A data plane in a network namespace of its own, and packets for it.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use grayxdp::{
    config::{Key, Protocol, XdpMode},
    kernel::{
        BackendSetup, DataPlane, ForwardMode, PinRules, ServiceSetup, Setup, Shards, SignalSetup, SourcePorts,
        Standing, WhenEmpty,
    },
};
use grayxdp_common::layout::IdleTicks;
use rustix::thread::UnshareFlags;

pub(crate) const VIP: [u8; 4] = [203, 0, 113, 10];

/// Clients are behind `ga`, backends behind `gb`.
const NETWORK: &str = "
link set lo up
link add ga type veth peer name ga-peer
link add gb type veth peer name gb-peer
link set ga address 02:00:00:00:00:a0 up
link set gb address 02:00:00:00:00:b0 up
link set ga-peer up
link set gb-peer up
address add 10.77.1.1/24 dev ga
address add 10.77.2.254/24 dev gb
route add 198.51.100.0/24 via 10.77.1.7 dev ga
neighbour add 10.77.1.7 lladdr 02:00:00:00:00:0c dev ga nud permanent
";

/// Runs `test` on a thread in a new network namespace, with a folder for pins that goes when it ends.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce(&Path) + Send) {
    thread::scope(|scope| {
        let run = || {
            // SAFETY: file descriptors stay shared; only this thread's network namespace becomes a new one.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("these tests need root");
            NETWORK.lines().filter(|line| !line.is_empty()).for_each(ip);
            for backend in 1..30 {
                ip(&format!("neighbour add 10.77.2.{backend} lladdr 02:00:00:00:00:0b dev gb nud permanent"));
            }
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding can be switched on");
            let pins = PinFolder(PathBuf::from(format!("/sys/fs/bpf/gx-{}-{name}", std::process::id())));
            test(&pins.0);
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

struct PinFolder(PathBuf);

impl Drop for PinFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `ip` with these words.
pub(crate) fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("iproute2 is there");
    assert!(status.success(), "ip {words}");
}

pub(crate) fn setup(bpffs: &Path, services: Vec<ServiceSetup>) -> Setup {
    Setup {
        interfaces: vec!["ga".to_owned(), "gb".to_owned()],
        xdp_mode: XdpMode::Auto,
        bpffs: bpffs.to_owned(),
        max_flows: 1 << 18,
        idle: IdleTicks { half_open: 30, established: 3600, closing: 10, udp: 60 },
        source_ports: SourcePorts { first: 20_000, count: 100 },
        services,
    }
}

pub(crate) fn backend(address: &str) -> BackendSetup {
    let address = address.parse().expect("an address");
    BackendSetup { address, weight: 1, standing: Standing::Serving }
}

/// A TCP service on this port; each connection is placed for itself.
pub(crate) fn service(port: u16, v1: &[&str], v2: &[&str]) -> ServiceSetup {
    ServiceSetup {
        vip: VIP.into(),
        port,
        protocol: Protocol::Tcp,
        canary_port: None,
        mode: ForwardMode::Nat,
        key: Key::Connection,
        hash_key: [7, 8],
        shards: Shards::Hash { count: 4 },
        pins: PinRules::default(),
        udp_idle: Duration::from_secs(60),
        maglev_slots: 1021,
        when_empty: WhenEmpty::OtherVersion,
        signals: SignalSetup::default(),
        pools: [v1, v2].map(|pool| pool.iter().map(|address| backend(address)).collect()),
    }
}

/// What a client sends to the VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Segment {
    Syn,
    Ack,
    Rst,
}

pub(crate) fn client(port: u16) -> SocketAddr {
    SocketAddr::new([198, 51, 100, 7].into(), port)
}

pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, segment: Segment) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { panic!("IPv4") };
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 12], [2, 0, 0, 0, 0, 0xa0])
        .ipv4(source.octets(), destination.octets(), 64)
        .tcp(from.port(), to.port(), 1000, 4000);
    let builder = match segment {
        Segment::Syn => builder.syn(),
        Segment::Ack => builder.ack(1),
        Segment::Rst => builder.rst(),
    };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"").expect("a vector");
    bytes
}

/// Source and destination of a TCP packet.
pub(crate) fn endpoints(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let sliced = SlicedPacket::from_ethernet(packet).expect("a packet");
    let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("IPv4") };
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP") };
    let header = ip.header();
    let source = SocketAddr::new(header.source_addr().into(), tcp.source_port());
    (source, SocketAddr::new(header.destination_addr().into(), tcp.destination_port()))
}

/// Sends one packet of a client's connection through the program, and returns it as it left; `None` where it was dropped
/// or passed.
pub(crate) fn through(
    plane: &mut DataPlane,
    from: SocketAddr,
    to: SocketAddr,
    segment: Segment,
) -> Option<(SocketAddr, SocketAddr)> {
    const XDP_TX: u32 = 3;
    const XDP_REDIRECT: u32 = 4;
    let outcome = plane.test_run(&tcp(from, to, segment)).expect("a test run");
    matches!(outcome.action, XDP_TX | XDP_REDIRECT).then(|| endpoints(&outcome.packet))
}

/// The backend of each of these client ports, by a packet of this kind.
pub(crate) fn backends(
    plane: &mut DataPlane,
    vip_port: u16,
    segment: Segment,
    clients: std::ops::Range<u16>,
) -> BTreeMap<u16, Option<SocketAddr>> {
    let vip = SocketAddr::new(VIP.into(), vip_port);
    clients.map(|port| (port, through(plane, client(port), vip, segment).map(|(_, to)| to))).collect()
}

pub(crate) fn pins(bpffs: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(bpffs) else { return Vec::new() };
    let mut names: Vec<_> =
        files.map(|file| file.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
