//! Next hops from tables made by hand, and against a second, naive look-up.

use proptest::prelude::*;

use super::{
    super::tables::{FamilyTables, Link, Neighbour, NeighbourState, Neighbours, TABLE_LOCAL, TABLE_MAIN},
    *,
};

const ETH0: u32 = 2;
const ETH1: u32 = 3;
/// Up and known, but the program is not on it.
const OTHER: u32 = 9;
const INTERFACES: [u32; 2] = [ETH0, ETH1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix::new(ip(address), len.parse().unwrap())
}

fn mac_of(ifindex: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(ifindex).unwrap()]
}

fn link(ifindex: u32) -> Link {
    Link { state: LinkState::Ethernet { mac: mac_of(ifindex) }, mtu_v4: Some(1500), mtu_v6: Some(1400) }
}

const GATEWAY_MAC: [u8; 6] = [6, 0, 0, 0, 0, 1];

fn neighbour(state: NeighbourState) -> Neighbour {
    Neighbour { state, mac: Some(GATEWAY_MAC) }
}

fn gateway(ifindex: u32, gateway: &str) -> Way {
    Way::Gateway { ifindex, gateway: ip(gateway), mtu: None }
}

fn main_route(destination: &str, way: Way) -> KernelRoute {
    KernelRoute { table: TABLE_MAIN, destination: prefix(destination), scope: Scope::All, metric: 0, way }
}

fn local_route(destination: &str) -> KernelRoute {
    KernelRoute { table: TABLE_LOCAL, ..main_route(destination, Way::Unfit) }
}

/// Two devices with a router each on both families, no routes.
fn tables(routes: Vec<KernelRoute>) -> Tables {
    let (v4, v6) = routes.into_iter().partition(|route| route.destination.family() == Family::V4);
    let family = |routes| FamilyTables { rules: Rules::Plain, routes: Some(routes) };
    let routers = [(ETH0, "10.0.0.254"), (ETH1, "10.1.0.254"), (ETH0, "fd00::fe"), (ETH1, "fd01::fe")];
    Tables {
        v4: family(v4),
        v6: family(v6),
        links: [ETH0, ETH1, OTHER].map(|ifindex| (ifindex, link(ifindex))).into(),
        neighbours: routers.map(|(ifindex, router)| ((ifindex, ip(router)), neighbour(NeighbourState::Valid))).into(),
        backend_routes: [].into(),
    }
}

fn hop(ifindex: u32, mtu: u16) -> NextHop {
    NextHop { ifindex, destination_mac: GATEWAY_MAC, source_mac: mac_of(ifindex), mtu }
}

fn routes(tables: &Tables) -> Vec<(String, Option<NextHop>)> {
    let routes = resolve(tables, &[], &INTERFACES).snapshot.routes;
    routes.iter().map(|route| (format!("{}/{}", route.destination, route.prefix_len), route.hop)).collect()
}

fn backend(tables: &mut Tables, route: KernelRoute) -> Option<NextHop> {
    let backend = ip(if route.destination.family() == Family::V4 { "10.9.0.7" } else { "fd09::7" });
    tables.backend_routes = [(backend, route)].into();
    let backends = resolve(tables, &[backend], &INTERFACES).snapshot.backends;
    assert_eq!(backends.len(), 1);
    assert_eq!(backends[0].0, backend);
    backends[0].1
}

fn default_v4() -> KernelRoute {
    main_route("0.0.0.0/0", gateway(ETH0, "10.0.0.254"))
}

#[test]
fn a_backend_goes_the_way_that_the_kernel_tells() {
    for (what, route, expected) in [
        ("router", main_route("10.9.0.0/16", gateway(ETH1, "10.1.0.254")), Some(hop(ETH1, 1500))),
        ("router, IPv6", main_route("fd09::/16", gateway(ETH1, "fd01::fe")), Some(hop(ETH1, 1400))),
        ("IPv4 by an IPv6 router", main_route("10.9.0.0/16", gateway(ETH0, "fd00::fe")), Some(hop(ETH0, 1500))),
        ("unknown router", main_route("10.9.0.0/16", gateway(ETH1, "10.1.0.253")), None),
        ("router on another device", main_route("10.9.0.0/16", gateway(ETH1, "10.0.0.254")), None),
        ("unknown neighbour", main_route("10.9.0.0/16", Way::OnLink { ifindex: ETH0, mtu: None }), None),
        ("interface without the program", main_route("10.9.0.0/16", gateway(OTHER, "10.0.0.254")), None),
        ("no such interface", main_route("10.9.0.0/16", gateway(77, "10.0.0.254")), None),
        ("unfit", main_route("10.9.0.0/16", Way::Unfit), None),
    ] {
        assert_eq!(backend(&mut tables(Vec::new()), route), expected, "{what}");
    }
    let unrouted = resolve(&tables(vec![default_v4()]), &[ip("10.9.0.7")], &INTERFACES);
    assert_eq!(unrouted.snapshot.backends, [(ip("10.9.0.7"), None)], "what the kernel does not tell is not guessed");
}

