//! Rows without a kernel: sums, what becomes of those who leave, and what a new agent takes over.

use grayxdp_common::{
    histogram::bucket_of,
    ids::Be16,
    layout::{Address, Endpoint},
};

use super::*;
use crate::kernel::inventory::ServiceSlot;

const SHAPE: Shape = Shape { stripes: 2, rows: 8, services: 2 };

fn rows(shape: Shape) -> Rows {
    Rows { shape, rows: Mapped::private(shape.row_count()), groups: Mapped::private(shape.group_count()) }
}

fn id(raw: u16) -> BackendId {
    BackendId::from_raw(raw).expect("not zero")
}

fn endpoint(last: u8, port: u16) -> Endpoint {
    Endpoint::new(Address::from(std::net::IpAddr::from([10, 0, 0, last])), Be16::new(port), 6)
}

fn entry(number: u8, service: u16, version: Version) -> BackendEntry {
    BackendEntry { endpoint: endpoint(number, 80), service, version: version as u8, ..BackendEntry::default() }
}

/// Counts as the packet program does.
fn count(rows: &Rows, stripe: u32, id: BackendId, flows: u64, handshake_us: &[u32]) {
    let index = stripe * u32::from(rows.shape.rows) + u32::from(id.raw());
    let mut row = rows.rows.load(index).expect("a row");
    row.counts[Signal::Flows as usize] += flows;
    for &us in handshake_us {
        let bucket = bucket_of(us);
        row.times[Timing::Handshake as usize][bucket] += 1;
        row.lines[Timing::Handshake as usize] |= 1 << (bucket / BUCKETS_PER_LINE);
    }
    rows.rows.store(index, &row);
}

fn signals(rows: &Rows, indices: impl Iterator<Item = u32> + Clone) -> Signals {
    Signals::from(&rows.sum(indices))
}

fn past(rows: &Rows, service: u32, version: Version) -> Signals {
    signals(rows, rows.shape.past_row(ServiceId(service), version).into_iter())
}

#[test]
fn every_row_has_a_place_of_its_own() {
    let mut places: Vec<u32> = (1..SHAPE.rows).flat_map(|raw| SHAPE.rows_of(id(raw))).collect();
    for service in 0..u32::from(SHAPE.services) {
        places.extend(Version::ALL.iter().filter_map(|version| SHAPE.past_row(ServiceId(service), *version)));
    }
    places.sort_unstable();
    let unique = places.windows(2).all(|two| two[0] != two[1]);
    assert!(unique && places.last().is_some_and(|last| *last < SHAPE.row_count()), "{places:?}");
    // Who has no place counts nowhere.
    assert_eq!((SHAPE.rows_of(id(8)).count(), SHAPE.past_row(ServiceId(2), Version::V1)), (0, None));
}

#[test]
fn stripes_are_added() {
    let rows = rows(SHAPE);
    count(&rows, 0, id(3), 5, &[10, 900]);
    count(&rows, 1, id(3), 2, &[10, u32::MAX]);
    count(&rows, 2, id(3), 1, &[]);
    count(&rows, 1, id(4), 100, &[7]);
    let sum = signals(&rows, SHAPE.rows_of(id(3)));
    assert_eq!((sum.counts.flows, sum.handshake.count()), (8, 4));
    assert_eq!((sum.handshake.buckets()[bucket_of(10)], sum.duration.count()), (2, 0));
    assert_eq!(sum.handshake.buckets()[HISTOGRAM_BUCKETS - 1], 1);
    // Read in place, once and again.
    let mut read = Signals::default();
    rows.read_into(SHAPE.rows_of(id(3)), &mut read);
    assert_eq!(read, sum);
    count(&rows, 1, id(3), 4, &[10, 5_000]);
    rows.read_into(SHAPE.rows_of(id(3)), &mut read);
    assert_eq!(read, signals(&rows, SHAPE.rows_of(id(3))));
}

