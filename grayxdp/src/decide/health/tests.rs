//! The state machine by tables and properties; the plan of probes over hours, without a clock.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// `+` passed, `-` failed. What the backend is after each.
fn healths(initial: Health, rules: &Rules, outcomes: &str) -> String {
    let mut streak = Streak::new(initial);
    let letter = |outcome| {
        streak = streak.after(if outcome == '+' { Outcome::Passed } else { Outcome::Failed }, rules);
        if streak.health() == Health::Live { 'L' } else { 'D' }
    };
    outcomes.chars().map(letter).collect()
}

#[test]
fn a_backend_changes_exactly_at_rise_and_fall() {
    for (initial, rise, fall, outcomes, expected) in [
        (Health::Live, 2, 3, "---", "LLD"),
        (Health::Live, 2, 3, "--+---", "LLLLLD"),
        (Health::Live, 2, 3, "----++", "LLDDDL"),
        (Health::Live, 2, 3, "---+-++", "LLDDDDL"),
        (Health::Live, 1, 1, "-+-+", "DLDL"),
        (Health::Live, 1, 2, "-+-+--+", "LLLLLDL"),
        (Health::Down, 2, 3, "++", "DL"),
        (Health::Down, 2, 3, "+-+-+-++", "DDDDDDDL"),
        (Health::Down, 3, 1, "+++-+++", "DDLDDDL"),
    ] {
        let rules = Rules::new(SECOND, rise, fall);
        assert_eq!(healths(initial, &rules, outcomes), expected, "{initial:?} {rise} {fall} {outcomes}");
    }
}

#[test]
fn alternating_outcomes_never_change_anything() {
    for (rise, fall) in [(2, 2), (2, 3), (5, 2)] {
        let rules = Rules::new(SECOND, rise, fall);
        assert_eq!(healths(Health::Live, &rules, &"-+".repeat(500)), "L".repeat(1000));
        assert_eq!(healths(Health::Down, &rules, &"+-".repeat(500)), "D".repeat(1000));
    }
}

proptest! {
    /// A second implementation that looks at the whole history.
    #[test]
    fn a_change_has_exactly_so_many_equal_outcomes_before_it(
        rise in 1_u32..6, fall in 1_u32..6, passed in vec(any::<bool>(), 0..200), live in any::<bool>(),
    ) {
        let rules = Rules::new(SECOND, rise, fall);
        let mut streak = Streak::new(if live { Health::Live } else { Health::Down });
        let mut changed_at = 0;
        for end in 1..=passed.len() {
            let before = streak.health();
            let outcome = if passed[end - 1] { Outcome::Passed } else { Outcome::Failed };
            streak = streak.after(outcome, &rules);
            let (against, needed) = if before == Health::Live { (false, fall) } else { (true, rise) };
            let since = &passed[changed_at..end];
            let in_a_row = since.iter().rev().take_while(|passed| **passed == against).count();
            prop_assert_eq!(streak.health() != before, in_a_row == needed as usize);
            if streak.health() != before {
                changed_at = end;
            }
        }
    }
}

#[test]
fn rules_are_never_zero() {
    let rules = Rules::new(Duration::ZERO, 0, 0);
    assert_eq!((rules.every(), rules.rise(), rules.fall()), (EVERY_MIN, 1, 1));
}

fn id(last: u32) -> Id {
    Id { service: 0, backend: SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 | last), 8080)) }
}

fn subject(last: u32, version: Version) -> Subject<u8> {
    Subject { id: id(last), version, rules: Rules::new(2 * SECOND, 2, 3), plan: 0, initial: Health::Live }
}

/// Many backends of one version.
fn roster(count: u32) -> Roster<u8> {
    let mut roster = Roster::default();
    roster.replace(Duration::ZERO, (0..count).map(|last| subject(last, Version::V1)).collect());
    roster
}

/// Begins the next probe when it is due.
fn begin_next(roster: &mut Roster<u8>) -> Ticket {
    let due = roster.next_due().expect("one waits");
    roster.begin(due).expect("it is due").0
}