#[test]
fn a_backend_on_a_connected_network_is_a_neighbour_itself() {
    let on_link = main_route("10.9.0.0/16", Way::OnLink { ifindex: ETH0, mtu: None });
    for (state, expected) in [
        (NeighbourState::Valid, Some(hop(ETH0, 1500))),
        (NeighbourState::Stale, Some(hop(ETH0, 1500))),
        (NeighbourState::Resolving, None),
        (NeighbourState::Failed, None),
    ] {
        let mut tables = tables(Vec::new());
        tables.neighbours.insert((ETH0, ip("10.9.0.7")), neighbour(state));
        assert_eq!(backend(&mut tables, on_link.clone()), expected, "{state:?}");
    }
    for mac in [None, Some([0; 6])] {
        let mut tables = tables(Vec::new());
        tables.neighbours.insert((ETH0, ip("10.9.0.7")), Neighbour { state: NeighbourState::Valid, mac });
        assert_eq!(backend(&mut tables, on_link.clone()), None, "{mac:?}");
    }
}

#[test]
fn neighbours_that_next_hops_hang_on_are_named_known_or_not() {
    let mut tables = tables(vec![
        default_v4(),
        main_route("10.5.0.0/16", gateway(ETH1, "10.1.0.99")),
        main_route("10.6.0.0/16", gateway(OTHER, "10.0.0.254")),
    ]);
    let on_link = main_route("10.9.0.0/16", Way::OnLink { ifindex: ETH0, mtu: None });
    tables.backend_routes = [(ip("10.9.0.7"), on_link)].into();
    let neighbours = resolve(&tables, &[ip("10.9.0.7")], &INTERFACES).neighbours;
    let expected = [(ETH0, "10.9.0.7"), (ETH0, "10.0.0.254"), (ETH1, "10.1.0.99")];
    assert_eq!(neighbours, expected.map(|(ifindex, address)| (ifindex, ip(address))).into());
}

#[test]
fn the_mtu_is_the_lower_one_of_route_and_device() {
    for (route_mtu, expected) in [(None, 1500), (Some(1000), 1000), (Some(9000), 1500), (Some(70_000), 1500)] {
        let way = Way::Gateway { ifindex: ETH0, gateway: ip("10.0.0.254"), mtu: route_mtu };
        let found = backend(&mut tables(Vec::new()), main_route("10.9.0.0/16", way));
        assert_eq!(found.unwrap().mtu, expected, "{route_mtu:?}");
    }
}

#[test]
fn nothing_leaves_by_a_device_that_cannot_send_plain_frames() {
    for state in [LinkState::Down, LinkState::Unfit] {
        let mut tables = tables(vec![default_v4()]);
        tables.links.insert(ETH0, Link { state, ..link(ETH0) });
        assert_eq!(backend(&mut tables, main_route("10.9.0.0/16", gateway(ETH0, "10.0.0.254"))), None, "{state:?}");
        assert_eq!(routes(&tables), [], "{state:?}");
        let other = main_route("10.9.0.0/16", gateway(ETH1, "10.1.0.254"));
        assert_eq!(backend(&mut tables, other), Some(hop(ETH1, 1500)), "the other device is not concerned");
    }
}

#[test]
fn an_interface_that_does_not_forward_a_family_ends_its_next_hops() {
    let mut tables = tables(vec![default_v4(), main_route("::/0", gateway(ETH0, "fd00::fe"))]);
    let v4 = main_route("10.9.0.0/16", gateway(ETH0, "10.0.0.254"));
    let v6 = main_route("fd09::/16", gateway(ETH0, "fd00::fe"));
    tables.links.insert(ETH1, Link { mtu_v4: None, ..link(ETH1) });
    assert_eq!(backend(&mut tables, v4.clone()), None);
    assert_eq!(backend(&mut tables, v6), Some(hop(ETH0, 1400)));
    assert_eq!(routes(&tables), [("::/0".to_owned(), Some(hop(ETH0, 1400)))]);
    // Nothing comes in by a device that is down, or gone.
    tables.links.insert(ETH1, Link { mtu_v4: None, state: LinkState::Down, ..link(ETH1) });
    assert!(backend(&mut tables, v4.clone()).is_some());
    tables.links.remove(&ETH1);
    assert!(backend(&mut tables, v4).is_some());
}

