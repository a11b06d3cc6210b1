//! Where clients are placed: the kernel against the same arithmetic in userspace, client by client.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use grayxdp_common::{
    hash::key_hash,
    ids::{Be16, Version},
    layout::KEY_CONNECTION,
    weight::Weight,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::fixture::{Bench, Frame, Kind, backend, ip, request, with_bench};

fn client(number: u32) -> Frame {
    let [_, _, high, low] = number.to_be_bytes();
    let address = IpAddr::from([198, 51, 100, low]);
    Frame { source: (address, 1024 + u16::from(high) * 7), ..request("tcp4", Kind::Syn, 0) }
}

fn version_in_kernel(bench: &mut Bench, sent: &Frame) -> Version {
    let (_, outcome) = bench.run(&sent.bytes());
    if outcome.packet == sent.towards(backend("tcp4", 1)).bytes() {
        Version::V1
    } else {
        assert_eq!(outcome.packet, sent.towards(backend("tcp4", 2)).bytes());
        Version::V2
    }
}

#[test]
fn the_kernel_places_every_client_where_userspace_says() {
    with_bench("placement", "", |bench| {
        let seed = bench.config.services[0].hash_key;
        for hundredths in [1, 100, 2_500, 5_000, 9_900] {
            bench.set_weight("tcp4", hundredths);
            let threshold = Weight::from_hundredths(hundredths).expect("a weight").threshold();
            for number in 0..2_000 {
                let sent = client(number);
                let hash = key_hash(seed, KEY_CONNECTION, sent.source.0.into(), Be16::new(sent.source.1));
                assert_eq!(version_in_kernel(bench, &sent), threshold.version(hash), "{sent:?} at {hundredths}");
            }
        }
    });
}

#[test]
fn raising_the_weight_moves_clients_to_v2_only_and_lowering_it_to_v1_only() {
    with_bench("nested", "", |bench| {
        let mut former = vec![Version::V1; 1_000];
        for (hundredths, moves_to) in [
            (100, Version::V2),
            (500, Version::V2),
            (5_000, Version::V2),
            (9_900, Version::V2),
            (2_500, Version::V1),
            (0, Version::V1),
        ] {
            bench.set_weight("tcp4", hundredths);
            for (number, former) in (0..).zip(&mut former) {
                let now = version_in_kernel(bench, &client(number));
                assert!(now == *former || now == moves_to, "client {number} moved back at {hundredths}");
                *former = now;
            }
        }
    });
}

const POOL_OF_FOUR: &str = r#"
[[service]]
name = "pool"
vip = "203.0.113.12"
port = 80
protocol = "tcp"
key = "connection"
hash_seed = "packets"
v1 = { backends = [{ address = "10.77.2.10:9001" }, { address = "10.77.2.10:9002" }, { address = "10.77.2.10:9003", weight = 2 }] }
v2 = { backends = [{ address = "10.77.2.20:9001" }] }
"#;

#[test]
fn a_pool_shares_connections_by_its_backends_weights() {
    with_bench("pool", POOL_OF_FOUR, |bench| {
        let mut counts = [0_u32; 3];
        for number in 0..4_000 {
            let sent = Frame { destination: (ip("203.0.113.12"), 80), ..client(number) };
            let (_, outcome) = bench.run(&sent.bytes());
            let port = u16::from_be_bytes([outcome.packet[36], outcome.packet[37]]);
            counts[usize::from(port - 9001)] += 1;
        }
        // Four standard deviations of the binomial at n = 4,000.
        for (count, share) in counts.into_iter().zip([0.25, 0.25, 0.5_f64]) {
            let sigma = (4_000.0 * share * (1.0 - share)).sqrt();
            assert!((f64::from(count) - 4_000.0 * share).abs() < 4.0 * sigma + 40.0, "{counts:?}");
        }
    });
}

#[test]
fn of_hundreds_of_backends_each_has_counters_of_its_own_from_all_cpus() {
    let pool = |network: u8| -> String {
        let backend = |nth: u8| format!("{{ address = \"10.77.{network}.{nth}:9000\" }}");
        (1..=250).map(backend).collect::<Vec<_>>().join(", ")
    };
    let service = |id: u8, network: u8| {
        let [v1, v2] = [pool(network), pool(network + 1)];
        format!(
            "[[service]]\nname = \"pool{id}\"\nvip = \"203.0.113.12\"\nport = {}\nprotocol = \"tcp\"\nkey = \"connection\"\n\
             hash_seed = \"packets\"\nv1 = {{ backends = [{v1}] }}\nv2 = {{ backends = [{v2}] }}\n",
            80 + u16::from(id)
        )
    };
    let services: String = (0..2).map(|id| service(id, 10 + 2 * id)).collect();
    with_bench("many", &services, |bench| {
        let mut expected: HashMap<SocketAddr, u64> = HashMap::new();
        for id in 0..2 {
            bench.set_weight(&format!("pool{id}"), 5_000);
        }
        let all = sched_getaffinity(None).expect("this thread's CPUs");
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).collect();
        for (number, cpu) in (0..2_000).zip(cpus.iter().cycle()) {
            let mut only = CpuSet::new();
            only.set(*cpu);
            sched_setaffinity(None, &only).expect("a CPU of this process");
            let port = 80 + u16::try_from(number % 2).expect("small");
            let sent = Frame { destination: (ip("203.0.113.12"), port), ..client(number) };
            let packet = bench.run(&sent.bytes()).1.packet;
            let address: [u8; 4] = packet[30..34].try_into().expect("four bytes");
            *expected.entry(SocketAddr::from((address, 9000))).or_default() += 1;
        }
        let readings = bench.plane.backend_readings().expect("readable");
        assert!(readings.len() > 1_000 && expected.len() > 500, "{} of {}", expected.len(), readings.len());
        for reading in readings {
            let expected = expected.get(&reading.address).copied().unwrap_or(0);
            assert_eq!(reading.counters.new_flows, expected, "{}", reading.address);
        }
    });
}
