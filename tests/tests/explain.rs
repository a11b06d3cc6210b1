//! `explain` says where the packet program sends a client, client by client: what it says before the packet, the program
//! then does.

#[allow(dead_code, reason = "shared with the packet tests")]
#[path = "packets/fixture.rs"]
mod fixture;

use std::net::{IpAddr, SocketAddr};

use fixture::{Bench, Frame, Kind, XDP_DROP, ip, request, with_bench};
use grayxdp::decide::explain::{Explanation, Fate, PinKind};
use grayxdp_common::{ids::Version, layout::FlowState, verdict::Verdict, weight::Weight};

const CLIENTS: u32 = 1_000;

const SERVICES: &str = r#"
[[service]]
name = "hash"
vip = "203.0.113.20"
port = 80
protocol = "tcp"
key = "connection"
hash_seed = "explain"
canary_port = 8080
v1 = { backends = [{ address = "10.77.2.10:9001" }, { address = "10.77.2.10:9002" }, { address = "10.77.2.10:9003", weight = 2 }] }
v2 = { backends = [{ address = "10.77.2.20:9001" }, { address = "10.77.2.20:9002" }] }
pins = [{ source = "198.51.100.0/28", version = "v2" }, { source = "198.51.100.4/30", version = "v1" }, { dscp = 46, version = "v2" }]
[service.shards]
count = 16

[[service]]
name = "six"
vip = "2001:db8::20"
port = 80
protocol = "tcp"
hash_seed = "explain"
v1 = { backends = [{ address = "[fd77:0:0:2::10]:9001" }, { address = "[fd77:0:0:2::10]:9002" }] }
v2 = { backends = [{ address = "[fd77:0:0:2::20]:9001" }, { address = "[fd77:0:0:2::20]:9002" }] }
"#;