#[test]
fn a_thousand_backends_are_probed_once_a_period_and_not_in_a_burst() {
    const WINDOW: Duration = Duration::from_millis(10);
    let mut roster = roster(1000);
    let mut begun: HashMap<Id, Vec<Duration>> = HashMap::new();
    let mut by_window: HashMap<u128, u32> = HashMap::new();
    while let Some(due) = roster.next_due().filter(|due| *due < 20 * SECOND) {
        let (ticket, _) = roster.begin(due).expect("it is due");
        begun.entry(ticket.id).or_default().push(due);
        *by_window.entry(due.as_nanos() / WINDOW.as_nanos()).or_default() += 1;
        roster.end(ticket, Outcome::Passed);
    }
    assert_eq!(begun.len(), 1000);
    for (id, moments) in begun {
        assert_eq!(moments.len(), 10, "{id:?}");
        assert!(moments[0] < 2 * SECOND, "{id:?} {moments:?}");
        assert!(moments.windows(2).all(|pair| pair[1] - pair[0] == 2 * SECOND), "{id:?} {moments:?}");
    }
    // On average there are 5; by chance alone the fullest of 200 windows has more than 20 once in many thousands.
    let fullest = by_window.values().max();
    assert!(fullest <= Some(&20), "{fullest:?}");
}

#[test]
fn the_phase_is_of_the_backend_and_not_of_its_place_in_the_list() {
    let mut few = roster(3);
    let mut many = Roster::default();
    many.replace(Duration::ZERO, (0..100).rev().map(|last| subject(last, Version::V1)).collect());
    let due = |roster: &mut Roster<u8>| {
        let mut due = HashMap::new();
        while let Some(moment) = roster.next_due() {
            let (ticket, _) = roster.begin(moment).expect("due");
            due.insert(ticket.id, moment);
        }
        due
    };
    let (few, many) = (due(&mut few), due(&mut many));
    assert!(few.iter().all(|(id, moment)| many[id] == *moment), "{few:?}");
    assert_ne!(few[&id(0)], few[&id(1)]);
    let tcp_and_udp = [0, 1].map(|service| phase(Id { service, ..id(0) }, &Rules::new(SECOND, 1, 1)));
    assert_ne!(tcp_and_udp[0], tcp_and_udp[1]);
}

#[test]
fn nothing_begins_before_it_is_due_nor_twice() {
    let mut roster = roster(1);
    let due = roster.next_due().expect("one waits");
    assert!(roster.begin(due - Duration::from_nanos(1)).is_none());
    let (ticket, _) = roster.begin(due).expect("due");
    assert_eq!(roster.next_due(), None);
    assert!(roster.begin(due + 100 * SECOND).is_none(), "the first probe has not ended");
    roster.end(ticket, Outcome::Passed);
    assert_eq!(roster.next_due(), Some(due + 2 * SECOND));
}

#[test]
fn late_probes_keep_the_phase_and_half_a_period_between_them() {
    for (late_ms, next_ms) in [(0, 2000), (999, 2000), (1000, 2000), (1001, 4000), (2500, 4000), (60_000, 62_000)] {
        let mut roster = roster(1);
        let due = roster.next_due().expect("one waits");
        let (ticket, _) = roster.begin(due + Duration::from_millis(late_ms)).expect("due");
        roster.end(ticket, Outcome::Passed);
        assert_eq!(roster.next_due(), Some(due + Duration::from_millis(next_ms)), "{late_ms} ms late");
    }
}

