//! The controller: tables of cases, then random sequences of events against a model of what must always hold.

use proptest::prelude::*;

use super::*;
use crate::decide::{
    plan::{Order, Plan},
    schedule::Schedule,
    schedule::tests::{any_schedule, hundredths},
    shards::{Sharding, Shards},
    weights::tests::any_weights,
};

/// All shards together: what one schedule says.
fn together(schedule: &Schedule) -> Plan<'_> {
    Plan { schedule, order: Order::Together, shards: Shards::new(&Sharding::Hash, 4) }
}

/// Nothing but the plan.
fn step_bare(plan: Plan<'_>, release: &Release, event: Event) -> Result<Release, Refusal> {
    super::step(Terms { plan, policy: &Policy::bare() }, release, event)
}

fn step(schedule: &Schedule, release: &Release, event: Event) -> Result<Release, Refusal> {
    step_bare(together(schedule), release, event)
}

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
    Release {
        state,
        schedule_time: seconds(at_s),
        weights: Weights::equal(weight(percent)),
        reason: "as given".to_owned(),
        ..Release::idle()
    }
}

/// State, schedule time in seconds, weight in hundredths.
fn brief(release: &Release) -> (State, u64, u16) {
    (release.state, release.schedule_time.as_secs(), release.weights.mean().hundredths())
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
        let after = step(schedule, &before, event.clone());
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
            let once = step(&linear(100.0), &release(state, 90, start), event.clone()).expect("never refused");
            assert_eq!(brief(&once), (expected, 90, weight(percent).hundredths()), "{state:?} {event:?}");
            assert_eq!(step(&linear(100.0), &once, event.clone()), Ok(once), "{state:?} {event:?}");
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
        let refusal = step(&linear(100.0), &release(state, 0, 0.0), event.clone()).expect_err("refused").to_string();
        assert!(refusal.contains(advice), "{state:?} {event:?}: {refusal}");
    }
}

