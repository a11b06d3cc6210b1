//! The packet program in a network namespace of its own, with fixed neighbours, and packets for it.

use std::{net::IpAddr, path::PathBuf, process::Command, thread};

use etherparse::{PacketBuilder, TcpHeader};
use grayxdp::{
    config::Config,
    kernel::{DataPlane, Setup, TestOutcome},
};
use grayxdp_common::{verdict::Verdict, weight::Weight};
use rustix::thread::UnshareFlags;

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_REDIRECT: u32 = 4;

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0c];
pub(crate) const CLIENT_SIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa0];
pub(crate) const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
pub(crate) const BACKEND_SIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];

pub(crate) const SERVICES: [&str; 4] = ["tcp4", "udp4", "tcp6", "udp6"];

/// Clients are at x.x.1.0/24, backends at x.x.2.0/24, in both families; `.99` is a backend whose MAC nobody knows.
/// The program is not attached to `gc`, with x.x.3.0/24.
const NETWORK: &str = "
link set lo up
link add ga type veth peer name ga-peer
link add gb type veth peer name gb-peer
link add gc type veth peer name gc-peer
link set ga address 02:00:00:00:00:a0 up
link set gb address 02:00:00:00:00:b0 up
link set gc address 02:00:00:00:00:d0 up
link set ga-peer up
link set gb-peer up
link set gc-peer up
address add 10.77.1.1/24 dev ga
address add 10.77.2.1/24 dev gb
address add 10.77.3.1/24 dev gc
address add fd77:0:0:3::1/64 dev gc nodad
address add fd77:0:0:1::1/64 dev ga nodad
address add fd77:0:0:2::1/64 dev gb nodad
route add 198.51.100.0/24 via 10.77.1.7 dev ga
route add 2001:db8:100::/48 via fd77:0:0:1::7 dev ga
neighbour add 10.77.1.7 lladdr 02:00:00:00:00:0c dev ga nud permanent
neighbour add 10.77.3.10 lladdr 02:00:00:00:00:0b dev gc nud permanent
neighbour add fd77:0:0:3::10 lladdr 02:00:00:00:00:0b dev gc nud permanent
neighbour add 10.77.2.10 lladdr 02:00:00:00:00:0b dev gb nud permanent
neighbour add 10.77.2.20 lladdr 02:00:00:00:00:0b dev gb nud permanent
neighbour add fd77:0:0:1::7 lladdr 02:00:00:00:00:0c dev ga nud permanent
neighbour add fd77:0:0:2::10 lladdr 02:00:00:00:00:0b dev gb nud permanent
neighbour add fd77:0:0:2::20 lladdr 02:00:00:00:00:0b dev gb nud permanent
";

/// The program, loaded and filled, and counters to compare with.
pub(crate) struct Bench {
    pub(crate) plane: DataPlane,
    pub(crate) config: Config,
}

/// Runs `test` on a thread in a new network namespace with the program loaded; all of it goes when the test ends.
pub(crate) fn with_bench(name: &str, extra: &str, test: impl FnOnce(&mut Bench) + Send) {
    with_setup(name, extra, |_| (), test);
}

/// The same, with something of the setup changed.
pub(crate) fn with_setup(
    name: &str,
    extra: &str,
    change: impl FnOnce(&mut Setup) + Send,
    test: impl FnOnce(&mut Bench) + Send,
) {
    in_network(name, |_| {
        let config = config(name, extra);
        let mut setup = Setup::from(&config);
        change(&mut setup);
        let plane = DataPlane::open(setup).expect("the program loads");
        let mut bench = Bench { plane, config };
        test(&mut bench);
        bench.plane.detach_all().expect("the pins can be removed");
    });
}

