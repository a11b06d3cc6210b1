//! Rows without a kernel: sums, what becomes of those who leave, and what a new agent takes over.

use std::collections::HashSet;

use grayxdp_common::{
    histogram::{HISTOGRAM_BUCKETS, bucket_of},
    ids::{Be16, Version},
    layout::{Address, BUCKETS_PER_LINE, CLIENT_GROUPS, Endpoint, SIGNAL_SLOTS, Timing},
};

use super::{
    rows::{Sinks, TIMES, counts},
    *,
};
use crate::{
    decide::signals::{GroupCounts, Signals},
    kernel::{
        BackendSetup, Standing,
        inventory::{BackendSlot, Inventory, Numbered, ServiceSlot},
    },
};

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
    let (mut read, mut both) = (Signals::default(), sum.clone());
    let mut read_again = |rows: &Rows| {
        let places = Sinks { signals: &mut read, sum: &mut both };
        rows.read_into(SHAPE.rows_of(id(3)), &rows.counts(SHAPE.rows_of(id(3))), places);
        (read.clone(), both.clone())
    };
    let (read, both) = read_again(&rows);
    assert_eq!((read, both.counts.flows, both.handshake.count()), (sum.clone(), 16, 8));
    count(&rows, 1, id(3), 4, &[10, 5_000]);
    let (read, both) = read_again(&rows);
    assert_eq!(read, signals(&rows, SHAPE.rows_of(id(3))));
    assert_eq!((both.counts.flows, both.handshake.count()), (20, 10));
}

/// Backends of two services whose counts grow, who change their version, and who leave.
#[test]
fn a_versions_sums_are_those_of_its_backends_and_of_former_ones() {
    let rows = rows(SHAPE);
    let mut cache = SignalCache::default();
    let mut backends: Vec<_> = (1..8)
        .map(|raw| (id(raw), entry(1, u16::from(raw > 4), if raw % 2 == 0 { Version::V2 } else { Version::V1 })))
        .collect();
    let mut read = [[Signals::default(), Signals::default()], [Signals::default(), Signals::default()]];
    for round in 0..40_u32 {
        let nth = round as usize * 5 % backends.len();
        for (busy, (id, _)) in backends.iter().enumerate().filter(|(busy, _)| *busy == nth || round % 3 == 0) {
            count(&rows, round % 2, *id, u64::from(round) + 1, &[round * 40, 10_000 >> busy]);
        }
        let (id, entry) = backends[nth];
        if round % 7 == 6 {
            rows.retire(id, Some(&entry));
            backends[nth].1.version = if entry.serves() == Version::V1 { Version::V2 } else { Version::V1 } as u8;
        } else if round % 11 == 10 {
            rows.retire(id, Some(&entry));
            backends.remove(nth);
        }
        let inventory = Inventory { retired: backends.clone(), ..Inventory::default() };
        let moved = cache.refresh(&rows, &inventory);
        for number in (0..2).filter(|number| moved.as_ref().is_none_or(|moved| moved.contains(number))) {
            for version in Version::ALL {
                let sums = &mut read[usize::from(number)][version as usize];
                cache.version(&rows, number, version, sums);
                let is_its =
                    |(_, entry): &&(BackendId, BackendEntry)| entry.service == number && entry.serves() == version;
                let mut expected = past(&rows, number.into(), version);
                backends.iter().filter(is_its).for_each(|(id, _)| expected.add(&signals(&rows, SHAPE.rows_of(*id))));
                expected.groups.resize(CLIENT_GROUPS, GroupCounts::default());
                assert_eq!(*sums, expected, "round {round}, service {number}, {version:?}");
            }
        }
    }
    let flows: u64 = read.iter().flatten().map(|signals| signals.counts.flows).sum();
    assert!(flows > 1_000 && backends.len() < 6, "{flows} {}", backends.len());
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
fn who_left_is_named_no_more_even_if_it_was_the_last_one() {
    let rows = rows(SHAPE);
    let slot = |raw: u8| BackendSlot {
        id: id(raw.into()),
        service: 0,
        version: Version::V2,
        setup: BackendSetup {
            address: std::net::SocketAddr::from(([10, 0, 0, raw], 80)),
            weight: 1,
            standing: Standing::Serving,
        },
        entry: entry(raw, 0, Version::V2),
    };
    let mut inventory = Inventory { backends: vec![slot(1), slot(2)], ..Inventory::default() };
    count(&rows, 0, id(1), 3, &[]);
    count(&rows, 0, id(2), 4, &[]);
    let mut cache = SignalCache::default();
    assert_eq!(cache.refresh(&rows, &inventory), None, "all is new");
    assert_eq!(cache.refresh(&rows, &inventory), Some(HashSet::new()), "nothing has moved");
    inventory.retired = inventory.backends.drain(1..).map(|slot| (slot.id, slot.entry)).collect();
    assert_eq!(cache.refresh(&rows, &inventory), None);
    let addresses: Vec<_> = cache.readings.backends.iter().map(|backend| backend.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:80"]);
    let mut v2 = Signals::default();
    cache.version(&rows, 0, Version::V2, &mut v2);
    assert_eq!(v2.counts.flows, 7, "what it had counted stays its version's");
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
