//! Tables by hand, one client, every way that it can go.

use std::{collections::HashMap, net::IpAddr};

use grayxdp_common::{
    layout::{Endpoint, FlowOwner, IdleTicks, KEY_CONNECTION, METHOD_HASH, SEEN_FIN, SEEN_PACKET, SEEN_SEGMENT},
    weight::Weight,
};

use super::*;

const SERVICE: ServiceId = ServiceId(3);
const TCP: u8 = 6;

#[derive(Clone)]
struct Fake {
    control: Control,
    service: ServiceEntry,
    pins: Option<u32>,
    range: Option<u32>,
    weights: HashMap<u32, Weight>,
    pools: HashMap<u32, PoolTable>,
    backends: HashMap<u16, BackendEntry>,
    buckets: HashMap<u32, FlowBucket>,
    now: u32,
}

impl Tables for Fake {
    fn control(&self) -> Option<Control> {
        Some(self.control)
    }
    fn service(&self, id: ServiceId) -> Option<ServiceEntry> {
        (id == SERVICE || id == SERVICE.canary()).then_some(self.service)
    }
    fn pinned_version(&self, service: ServiceId, _: Address) -> Option<u32> {
        self.pins.filter(|_| service == SERVICE)
    }
    fn range_shard(&self, service: ServiceId, _: Address) -> Option<u32> {
        self.range.filter(|_| service == SERVICE)
    }
    fn threshold(&self, slot: u32) -> Option<Threshold> {
        self.weights.get(&slot).map(|weight| weight.threshold())
    }
    fn pool_table(&self, pool: u32) -> Option<PoolTable> {
        self.pools.get(&pool).copied()
    }
    fn maglev_slots(&self, group: u32) -> Option<MaglevSlots> {
        // v1's table begins at group 0, v2's at 100.
        Some(MaglevSlots::new([if group < 100 { 1 } else { 2 }; 4]))
    }
    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        self.backends.get(&id.raw()).copied()
    }
    fn flow_bucket(&self, index: u32) -> Option<FlowBucket> {
        Some(self.buckets.get(&index).copied().unwrap_or_default())
    }
    fn now(&self) -> u32 {
        self.now
    }
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

fn backend(text: &str, version: Version) -> BackendEntry {
    let endpoint = Endpoint::new(address(text), Be16::new(8080), TCP);
    BackendEntry { endpoint, service: 3, version: version as u8, ..BackendEntry::default() }
}

fn fake() -> Fake {
    let service = ServiceEntry {
        endpoint: Endpoint::new(address("203.0.113.10"), Be16::new(80), TCP),
        key: KEY_CONNECTION,
        method: METHOD_HASH,
        hash_key: [1, 2],
        shard_first: 10,
        shard_count: 4,
        pools: 3,
        udp_idle_ticks: 5,
        ..ServiceEntry::default()
    };
    Fake {
        control: Control {
            flow_key: [5, 6],
            flow_buckets: 1 << 16,
            idle_ticks: IdleTicks { half_open: 10, established: 3600, closing: 9, udp: 60 },
            hops_until: 1000,
            ..Control::default()
        },
        service,
        pins: None,
        range: None,
        weights: (10..14).map(|slot| (slot, Weight::ZERO)).collect(),
        pools: HashMap::from([(6, PoolTable::new(0, 101)), (7, PoolTable::new(100, 101))]),
        backends: HashMap::from([(1, backend("10.0.1.10", Version::V1)), (2, backend("10.0.2.10", Version::V2))]),
        buckets: HashMap::new(),
        now: 1000,
    }
}

fn question() -> Question {
    let client = address("198.51.100.7");
    Question { service: SERVICE, client, client_port: Be16::new(40_000), dscp: 0 }
}

fn asked(tables: &Fake) -> Explanation {
    explain(tables, question()).expect("explained")
}

fn id(raw: u16) -> BackendId {
    BackendId::from_raw(raw).expect("not zero")
}

impl Fake {
    fn with_flow(mut self, seen: FlowSeen) -> Self {
        let hash = FlowHash::new(self.control.flow_key, question().client, question().client_port, SERVICE);
        let bucket = self.buckets.entry(hash.bucket(self.control.flow_buckets)).or_default();
        bucket.entries[3] = FlowEntry { owner: FlowOwner::new(hash, id(2)), seen };
        self
    }
}

#[test]
fn a_flow_in_its_second_bucket_is_found_where_the_first_one_may_have_turned_it_away() {
    let mut tables = fake().with_flow(FlowSeen {
        client: SEEN_PACKET | SEEN_SEGMENT,
        backend: SEEN_PACKET | SEEN_SEGMENT,
        ..FlowSeen::default()
    });
    let (&first, bucket) = tables.buckets.iter().next().expect("the flow's");
    let entry = bucket.entries[3];
    let mut second = FlowBucket::default();
    second.entries[0] = FlowEntry { owner: entry.owner.in_second(), ..entry };
    let freed = FlowEntry { owner: FlowOwner::FREED, ..FlowEntry::default() };
    tables.buckets.insert(FlowHash::second_bucket(first), second);
    tables.buckets.insert(first, FlowBucket { entries: [freed; 8] });
    assert!(asked(&tables).flow.is_some());
    tables.buckets.insert(first, FlowBucket::default());
    assert!(asked(&tables).flow.is_none());
}

