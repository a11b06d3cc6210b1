//! From one program to the next in the real kernel, and changes while one runs.

mod fixture;
mod live;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    thread,
    time::Duration,
};

use fixture::{
    Segment::{Ack, Rst, Syn},
    VIP, backend, backends, client, in_namespace, ip, pins, service, setup, tcp, through,
};
use grayxdp::{
    config::{Fuse, XdpMode},
    decide::signals::{ServiceSignals, Signals},
    kernel::{
        AttachedMode, DataPlane, ForwardMode, FuseState, KernelError, ServiceSetup, Setup, Shards, SignalSetup,
        SourcePorts,
    },
};
use grayxdp_common::{ids::Version, weight::Weight};

const A: &str = "10.77.2.1:8080";
const B: &str = "10.77.2.2:8080";
const C: &str = "10.77.2.3:8080";
const D: &str = "10.77.2.4:8080";
const G: &str = "10.77.2.6:8080";
const E: &str = "10.77.2.5:8080";

fn percent(hundredths: u16) -> Weight {
    Weight::from_hundredths(hundredths).expect("a weight")
}

fn running(setup: &Setup) -> DataPlane {
    let mut plane = DataPlane::open(setup.clone()).expect("the program loads");
    plane.attach().expect("the devices are free");
    plane
}

fn web(bpffs: &Path, v1: &[&str], v2: &[&str]) -> Setup {
    setup(bpffs, vec![service(80, v1, v2)])
}

#[test]
fn a_new_program_takes_weights_numbers_and_connections_over_and_the_old_ones_maps_go() {
    in_namespace("takeover", |bpffs| {
        let mut plane = running(&web(bpffs, &[A, B], &[C]));
        plane.set_weights(0, &[percent(0), percent(2500), percent(5000), percent(10_000)]).expect("four shards");
        let before = backends(&mut plane, 80, Syn, 1000..1200);
        assert!(before.values().all(Option::is_some));
        drop(plane);

        // A leaves, D joins, and another service comes in front.
        let next = setup(bpffs, vec![service(443, &[E], &[]), service(80, &[D, B], &[C])]);
        let mut plane = DataPlane::open(next).expect("the program loads");
        let weights = [percent(0), percent(2500), percent(5000), percent(10_000)];
        assert_eq!(plane.pinned_weights(1), Some(&weights[..]));
        assert_eq!(plane.weights(1).expect("readable"), weights);
        assert_eq!(plane.pinned_weights(0), None);
        let loaded = pins(bpffs);
        assert_eq!(loaded.iter().filter(|name| name.starts_with("SERVICES-")).count(), 2, "{loaded:?}");
        plane.attach().expect("the devices are ours");
        let attached = pins(bpffs);
        assert_eq!(attached.iter().filter(|name| name.starts_with("SERVICES-")).count(), 1, "{attached:?}");
        assert_eq!(backends(&mut plane, 80, Ack, 1000..1200), before, "connections keep their backends");
        let new: BTreeSet<_> = backends(&mut plane, 80, Syn, 2000..2200).into_values().flatten().collect();
        assert!(!new.contains(&A.parse().expect("an address")), "{new:?}");
        plane.detach_all().expect("the pins can be removed");
        assert!(!bpffs.exists());
    });
}

/// Opens connections, each of which is refused by whichever backend it goes to; says how many were sent on.
fn refused(plane: &mut DataPlane, clients: std::ops::Range<u16>) -> u64 {
    let mut sent = 0;
    for (port, backend) in backends(plane, 80, Syn, clients) {
        let Some(backend) = backend else { continue };
        plane.test_run(&tcp(backend, client(port), Rst)).expect("a test run");
        sent += 1;
    }
    sent
}