#[test]
fn who_leaves_a_version_leaves_behind_what_was_counted_there() {
    let rows = rows(SHAPE);
    count(&rows, 0, id(3), 5, &[10]);
    count(&rows, 1, id(3), 2, &[]);
    rows.retire(id(3), Some(&entry(3, 1, Version::V2)));
    assert_eq!(signals(&rows, SHAPE.rows_of(id(3))), Signals::default());
    let left = past(&rows, 1, Version::V2);
    assert_eq!((left.counts.flows, left.handshake.count()), (7, 1));
    count(&rows, 0, id(3), 1, &[]);
    rows.retire(id(3), Some(&entry(3, 1, Version::V2)));
    assert_eq!(past(&rows, 1, Version::V2).counts.flows, 8);
    assert_eq!(past(&rows, 1, Version::V1), Signals::default());
}

/// Open connections are counted while their backend is given to another version: by a CPU that has read a count before,
/// and writes it back afterwards; and by one that counts while rows are read.
#[test]
fn what_is_counted_while_a_backend_changes_its_version_is_counted_once() {
    let rows = rows(SHAPE);
    let (v1, v2) = (entry(3, 1, Version::V1), entry(3, 1, Version::V2));
    count(&rows, 0, id(3), 1_000, &[10; 50]);
    let word = |nth| rows.rows.word(u32::from(id(3).raw()), nth).expect("a row");
    let bucket = TIMES + Timing::Handshake as usize * HISTOGRAM_BUCKETS + bucket_of(10);
    let (flows, times) = (word(Signal::Flows as usize), word(bucket));
    let read = [flows, times].map(|word| word.load(Ordering::Relaxed));
    rows.retire(id(3), Some(&v2));
    assert_eq!(signals(&rows, SHAPE.rows_of(id(3))), Signals::default());
    for (word, read) in [flows, times].into_iter().zip(read) {
        word.store(read + 1, Ordering::Relaxed);
    }
    let now = signals(&rows, SHAPE.rows_of(id(3)));
    assert_eq!((now.counts.flows, now.handshake.count(), now.handshake.buckets()[bucket_of(10)]), (1, 1, 1));
    let before = past(&rows, 1, Version::V2);
    assert_eq!((before.counts.flows, before.handshake.count()), (1_000, 50));

    const COUNTED: u64 = 200_000;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..COUNTED {
                flows.store(flows.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            stop.store(true, Ordering::Release);
        });
        for former in [&v1, &v2].into_iter().cycle() {
            if stop.load(Ordering::Acquire) {
                break;
            }
            rows.retire(id(3), Some(former));
        }
    });
    let all = [past(&rows, 1, Version::V1), past(&rows, 1, Version::V2), signals(&rows, SHAPE.rows_of(id(3)))];
    assert_eq!(all.iter().map(|signals| signals.counts.flows).sum::<u64>(), 1_001 + COUNTED);
    // The next agent adds what is left to the version that the backend serves last.
    let numbered = Numbered {
        services: vec![(ServiceId(0), endpoint(100, 80)), (ServiceId(1), endpoint(101, 80))],
        backends: vec![(id(3), v1)],
        ..Numbered::default()
    };
    let slot = |(id, endpoint)| ServiceSlot { id, endpoint, known: true, canary_replaced: false };
    let inventory = Inventory {
        services: numbered.services.iter().copied().map(slot).collect(),
        retired: vec![(id(3), v1)],
        ..Inventory::default()
    };
    let next = self::rows(SHAPE);
    next.inherit(std::slice::from_ref(&rows), &numbered, &inventory);
    assert_eq!(signals(&next, SHAPE.rows_of(id(3))), all[2]);
    assert_eq!(past(&next, 1, Version::V2), all[1]);
}

