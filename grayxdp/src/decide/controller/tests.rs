//! The controller: tables of cases, then random sequences of events against a model of what must always hold.

use proptest::prelude::*;

use super::*;
use crate::decide::schedule::tests::{any_schedule, hundredths};

fn weight(percent: f64) -> Weight {
    crate::percent::weight_from_percent(percent).expect("a weight")
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// 0, 10, … up to `to`, every 30 s.
fn linear(to: f64) -> Schedule {
    Schedule::Linear { from: weight(0.0), to: weight(to), step: weight(10.0), every: seconds(30) }
}

fn release(state: State, at_s: u64, percent: f64) -> Release {
    Release { state, schedule_time: seconds(at_s), weight: weight(percent), reason: "as given".to_owned() }
}

/// State, schedule time in seconds, weight in hundredths.
fn brief(release: &Release) -> (State, u64, u16) {
    (release.state, release.schedule_time.as_secs(), release.weight.hundredths())
}

#[test]
fn each_event_does_this_in_each_state() {
    use Event::*;
    use State::*;
    let to_full = linear(100.0);
    let to_half = linear(50.0);
    for (schedule, before, event, expected) in [
        (&to_full, release(Idle, 0, 0.0), Start, Some((Progressing, 0, 0))),
        (&to_full, release(RolledBack, 60, 0.0), Start, Some((Progressing, 0, 0))),
        (&to_full, release(Promoted, 300, 100.0), Start, None),
        (&to_full, release(Progressing, 60, 20.0), Start, None),
        (&to_full, release(Frozen, 60, 20.0), Start, None),
        (&to_full, release(Paused, 60, 20.0), Start, None),
        (&to_full, release(Progressing, 60, 20.0), Freeze, Some((Frozen, 60, 2000))),
        (&to_full, release(Frozen, 60, 20.0), Freeze, Some((Frozen, 60, 2000))),
        (&to_half, release(Paused, 150, 50.0), Freeze, Some((Paused, 150, 5000))),
        (&to_full, release(Idle, 0, 0.0), Freeze, None),
        (&to_full, release(RolledBack, 0, 0.0), Freeze, None),
        (&to_full, release(Promoted, 0, 100.0), Freeze, None),
        (&to_full, release(Frozen, 70, 20.0), Resume, Some((Progressing, 70, 2000))),
        // With another weight than the plan has there: between two steps, on a step, above, and below.
        (&to_full, release(Frozen, 70, 12.5), Resume, Some((Progressing, 30, 1250))),
        (&to_full, release(Frozen, 50, 12.5), Resume, Some((Progressing, 50, 1250))),
        (&to_full, release(Frozen, 70, 50.0), Resume, Some((Progressing, 150, 5000))),
        (&to_full, release(Frozen, 70, 0.0), Resume, Some((Progressing, 0, 0))),
        (&to_full, release(Frozen, 70, 100.0), Resume, Some((Promoted, 300, 10_000))),
        (&to_half, release(Frozen, 70, 60.0), Resume, None),
        (&to_half, release(Paused, 150, 50.0), Resume, None),
        (&to_full, release(Progressing, 70, 20.0), Resume, Some((Progressing, 70, 2000))),
        (&to_full, release(Idle, 0, 0.0), Resume, None),
        (&to_full, release(RolledBack, 0, 0.0), Resume, None),
        (&to_full, release(Promoted, 0, 100.0), Resume, None),
        (&to_full, release(Progressing, 29, 0.0), Elapsed(seconds(1)), Some((Progressing, 30, 1000))),
        (&to_full, release(Progressing, 29, 0.0), Elapsed(Duration::ZERO), Some((Progressing, 29, 0))),
        (&to_full, release(Progressing, 299, 90.0), Elapsed(seconds(1)), Some((Promoted, 300, 10_000))),
        (&to_full, release(Progressing, 299, 90.0), Elapsed(Duration::MAX), Some((Promoted, 300, 10_000))),
        (&to_half, release(Progressing, 149, 40.0), Elapsed(seconds(9)), Some((Paused, 150, 5000))),
        (&to_full, release(Frozen, 60, 20.0), Elapsed(seconds(99)), Some((Frozen, 60, 2000))),
        (&to_full, release(Progressing, 60, 20.0), SetWeight(weight(12.5)), Some((Frozen, 30, 1250))),
        (&to_full, release(Idle, 0, 0.0), SetWeight(weight(12.5)), Some((Frozen, 30, 1250))),
        (&to_half, release(Idle, 0, 0.0), SetWeight(weight(60.0)), Some((Frozen, 150, 6000))),
        (&to_full, release(Promoted, 300, 100.0), SetWeight(weight(12.5)), Some((Frozen, 30, 1250))),
        (&Schedule::Manual, release(Idle, 0, 0.0), Start, Some((Progressing, 0, 0))),
        (&Schedule::Manual, release(Idle, 0, 0.0), SetWeight(weight(100.0)), Some((Progressing, 0, 10_000))),
        (&Schedule::Manual, release(Frozen, 9, 30.0), SetWeight(weight(31.0)), Some((Progressing, 9, 3100))),
        (&Schedule::Manual, release(Frozen, 9, 30.0), Resume, Some((Progressing, 9, 3000))),
        (&Schedule::Manual, release(Progressing, 9, 30.0), Elapsed(seconds(1)), Some((Progressing, 10, 3000))),
    ] {
        let after = step(schedule, &before, event);
        assert_eq!(after.as_ref().ok().map(brief), expected, "{before:?} {event:?} {after:?}");
    }
}

#[test]
fn rollback_and_promote_work_from_every_state_and_twice() {
    for state in State::ALL {
        for (event, expected, percent) in
            [(Event::Rollback, State::RolledBack, 0.0), (Event::Promote, State::Promoted, 100.0)]
        {
            let start = if state == expected { percent } else { 30.0 };
            let once = step(&linear(100.0), &release(state, 90, start), event).expect("never refused");
            assert_eq!(brief(&once), (expected, 90, weight(percent).hundredths()), "{state:?} {event:?}");
            assert_eq!(step(&linear(100.0), &once, event), Ok(once), "{state:?} {event:?}");
        }
    }
}

#[test]
fn a_schedule_without_length_ends_when_it_starts() {
    let at_once = Schedule::Step { weights: vec![Weight::FULL], every: seconds(1) };
    let started = step(&at_once, &Release::idle(), Event::Start).expect("idle");
    assert_eq!(brief(&started), (State::Promoted, 0, 10_000));
}

#[test]
fn a_refusal_says_what_to_do() {
    for (state, event, advice) in [
        (State::Promoted, Event::Start, "`rollback`"),
        (State::Frozen, Event::Start, "`resume`"),
        (State::Idle, Event::Freeze, "`start`"),
        (State::Promoted, Event::Resume, "`rollback`"),
        (State::RolledBack, Event::Resume, "`start`"),
    ] {
        let refusal = step(&linear(100.0), &release(state, 0, 0.0), event).expect_err("refused").to_string();
        assert!(refusal.contains(advice), "{state:?} {event:?}: {refusal}");
    }
}

#[test]
fn a_weight_set_between_two_steps_stays_for_a_whole_period_after_resume() {
    let schedule = linear(100.0);
    let run = |events: &[Event]| {
        let last = events.iter().try_fold(Release::idle(), |release, &event| step(&schedule, &release, event));
        brief(&last.expect("fits"))
    };
    use Event::*;
    let set = [Start, Elapsed(seconds(55)), SetWeight(weight(12.5)), Elapsed(seconds(999)), Resume];
    for (then, expected) in [
        (&[][..], (State::Progressing, 30, 1250)),
        (&[Elapsed(seconds(29))], (State::Progressing, 59, 1250)),
        (&[Elapsed(seconds(30))], (State::Progressing, 60, 2000)),
        // A stop in between costs nothing of the period.
        (&[Elapsed(seconds(29)), Freeze, Elapsed(seconds(99)), Resume], (State::Progressing, 59, 1250)),
        (&[Elapsed(seconds(29)), Freeze, Resume, Elapsed(seconds(1))], (State::Progressing, 60, 2000)),
    ] {
        assert_eq!(run(&[&set[..], then].concat()), expected, "{then:?}");
    }
}

/// What a new agent finds, and where the release goes on.
type TakeOver<'a> = (&'a Schedule, Release, Option<f64>, SameSchedule, Option<f64>, (State, u64, u16));