/// Deterministic, and different in every bit from one number to the next.
fn scattered(number: u32) -> u64 {
    let mixed = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn index_of(bench: &Bench, service: &str) -> usize {
    bench.config.services.iter().position(|config| config.name == service).expect("a service")
}

fn explained(bench: &Bench, service: &str, by_canary_port: bool, sent: &Frame) -> Explanation {
    let client = SocketAddr::new(sent.source.0, sent.source.1);
    bench.plane.explain(index_of(bench, service), by_canary_port, client, 0).expect("a service")
}

/// Where a packet that the program has rewritten goes.
fn destination(packet: &[u8]) -> SocketAddr {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[12..14] == [0x08, 0x00] {
        let octets: [u8; 4] = packet[30..34].try_into().expect("four bytes");
        SocketAddr::new(IpAddr::from(octets), port(36))
    } else {
        let octets: [u8; 16] = packet[38..54].try_into().expect("sixteen bytes");
        SocketAddr::new(IpAddr::from(octets), port(56))
    }
}

fn said(explanation: &Explanation) -> SocketAddr {
    let entry = match explanation.fate {
        Fate::Chosen(version, _) => explanation.candidate(version).backend.expect("a backend").1,
        Fate::Flow(_) => explanation.flow.expect("a flow").backend,
        Fate::Drawn | Fate::Dropped(_) => panic!("{explanation:?}"),
    };
    SocketAddr::new(entry.endpoint.address.into(), entry.endpoint.port.to_host())
}

#[test]
fn explain_says_where_a_thousand_clients_go_by_shard_weight_pin_and_slot() {
    with_bench("explain", SERVICES, |bench| {
        let hash = index_of(bench, "hash");
        let weights: Vec<Weight> =
            (0..16).map(|shard| Weight::from_hundredths(shard * 600).expect("a weight")).collect();
        bench.plane.set_weights(hash, &weights).expect("set");
        bench.set_weight("six", 3_000);
        let mut versions = [0; 2];
        let mut pinned = 0;
        for number in 0..CLIENTS {
            let [a, b, c, d, ..] = scattered(number).to_le_bytes();
            let port = 1024 + u16::from_le_bytes([b, c]) % 60_000;
            let (service, sent) = if d % 3 == 0 {
                let client = IpAddr::from([0x2001, 0xdb8, 0x100, 0, 0, 0, 0, u16::from_le_bytes([a, c]) | 1]);
                (
                    "six",
                    Frame {
                        source: (client, port),
                        destination: (ip("2001:db8::20"), 80),
                        ..request("tcp6", Kind::Syn, 0)
                    },
                )
            } else {
                let client = IpAddr::from([198, 51, 100, a]);
                (
                    "hash",
                    Frame {
                        source: (client, port),
                        destination: (ip("203.0.113.20"), 80),
                        ..request("tcp4", Kind::Syn, 0)
                    },
                )
            };
            let found = explained(bench, service, false, &sent);
            let (verdict, outcome) = bench.run(&sent.bytes());
            assert_eq!(destination(&outcome.packet), said(&found), "{sent:?} {verdict:?} {found:?}");
            if let Fate::Chosen(version, _) = found.fate {
                versions[version as usize] += 1;
            }
            pinned += u32::from(found.pin.is_some());
        }
        assert!(versions.iter().all(|&count| count > 200) && pinned > 10, "{versions:?} {pinned}");
    });
}

#[test]
fn the_canary_port_and_the_flow_table_are_taken_into_account() {
    with_bench("explain-flow", SERVICES, |bench| {
        let sent = Frame { destination: (ip("203.0.113.20"), 8080), ..request("tcp4", Kind::Syn, 41_000) };
        let sent = Frame { source: (ip("198.51.100.200"), 41_000), ..sent };
        let found = explained(bench, "hash", true, &sent);
        assert_eq!(found.pin, Some((PinKind::Port, Version::V2)));
        let (_, outcome) = bench.run(&sent.bytes());
        assert_eq!(destination(&outcome.packet), said(&found));
        // Not answered yet: a flow, but a SYN may still go elsewhere.
        let found = explained(bench, "hash", true, &sent);
        assert_eq!(found.flow.expect("a flow").seen.state(), FlowState::HalfOpen);
        assert!(matches!(found.fate, Fate::Chosen(Version::V2, _)), "{found:?}");
        assert_eq!(explained(bench, "hash", false, &sent).flow, None, "flows of the two ports are apart");

        let own = Frame { destination: (ip("203.0.113.20"), 80), ..sent };
        let (_, outcome) = bench.run(&own.bytes());
        let began_at = destination(&outcome.packet);
        bench.run(&own.answer((began_at.ip(), began_at.port()), Kind::SynAck).bytes());
        let index = index_of(bench, "hash");
        bench.plane.set_weight(index, Weight::FULL).expect("set");
        let found = explained(bench, "hash", false, &own);
        assert!(matches!(found.fate, Fate::Flow(_)), "{found:?}");
        let (_, outcome) = bench.run(&own.bytes());
        assert_eq!((said(&found), destination(&outcome.packet)), (began_at, began_at), "an open connection stays");
    });
}

#[test]
fn what_explain_says_is_dropped_is_dropped() {
    with_bench("explain-drop", SERVICES, |bench| {
        for (source, verdict) in [
            (("127.0.0.1", 4_000), Verdict::DroppedMartianSource),
            (("224.0.0.9", 4_000), Verdict::DroppedMartianSource),
            (("0.0.0.1", 4_000), Verdict::DroppedMartianSource),
            (("255.255.255.255", 4_000), Verdict::DroppedMartianSource),
            (("203.0.113.20", 80), Verdict::DroppedLandAttack),
        ] {
            let sent = Frame {
                source: (ip(source.0), source.1),
                destination: (ip("203.0.113.20"), 80),
                ..request("tcp4", Kind::Syn, 0)
            };
            assert_eq!(explained(bench, "hash", false, &sent).fate, Fate::Dropped(verdict), "{source:?}");
            let (counted, outcome) = bench.run(&sent.bytes());
            assert_eq!((counted, outcome.action), (verdict, XDP_DROP), "{source:?}");
        }
    });
}

/// The command itself, against an agent: what it says of a client is whom that client meets.
#[test]
fn the_command_says_who_answers() -> anyhow::Result<()> {
    use grayxdp_tests::{
        config::ServiceConfig,
        scene::Scene,
        topology::{Family, Version as Answers},
    };
    let scene = Scene::new()?;
    let web = ServiceConfig::web(Family::V4);
    let agent = scene.start_agent(std::slice::from_ref(&web))?;
    agent.set_weight("web", 50.0)?;
    let mut met = [0; 2];
    for index in 1..=40 {
        let from = format!("{}:40000", Family::V4.source(index));
        let said = agent.json(&["explain", "--service", "web", "--from", &from])?;
        let (version, name) = match scene.ask(&web, index)? {
            Answers::V1 => (0, "v1"),
            Answers::V2 => (1, "v2"),
        };
        anyhow::ensure!(said["version"] == name && said["fate"] == "new", "{from} met {name}: {said}");
        met[version] += 1;
    }
    anyhow::ensure!(met.iter().all(|&count| count > 5), "{met:?}");
    let text = agent.text(&["explain", "--from", "198.51.100.7:40000"])?;
    anyhow::ensure!(text.contains("answer    the next SYN goes to v") && text.contains("weight    50.00 %"), "{text}");
    anyhow::ensure!(!agent.cli(&["explain", "--from", "[2001:db8::1]:1"])?.status.success());
    Ok(())
}