#[test]
fn weights_of_the_own_shard_decide_and_no_others() {
    let mut tables = fake();
    let found = asked(&tables);
    assert_eq!(found.fate, Fate::Chosen(Version::V1, id(1)));
    tables.weights = (10..14).map(|slot| (slot, Weight::FULL)).collect();
    tables.weights.insert(10 + found.shard.0.0, Weight::ZERO);
    assert_eq!(asked(&tables).fate, Fate::Chosen(Version::V1, id(1)));
    tables.weights = (10..14).map(|slot| (slot, Weight::ZERO)).collect();
    tables.weights.insert(10 + found.shard.0.0, Weight::FULL);
    assert_eq!(asked(&tables).fate, Fate::Chosen(Version::V2, id(2)));
}

#[test]
fn pins_count_in_their_order() {
    let mut tables = fake();
    tables.service.flags = SERVICE_CIDR_PINS | SERVICE_DSCP_PINS;
    tables.service.dscp_pins = [0, 1];
    assert_eq!(asked(&tables).pin, Some((PinKind::Dscp, Version::V2)));
    tables.pins = Some(0);
    assert_eq!(
        (asked(&tables).pin, asked(&tables).fate),
        (Some((PinKind::Source, Version::V1)), Fate::Chosen(Version::V1, id(1)))
    );
    tables.service.pinned = 2;
    assert_eq!(
        (asked(&tables).pin, asked(&tables).fate),
        (Some((PinKind::Port, Version::V2)), Fate::Chosen(Version::V2, id(2)))
    );
    tables.service.pinned = 0;
    tables.service.flags = 0;
    assert_eq!(asked(&tables).pin, None, "the flags say that there are none");
}

#[test]
fn shards_by_range_and_at_random_are_those_of_the_program() {
    let mut tables = fake();
    tables.service.method = METHOD_RANGE;
    tables.range = Some(3);
    tables.weights.insert(13, Weight::FULL);
    assert_eq!((asked(&tables).shard, asked(&tables).fate), ((ShardId(3), 4), Fate::Chosen(Version::V2, id(2))));
    tables.range = None;
    assert_eq!(asked(&tables).shard.0, ShardId(0), "everyone else");
    tables.range = Some(4);
    assert_eq!(asked(&tables).fate, Fate::Dropped(Verdict::DroppedNoBackend), "a shard that there is not");
    tables.service.method = METHOD_RANDOM;
    assert_eq!(asked(&tables).fate, Fate::Drawn);
    tables.service.pinned = 1;
    assert_eq!(asked(&tables).fate, Fate::Chosen(Version::V1, id(1)), "pins come before the draw");
}

#[test]
fn a_flow_that_lives_keeps_the_client_and_one_that_does_not_is_begun_anew() {
    let both = SEEN_PACKET | SEEN_SEGMENT;
    let live = FlowSeen { last_tick: 1000, client: both, backend: both, ..FlowSeen::default() };
    let (on_v2, anew) = (Fate::Flow(id(2)), Fate::Chosen(Version::V1, id(1)));
    for (seen, expected) in [
        (live, on_v2),
        (FlowSeen { backend: 0, ..live }, anew),
        (FlowSeen { client: both | SEEN_FIN, backend: both | SEEN_FIN, ..live }, anew),
        (FlowSeen { kind: FLOW_SEVER, ..live }, anew),
    ] {
        let found = asked(&fake().with_flow(seen));
        assert_eq!((found.fate, found.flow.expect("there").id), (expected, id(2)), "{seen:?}");
    }
    let mut late = fake().with_flow(live);
    late.now = 1000 + 3601;
    assert_eq!((asked(&late).fate, asked(&late).flow.expect("there").is_expired), (anew, true));
    let mut gone = fake().with_flow(live);
    gone.backends.insert(2, BackendEntry { service: 9, ..backend("10.0.2.10", Version::V2) });
    assert_eq!(asked(&gone).flow, None, "its backend serves another service");
}

#[test]
fn a_conversation_leaves_a_backend_that_is_down() {
    let mut tables = fake();
    tables.service.endpoint.protocol = UDP;
    let seen = FlowSeen { last_tick: 1000, client: SEEN_PACKET, kind: FLOW_UDP, ..FlowSeen::default() };
    let mut tables = tables.with_flow(seen);
    assert_eq!(asked(&tables).fate, Fate::Flow(id(2)));
    tables.now = 1006;
    assert!(asked(&tables).flow.expect("there").is_expired, "by its service's own limit");
    tables.now = 1000;
    tables
        .backends
        .insert(2, BackendEntry { flags: grayxdp_common::layout::BACKEND_DOWN, ..backend("10.0.2.10", Version::V2) });
    assert_eq!(asked(&tables).fate, Fate::Chosen(Version::V1, id(1)));
}

#[test]
fn what_is_dropped_is_said() {
    let mut tables = fake();
    for (client, port, verdict) in [
        ("203.0.113.10", 80, Verdict::DroppedLandAttack),
        ("127.0.0.1", 80, Verdict::DroppedMartianSource),
        ("224.0.0.1", 80, Verdict::DroppedMartianSource),
        ("ff02::1", 80, Verdict::DroppedMartianSource),
    ] {
        let question = Question { client: address(client), client_port: Be16::new(port), ..question() };
        assert_eq!(explain(&tables, question).expect("explained").fate, Fate::Dropped(verdict), "{client}");
    }
    tables.pools.insert(6, PoolTable::default());
    assert_eq!(asked(&tables).fate, Fate::Dropped(Verdict::DroppedNoBackend));
    assert_eq!(asked(&tables).candidates[0].backend, None);
    assert!(asked(&tables).are_hops_fresh);
    tables.now = 1001;
    assert!(!asked(&tables).are_hops_fresh);
    assert_eq!(explain(&tables, Question { service: ServiceId(4), ..question() }), None);
}