#[test]
fn rules_decide_whether_a_destination_is_enough() {
    for (rules, has_backend, has_routes) in
        [(Rules::Plain, true, true), (Rules::ByDestination, true, false), (Rules::Other, false, false)]
    {
        let mut tables = tables(vec![default_v4()]);
        tables.v4.rules = rules;
        let found = backend(&mut tables, main_route("10.9.0.0/16", gateway(ETH0, "10.0.0.254")));
        assert_eq!((found.is_some(), !routes(&tables).is_empty()), (has_backend, has_routes), "{rules:?}");
        tables.v4 = FamilyTables { rules, routes: None };
        let found = backend(&mut tables, main_route("10.9.0.0/16", gateway(ETH0, "10.0.0.254")));
        assert_eq!((found, routes(&tables).len()), (None, 0), "unreadable routes, {rules:?}");
    }
}

#[test]
fn a_backend_that_a_route_for_some_packets_may_take_elsewhere_is_left_to_the_kernel() {
    let told = main_route("10.9.0.0/16", gateway(ETH0, "10.0.0.254"));
    let some = |destination: &str, table| {
        let route = main_route(destination, gateway(ETH1, "10.1.0.254"));
        KernelRoute { scope: Scope::Some, table, ..route }
    };
    for (other, is_certain) in [
        (some("10.9.0.0/24", TABLE_MAIN), false),
        (some("10.9.0.0/16", TABLE_MAIN), false),
        (some("10.9.1.0/24", TABLE_MAIN), true),
        (some("10.0.0.0/8", TABLE_MAIN), true),
        (some("10.0.0.0/8", 100), false),
    ] {
        let mut tables = tables(vec![other.clone()]);
        assert_eq!(backend(&mut tables, told.clone()).is_some(), is_certain, "{other:?}");
    }
}

#[test]
fn routes_come_most_specific_first_without_those_that_change_nothing() {
    let table = tables(vec![
        default_v4(),
        main_route("10.0.0.0/24", Way::OnLink { ifindex: ETH0, mtu: None }),
        local_route("10.0.0.1/32"),
        local_route("10.0.0.255/32"),
        local_route("127.0.0.0/8"),
        local_route("127.0.0.1/32"),
        main_route("10.5.0.0/16", gateway(ETH1, "10.1.0.254")),
        main_route("10.5.1.0/24", gateway(ETH1, "10.1.0.254")),
        main_route("10.5.2.0/24", Way::Unfit),
        main_route("10.6.0.0/16", gateway(ETH1, "10.1.0.1")),
        main_route("10.7.0.9/32", Way::OnLink { ifindex: ETH1, mtu: None }),
    ]);
    let expected = [
        ("10.7.0.9/32", None),
        ("10.0.0.0/24", None),
        ("10.5.2.0/24", None),
        ("10.5.0.0/16", Some(hop(ETH1, 1500))),
        ("10.6.0.0/16", None),
        ("127.0.0.0/8", None),
        ("0.0.0.0/0", Some(hop(ETH0, 1500))),
    ];
    assert_eq!(routes(&table), expected.map(|(destination, hop)| (destination.to_owned(), hop)));
}

#[test]
fn a_route_of_the_main_table_inside_a_local_one_is_never_taken() {
    let table = tables(vec![
        default_v4(),
        local_route("10.20.0.0/16"),
        main_route("10.20.5.0/24", gateway(ETH1, "10.1.0.254")),
        main_route("10.20.0.0/16", gateway(ETH1, "10.1.0.254")),
    ]);
    let expected = [("10.20.0.0/16", None), ("0.0.0.0/0", Some(hop(ETH0, 1500)))];
    assert_eq!(routes(&table), expected.map(|(destination, hop)| (destination.to_owned(), hop)));
}

#[test]
fn of_several_routes_to_one_network_the_lowest_metric_wins_if_that_is_certain() {
    let to_eth0 = |metric| KernelRoute { metric, ..default_v4() };
    let to_eth1 = |metric| KernelRoute { metric, way: gateway(ETH1, "10.1.0.254"), ..default_v4() };
    let some = KernelRoute { scope: Scope::Some, ..to_eth1(0) };
    let dead = KernelRoute { way: Way::Unfit, ..to_eth1(0) };
    for (what, routes_there, expected) in [
        ("lower first", vec![to_eth0(1), to_eth1(2)], Some(hop(ETH0, 1500))),
        ("lower last", vec![to_eth0(3), to_eth1(2)], Some(hop(ETH1, 1500))),
        ("equal", vec![to_eth0(1), to_eth1(1), to_eth1(2)], None),
        ("one for some packets", vec![to_eth0(1), some], None),
        ("the lowest cannot be used", vec![to_eth0(1), dead], None),
    ] {
        let found = routes(&tables(routes_there));
        assert_eq!(found.first().and_then(|(_, hop)| *hop), expected, "{what}");
    }
}