#[test]
fn the_longest_overdue_begins_first() {
    let mut roster = roster(50);
    let moment = 100 * SECOND;
    let mut order = Vec::new();
    while let Some((ticket, _)) = roster.begin(moment) {
        order.push(phase(ticket.id, &Rules::new(2 * SECOND, 2, 3)));
    }
    assert_eq!(order.len(), 50);
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn when_the_last_backend_of_a_version_goes_down_the_change_says_so() {
    let mut roster = Roster::default();
    let versions = [Version::V1, Version::V1, Version::V2];
    roster.replace(Duration::ZERO, (0..).zip(versions).map(|(last, version)| subject(last, version)).collect());
    let mut changes = Vec::new();
    for _ in 0..9 {
        let ticket = begin_next(&mut roster);
        changes.extend(roster.end(ticket, Outcome::Failed));
    }
    assert_eq!(changes.len(), 3);
    let of_v1: Vec<_> = changes.iter().filter(|change| change.version == Version::V1).collect();
    assert_eq!(of_v1[0].pool, PoolHealth { live: 1, all: 2 });
    assert!(!of_v1[0].pool.is_all_down());
    assert!(of_v1[1].pool.is_all_down());
    assert!(roster.pool(0, Version::V2).is_all_down());
    assert!(!roster.pool(1, Version::V1).is_all_down(), "what is not watched is not down");
}

#[test]
fn what_was_called_off_counts_nothing() {
    let mut roster = roster(1);
    for outcome in [Some(Outcome::Failed), None, Some(Outcome::Failed), None, None] {
        let ticket = begin_next(&mut roster);
        match outcome {
            Some(outcome) => assert_eq!(roster.end(ticket, outcome), None),
            None => roster.call_off(ticket),
        }
    }
    let ticket = begin_next(&mut roster);
    assert_eq!(
        roster.end(ticket, Outcome::Failed).map(|change| change.health),
        Some(Health::Down),
        "the third failure"
    );
    assert_eq!(roster.end(ticket, Outcome::Passed), None, "it has ended already");
    roster.call_off(ticket);
    assert!(!roster.is_wanted(ticket));
}

/// What happens to the only backend between two failures and a third.
#[test]
fn who_stays_keeps_its_health_and_who_stays_as_it_was_its_streak_and_probe() {
    let as_it_was = subject(0, Version::V1);
    let later = 10 * SECOND;
    for (what, subjects, is_wanted, third_ejects) in [
        ("as it was", vec![as_it_was.clone()], true, true),
        ("another initial state", vec![Subject { initial: Health::Down, ..as_it_was.clone() }], true, true),
        ("another version", vec![Subject { version: Version::V2, ..as_it_was.clone() }], true, true),
        ("a second backend", vec![subject(1, Version::V1), as_it_was.clone()], true, true),
        ("another way to probe", vec![Subject { plan: 1, ..as_it_was.clone() }], false, false),
        ("other rules", vec![Subject { rules: Rules::new(3 * SECOND, 2, 3), ..as_it_was.clone() }], false, false),
        ("named twice", vec![Subject { plan: 1, ..as_it_was.clone() }, as_it_was], false, false),
        ("gone", vec![subject(1, Version::V1)], false, false),
    ] {
        let mut roster = roster(1);
        for _ in 0..2 {
            let ticket = begin_next(&mut roster);
            roster.end(ticket, Outcome::Failed);
        }
        let ticket = begin_next(&mut roster);
        let count = subjects.iter().map(|subject| subject.id).collect::<BTreeSet<_>>().len();
        roster.replace(later, subjects);
        assert_eq!(roster.is_wanted(ticket), is_wanted, "{what}");
        assert_eq!(roster.waiting.len(), count - usize::from(is_wanted), "{what}");
        assert_eq!(roster.end(ticket, Outcome::Failed).is_some(), third_ejects, "{what}");
        assert_eq!((roster.entries.len(), roster.waiting.len()), (count, count), "{what}");
    }
}

#[test]
fn who_is_down_stays_down_when_its_check_changes_and_who_is_new_begins_as_told() {
    let mut roster = roster(1);
    for _ in 0..3 {
        let ticket = begin_next(&mut roster);
        roster.end(ticket, Outcome::Failed);
    }
    let changed = Subject { plan: 1, version: Version::V2, ..subject(0, Version::V1) };
    let new = Subject { initial: Health::Down, ..subject(1, Version::V1) };
    roster.replace(10 * SECOND, vec![changed, new]);
    assert_eq!(roster.pool(0, Version::V1), PoolHealth { live: 0, all: 1 });
    assert_eq!(roster.pool(0, Version::V2), PoolHealth { live: 0, all: 1 });
    assert!(roster.next_due().is_some_and(|due| (10 * SECOND..12 * SECOND).contains(&due)));
    roster.replace(20 * SECOND, Vec::new());
    assert_eq!((roster.next_due(), roster.entries.len()), (None, 0));
}

#[test]
fn moments_at_the_end_of_time_do_no_harm() {
    let rules = Rules::new(Duration::MAX, 1, 1);
    assert!(not_before(Duration::MAX, phase(id(0), &rules), &rules) >= Duration::from_nanos(u64::MAX));
    let mut roster = roster(1);
    let (ticket, _) = roster.begin(Duration::MAX).expect("long due");
    roster.end(ticket, Outcome::Passed);
    assert!(roster.next_due().is_some());
}