#[test]
fn what_was_counted_and_a_blown_fuse_outlive_the_agent() {
    let fuse = Some(Fuse { failures: 5, window: Duration::from_secs(60) });
    let web = |v1: &[&str], v2: &[&str]| ServiceSetup {
        signals: SignalSetup { fuse, ..SignalSetup::default() },
        ..service(80, v1, v2)
    };
    let counts = |plane: &mut DataPlane, service: usize| {
        let ServiceSignals { v1, v2, .. } = &plane.signals().services[service];
        let flows_by_group = |signals: &Signals| signals.groups.iter().map(|group| group.flows).sum::<u64>();
        assert_eq!([flows_by_group(v1), flows_by_group(v2)], [v1.counts.flows, v2.counts.flows]);
        [v1.counts, v2.counts]
    };
    in_namespace("evidence", |bpffs| {
        let mut plane = running(&setup(bpffs, vec![web(&[A, B], &[C, D])]));
        plane.set_weight(0, percent(10_000)).expect("a weight");
        // One packet after the other: the fuse blows within its budget.
        for port in 1000..1005 {
            assert_eq!(refused(&mut plane, port..port + 1), 1);
        }
        assert!(matches!(plane.fuse(0), FuseState::Blown(_)));
        assert_eq!(refused(&mut plane, 2000..2010), 10);
        let before = counts(&mut plane, 0);
        assert_eq!(before.map(|version| (version.flows, version.refused)), [(10, 10), (5, 5)]);
        drop(plane);

        // The canary's backend D becomes v1's, C leaves, and another service comes in front.
        let next = setup(bpffs, vec![service(443, &[E], &[]), web(&[A, B, D], &[G])]);
        let mut plane = running(&next);
        assert_eq!(counts(&mut plane, 1), before);
        assert_eq!(counts(&mut plane, 0).map(|version| version.flows), [0, 0]);
        let others: u64 = plane
            .signals()
            .backends
            .iter()
            .filter(|one| one.version == Version::V2)
            .map(|one| one.signals.counts.flows)
            .sum();
        assert_eq!(others, 0, "a new backend has a history of its own");
        // Another canary gets another fuse.
        assert_eq!(plane.fuse(1), FuseState::Armed);
        drop(plane);

        let mut plane = running(&next);
        assert_eq!(counts(&mut plane, 1), before, "nothing is counted twice");
        plane.set_weight(1, percent(10_000)).expect("a weight");
        assert_eq!(refused(&mut plane, 3000..3001), 1);
        for port in 3001..3005 {
            assert_eq!(refused(&mut plane, port..port + 1), 1);
        }
        assert!(matches!(plane.fuse(1), FuseState::Blown(_)));
        drop(plane);

        let mut plane = running(&next);
        assert!(matches!(plane.fuse(1), FuseState::Blown(_)), "the same canary keeps it");
        let [v1, v2] = counts(&mut plane, 1);
        assert_eq!((v1, v2.flows), (before[0], 10));
        // v2's backends change while the program runs.
        let v1 = [A, B, D].map(backend).to_vec();
        plane.set_backends(1, [v1, vec![backend(C)]]).expect("room");
        plane.sweep();
        assert_eq!(counts(&mut plane, 1)[1].flows, 10);
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn a_start_that_is_refused_changes_nothing_and_one_that_ends_before_attaching_leaves_nothing() {
    in_namespace("refused", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[C]));
        plane.set_weight(0, percent(10_000)).expect("a weight");
        drop(plane);
        let before = pins(bpffs);

        let generic = Setup { xdp_mode: XdpMode::Generic, ..web(bpffs, &[B], &[D]) };
        let refused = DataPlane::open(generic).map(drop);
        assert!(matches!(refused, Err(KernelError::ModeDiffers { .. })), "{refused:?}");
        let resized = Setup { max_flows: 1 << 10, ..web(bpffs, &[B], &[D]) };
        assert!(matches!(DataPlane::open(resized), Err(KernelError::FlowsResized { found, .. }) if found == 1 << 18));
        assert_eq!(pins(bpffs), before);
        let abandoned = DataPlane::open(web(bpffs, &[B], &[D])).expect("the program loads");
        abandoned.abandon().expect("its pins can be removed");
        assert_eq!(pins(bpffs), before);
        // One that was killed, that is.
        drop(DataPlane::open(web(bpffs, &[B], &[D])).expect("the program loads"));
        assert_ne!(pins(bpffs), before);

        let plane = DataPlane::open(web(bpffs, &[A], &[D])).expect("the program loads");
        assert_eq!(plane.pinned_weight(0), None, "v2 is another canary than the running program's");
        assert_eq!(plane.weight(0).expect("readable"), Weight::ZERO);
        plane.abandon().expect("its pins can be removed");
        let plane = DataPlane::open(web(bpffs, &[A], &[D, C])).expect("the program loads");
        assert_eq!(plane.pinned_weight(0), Some(percent(10_000)));
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn a_folder_that_is_held_is_refused_and_one_whose_holder_goes_meanwhile_is_taken() {
    in_namespace("held", |bpffs| {
        fs::create_dir(bpffs).expect("a folder");
        let holder = File::open(bpffs).expect("a folder");
        holder.lock().expect("nobody has it");
        let refused = DataPlane::open(web(bpffs, &[A], &[C])).map(drop);
        assert!(matches!(refused, Err(KernelError::AgentRunning { .. })), "{refused:?}");
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                holder.unlock().expect("it is held");
            });
            let plane = DataPlane::open(web(bpffs, &[A], &[C])).expect("the folder is free soon");
            plane.abandon().expect("its pins can be removed");
        });
    });
}