fn assert_taken_over(cases: &[TakeOver<'_>]) {
    for (schedule, stored, raised_from, same, kernel, expected) in cases {
        let (raised_from, kernel) = (raised_from.map(weight), kernel.map(weight));
        let left = Left { stored: stored.clone(), raised_from, kernel, schedule: *same };
        let found = take_over(schedule, left.clone());
        assert_eq!(brief(&found), *expected, "{left:?} {found:?}");
    }
}

#[test]
fn a_new_agent_goes_on_from_here() {
    use SameSchedule::{No, Yes};
    use State::*;
    let schedule = linear(100.0);
    let smooth = Schedule::Smooth { from: weight(0.0), to: weight(100.0), over: seconds(30) };
    assert_taken_over(&[
        // As it was.
        (&schedule, release(Progressing, 70, 20.0), None, Yes, Some(20.0), (Progressing, 70, 2000)),
        (&schedule, release(Progressing, 70, 20.0), Some(10.0), Yes, Some(20.0), (Progressing, 70, 2000)),
        (&schedule, release(Idle, 0, 0.0), None, Yes, None, (Idle, 0, 0)),
        (&schedule, release(Progressing, 70, 20.0), None, Yes, None, (Progressing, 70, 2000)),
        // Somebody else has been there: the lower counts, and a person decides.
        (&schedule, release(Progressing, 70, 20.0), None, Yes, Some(30.0), (Frozen, 60, 2000)),
        (&schedule, release(Progressing, 70, 20.0), None, Yes, Some(50.0), (Frozen, 60, 2000)),
        (&schedule, release(Progressing, 70, 20.0), None, Yes, Some(10.01), (Frozen, 30, 1001)),
        (&smooth, release(Progressing, 15, 50.0), None, Yes, Some(90.0), (Frozen, 14, 5000)),
        (&schedule, release(Frozen, 70, 20.0), None, Yes, Some(30.0), (Frozen, 60, 2000)),
        (&schedule, release(Promoted, 300, 100.0), None, Yes, Some(40.0), (Frozen, 120, 4000)),
        (&schedule, release(Idle, 0, 0.0), None, Yes, Some(40.0), (Frozen, 0, 0)),
        (&Schedule::Manual, release(Progressing, 9, 30.0), None, Yes, Some(20.0), (Frozen, 0, 2000)),
        // Another schedule: its time for the same weight.
        (&schedule, release(Progressing, 7, 20.0), None, No, Some(20.0), (Progressing, 60, 2000)),
        (&schedule, release(Progressing, 7, 20.0), Some(10.0), No, Some(10.0), (Frozen, 30, 1000)),
        (&schedule, release(Progressing, 7, 20.0), None, No, Some(30.0), (Frozen, 60, 2000)),
        (&schedule, release(RolledBack, 7, 0.0), None, No, Some(0.0), (RolledBack, 0, 0)),
    ]);
}

#[test]
fn an_agent_killed_between_two_writes_leaves_this() {
    use SameSchedule::Yes;
    use State::*;
    let schedule = linear(100.0);
    let smooth = Schedule::Smooth { from: weight(0.0), to: weight(100.0), over: seconds(30) };
    assert_taken_over(&[
        // A raise that was stored, and did not reach the kernel: it goes on.
        (&schedule, release(Progressing, 90, 30.0), Some(20.0), Yes, Some(20.0), (Progressing, 60, 2000)),
        (&schedule, release(Progressing, 60, 20.0), Some(12.5), Yes, Some(12.5), (Progressing, 30, 1250)),
        (&smooth, release(Progressing, 15, 50.0), Some(49.5), Yes, Some(49.5), (Progressing, 14, 4950)),
        // A lowering that reached the kernel, and was not stored: somebody wanted less, so no schedule raises it again.
        (&schedule, release(Progressing, 90, 30.0), None, Yes, Some(20.0), (Frozen, 60, 2000)),
        (&schedule, release(Progressing, 90, 30.0), Some(20.0), Yes, Some(10.0), (Frozen, 30, 1000)),
        (&smooth, release(Progressing, 15, 50.0), None, Yes, Some(49.5), (Frozen, 14, 4950)),
        (&smooth, release(Progressing, 15, 50.0), Some(49.5), Yes, Some(49.0), (Frozen, 14, 4900)),
        // A rollback looks like the raise from 0 %: never on its own from there.
        (&schedule, release(Progressing, 30, 10.0), None, Yes, Some(0.0), (Frozen, 0, 0)),
        (&schedule, release(Progressing, 30, 10.0), Some(0.0), Yes, Some(0.0), (Frozen, 0, 0)),
        (&smooth, release(Progressing, 1, 0.33), Some(0.0), Yes, Some(0.0), (Frozen, 0, 0)),
        // Only what follows a schedule goes on by itself.
        (&schedule, release(Frozen, 90, 30.0), Some(20.0), Yes, Some(20.0), (Frozen, 60, 2000)),
        (&schedule, release(Promoted, 90, 100.0), Some(20.0), Yes, Some(20.0), (Frozen, 60, 2000)),
        (&schedule, release(RolledBack, 90, 0.0), None, Yes, Some(30.0), (RolledBack, 90, 0)),
    ]);
}

#[test]
fn every_state_has_a_name_that_leads_back() {
    for state in State::ALL {
        assert_eq!(State::from_name(state.name()), Some(state));
    }
    assert_eq!(State::from_name("moving"), None);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..5_000_000u64).prop_map(|ms| Event::Elapsed(Duration::from_millis(ms))),
        2 => Just(Event::Start),
        1 => Just(Event::Freeze),
        2 => Just(Event::Resume),
        1 => (0..=10_000u16).prop_map(|weight| Event::SetWeight(hundredths(weight))),
        1 => Just(Event::Rollback),
        1 => Just(Event::Promote),
    ]
}

