//! Numbers stay, whatever comes and goes.

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    config::{Key, Protocol},
    kernel::setup::{ForwardMode, PinRules, Shards, SignalSetup, WhenEmpty},
};

fn service(port: u16, v1: &[&str], v2: &[&str]) -> ServiceSetup {
    let backend = |text: &&str| {
        let address: SocketAddr = text.parse().expect("an address");
        BackendSetup { address, weight: 1, standing: Standing::Serving }
    };
    ServiceSetup {
        vip: [203, 0, 113, 10].into(),
        port,
        protocol: Protocol::Tcp,
        canary_port: None,
        mode: ForwardMode::Nat,
        key: Key::SourceIp,
        hash_key: [1, 2],
        shards: Shards::Hash { count: 4 },
        pins: PinRules::default(),
        udp_idle: Duration::from_secs(60),
        maglev_slots: 1021,
        when_empty: WhenEmpty::OtherVersion,
        signals: SignalSetup::default(),
        pools: [v1.iter().map(backend).collect(), v2.iter().map(backend).collect()],
    }
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";
const D: &str = "10.0.0.4:80";

fn number(inventory: &Inventory, address: &str) -> u16 {
    let address: SocketAddr = address.parse().expect("an address");
    inventory.backends.iter().find(|slot| slot.setup.address == address).expect("a backend").id.raw()
}

fn id(raw: u16) -> BackendId {
    BackendId::from_raw(raw).expect("not zero")
}

fn first() -> (Inventory, Numbered) {
    let setup = [service(80, &[A, B], &[C])];
    let inventory = take(&setup, &Numbered::default()).expect("room");
    let numbered = inventory.numbered(HashSet::new());
    (inventory, numbered)
}

#[test]
fn numbers_stay_when_backends_change_version_and_order() {
    let (before, former) = first();
    let after = take(&[service(443, &[D], &[]), service(80, &[C, B], &[A])], &former).expect("room");
    for address in [A, B, C] {
        assert_eq!(number(&before, address), number(&after, address), "{address}");
    }
    assert_eq!(after.services.iter().map(|slot| (slot.id.0, slot.known)).collect::<Vec<_>>(), [(1, false), (0, true)]);
    assert_eq!(after.renumbered, [id(4)]);
    assert_eq!((after.retired.len(), after.dropped.len()), (0, 0));
}

#[test]
fn a_backend_that_leaves_is_retired_at_once_and_dropped_when_no_flow_names_it() {
    let (before, former) = first();
    let b = id(number(&before, B));
    let setup = [service(80, &[A], &[C])];
    let after = take(&setup, &former).expect("room");
    let [(retired, entry)] = after.retired[..] else { panic!("{:?}", after.retired) };
    assert_eq!((retired, entry.flags, entry.service), (b, BACKEND_RETIRED, 0));

    let with_flows = take(&setup, &after.numbered(HashSet::from([b]))).expect("room");
    assert_eq!(with_flows.retired, after.retired);
    let without = take(&setup, &after.numbered(HashSet::new())).expect("room");
    assert_eq!((without.retired.len(), &without.dropped[..]), (0, &[b][..]));
}

#[test]
fn a_retired_backend_that_comes_back_has_its_old_number_and_serves_again() {
    let (before, former) = first();
    let away = take(&[service(80, &[A], &[C])], &former).expect("room");
    let back = take(&[service(80, &[A, B], &[C])], &away.numbered(HashSet::new())).expect("room");
    assert_eq!(number(&back, B), number(&before, B));
    let entry = back.backends.iter().find(|slot| slot.id.raw() == number(&back, B)).expect("there").entry;
    assert_eq!(entry.flags, 0);
    assert!(back.renumbered.is_empty() && back.dropped.is_empty());
}

#[test]
fn numbers_that_flows_name_are_given_to_nobody_even_if_no_map_knows_them() {
    let (_, mut former) = first();
    former.in_flows = HashSet::from([id(4), id(5)]);
    let after = take(&[service(80, &[A, B, D], &[C])], &former).expect("room");
    assert_eq!(number(&after, D), 6);
}

#[test]
fn backends_of_a_service_that_left_answer_for_no_other_service() {
    let (_, former) = first();
    let after = take(&[service(8080, &[D], &[])], &former).expect("room");
    assert_eq!(after.services[0].id, ServiceId(1), "the number of the service that left is the last to be given away");
    assert_eq!(after.retired.len(), 3);
    assert!(after.retired.iter().all(|(_, entry)| entry.service == NO_SERVICE));
}

#[test]
fn a_canary_none_of_whose_backends_is_left_is_another_canary() {
    let (_, former) = first();
    for (v2, replaced) in [(&[C, D][..], false), (&[D], true), (&[A], true), (&[], true)] {
        let after = take(&[service(80, &[B], v2)], &former).expect("room");
        assert_eq!(after.services[0].canary_replaced, replaced, "{v2:?}");
    }
    let without_canary = take(&[service(80, &[A], &[])], &Numbered::default()).expect("room").numbered(HashSet::new());
    let after = take(&[service(80, &[A], &[C])], &without_canary).expect("room");
    assert!(!after.services[0].canary_replaced, "there was none whose weight it could get");
}

#[test]
fn a_full_map_is_refused_and_dropped_numbers_make_room() {
    let (_, mut former) = first();
    former.in_flows = (1..BACKENDS_MAX).map(|raw| id(u16::try_from(raw).expect("few"))).collect();
    let wanted = [service(80, &[A, D], &[C])];
    assert_eq!(take(&wanted, &former).expect_err("full"), Refusal::NoBackend);
    let retired = former.backends.iter_mut().find(|(id, _)| id.raw() == 2).expect("there");
    retired.1.flags = BACKEND_RETIRED;
    former.in_flows.remove(&id(2));
    let after = take(&wanted, &former).expect("room");
    assert_eq!((number(&after, D), &after.renumbered[..], after.dropped.len()), (2, &[id(2)][..], 0));
}

#[test]
fn a_backend_may_serve_one_version_of_one_service_only() {
    let former = Numbered::default();
    for setup in [
        vec![service(80, &[A], &[A])],
        vec![service(80, &[A, A], &[])],
        vec![service(80, &[A], &[]), service(81, &[A], &[])],
    ] {
        let refused = take(&setup, &former).expect_err("a reply from A could be of either");
        let text = refused.into_error(Path::new("/nowhere")).to_string();
        assert!(text.contains(A), "{text}");
    }
}
