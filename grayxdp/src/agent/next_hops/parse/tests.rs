//! Messages as the kernel sends them, and as it might send them one day.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    link::{Inet6DevConf, InetDevConf, LinkHeader},
    neighbour::NeighbourHeader,
    route::{RouteCacheInfo, RouteCacheInfoBuffer, RouteHeader, RouteNextHop},
    rule::RuleHeader,
};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route_message(attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: 16,
        table: RouteHeader::RT_TABLE_MAIN,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(ip("10.5.0.0"))), RouteAttribute::Oif(2)];
    message.attributes.extend(attributes);
    message
}

fn parsed(message: &RouteMessage) -> KernelRoute {
    route(message, Family::V4).unwrap()
}

#[test]
fn a_plain_route_is_read() {
    let message = route_message(vec![
        RouteAttribute::Table(1000),
        RouteAttribute::Gateway(RouteAddress::from(ip("10.0.0.254"))),
        RouteAttribute::PrefSource(RouteAddress::from(ip("10.0.0.1"))),
        RouteAttribute::Priority(7),
        RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)]),
    ]);
    let way = Way::Gateway { ifindex: 2, gateway: ip("10.0.0.254"), mtu: Some(1400) };
    let destination = Prefix::new(ip("10.5.0.0"), 16);
    assert_eq!(parsed(&message), KernelRoute { table: 1000, destination, scope: Scope::All, metric: 7, way });
    assert_eq!(parsed(&route_message(Vec::new())).way, Way::OnLink { ifindex: 2, mtu: None });
    let by_ipv6 = route_message(vec![RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()))]);
    assert_eq!(parsed(&by_ipv6).way, Way::Gateway { ifindex: 2, gateway: ip("fe80::1"), mtu: None });
}

#[test]
fn a_default_route_has_no_destination() {
    let mut message = route_message(Vec::new());
    message.header.destination_prefix_length = 0;
    message.attributes.remove(0);
    assert_eq!(parsed(&message).destination, Prefix::new(ip("0.0.0.0"), 0));
}

#[test]
fn what_is_not_one_plain_way_is_unfit() {
    let unknown = DefaultNla::new(99, vec![1, 2, 3, 4]);
    for attribute in [
        RouteAttribute::MultiPath(vec![RouteNextHop::default()]),
        RouteAttribute::NhId(5),
        RouteAttribute::EncapType(netlink_packet_route::route::RouteLwEnCapType::Mpls),
        RouteAttribute::Other(unknown),
    ] {
        assert_eq!(parsed(&route_message(vec![attribute.clone()])).way, Way::Unfit, "{attribute:?}");
    }
    for kind in [RouteType::Local, RouteType::Broadcast, RouteType::BlackHole, RouteType::Unreachable, RouteType::Throw]
    {
        let mut message = route_message(Vec::new());
        message.header.kind = kind;
        assert_eq!(parsed(&message).way, Way::Unfit, "{kind:?}");
    }
    for flag in [RouteFlags::Dead, RouteFlags::Linkdown] {
        let mut message = route_message(Vec::new());
        message.header.flags = flag | RouteFlags::Onlink;
        assert_eq!(parsed(&message).way, Way::Unfit, "{flag:?}");
    }
    let mut nowhere = route_message(Vec::new());
    nowhere.attributes.pop();
    assert_eq!(parsed(&nowhere).way, Way::Unfit);
}

#[test]
fn routes_for_some_packets_are_told_from_routes_for_all() {
    let mut by_service = route_message(Vec::new());
    by_service.header.tos = 0x10;
    let mut by_source = route_message(Vec::new());
    by_source.header.source_prefix_length = 64;
    assert_eq!((parsed(&by_service).scope, parsed(&by_source).scope), (Scope::Some, Scope::Some));
    assert_eq!(parsed(&route_message(Vec::new())).scope, Scope::All);
}