/// The same without the program; `test` is given a folder for pins.
pub(crate) fn in_network(name: &str, test: impl FnOnce(PathBuf) + Send) {
    thread::scope(|scope| {
        let run = || {
            let _pins = make_network(name);
            test(pin_folder(name));
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Index of an interface of this thread's network.
pub(crate) fn index_of(interface: &str) -> u32 {
    let text = Command::new("ip").args(["-o", "link", "show", "dev", interface]).output().expect("iproute2 is there");
    let text = String::from_utf8(text.stdout).expect("text");
    let index = text.split(':').next().expect("a first field");
    index.parse().unwrap_or_else(|_| panic!("an index first: {text}"))
}

/// Removes the pins, also when the test panics.
struct PinFolder(PathBuf);

impl Drop for PinFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn make_network(name: &str) -> PinFolder {
    // SAFETY: file descriptors stay shared; only this thread's network namespace becomes a new one.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("packet tests need root");
    for line in NETWORK.lines().filter(|line| !line.is_empty()) {
        let status = Command::new("ip").args(line.split(' ')).status().expect("iproute2 is there");
        assert!(status.success(), "ip {line}");
    }
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{key}"), "1").expect("forwarding can be switched on");
    }
    PinFolder(pin_folder(name))
}

fn pin_folder(name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/gx-{}-{name}", std::process::id()))
}

fn config(name: &str, extra: &str) -> Config {
    let text = format!(
        r#"
        [agent]
        interfaces = ["lo", "ga", "gb"]
        bpffs = "{bpffs}"
        max_flows = 4096

        [[service]]
        name = "tcp4"
        vip = "203.0.113.10"
        port = 80
        protocol = "tcp"
        key = "connection"
        hash_seed = "packets"
        v1 = {{ backends = [{{ address = "10.77.2.10:8080" }}] }}
        v2 = {{ backends = [{{ address = "10.77.2.20:8081" }}] }}

        [[service]]
        name = "udp4"
        vip = "203.0.113.10"
        port = 53
        protocol = "udp"
        udp_idle = "1s"
        hash_seed = "packets"
        v1 = {{ backends = [{{ address = "10.77.2.10:5353" }}] }}
        v2 = {{ backends = [{{ address = "10.77.2.20:5353" }}] }}

        [[service]]
        name = "tcp6"
        vip = "2001:db8::10"
        port = 80
        protocol = "tcp"
        hash_seed = "packets"
        v1 = {{ backends = [{{ address = "[fd77:0:0:2::10]:8080" }}] }}
        v2 = {{ backends = [{{ address = "[fd77:0:0:2::20]:8081" }}] }}

        [[service]]
        name = "udp6"
        vip = "2001:db8::10"
        port = 53
        protocol = "udp"
        hash_seed = "packets"
        v1 = {{ backends = [{{ address = "[fd77:0:0:2::10]:5353" }}] }}
        v2 = {{ backends = [{{ address = "[fd77:0:0:2::20]:5353" }}] }}
        {extra}
        "#,
        bpffs = pin_folder(name).display(),
    );
    Config::parse("packets.toml", &text).unwrap_or_else(|errors| panic!("{:?}", miette::Report::new(errors)))
}

impl Bench {
    pub(crate) fn set_weight(&mut self, service: &str, hundredths: u16) {
        let index = self.config.services.iter().position(|config| config.name == service).expect("a service");
        let weight = Weight::from_hundredths(hundredths).expect("a weight");
        self.plane.set_weight(index, weight).expect("a weight can be set");
    }

    /// Runs a packet, and says which verdict was counted; exactly one must be.
    pub(crate) fn run(&mut self, packet: &[u8]) -> (Verdict, TestOutcome) {
        let before = self.plane.verdict_counts().expect("readable");
        let outcome = self.plane.test_run(packet).expect("a test run");
        let after = self.plane.verdict_counts().expect("readable");
        let counted: Vec<_> = before
            .iter()
            .zip(&after)
            .filter(|((_, a), (_, b))| a != b)
            .map(|((verdict, a), (_, b))| (*verdict, b - a))
            .collect();
        match counted[..] {
            [(verdict, 1)] => (verdict, outcome),
            _ => panic!("a packet counts once, but: {counted:?}"),
        }
    }

    /// Sum over a service's backends of one counter.
    pub(crate) fn counter(&self, service: &str, read: impl Fn(&grayxdp_common::layout::BackendCounters) -> u64) -> u64 {
        let index = self.config.services.iter().position(|config| config.name == service).expect("a service");
        let readings = self.plane.backend_readings().expect("readable");
        readings.iter().filter(|reading| reading.service == index).map(|reading| read(&reading.counters)).sum()
    }
}

/// A packet by its fields; every checksum is computed from scratch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
    pub(crate) hop_limit: u8,
    pub(crate) kind: Kind,
    pub(crate) payload: &'static [u8],
    /// Words of IPv4 options (no-operation).
    pub(crate) option_words: usize,
    /// Of a TCP segment.
    pub(crate) sequence: u32,
    /// What a TCP segment advertises.
    pub(crate) window: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Syn,
    Ack,
    Rst,
    /// FIN and ACK.
    Fin,
    SynAck,
    Udp,
    /// UDP without a checksum.
    UdpUnchecked,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A client's packet to a service, as it arrives.
pub(crate) fn request(service: &str, kind: Kind, client_port: u16) -> Frame {
    let v6 = service.ends_with('6');
    let client = if v6 { ip("2001:db8:100::7") } else { ip("198.51.100.7") };
    let vip = if v6 { ip("2001:db8::10") } else { ip("203.0.113.10") };
    let port = if service.starts_with("tcp") { 80 } else { 53 };
    Frame {
        macs: [CLIENT_SIDE_MAC, CLIENT_MAC],
        source: (client, client_port),
        destination: (vip, port),
        hop_limit: 64,
        kind,
        payload: b"gray",
        option_words: 0,
        sequence: 0x1234_5678,
        window: 0xfaf0,
    }
}

/// Where a service's version answers.
pub(crate) fn backend(service: &str, version: u8) -> (IpAddr, u16) {
    let v6 = service.ends_with('6');
    let address = match (v6, version) {
        (false, 1) => "10.77.2.10",
        (false, _) => "10.77.2.20",
        (true, 1) => "fd77:0:0:2::10",
        (true, _) => "fd77:0:0:2::20",
    };
    let port = if service.starts_with("udp") { 5353 } else { 8079 + u16::from(version) };
    (ip(address), port)
}

impl Frame {
    /// As it must leave towards a backend.
    pub(crate) fn towards(self, destination: (IpAddr, u16)) -> Self {
        Self { macs: [BACKEND_MAC, BACKEND_SIDE_MAC], destination, hop_limit: self.hop_limit - 1, ..self }
    }

    /// The backend's answer to this packet, as it arrives here.
    pub(crate) fn answer(self, backend: (IpAddr, u16), kind: Kind) -> Self {
        let macs = [BACKEND_SIDE_MAC, BACKEND_MAC];
        Self { macs, source: backend, destination: self.source, hop_limit: 60, kind, payload: b"answer", ..self }
    }

    /// An answer as it must leave towards the client.
    pub(crate) fn returned(self, vip: (IpAddr, u16)) -> Self {
        Self { macs: [CLIENT_MAC, CLIENT_SIDE_MAC], source: vip, hop_limit: self.hop_limit - 1, ..self }
    }

    /// The bytes from the Ethernet header on.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let [to, from] = self.macs;
        let builder = PacketBuilder::ethernet2(from, to);
        let builder = match (self.source.0, self.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = etherparse::Ipv4Header::new(
                    0,
                    self.hop_limit,
                    etherparse::IpNumber::TCP,
                    source.octets(),
                    destination.octets(),
                )
                .expect("short enough");
                header.dont_fragment = true;
                let options = vec![1; self.option_words * 4];
                header.options = options.as_slice().try_into().expect("at most 10 words");
                builder.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                builder.ipv6(source.octets(), destination.octets(), self.hop_limit)
            }
            _ => panic!("one family"),
        };
        let mut bytes = Vec::new();
        match self.kind {
            Kind::Udp | Kind::UdpUnchecked => {
                builder.udp(self.source.1, self.destination.1).write(&mut bytes, self.payload).expect("a vector");
                if self.kind == Kind::UdpUnchecked {
                    let checksum = bytes.len() - self.payload.len() - 2;
                    bytes[checksum..checksum + 2].fill(0);
                }
            }
            kind => {
                let mut header = TcpHeader::new(self.source.1, self.destination.1, self.sequence, self.window);
                header.syn = matches!(kind, Kind::Syn | Kind::SynAck);
                header.ack = matches!(kind, Kind::Ack | Kind::SynAck | Kind::Fin);
                header.fin = kind == Kind::Fin;
                header.rst = kind == Kind::Rst;
                builder.tcp_header(header).write(&mut bytes, self.payload).expect("a vector");
            }
        }
        bytes
    }
}