fn any_plan() -> impl Strategy<Value = Schedule> {
    prop_oneof![9 => any_schedule(), 1 => Just(Schedule::Manual)]
}

proptest! {
    #[test]
    fn whatever_happens_these_hold(schedule in any_plan(), events in prop::collection::vec(any_event(), 1..60)) {
        let mut before = Release::idle();
        for event in events {
            let Ok(after) = step(&schedule, &before, event) else {
                // A refused command changes nothing; and these are never refused.
                prop_assert!(matches!(event, Event::Start | Event::Freeze | Event::Resume));
                continue;
            };
            prop_assert!(after.weight <= Weight::FULL);
            prop_assert!(!after.reason.is_empty());
            match event {
                Event::Elapsed(_) if before.state != State::Progressing => prop_assert_eq!(&after, &before),
                Event::Elapsed(_) | Event::Resume => {
                    prop_assert!(after.weight >= before.weight, "no jump down");
                    prop_assert!(event != Event::Resume || after.weight <= before.weight.max(schedule.first_weight()), "no jump up");
                    prop_assert!(after.schedule_time >= before.schedule_time || event == Event::Resume);
                }
                Event::Freeze => prop_assert_eq!((after.weight, after.schedule_time), (before.weight, before.schedule_time)),
                Event::Start => prop_assert_eq!(after.weight, schedule.first_weight()),
                Event::SetWeight(weight) => prop_assert_eq!(after.weight, weight),
                Event::Rollback => prop_assert_eq!((after.state, after.weight), (State::RolledBack, Weight::ZERO)),
                Event::Promote => prop_assert_eq!((after.state, after.weight), (State::Promoted, Weight::FULL)),
            }
            match after.state {
                State::Idle | State::RolledBack => prop_assert_eq!(after.weight, Weight::ZERO),
                State::Promoted => prop_assert_eq!(after.weight, Weight::FULL),
                State::Progressing if schedule != Schedule::Manual => {
                    // Above the plan only within a period: where a person has set it there.
                    prop_assert!(after.weight >= schedule.weight_at(after.schedule_time));
                    let next = schedule.next_change(after.schedule_time);
                    prop_assert!(next.is_none_or(|(_, next)| after.weight < next), "{:?} {:?}", after, next);
                    prop_assert!(Some(after.schedule_time) < schedule.duration());
                }
                State::Paused => prop_assert!(after.weight < Weight::FULL),
                State::Progressing | State::Frozen => {}
            }
            let rolled_back = step(&schedule, &after, Event::Rollback).expect("from every state");
            prop_assert_eq!((rolled_back.state, rolled_back.weight), (State::RolledBack, Weight::ZERO));
            // Commands given twice do no more than given once.
            if let (false, Ok(again)) = (matches!(event, Event::Elapsed(_)), step(&schedule, &after, event)) {
                prop_assert_eq!(again, after.clone());
            }
            before = after;
        }
    }

    #[test]
    fn many_small_ticks_lead_where_one_large_one_does(schedule in any_schedule(), ticks in prop::collection::vec(0..1_000_000u64, 1..30)) {
        let started = step(&schedule, &Release::idle(), Event::Start).expect("idle");
        let tick = |release: Release, ms: u64| step(&schedule, &release, Event::Elapsed(Duration::from_millis(ms))).expect("time passes");
        let total = ticks.iter().sum();
        prop_assert_eq!(ticks.into_iter().fold(started.clone(), tick), tick(started, total));
    }

    #[test]
    fn a_freeze_costs_no_progress_and_skips_none(schedule in any_schedule(), before in 0..1_000_000u64, frozen in 0..1_000_000u64) {
        let elapsed = |ms| Event::Elapsed(Duration::from_millis(ms));
        let run = |events: &[Event]| events.iter().try_fold(Release::idle(), |release, &event| step(&schedule, &release, event));
        let plain = run(&[Event::Start, elapsed(before)]).expect("fits");
        if plain.state == State::Progressing {
            let stopped = run(&[Event::Start, elapsed(before), Event::Freeze, elapsed(frozen), Event::Resume]).expect("fits");
            prop_assert_eq!((stopped.weight, stopped.schedule_time), (plain.weight, plain.schedule_time));
        }
    }

    #[test]
    fn a_take_over_never_raises_the_weight(
        schedule in any_plan(),
        state in 0..6usize,
        at_ms in any::<u32>(),
        stored in 0..=10_000u16,
        raised_from in prop::option::of(0..=10_000u16),
        same in any::<bool>(),
        kernel in 0..=10_000u16,
    ) {
        let state = State::ALL[state];
        let release = Release { state, schedule_time: Duration::from_millis(at_ms.into()), weight: hundredths(stored), reason: "as given".to_owned() };
        let same = if same { SameSchedule::Yes } else { SameSchedule::No };
        let left = Left { stored: release, raised_from: raised_from.map(hundredths), kernel: Some(hundredths(kernel)), schedule: same };
        let found = take_over(&schedule, left);
        prop_assert!(found.weight <= hundredths(kernel).min(hundredths(stored)));
        if found.state == State::Progressing && kernel != stored {
            prop_assert!(raised_from == Some(kernel) && kernel != 0);
        }
    }
}