#[test]
fn a_route_that_is_about_to_end_is_unfit() {
    let mut info = RouteCacheInfo::parse(&[0; size_of::<RouteCacheInfoBuffer>()]).unwrap();
    for (expires, is_fit) in
        [(0, true), (1, false), (5999, false), (6000, true), (180_000, true), (u32::MAX - 99, false)]
    {
        info.expires = expires;
        let way = parsed(&route_message(vec![RouteAttribute::CacheInfo(info)])).way;
        assert_eq!(way != Way::Unfit, is_fit, "{expires}");
    }
    assert!(ROUTE_LIFE_MIN_TICKS / TICKS_PER_S > u32::try_from(super::super::watcher::FULL_PAUSE.as_secs()).unwrap());
}

#[test]
fn other_families_and_copies_are_no_routes() {
    assert_eq!(route(&route_message(Vec::new()), Family::V6), None);
    let mut copy = route_message(Vec::new());
    copy.header.flags = RouteFlags::Cloned;
    assert_eq!(route(&copy, Family::V4), None);
}

#[test]
fn neighbours_are_read_with_their_states() {
    let mac = [2, 0, 0, 0, 0, 9];
    for (kernel_state, state) in [
        (KernelNeighbourState::Reachable, NeighbourState::Valid),
        (KernelNeighbourState::Delay, NeighbourState::Valid),
        (KernelNeighbourState::Probe, NeighbourState::Valid),
        (KernelNeighbourState::Permanent, NeighbourState::Valid),
        (KernelNeighbourState::Noarp, NeighbourState::Valid),
        (KernelNeighbourState::Stale, NeighbourState::Stale),
        (KernelNeighbourState::Incomplete, NeighbourState::Resolving),
        (KernelNeighbourState::Failed, NeighbourState::Failed),
        (KernelNeighbourState::None, NeighbourState::Failed),
        (KernelNeighbourState::Other(0x200), NeighbourState::Failed),
    ] {
        let mut message = NeighbourMessage::default();
        message.header =
            NeighbourHeader { family: AddressFamily::Inet6, ifindex: 4, state: kernel_state, ..message.header };
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::from(ip("fd00::9"))),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        let expected = ((4, ip("fd00::9")), Neighbour { state, mac: Some(mac) });
        assert_eq!(neighbour(&message), Some(expected), "{kernel_state:?}");
        message.header.family = AddressFamily::Bridge;
        assert_eq!(neighbour(&message), None);
    }
}

fn link_message(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut conf_v4 = InetDevConf::default();
    conf_v4.forwarding = 1;
    let mut conf_v6 = Inet6DevConf::default();
    (conf_v6.forwarding, conf_v6.mtu6) = (1, 1280);
    let mut message = LinkMessage::default();
    message.header = LinkHeader {
        index: 4,
        link_layer_type: LinkLayerType::Ether,
        flags: LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running,
        ..message.header
    };
    message.attributes = vec![
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 4]),
        LinkAttribute::Mtu(9000),
        LinkAttribute::AfSpecUnspec(vec![
            AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(conf_v4)]),
            AfSpecUnspec::Inet6(vec![AfSpecInet6::DevConf(conf_v6)]),
        ]),
    ];
    message.attributes.extend(attributes);
    message
}

#[test]
fn a_device_is_read() {
    let state = LinkState::Ethernet { mac: [2, 0, 0, 0, 0, 4] };
    let expected = Link { state, mtu_v4: Some(9000), mtu_v6: Some(1280) };
    assert_eq!(link(&link_message(Vec::new())), (4, expected));
    let veth = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::PortKind(InfoPortKind::Bond)]);
    assert_eq!(link(&link_message(vec![veth])), (4, expected));
    assert_eq!(link(&link_message(vec![LinkAttribute::Mtu(1000)])).1.mtu_v6, Some(1000));
    assert_eq!(link(&link_message(vec![LinkAttribute::Mtu(65_536)])).1.mtu_v4, Some(65_535));
}

