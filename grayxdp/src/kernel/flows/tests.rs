//! A flow table without a kernel: sweep, sever, forget; and what a full-sized sweep costs.

use std::{cell::RefCell, time::Instant};

use grayxdp_common::{
    ids::{Be16, ServiceId},
    layout::{Address, FLOW_ONE_SIDED, FlowHash, SEEN_FIN, SEEN_LATER, SEEN_PACKET, SEEN_RST, SEEN_SEGMENT, SEEN_TURN},
};

use super::*;

const LIMITS: IdleTicks = IdleTicks { half_open: 10, established: 3600, closing: 9, udp: 60 };
const BOTH: u8 = SEEN_PACKET | SEEN_SEGMENT;

fn id(raw: u16) -> BackendId {
    BackendId::from_raw(raw).expect("not zero")
}

fn table(buckets: u32) -> FlowTable {
    FlowTable { buckets: Mapped::private(buckets) }
}

/// Puts a flow at an entry, as the packet program does.
fn put(table: &FlowTable, entry: usize, backend: u16, seen: FlowSeen) {
    let hash = FlowHash(u64::try_from(entry).expect("few").wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    table.buckets.words()[entry * 2].store(FlowOwner::new(hash, id(backend)).0, Ordering::Relaxed);
    table.buckets.words()[entry * 2 + 1].store(seen.to_word(), Ordering::Relaxed);
}

fn seen(last_tick: u16, client: u8, backend: u8, kind: u8) -> FlowSeen {
    FlowSeen { last_tick, client, backend, kind, ..FlowSeen::default() }
}

/// What a sweep is told, and what it tells.
struct TestWatch {
    limits: fn(BackendId) -> IdleTicks,
    late: fn(u32) -> bool,
    owed: fn(BackendId) -> bool,
    told: RefCell<Vec<(u16, Signal)>>,
    /// Backends whose clients wait, and whether no answer can come any more.
    waiting: RefCell<Vec<(u16, bool)>>,
}

impl TestWatch {
    /// Nothing is overdue, and nobody is owed an answer.
    fn new(limits: fn(BackendId) -> IdleTicks) -> Self {
        Self { limits, late: |_| false, owed: |_| false, told: RefCell::default(), waiting: RefCell::default() }
    }
}

impl Watch for TestWatch {
    fn limits(&self, backend: BackendId) -> IdleTicks {
        (self.limits)(backend)
    }

    fn is_handshake_overdue(&self, entry: u32) -> bool {
        (self.late)(entry)
    }

    fn is_answer_owed(&self, backend: BackendId) -> bool {
        (self.owed)(backend)
    }

    fn tell(&self, _: u32, backend: BackendId, error: Signal) {
        self.told.borrow_mut().push((backend.raw(), error));
    }

    fn tell_waiting(&self, _: u32, backend: BackendId, is_over: bool) {
        self.waiting.borrow_mut().push((backend.raw(), is_over));
    }
}

fn sweep(table: &FlowTable, now: u16, limits: fn(BackendId) -> IdleTicks) -> Census {
    table.sweep(now, &TestWatch::new(limits))
}

#[test]
fn a_sweep_tells_once_of_who_was_not_answered() {
    let table = table(128);
    let turn = SEEN_TURN;
    for (entry, backend, seen) in [
        // Overdue; overdue, but counted; not overdue; met in its middle.
        (0, 1, seen(100, SEEN_PACKET, 0, 0)),
        (1, 2, seen(100, SEEN_PACKET, SEEN_FAULT, 0)),
        (2, 3, seen(100, SEEN_PACKET, 0, 0)),
        (3, 4, seen(100, BOTH, 0, 0)),
        // Idle for too long: half open, owed a response, owed none, severed, and UDP.
        (4, 5, seen(80, SEEN_PACKET, 0, 0)),
        (5, 6, seen(0, BOTH | turn, BOTH, 0)),
        (6, 7, seen(0, BOTH | turn, BOTH | turn, 0)),
        (7, 8, seen(0, BOTH | turn, BOTH, FLOW_SEVER)),
        (8, 9, seen(0, SEEN_PACKET | turn, 0, FLOW_UDP)),
        (9, 10, seen(0, SEEN_PACKET | turn, SEEN_PACKET, FLOW_UDP)),
    ] {
        put(&table, entry, backend, seen);
    }
    let told = || {
        let limits = |_| IdleTicks { established: 50, ..LIMITS };
        let watch = TestWatch { late: |entry| entry < 2, ..TestWatch::new(limits) };
        table.sweep(100, &watch);
        watch.told.into_inner()
    };
    let expected = [(1, Signal::Unanswered), (5, Signal::Unanswered), (6, Signal::IdleDeaths), (9, Signal::Unanswered)];
    assert_eq!(told(), expected);
    assert_eq!(told(), []);
}

#[test]
fn a_client_that_went_without_its_answer_is_told_of_once_where_one_is_owed() {
    let table = table(128);
    let (turn, both_fin, later) = (SEEN_TURN, BOTH | SEEN_FIN, SEEN_LATER);
    let of = |backend, tick, client, server, kind| (backend, seen(tick, client, server, kind));
    for (entry, (backend, seen)) in [
        // Closed its side long ago; a moment ago; both sides closed; reset.
        of(1, 96, both_fin | turn, BOTH, 0),
        of(2, 97, both_fin | turn, BOTH, 0),
        of(3, 100, both_fin | turn, both_fin, 0),
        of(4, 100, BOTH | turn | SEEN_RST, BOTH, 0),
        // Answered; asked nothing; still waits; a farewell after an answer.
        of(5, 96, both_fin | turn, BOTH | turn, 0),
        of(6, 96, both_fin, BOTH, 0),
        of(7, 90, BOTH | turn, BOTH, 0),
        of(8, 96, both_fin | later, both_fin | turn, 0),
        // Severed; reset by the server; one-sided; counted already; nobody knows whether it is owed an answer.
        of(9, 96, both_fin | turn, BOTH, FLOW_SEVER),
        of(10, 96, both_fin | turn, BOTH | SEEN_RST, 0),
        of(11, 96, both_fin | turn, 0, FLOW_ONE_SIDED),
        of(12, 96, both_fin | turn, BOTH | SEEN_FAULT, 0),
        of(13, 96, both_fin | turn, BOTH, 0),
        // It is forgotten in this very sweep.
        of(14, 80, both_fin | turn, both_fin, 0),
        of(15, 0, both_fin | turn, BOTH, 0),
    ]
    .into_iter()
    .enumerate()
    {
        put(&table, entry, backend, seen);
    }
    let told = |now| {
        let limits = |_| IdleTicks { established: 50, ..LIMITS };
        let watch = TestWatch { owed: |backend| backend != id(13), ..TestWatch::new(limits) };
        table.sweep(now, &watch);
        watch.told.into_inner()
    };
    let unanswered =
        |backends: &[u16]| backends.iter().map(|each| (*each, Signal::ClosedUnanswered)).collect::<Vec<_>>();
    assert_eq!(told(100), unanswered(&[1, 3, 4, 14, 15]));
    assert_eq!(told(100), []);
    assert_eq!(told(101), unanswered(&[2]));
    // Where it goes by its time-out later, it is no second error.
    assert_eq!(told(148), [(7, Signal::IdleDeaths), (13, Signal::IdleDeaths)]);
}

#[test]
fn turns_that_wait_are_told_of_apart_from_errors_and_datagrams_only_where_they_need_an_answer() {
    let table = table(128);
    let (turn, later) = (SEEN_TURN, SEEN_LATER);
    for (entry, backend, seen) in [
        // The first turn waits; one does not; a later one does; one's client has shut its side; one is forgotten now.
        (0, 1, seen(100, BOTH | turn, BOTH, 0)),
        (1, 2, seen(100, BOTH, BOTH, 0)),
        (2, 3, seen(100, BOTH | later, BOTH | turn, 0)),
        (3, 4, seen(100, BOTH | turn | SEEN_FIN, BOTH, 0)),
        (4, 5, seen(0, BOTH | turn | SEEN_FIN, BOTH | SEEN_FIN, 0)),
        (5, 6, seen(100, SEEN_PACKET | turn, SEEN_PACKET, FLOW_UDP)),
        (6, 7, seen(100, SEEN_PACKET | turn, SEEN_PACKET, FLOW_UDP)),
        (7, 8, seen(100, BOTH | turn | SEEN_RST, BOTH, 0)),
    ] {
        put(&table, entry, backend, seen);
    }
    let watch = TestWatch { owed: |backend| backend == id(7), ..TestWatch::new(|_| LIMITS) };
    table.sweep(100, &watch);
    assert_eq!(watch.told.into_inner(), []);
    assert_eq!(watch.waiting.into_inner(), [(1, false), (4, false), (5, true), (7, false), (8, true)]);
}

#[test]
fn a_sweep_empties_what_is_idle_and_counts_the_rest_by_backend_and_state() {
    let table = table(128);
    for (entry, backend, seen) in [
        (0, 1, seen(90, SEEN_PACKET, 0, 0)),
        (1, 1, seen(89, SEEN_PACKET, 0, 0)),
        (9, 1, seen(0, BOTH, BOTH, 0)),
        (10, 2, seen(0, BOTH | SEEN_FIN, BOTH | SEEN_FIN, 0)),
        (1000, 2, seen(91, BOTH | SEEN_FIN, BOTH | SEEN_FIN, 0)),
        (1023, 3, seen(80, SEEN_PACKET, SEEN_PACKET, FLOW_UDP)),
    ] {
        put(&table, entry, backend, seen);
    }
    // The third backend's service has a shorter time-out of its own.
    let limits = |backend: BackendId| IdleTicks { udp: if backend == id(3) { 19 } else { 60 }, ..LIMITS };
    let census = sweep(&table, 100, limits);
    assert_eq!((census.expired, census.live), (3, 3));
    assert_eq!((census.active(id(1), FlowState::HalfOpen), census.active(id(1), FlowState::Established)), (1, 1));
    assert_eq!((census.active(id(2), FlowState::Closing), census.of(id(2)), census.of(id(3))), (1, 1, 0));
    let left: Vec<_> = table.records().map(|record| (record.bucket, record.slot, record.backend.raw())).collect();
    assert_eq!(left, [(0, 0, 1), (1, 1, 1), (125, 0, 2)]);
    assert_eq!(sweep(&table, 100, limits).expired, 0);
}

#[test]
fn severing_marks_tcp_forgets_udp_and_leaves_other_backends_alone() {
    let table = table(128);
    let tcp = FlowSeen { source: 7, source_port: Be16::new(4000), ..seen(5, BOTH, BOTH, 0) };
    put(&table, 3, 1, tcp);
    put(&table, 4, 2, tcp);
    put(&table, 5, 1, seen(5, SEEN_PACKET, SEEN_PACKET, FLOW_UDP));
    assert_eq!(table.sever(|backend| backend == id(1)), 2);
    let left: Vec<_> = table.records().map(|record| (record.backend.raw(), record.entry.seen)).collect();
    assert_eq!(left, [(1, FlowSeen { kind: FLOW_SEVER, ..tcp }), (2, tcp)]);
}

#[test]
fn only_what_is_picked_is_forgotten() {
    let table = table(128);
    put(&table, 3, 1, FlowSeen::default());
    put(&table, 12, 2, FlowSeen::default());
    assert_eq!(table.forget(|record| record.bucket == 1 && record.slot == 4), 1);
    assert_eq!(table.records().map(|record| record.backend.raw()).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_table_has_room_for_twice_its_flows() {
    for (max_flows, buckets) in [(1024, 256), (1, 128), (1025, 258), (1 << 20, 1 << 18), (u32::MAX, 1 << 30)] {
        assert_eq!(buckets_for(max_flows), buckets, "{max_flows}");
        assert_eq!(buckets_for(flows_of(buckets)), buckets, "{max_flows}");
    }
}

#[test]
fn a_freed_entry_is_empty_again_after_the_next_sweep_unless_its_neighbour_holds_a_flow_of_its_bucket() {
    let table = table(128);
    let owners = |bucket: u32| table.bucket(bucket).expect("there").entries.map(|entry| entry.owner);
    put(&table, 0, 1, seen(0, SEEN_PACKET, 0, 0));
    put(&table, 16, 1, seen(0, SEEN_PACKET, 0, 0));
    // A flow of bucket 0 in bucket 1; one of bucket 2 in bucket 2.
    put(&table, 8, 1, seen(100, BOTH, BOTH, 0));
    let word = &table.buckets.words()[16];
    word.store(FlowOwner(word.load(Ordering::Relaxed)).in_second().0, Ordering::Relaxed);
    assert_eq!(sweep(&table, 100, |_| LIMITS).expired, 2);
    assert_eq!((owners(0)[0], owners(2)[0]), (FlowOwner::FREED, FlowOwner::FREED));
    assert_eq!(sweep(&table, 100, |_| LIMITS).live, 1);
    assert_eq!((owners(0)[0], owners(2)[0]), (FlowOwner::FREED, FlowOwner::EMPTY));
    table.forget(|_| true);
    sweep(&table, 100, |_| LIMITS);
    // The entry of bucket 1 became a freed one, which is nobody's.
    assert_eq!((owners(0)[0], owners(1)[0]), (FlowOwner::EMPTY, FlowOwner::EMPTY));
}

#[test]
fn the_clock_is_the_packet_programs() {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("procfs");
    let seconds: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    // Uptime counts time asleep too; a machine that runs tests rarely sleeps.
    let expected = Duration::from_secs_f64(seconds).as_nanos() >> FLOW_TICK_SHIFT;
    let expected = u16::try_from(expected & 0xffff).expect("16 bits");
    assert!(now_tick().wrapping_sub(expected).wrapping_add(3) <= 6, "{} {expected}", now_tick());
}

/// Shows what a sweep of a full-sized table costs: `--release … --nocapture`.
#[test]
fn a_million_flows_are_swept_in_a_moment() {
    let table = table(buckets_for(1 << 20));
    let flows = table.entries().step_by(2).enumerate();
    for (nth, (owner, word)) in flows {
        let client = Address::from_v4_wire(u32::try_from(nth).expect("few"));
        let hash = FlowHash::new([1, 2], client, Be16::new(1), ServiceId(0));
        let backend = id(u16::try_from(nth % 100 + 1).expect("few"));
        owner.store(FlowOwner::new(hash, backend).0, Ordering::Relaxed);
        word.store(seen(100, BOTH, BOTH, 0).to_word(), Ordering::Relaxed);
    }
    let start = Instant::now();
    let census = sweep(&table, 101, |_| LIMITS);
    let swept = start.elapsed();
    assert_eq!((census.live, census.expired), (1 << 20, 0));
    let start = Instant::now();
    let severed = table.sever(|backend| backend.raw() <= 50);
    eprintln!("{} flows: swept in {swept:?}; {severed} severed in {:?}", census.live, start.elapsed());
}

#[test]
fn parts_of_the_table_are_together_the_whole() {
    let table = table(128);
    for entry in [0, 7, 8, 511, 512, 1023] {
        put(&table, entry, 1, seen(0, SEEN_PACKET, 0, 0));
    }
    let places =
        |records: &mut dyn Iterator<Item = Record>| records.map(|each| (each.bucket, each.slot)).collect::<Vec<_>>();
    let whole = places(&mut table.records());
    assert_eq!(whole, [(0, 0), (0, 7), (1, 0), (63, 7), (64, 0), (127, 7)]);
    let parts = [0..1, 1..64, 64..128, 128..200];
    assert_eq!(parts.map(|part| places(&mut table.records_in(part))).concat(), whole);
}