#[test]
fn a_new_agent_goes_on_where_the_last_one_ended_whatever_the_shape() {
    let former = rows(SHAPE);
    for (raw, flows) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
        count(&former, 0, id(raw), flows, &[10]);
        count(&former, 2, id(raw), 1, &[]);
    }
    former.retire(id(5), Some(&entry(5, 0, Version::V1)));
    former.add_group_error(SHAPE.groups_of(ServiceId(0), Version::V1).next().expect("one"), 9);
    let services = [(ServiceId(0), endpoint(100, 80)), (ServiceId(1), endpoint(101, 80))];
    let numbered = Numbered {
        services: services.to_vec(),
        backends: vec![
            // Stays; becomes v1's; left; its service left.
            (id(1), entry(1, 0, Version::V1)),
            (id(2), entry(2, 0, Version::V2)),
            (id(3), entry(3, 0, Version::V2)),
            (id(4), entry(4, 1, Version::V1)),
        ],
        ..Numbered::default()
    };
    let slot = |id, endpoint| ServiceSlot { id, endpoint, known: true, canary_replaced: false };
    let inventory = Inventory {
        services: vec![slot(services[0].0, services[0].1)],
        retired: vec![(id(1), entry(1, 0, Version::V1)), (id(2), entry(2, 0, Version::V1))],
        ..Inventory::default()
    };
    let now = rows(Shape { stripes: 3, rows: 5, services: 1 });
    // Twice: the former program goes on counting in between.
    now.inherit(std::slice::from_ref(&former), &numbered, &inventory);
    count(&former, 1, id(1), 100, &[]);
    count(&now, 0, id(1), 1000, &[]);
    now.inherit(std::slice::from_ref(&former), &numbered, &inventory);
    let flows = |raw| signals(&now, now.shape.rows_of(id(raw))).counts.flows;
    assert_eq!([1, 2, 3, 4].map(flows), [1111, 0, 0, 0]);
    assert_eq!(past(&now, 0, Version::V1).counts.flows, 0);
    assert_eq!(past(&now, 0, Version::V2).counts.flows, 21 + 31);
    let errors: u64 = now.groups(now.shape.groups_of(ServiceId(0), Version::V1)).iter().map(|one| one.errors).sum();
    assert_eq!(errors, 1);
}

#[test]
fn counts_have_the_names_of_their_signals() {
    let mut slots = [0; SIGNAL_SLOTS];
    for (slot, value) in slots.iter_mut().zip(1..) {
        *slot = value;
    }
    let named = counts(&slots).named();
    assert_eq!(named.len(), Signal::ALL.len());
    for ((name, value), (signal, expected)) in named.into_iter().zip(Signal::ALL.into_iter().zip(1..)) {
        assert_eq!((name, value), (signal.name(), expected));
    }
}

/// Of this thread.
fn cpu_time() -> std::time::Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.try_into().expect("not before zero")
}

/// Shows what a reading costs where everything moves and where nothing does: `--release … --nocapture`.
#[test]
#[expect(clippy::print_stdout, reason = "it is there to be read")]
#[ignore = "a measurement"]
fn reading_costs() {
    const BACKENDS: u16 = 4095;
    let shape = Shape { stripes: 2, rows: BACKENDS + 1, services: 100 };
    let rows = rows(shape);
    let of = |raw: u16| (id(raw), entry(0, raw % 100, if raw % 200 < 100 { Version::V1 } else { Version::V2 }));
    let inventory = Inventory { retired: (1..=BACKENDS).map(of).collect(), ..Inventory::default() };
    let mut cache = SignalCache::default();
    let mut read = |what: &str| {
        let began = cpu_time();
        let moved = cache.refresh(&rows, &inventory);
        let services = (0..100).filter(|service| moved.as_ref().is_none_or(|moved| moved.contains(service)));
        let sums = cache.versions(&rows, services);
        let flows: u64 = sums.values().flatten().map(|signals| signals.counts.flows).sum();
        println!("{what}: {:?} of CPU, {flows} flows", cpu_time() - began);
    };
    let times: Vec<u32> = (0..200).map(|nth| 200 + nth * 40).collect();
    let move_all = || (1..=BACKENDS).for_each(|raw| (0..2).for_each(|stripe| count(&rows, stripe, id(raw), 3, &times)));
    move_all();
    read("first");
    move_all();
    read("all moved");
    read("none moved");
    count(&rows, 0, id(7), 1, &times);
    read("one moved");
}