#[test]
fn a_weight_set_between_two_steps_stays_for_a_whole_period_after_resume() {
    let schedule = linear(100.0);
    let run = |events: &[Event]| {
        let last = events.iter().try_fold(Release::idle(), |release, event| step(&schedule, &release, event.clone()));
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
type TakeOver<'a> = (&'a Schedule, Release, Option<f64>, Same, Option<f64>, (State, u64, u16));

fn assert_taken_over(cases: &[TakeOver<'_>]) {
    for (schedule, stored, raised_from, same, kernel, expected) in cases {
        let (raised_from, kernel) = (raised_from.map(weight), kernel.map(weight));
        let (raised_from, kernel) = (raised_from.map(Weights::equal), kernel.map(Weights::equal));
        let left = Left { stored: stored.clone(), raised_from, kernel, schedule: *same, shards: Same::Yes };
        let found = take_over(together(schedule), left.clone());
        assert_eq!(brief(&found), *expected, "{left:?} {found:?}");
    }
}

#[test]
fn a_new_agent_goes_on_from_here() {
    use Same::{No, Yes};
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
    use Same::Yes;
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
fn shards_that_differ_are_taken_over_one_by_one() {
    let schedule = linear(100.0);
    let weights = |percents: [u16; 4]| Weights::of_shards(percents.map(|percent| hundredths(percent * 100)).to_vec());
    for (stored, raised_from, shards, kernel, expected) in [
        // Killed before, and in the middle of, the kernel's writes of a raise.
        ([30, 20, 20, 10], Some([20, 20, 20, 10]), Same::Yes, [20, 20, 20, 10], (State::Progressing, [20, 20, 20, 10])),
        ([30, 30, 30, 30], Some([20, 20, 20, 20]), Same::Yes, [30, 30, 20, 20], (State::Progressing, [30, 30, 20, 20])),
        // In the middle of a rollback, or of another lowering.
        ([30, 30, 30, 30], Some([20, 20, 20, 20]), Same::Yes, [0, 0, 30, 30], (State::Frozen, [0, 0, 30, 30])),
        ([30, 30, 30, 30], None, Same::Yes, [20, 20, 30, 30], (State::Frozen, [20, 20, 30, 30])),
        ([30, 20, 20, 10], None, Same::Yes, [20, 30, 30, 10], (State::Frozen, [20, 20, 20, 10])),
        // The shards are others now.
        ([30, 20, 20, 10], None, Same::No, [30, 20, 20, 10], (State::Frozen, [10, 10, 10, 10])),
        ([30, 30, 30, 30], None, Same::No, [30, 30, 30, 30], (State::Progressing, [30, 30, 30, 30])),
    ] {
        let stored = Release { weights: weights(stored), ..release(State::Progressing, 90, 30.0) };
        let left = Left {
            stored,
            raised_from: raised_from.map(weights),
            kernel: Some(weights(kernel)),
            schedule: Same::Yes,
            shards,
        };
        let found = take_over(together(&schedule), left.clone());
        assert_eq!((found.state, found.weights), (expected.0, weights(expected.1)), "{left:?}");
    }
}

#[test]
fn one_shard_can_be_set_by_hand_and_the_plan_goes_on_with_all() {
    let schedule = linear(100.0);
    let plan = Plan { order: Order::OneByOne, ..together(&schedule) };
    let weights = |percents: [u16; 4]| Weights::of_shards(percents.map(|percent| hundredths(percent * 100)).to_vec());
    let mut release = Release::idle();
    for (event, state, at_s, expected) in [
        (Event::Start, State::Progressing, 0, [0, 0, 0, 0]),
        (Event::Elapsed(seconds(330)), State::Progressing, 330, [100, 10, 0, 0]),
        (Event::SetShardWeight { shard: 3, weight: weight(20.0) }, State::Frozen, 330, [100, 10, 0, 20]),
        (Event::Resume, State::Progressing, 330, [100, 10, 0, 20]),
        (Event::Elapsed(seconds(30)), State::Progressing, 360, [100, 20, 0, 20]),
        // Back to the first shard, whose turn it is again.
        (Event::SetShardWeight { shard: 0, weight: weight(50.0) }, State::Frozen, 150, [50, 20, 0, 20]),
        (Event::Resume, State::Progressing, 150, [50, 20, 0, 20]),
        (Event::Elapsed(seconds(150)), State::Progressing, 300, [100, 20, 0, 20]),
        (Event::Elapsed(seconds(900)), State::Promoted, 1200, [100, 100, 100, 100]),
    ] {
        release = step_bare(plan, &release, event.clone()).expect("fits");
        let found = (release.state, release.schedule_time, &release.weights);
        assert_eq!(found, (state, seconds(at_s), &weights(expected)), "{event:?}");
    }
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
        1 => (0..4usize, 0..=10_000u16).prop_map(|(shard, weight)| Event::SetShardWeight { shard, weight: hundredths(weight) }),
        1 => Just(Event::Rollback),
        1 => Just(Event::Promote),
    ]
}

fn any_plan() -> impl Strategy<Value = Schedule> {
    prop_oneof![9 => any_schedule(), 1 => Just(Schedule::Manual)]
}

proptest! {
    #[test]
    fn whatever_happens_these_hold(schedule in any_plan(), one_by_one in any::<bool>(), events in prop::collection::vec(any_event(), 1..60)) {
        let order = if one_by_one { Order::OneByOne } else { Order::Together };
        let plan = Plan { order, ..together(&schedule) };
        let step = |before: &Release, event: Event| step_bare(plan, before, event);
        let mut before = Release::idle();
        for event in events {
            let Ok(after) = step(&before, event.clone()) else {
                // A refused command changes nothing; and these are never refused.
                prop_assert!(matches!(event, Event::Start | Event::Freeze | Event::Resume));
                continue;
            };
            prop_assert!(after.weights.at_most(&Weights::FULL));
            prop_assert!(!after.reason.is_empty());
            match event.clone() {
                Event::Elapsed(_) if before.state != State::Progressing => prop_assert_eq!(&after, &before),
                Event::Elapsed(_) | Event::Resume => {
                    prop_assert!(before.weights.at_most(&after.weights), "no jump down");
                    let most = before.weights.max(&Weights::equal(schedule.first_weight()));
                    prop_assert!(event != Event::Resume || after.weights.at_most(&most), "no jump up");
                    prop_assert!(after.schedule_time >= before.schedule_time || event == Event::Resume);
                }
                Event::Freeze => {
                    prop_assert_eq!((&after.weights, after.schedule_time), (&before.weights, before.schedule_time));
                }
                Event::Start => prop_assert!(Weights::equal(schedule.first_weight()).at_most(&after.weights)),
                Event::SetWeight(weight) => prop_assert_eq!(&after.weights, &Weights::equal(weight)),
                Event::SetShardWeight { shard, weight } => {
                    for each in 0..4 {
                        let expected = if each == shard { weight } else { before.weights.of(each) };
                        prop_assert_eq!(after.weights.of(each), expected);
                    }
                }
                Event::Rollback => prop_assert_eq!((after.state, &after.weights), (State::RolledBack, &Weights::ZERO)),
                Event::Promote => prop_assert_eq!((after.state, &after.weights), (State::Promoted, &Weights::FULL)),
                event => prop_assert!(false, "no event of this test: {:?}", event),
            }
            match after.state {
                State::Idle | State::RolledBack | State::RollingBack | State::Failed => prop_assert_eq!(&after.weights, &Weights::ZERO),
                State::Promoted => prop_assert_eq!(&after.weights, &Weights::FULL),
                State::Progressing if schedule != Schedule::Manual => {
                    // Above the plan only within a period: where a person has set it there.
                    prop_assert!(plan.weights_at(after.schedule_time).at_most(&after.weights));
                    let next = plan.next_change(after.schedule_time);
                    // A shard ahead of the plan waits for it, also when the others have reached it since; else each
                    // change raises something.
                    let ahead = after.weights != plan.weights_at(after.schedule_time);
                    let waits = after.weights.differing().is_some() || (one_by_one && ahead);
                    prop_assert!(waits || next.is_none_or(|(_, next)| !next.at_most(&after.weights)), "{:?}", after);
                    prop_assert!(Some(after.schedule_time) < plan.duration());
                }
                State::Paused => prop_assert!(after.weights != Weights::FULL),
                State::Progressing | State::Frozen => {}
            }
            let rolled_back = step(&after, Event::Rollback).expect("from every state");
            prop_assert_eq!((rolled_back.state, rolled_back.weights), (State::RolledBack, Weights::ZERO));
            // Commands given twice do no more than given once.
            if let (false, Ok(again)) = (matches!(event, Event::Elapsed(_)), step(&after, event)) {
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
        let run = |events: &[Event]| events.iter().try_fold(Release::idle(), |release, event| step(&schedule, &release, event.clone()));
        let plain = run(&[Event::Start, elapsed(before)]).expect("fits");
        if plain.state == State::Progressing {
            let stopped = run(&[Event::Start, elapsed(before), Event::Freeze, elapsed(frozen), Event::Resume]).expect("fits");
            prop_assert_eq!((stopped.weights, stopped.schedule_time), (plain.weights, plain.schedule_time));
        }
    }

    #[test]
    fn a_take_over_never_raises_a_weight(
        schedule in any_plan(),
        state in 0..State::ALL.len(),
        at_ms in any::<u32>(),
        stored in any_weights(4),
        raised_from in prop::option::of(any_weights(4)),
        same in any::<[bool; 2]>(),
        kernel in any_weights(4),
    ) {
        let state = State::ALL[state];
        let release = Release { state, schedule_time: Duration::from_millis(at_ms.into()), weights: stored.clone(), reason: "as given".to_owned(), ..Release::idle() };
        let [same_schedule, same_shards] = same.map(Same::when);
        let left = Left { stored: release, raised_from: raised_from.clone(), kernel: Some(kernel.clone()), schedule: same_schedule, shards: same_shards };
        let found = take_over(together(&schedule), left);
        prop_assert!(found.weights.at_most(&kernel.min(&stored)));
        if found.state == State::Progressing && kernel != stored && same_shards == Same::Yes {
            for shard in (0..4).filter(|&shard| kernel.of(shard) != stored.of(shard)) {
                let from = raised_from.as_ref().map(|from| from.of(shard));
                prop_assert!(from == Some(kernel.of(shard)) && kernel.of(shard) != Weight::ZERO);
            }
        }
    }
}