#[test]
fn frames_of_a_vlan_device_and_of_what_is_not_ethernet_cannot_be_made() {
    let vlan = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]);
    assert_eq!(link(&link_message(vec![vlan])).1.state, LinkState::Unfit);
    let mut tunnel = link_message(Vec::new());
    tunnel.header.link_layer_type = LinkLayerType::Tunnel;
    assert_eq!(link(&tunnel).1.state, LinkState::Unfit);
    let mut nameless = link_message(Vec::new());
    nameless.attributes.remove(0);
    assert_eq!(link(&nameless).1.state, LinkState::Unfit);
    let mut unplugged = link_message(Vec::new());
    unplugged.header.flags = LinkFlags::Up;
    assert_eq!(link(&unplugged).1.state, LinkState::Down);
}

#[test]
fn a_device_in_a_vrf_or_without_forwarding_forwards_nothing_by_the_main_table() {
    let vrf = LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Vrf)]);
    let off = LinkAttribute::AfSpecUnspec(vec![
        AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(InetDevConf::default())]),
        AfSpecUnspec::Inet6(vec![AfSpecInet6::DevConf(Inet6DevConf::default())]),
    ]);
    for attribute in [vrf, off] {
        let (_, found) = link(&link_message(vec![attribute.clone()]));
        assert_eq!((found.mtu_v4, found.mtu_v6), (None, None), "{attribute:?}");
    }
}

fn rule(priority: u32, table: u32, attributes: Vec<RuleAttribute>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header = RuleHeader { family: AddressFamily::Inet, action: RuleAction::ToTable, ..RuleHeader::default() };
    message.attributes = vec![
        RuleAttribute::Table(table),
        RuleAttribute::Priority(priority),
        RuleAttribute::SuppressPrefixLen(u32::MAX),
    ];
    message.attributes.extend(attributes);
    message
}

fn default_rules() -> Vec<RuleMessage> {
    vec![rule(0, TABLE_LOCAL, vec![]), rule(32766, TABLE_MAIN, vec![]), rule(32767, TABLE_DEFAULT, vec![])]
}

#[test]
fn the_kernels_own_rules_are_plain() {
    assert_eq!(rules(&default_rules(), Family::V4), Rules::Plain);
    assert_eq!(rules(&default_rules()[..2], Family::V4), Rules::Plain);
    assert_eq!(rules(&default_rules()[..1], Family::V4), Rules::ByDestination);
    assert_eq!(rules(&default_rules(), Family::V6), Rules::Other, "none of the family's");
    assert_eq!(rules(&[], Family::V4), Rules::Other);
}

#[test]
fn what_more_a_rule_may_ask_for_decides_what_it_is() {
    let to = RuleAttribute::Destination(ip("10.0.0.0"));
    let from = RuleAttribute::Source(ip("10.0.0.0"));
    for (what, attributes, expected) in [
        ("everything", vec![], Rules::ByDestination),
        ("destination", vec![to], Rules::ByDestination),
        ("mark", vec![RuleAttribute::FwMark(7), RuleAttribute::FwMask(u32::MAX)], Rules::ByDestination),
        ("suppressed", vec![RuleAttribute::SuppressPrefixLen(0)], Rules::ByDestination),
        ("source", vec![from], Rules::Other),
        ("interface", vec![RuleAttribute::Iifname("eth0".to_owned())], Rules::Other),
        ("vrf", vec![RuleAttribute::L3MDev(true)], Rules::Other),
        ("something new", vec![RuleAttribute::Other(DefaultNla::new(99, vec![1]))], Rules::Other),
    ] {
        let mut all = default_rules();
        all.push(rule(100, 1000, attributes));
        assert_eq!(rules(&all, Family::V4), expected, "{what}");
    }
    let mut by_service = default_rules();
    by_service[1].header.tos = 4;
    assert_eq!(rules(&by_service, Family::V4), Rules::Other);
    let mut inverted = default_rules();
    inverted[1].header.flags = RuleFlags::Invert;
    assert_eq!(rules(&inverted, Family::V4), Rules::ByDestination);
    let mut nowhere = default_rules();
    nowhere[1].header.action = RuleAction::Blackhole;
    assert_eq!(rules(&nowhere, Family::V4), Rules::ByDestination);
}