#[test]
fn a_first_start_that_ends_before_attaching_leaves_no_folder() {
    in_namespace("first", |bpffs| {
        let plane = DataPlane::open(web(bpffs, &[A], &[C])).expect("the program loads");
        plane.abandon().expect("its pins can be removed");
        assert!(!bpffs.exists());
        // Killed before it attached: the flow table has a key, and nobody's flows.
        drop(DataPlane::open(web(bpffs, &[A], &[C])).expect("the program loads"));
        running(&web(bpffs, &[B], &[D])).detach_all().expect("the pins can be removed");
    });
}

#[test]
fn somebody_elses_program_is_noticed_before_anything_is_loaded() {
    in_namespace("busy", |bpffs| {
        let other = bpffs.with_file_name(format!("gx-{}-busy-other", std::process::id()));
        let plane = running(&Setup { interfaces: vec!["gb".to_owned()], ..web(&other, &[A], &[C]) });
        match DataPlane::open(web(bpffs, &[A], &[C])) {
            Err(error @ KernelError::InterfaceBusy { .. }) => {
                let text = error.to_string();
                assert!(text.contains("`gb`") && text.contains("bpftool link"), "{text}");
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("gb is taken"),
        }
        assert!(pins(bpffs).is_empty(), "{:?}", pins(bpffs));
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn renamed_devices_keep_their_links_under_their_new_names() {
    in_namespace("renamed", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[C]));
        let before = backends(&mut plane, 80, Syn, 1000..1020);
        drop(plane);
        // The two swap their names, and one of them gets a dot later.
        for (from, to) in [("ga", "gx"), ("gb", "ga"), ("gx", "gb")] {
            ip(&format!("link set {from} down"));
            ip(&format!("link set {from} name {to}"));
            ip(&format!("link set {to} up"));
        }
        let mut plane = running(&web(bpffs, &[A], &[C]));
        assert_eq!(links(bpffs), ["link-native-ga", "link-native-gb"]);
        drop(plane);
        ip("link set gb down");
        ip("link set gb name g.1");
        ip("link set g.1 up");
        let interfaces = vec!["ga".to_owned(), "g.1".to_owned()];
        plane = DataPlane::open(Setup { interfaces, ..web(bpffs, &[A], &[C]) }).expect("the program loads");
        let attached = plane.attach().expect("the devices are ours");
        assert!(attached.iter().all(|attachment| attachment.mode == AttachedMode::Native));
        assert_eq!(links(bpffs), ["link-native-g:1", "link-native-ga"]);
        let flows = plane.flows().count();
        assert_eq!(flows, before.len());
        plane.detach_all().expect("the pins can be removed");
    });
}

fn links(bpffs: &Path) -> Vec<String> {
    pins(bpffs).into_iter().filter(|name| name.starts_with("link")).collect()
}

#[test]
fn a_device_that_leaves_the_config_or_the_host_leaves_weights_and_connections() {
    in_namespace("device", |bpffs| {
        let mut plane = running(&web(bpffs, &[A, B], &[C]));
        plane.set_weight(0, percent(5000)).expect("a weight");
        let before = backends(&mut plane, 80, Syn, 1000..1100);
        drop(plane);
        // All devices are gone; the links still know their program.
        ip("link del ga");
        ip("link del gb");
        ip("link add ga type veth peer name ga-peer");
        ip("link set ga up");
        let interfaces = vec!["ga".to_owned()];
        let mut plane = running(&Setup { interfaces, ..web(bpffs, &[A, B], &[C]) });
        assert_eq!(plane.weight(0).expect("readable"), percent(5000));
        assert_eq!(links(bpffs), ["link-native-ga"]);
        let flows: BTreeSet<_> = plane.flows().filter_map(|flow| Some((flow.client?.port(), flow.backend))).collect();
        let expected: BTreeSet<_> = before.into_iter().filter_map(|(port, backend)| Some((port, backend?))).collect();
        assert_eq!(flows, expected);

        // Without a link, the numbers in the flow table mean nothing.
        drop(plane);
        fs::remove_file(bpffs.join("link-native-ga")).expect("the pin is there");
        let interfaces = vec!["ga".to_owned()];
        plane = running(&Setup { interfaces, ..web(bpffs, &[B, A], &[C]) });
        assert_eq!((plane.pinned_weight(0), plane.flows().count()), (None, 0));
        assert!(plane.backend_readings().expect("readable").iter().all(|reading| reading.counters.new_flows == 0));
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn flows_of_a_service_that_leaves_are_forgotten_and_its_backends_numbers_come_free() {
    in_namespace("leaves", |bpffs| {
        let both = setup(bpffs, vec![service(80, &[A], &[B]), service(443, &[C], &[D])]);
        let mut plane = running(&both);
        backends(&mut plane, 80, Syn, 1000..1010);
        let kept = backends(&mut plane, 443, Syn, 1000..1010);
        drop(plane);
        let one = setup(bpffs, vec![service(443, &[C], &[D])]);
        let mut plane = running(&one);
        assert_eq!(plane.flows().count(), 10);
        assert_eq!(backends(&mut plane, 443, Ack, 1000..1010), kept);
        drop(plane);
        let plane = running(&both);
        assert!(plane.flows().all(|flow| flow.service == Some(1)));
        plane.detach_all().expect("the pins can be removed");
    });
}

fn full_nat(sources: &[[u8; 4]], v1: &[&str]) -> ServiceSetup {
    let sources = sources.iter().map(|&address| address.into()).collect();
    ServiceSetup { mode: ForwardMode::FullNat { sources }, ..service(80, v1, &[]) }
}

#[test]
fn source_ports_of_addresses_that_stay_go_over_to_the_next_program() {
    in_namespace("sources", |bpffs| {
        let (kept, left) = ([10, 77, 2, 200], [10, 77, 2, 201]);
        let mut plane = running(&setup(bpffs, vec![full_nat(&[left, kept], &[A])]));
        let vip = SocketAddr::new(VIP.into(), 80);
        let sent: Vec<_> = (1000..1060)
            .map(|port| (client(port), through(&mut plane, client(port), vip, Syn).expect("forwarded")))
            .collect();
        let flows: Vec<_> = plane.flows().collect();
        assert_eq!(flows.len(), sent.len());
        for (client, (source, backend)) in &sent {
            let flow = flows.iter().find(|flow| flow.client == Some(*client)).expect("its flow");
            assert_eq!((flow.source, flow.backend), (Some(*source), *backend));
        }
        drop(plane);

        // Fewer ports, in the middle of the old ones, and a new address in the place of one that left.
        let ports = SourcePorts { first: 20_025, count: 50 };
        let next = setup(bpffs, vec![full_nat(&[kept, [10, 77, 2, 202]], &[A])]);
        let mut plane = running(&Setup { source_ports: ports, ..next });
        let stays = |source: &SocketAddr| {
            source.ip() == std::net::IpAddr::from(kept) && (20_025..20_075).contains(&source.port())
        };
        let staying: Vec<_> = sent.iter().filter(|(_, (source, _))| stays(source)).collect();
        assert!(staying.len() > 5, "{sent:?}");
        assert_eq!(plane.flows().count(), staying.len());
        for (client, (source, backend)) in staying {
            assert_eq!(through(&mut plane, *client, vip, Ack), Some((*source, *backend)));
            let reply = through(&mut plane, *backend, *source, Ack);
            assert_eq!(reply, Some((vip, *client)), "the reply to {source}");
        }
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn shards_that_change_in_number_get_the_lowest_weight() {
    in_namespace("shards", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[C]));
        plane.set_weights(0, &[percent(300), percent(200), percent(300), percent(400)]).expect("four shards");
        drop(plane);
        let mut next = web(bpffs, &[A], &[C]);
        next.services[0].shards = Shards::Hash { count: 6 };
        let plane = DataPlane::open(next).expect("the program loads");
        assert_eq!(plane.weights(0).expect("readable"), [percent(200); 6]);
        assert_eq!(plane.pinned_weights(0).map(<[Weight]>::len), Some(4));
        plane.detach_all().expect("the pins can be removed");
    });
}