#[test]
fn sixteen_routes_of_a_family_are_a_table_and_seventeen_are_none() {
    let route = |number: usize| main_route(&format!("10.{number}.0.0/16"), gateway(ETH1, "10.1.0.254"));
    let v6 = main_route("::/0", gateway(ETH0, "fd00::fe"));
    for (count, expected) in [(16, 17), (17, 1)] {
        let mut table = tables((0..count).map(route).chain([v6.clone()]).collect());
        assert_eq!(routes(&table).len(), expected);
        // Whether neighbours are known has no say in it.
        table.neighbours = Neighbours::new();
        let resolution = resolve(&table, &[], &INTERFACES);
        assert_eq!(resolution.snapshot.routes.len(), expected);
        assert_eq!(resolution.neighbours.len(), if count == 16 { 2 } else { 1 });
    }
}

/// What the kernel does, told as plainly as possible: the local table first; in the main table, the longest of the
/// networks around the destination, and there the lowest metric.
fn kernel_says(tables: &Tables, destination: IpAddr) -> Option<NextHop> {
    let routes = tables.of(Family::of(destination)).routes.as_ref()?;
    let around = |table| {
        routes.iter().filter(move |route| route.table == table && route.destination.covers(Prefix::host(destination)))
    };
    if around(TABLE_LOCAL).next().is_some() {
        return None;
    }
    let longest = around(TABLE_MAIN).map(|route| route.destination.len()).max()?;
    let there: Vec<&KernelRoute> = around(TABLE_MAIN).filter(|route| route.destination.len() == longest).collect();
    let lowest = there.iter().map(|route| route.metric).min()?;
    let lowest: Vec<&&KernelRoute> = there.iter().filter(|route| route.metric == lowest).collect();
    if lowest.len() > 1 || there.iter().any(|route| route.scope == Scope::Some) {
        return None;
    }
    let Way::Gateway { ifindex, gateway, .. } = lowest[0].way else { return None };
    let neighbour = tables.neighbours.get(&(ifindex, gateway))?;
    INTERFACES.contains(&ifindex).then(|| NextHop { destination_mac: neighbour.mac.unwrap(), ..hop(ifindex, 1500) })
}

fn snapshot_says(routes: &[Route], destination: IpAddr) -> Option<NextHop> {
    let covers = |route: &&Route| Prefix::new(route.destination, route.prefix_len).covers(Prefix::host(destination));
    routes.iter().find(covers)?.hop
}

/// Routes to few networks, so that they often lie inside each other.
fn any_route() -> impl Strategy<Value = KernelRoute> {
    let way = prop_oneof![
        4 => Just(gateway(ETH0, "10.0.0.254")),
        4 => Just(gateway(ETH1, "10.1.0.254")),
        1 => Just(gateway(ETH1, "10.1.0.99")),
        1 => Just(gateway(OTHER, "10.0.0.254")),
        2 => Just(Way::OnLink { ifindex: ETH0, mtu: None }),
        1 => Just(Way::Unfit),
    ];
    let table = prop_oneof![8 => Just(TABLE_MAIN), 1 => Just(TABLE_LOCAL), 1 => Just(100)];
    let scope = prop_oneof![12 => Just(Scope::All), 1 => Just(Scope::Some)];
    (0_u32..64, 0_u8..=6, way, table, scope, 0_u32..3).prop_map(|(bits, len, way, table, scope, metric)| {
        let destination = Prefix::new(IpAddr::V4((bits << 26).into()), len);
        KernelRoute { table, destination, scope, metric, way }
    })
}

proptest! {
    #[test]
    fn a_snapshot_says_what_the_kernel_says_or_nothing(routes in prop::collection::vec(any_route(), 0..24)) {
        let tables = tables(routes);
        let found = resolve(&tables, &[], &INTERFACES).snapshot.routes;
        let lens: Vec<u8> = found.iter().map(|route| route.prefix_len).collect();
        prop_assert!(lens.is_sorted_by(|a, b| a >= b), "{lens:?}");
        prop_assert!(found.len() <= ROUTES_PER_FAMILY_MAX);
        for host in 0_u32..64 {
            let destination = IpAddr::V4((host << 26 | 1).into());
            let (said, expected) = (snapshot_says(&found, destination), kernel_says(&tables, destination));
            // An empty table may stand for one that is too large.
            if !found.is_empty() {
                prop_assert_eq!(said, expected, "{}", destination);
            } else {
                prop_assert_eq!(said, None);
            }
        }
    }
}
