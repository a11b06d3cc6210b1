//! The controller with its policy: tables of scenes, then random sequences of events against what must always hold.

use proptest::prelude::*;

use super::*;
use crate::decide::{
    evidence::NotYet,
    plan::{Order, Plan},
    schedule::{
        Millionths, Schedule,
        tests::{any_schedule, hundredths},
    },
    shards::{Sharding, Shards},
};

const SHARDS: usize = 4;

fn plan(schedule: &Schedule, order: Order) -> Plan<'_> {
    Plan { schedule, order, shards: Shards::new(&Sharding::Hash, 4) }
}

fn weight(percent: u16) -> Weight {
    hundredths(percent * 100)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// 0, 10, … up to `to`, every 30 s.
fn linear(to: u16) -> Schedule {
    Schedule::Linear { from: weight(0), to: weight(to), step: weight(10), every: seconds(30) }
}

fn evidence() -> Box<Evidence> {
    Box::new(Evidence {
        signal: "errors".to_owned(),
        rule: "e-process".to_owned(),
        n1: 900,
        n2: 100,
        e1: 1,
        e2: 50,
        ratio: Some(450.0),
        interval: Some((60.0, 3000.0)),
        value: 1e9,
        limit: 100.0,
        backend: None,
        lately: None,
    })
}

fn not_yet() -> Event {
    Event::Judged(Judgement::NotYet(NotYet::default()))
}

fn no_worse() -> Event {
    Event::Judged(Judgement::NoWorse(evidence()))
}

fn harmful() -> Event {
    Event::Judged(Judgement::Harmful(evidence()))
}

fn external(hold: Option<&str>) -> Event {
    Event::External(External { hold: hold.map(str::to_owned), ..External::default() })
}

fn judged() -> Policy {
    Policy { analysis: Analysis { enabled: true, ..Policy::bare().analysis }, ..Policy::bare() }
}

/// A release on its way: what happens, and then state, schedule time in seconds, and weight in hundredths.
fn assert_scene(policy: &Policy, schedule: &Schedule, scene: &[(Event, (State, u64, u16))]) -> Release {
    let terms = Terms { plan: plan(schedule, Order::Together), policy };
    let mut release = Release::idle();
    for (index, (event, expected)) in scene.iter().enumerate() {
        release = step(terms, &release, event.clone()).unwrap_or_else(|refusal| panic!("{index} {event:?}: {refusal}"));
        let found = (release.state, release.schedule_time.as_secs(), release.weights.mean().hundredths());
        assert_eq!(found, *expected, "{index} {event:?}: {release:?}");
    }
    release
}

fn elapsed(passed: u64) -> Event {
    Event::Elapsed(seconds(passed))
}

use State::{Failed, Frozen, Paused, Progressing, Promoted, RolledBack, RollingBack};

#[test]
fn nothing_is_raised_before_the_judge_has_spoken_or_long_after() {
    let end = assert_scene(
        &judged(),
        &linear(100),
        &[
            (Event::Start, (Progressing, 0, 0)),
            (elapsed(60), (Progressing, 0, 0)),
            (not_yet(), (Progressing, 0, 0)),
            (elapsed(30), (Progressing, 30, 1000)),
            // The judge's last word is 30 s old.
            (elapsed(30), (Progressing, 30, 1000)),
            (not_yet(), (Progressing, 30, 1000)),
            (elapsed(2), (Progressing, 32, 1000)),
            (elapsed(1), (Progressing, 33, 1000)),
            (elapsed(1), (Progressing, 34, 1000)),
            (elapsed(1), (Progressing, 34, 1000)),
        ],
    );
    assert_eq!(end.outside.held.expect("held").rule, Rule::NoData);
}

#[test]
fn harm_rolls_back_or_freezes_and_nothing_goes_up_without_a_person() {
    let to_harm = [
        (Event::Start, (Progressing, 0, 0)),
        (no_worse(), (Progressing, 0, 0)),
        (elapsed(31), (Progressing, 31, 1000)),
    ];
    let rolled_back = [
        (harmful(), (RolledBack, 31, 0)),
        (harmful(), (RolledBack, 31, 0)),
        (no_worse(), (RolledBack, 31, 0)),
        (elapsed(99), (RolledBack, 31, 0)),
        // Again, from the beginning, and not before the judge has spoken anew.
        (Event::Start, (Progressing, 0, 0)),
        (elapsed(31), (Progressing, 0, 0)),
    ];
    let end = assert_scene(&judged(), &linear(100), &[&to_harm[..], &rolled_back].concat());
    assert_eq!(end.rule, Rule::Command);
    let mut freezes = judged();
    freezes.analysis.on_failure = OnFailure::Freeze;
    let frozen = [
        (harmful(), (Frozen, 31, 1000)),
        (harmful(), (Frozen, 31, 1000)),
        (no_worse(), (Frozen, 31, 1000)),
        (elapsed(99), (Frozen, 31, 1000)),
    ];
    let end = assert_scene(&freezes, &linear(100), &[&to_harm[..], &frozen].concat());
    assert!(end.reason.contains("errors v2/v1 450.0") && end.reason.contains("`resume`"), "{}", end.reason);
    let terms_plan = linear(100);
    let terms = Terms { plan: plan(&terms_plan, Order::Together), policy: &freezes };
    let resumed = step(terms, &end, Event::Resume).expect("a person may");
    assert!(needs_new_evidence(&end, &resumed) && resumed.outside.verdict.is_none());
}

#[test]
fn a_fault_of_both_and_what_cannot_be_trusted_hold_until_they_clear() {
    for trouble in [Judgement::BothBad(evidence()), Judgement::Untrusted(evidence())] {
        let rule = if matches!(trouble, Judgement::BothBad(_)) { Rule::BothBad } else { Rule::Untrusted };
        let scene = [
            (Event::Start, (Progressing, 0, 0)),
            (not_yet(), (Progressing, 0, 0)),
            (elapsed(29), (Progressing, 29, 0)),
            (Event::Judged(trouble), (Progressing, 29, 0)),
            (elapsed(60), (Progressing, 29, 0)),
        ];
        let held = assert_scene(&judged(), &linear(100), &scene).outside.held.expect("held");
        assert_eq!(held.rule, rule);
        assert!(held.why.contains("errors v2/v1"), "{}", held.why);
        let clears = [(not_yet(), (Progressing, 29, 0)), (elapsed(1), (Progressing, 30, 1000))];
        let end = assert_scene(&judged(), &linear(100), &[&scene[..], &clears].concat());
        assert_eq!((end.outside.held, end.progress.held), (None, Duration::ZERO));
    }
}

#[test]
fn other_systems_hold_and_fail_a_release() {
    let held = [
        (Event::Start, (Progressing, 0, 0)),
        (external(Some("the change board has not said yes")), (Progressing, 0, 0)),
        (elapsed(60), (Progressing, 0, 0)),
        (external(None), (Progressing, 0, 0)),
        (elapsed(30), (Progressing, 30, 1000)),
    ];
    let fails = Event::External(External { fail: Some(evidence()), ..External::default() });
    let failed = [&held[..], &[(fails, (RolledBack, 30, 0))]].concat();
    let end = assert_scene(&Policy::bare(), &linear(100), &failed);
    assert_eq!((end.rule, end.rule.cause().name()), (Rule::ExternalFailure, "external"));
    // What was asked for before the start holds after it.
    let before = [
        (external(Some("not on Fridays")), (State::Idle, 0, 0)),
        (Event::Start, (Progressing, 0, 0)),
        (elapsed(60), (Progressing, 0, 0)),
    ];
    assert_scene(&Policy::bare(), &linear(100), &before);
}

#[test]
fn a_blown_fuse_rolls_back_whatever_the_config_says() {
    let mut freezes = judged();
    freezes.analysis.on_failure = OnFailure::Freeze;
    let blown = Event::FuseBlown(evidence());
    let end = assert_scene(
        &freezes,
        &linear(100),
        &[
            (blown.clone(), (State::Idle, 0, 0)),
            (Event::SetWeight(weight(20)), (Frozen, 60, 2000)),
            (blown.clone(), (RolledBack, 60, 0)),
            (blown, (RolledBack, 60, 0)),
        ],
    );
    assert_eq!(end.rule.cause(), Cause::Fuse);
}

#[test]
fn a_proof_makes_the_schedule_run_faster_and_its_loss_does_not_jump() {
    let mut policy = judged();
    policy.analysis.accelerate = Millionths(2_500_000);
    assert_scene(
        &policy,
        &linear(100),
        &[
            (Event::Start, (Progressing, 0, 0)),
            (no_worse(), (Progressing, 0, 0)),
            (elapsed(10), (Progressing, 25, 0)),
            (no_worse(), (Progressing, 25, 0)),
            (elapsed(2), (Progressing, 30, 1000)),
            (not_yet(), (Progressing, 30, 1000)),
            (elapsed(29), (Progressing, 59, 1000)),
            (not_yet(), (Progressing, 59, 1000)),
            (elapsed(1), (Progressing, 60, 2000)),
        ],
    );
}

#[test]
fn a_raise_waits_for_the_hold_after_the_last_one_and_not_longer() {
    let policy = Policy { hold: seconds(50), ..Policy::bare() };
    assert_scene(
        &policy,
        &linear(100),
        &[
            (Event::Start, (Progressing, 0, 0)),
            // The first raise has none before it.
            (elapsed(30), (Progressing, 30, 1000)),
            (elapsed(30), (Progressing, 60, 1000)),
            (elapsed(19), (Progressing, 60, 1000)),
            (elapsed(1), (Progressing, 60, 2000)),
            (elapsed(49), (Progressing, 90, 2000)),
            (Event::Freeze, (Frozen, 90, 2000)),
            (elapsed(99), (Frozen, 90, 2000)),
            // Nothing is lost or won by a freeze in the middle.
            (Event::Resume, (Progressing, 90, 2000)),
            (elapsed(1), (Progressing, 90, 3000)),
            // A long time at once is two raises, 50 s apart.
            (elapsed(100), (Progressing, 150, 5000)),
        ],
    );
    let shorter = Policy { hold: seconds(30), ..Policy::bare() };
    let alone = assert_scene(
        &shorter,
        &linear(100),
        &[(Event::Start, (Progressing, 0, 0)), (elapsed(95), (Progressing, 95, 3000))],
    );
    assert_eq!(alone.progress.since_raise, seconds(5));
}

#[test]
fn a_large_step_is_taken_in_parts() {
    let policy = Policy { max_step: Some(weight(15)), ..Policy::bare() };
    let steps = Schedule::Step { weights: vec![weight(20), weight(60), weight(100)], every: seconds(30) };
    assert_scene(
        &policy,
        &steps,
        &[
            (Event::Start, (Progressing, 0, 1500)),
            (Event::Elapsed(Duration::from_millis(999)), (Progressing, 0, 1500)),
            (Event::Elapsed(Duration::from_millis(1)), (Progressing, 0, 2000)),
            (elapsed(30), (Progressing, 30, 3500)),
            (Event::Freeze, (Frozen, 30, 3500)),
            (Event::Resume, (Progressing, 30, 3500)),
            (elapsed(1), (Progressing, 30, 5000)),
            (elapsed(1), (Progressing, 30, 6000)),
            (elapsed(33), (Promoted, 60, 10_000)),
        ],
    );
}

#[test]
fn gates_stop_a_release_until_they_are_approved_or_over() {
    let gate = |at: u16, pause: Pause| Gate { at: weight(at), pause };
    let gates = vec![gate(15, Pause::Approve), gate(30, Pause::For(seconds(60))), gate(100, Pause::Approve)];
    let policy = Policy { gates, ..Policy::bare() };
    let schedule = linear(100);
    let end = assert_scene(
        &policy,
        &schedule,
        &[
            (Event::Start, (Progressing, 0, 0)),
            // The step to 20 % would go beyond the gate.
            (elapsed(70), (Paused, 60, 1500)),
            (elapsed(999), (Paused, 60, 1500)),
            (Event::Approve, (Progressing, 60, 1500)),
            (elapsed(1), (Progressing, 61, 2000)),
            (elapsed(29), (Paused, 90, 3000)),
            (elapsed(40), (Paused, 90, 3000)),
            (Event::Freeze, (Frozen, 90, 3000)),
            (elapsed(99), (Frozen, 90, 3000)),
            (Event::Resume, (Paused, 90, 3000)),
            (elapsed(19), (Paused, 90, 3000)),
            (elapsed(1), (Progressing, 90, 3000)),
            (elapsed(29), (Progressing, 119, 3000)),
            (elapsed(1), (Progressing, 120, 4000)),
            (elapsed(500), (Paused, 300, 10_000)),
            (Event::Approve, (Progressing, 300, 10_000)),
            (elapsed(1), (Promoted, 300, 10_000)),
        ],
    );
    assert_eq!(end.rule, Rule::ScheduleEnd);

    let terms = Terms { plan: plan(&schedule, Order::Together), policy: &policy };
    let at_gate =
        assert_scene(&policy, &schedule, &[(Event::Start, (Progressing, 0, 0)), (elapsed(70), (Paused, 60, 1500))]);
    let waits = wait(terms, &at_gate).expect("for a person");
    assert!(waits.needs_person && waits.what.contains("15.00 %") && waits.what.contains("`approve`"), "{waits:?}");
    let refusal = step(terms, &at_gate, Event::Resume).expect_err("not by that").to_string();
    assert!(refusal.contains("15.00 %") && refusal.contains("`approve`"), "{refusal}");
    let refusal = step(terms, &Release::idle(), Event::Approve).expect_err("no gate").to_string();
    assert!(refusal.contains("nothing to approve"), "{refusal}");
    // Who sets a weight beyond a gate has been there.
    let beyond = [
        (Event::SetWeight(weight(15)), (Frozen, 30, 1500)),
        (Event::Resume, (Progressing, 30, 1500)),
        (elapsed(30), (Progressing, 60, 2000)),
    ];
    assert_scene(&policy, &schedule, &beyond);
    // A config without the gate lets through.
    let open = Policy { gates: Vec::new(), ..policy.clone() };
    let opened = step(Terms { policy: &open, ..terms }, &at_gate, elapsed(1)).expect("time passes");
    assert_eq!((opened.state, opened.rule), (Progressing, Rule::GateOver));
}

#[test]
fn a_release_is_promoted_when_100_percent_has_gone_well_and_harm_undoes_it_for_a_while() {
    let policy = Policy { promote_after: seconds(60), rollback_window: seconds(100), ..judged() };
    let promoted = [
        (Event::Start, (Progressing, 0, 0)),
        (not_yet(), (Progressing, 0, 0)),
        (elapsed(300), (Progressing, 300, 10_000)),
        (not_yet(), (Progressing, 300, 10_000)),
        (elapsed(59), (Progressing, 300, 10_000)),
        // What goes wrong in between begins the time anew.
        (Event::Judged(Judgement::BothBad(evidence())), (Progressing, 300, 10_000)),
        (elapsed(1), (Progressing, 300, 10_000)),
        (not_yet(), (Progressing, 300, 10_000)),
        (elapsed(59), (Progressing, 300, 10_000)),
        (not_yet(), (Progressing, 300, 10_000)),
        (elapsed(1), (Promoted, 300, 10_000)),
    ];
    let end = assert_scene(&policy, &linear(100), &promoted);
    assert_eq!(end.rule, Rule::PromoteAfter);
    let within = [(elapsed(99), (Promoted, 300, 10_000)), (harmful(), (RolledBack, 300, 0))];
    assert_scene(&policy, &linear(100), &[&promoted[..], &within].concat());
    let after = [(elapsed(100), (Promoted, 300, 10_000)), (harmful(), (Promoted, 300, 10_000))];
    assert_scene(&policy, &linear(100), &[&promoted[..], &after].concat());
    // By hand, too.
    let by_hand = [(Event::Promote, (Promoted, 0, 10_000)), (harmful(), (RolledBack, 0, 0))];
    assert_scene(&policy, &linear(100), &by_hand);
}

#[test]
fn deadlines_freeze_or_fail() {
    let mut policy = judged();
    policy.analysis.freeze_after = Some(seconds(40));
    let undecided = [
        (Event::Start, (Progressing, 0, 0)),
        (not_yet(), (Progressing, 0, 0)),
        // At 0 % there is nothing to compare.
        (elapsed(30), (Progressing, 30, 1000)),
        (not_yet(), (Progressing, 30, 1000)),
        (elapsed(39), (Progressing, 69, 2000)),
        (not_yet(), (Progressing, 69, 2000)),
        (elapsed(1), (Frozen, 69, 2000)),
        (Event::Resume, (Progressing, 69, 2000)),
        (no_worse(), (Progressing, 69, 2000)),
        (elapsed(21), (Progressing, 90, 3000)),
        (not_yet(), (Progressing, 90, 3000)),
        (elapsed(39), (Progressing, 129, 4000)),
    ];
    let frozen = assert_scene(&policy, &linear(100), &undecided[..7]);
    assert!(frozen.rule.is_deadline() && frozen.reason.contains("40s"), "{frozen:?}");
    assert_scene(&policy, &linear(100), &undecided);

    for (on_deadline, state, percent) in [(OnDeadline::Freeze, Frozen, 1000), (OnDeadline::Fail, Failed, 0)] {
        let policy = Policy { progress_deadline: Some(seconds(60)), on_deadline, ..Policy::bare() };
        let held_up = [
            (Event::Start, (Progressing, 0, 0)),
            (elapsed(30), (Progressing, 30, 1000)),
            (external(Some("not now")), (Progressing, 30, 1000)),
            (elapsed(59), (Progressing, 30, 1000)),
            (external(None), (Progressing, 30, 1000)),
            (elapsed(1), (Progressing, 31, 1000)),
            (external(Some("not now")), (Progressing, 31, 1000)),
            (elapsed(60), (state, 31, percent)),
        ];
        let end = assert_scene(&policy, &linear(100), &held_up);
        assert_eq!(end.rule, Rule::ProgressDeadline);
        assert!(end.reason.contains("not now") && end.reason.contains("1m"), "{}", end.reason);
    }
}

#[test]
fn a_rollback_that_the_kernel_has_not_taken_yet_says_so() {
    let schedule = linear(100);
    let end = assert_scene(
        &Policy::bare(),
        &schedule,
        &[
            (Event::SetWeight(weight(20)), (Frozen, 60, 2000)),
            (Event::WeightsRefused, (Frozen, 60, 2000)),
            (Event::Rollback, (RolledBack, 60, 0)),
            (Event::WeightsRefused, (RollingBack, 60, 0)),
            (elapsed(9), (RollingBack, 60, 0)),
        ],
    );
    let terms = Terms { plan: plan(&schedule, Order::Together), policy: &Policy::bare() };
    assert!(matches!(step(terms, &end, Event::Start), Err(Refusal::StillRollingBack)));
    let taken = step(terms, &end, Event::WeightsTaken).expect("never refused");
    assert_eq!((taken.state, taken.rule), (RolledBack, Rule::Command));
    let failed = Release { rule: Rule::ProgressDeadline, ..end };
    assert_eq!(step(terms, &failed, Event::WeightsTaken).map(|release| release.state), Ok(Failed));
}

#[test]
fn what_is_waited_for_is_said_with_the_time_that_it_takes() {
    let schedule = linear(100);
    let mut policy = Policy { hold: seconds(50), max_step: Some(weight(7)), promote_after: seconds(60), ..judged() };
    policy.analysis.accelerate = Millionths(2_000_000);
    let at = |state: State, at_s: u64, percent: u16| Release {
        state,
        schedule_time: seconds(at_s),
        weights: Weights::equal(weight(percent)),
        outside: Outside { verdict: Some(Verdict::NoWorse), ..Outside::default() },
        progress: Progress { since_raise: seconds(45), healthy: seconds(20), ..Progress::default() },
        ..Release::idle()
    };
    for (release, expected, time) in [
        (at(Progressing, 40, 10), "the next step, to 17.00 %", Some(10)),
        (at(Progressing, 58, 10), "the next step, to 17.00 %", Some(5)),
        (at(Progressing, 60, 17), "the next step, to 20.00 %", Some(5)),
        (at(Progressing, 300, 100), "gone well", Some(40)),
        (at(Frozen, 60, 20), "a person", None),
        (at(Paused, 60, 20), "`promote` or `rollback`", None),
        (at(RollingBack, 60, 0), "the kernel", None),
    ] {
        let found = wait(Terms { plan: plan(&schedule, Order::Together), policy: &policy }, &release).expect("waits");
        assert!(found.what.contains(expected), "{release:?}: {found:?}");
        // To the second below.
        assert_eq!(found.time.map(|time| time.as_millis() / 1000), time, "{found:?}");
    }
    for state in [State::Idle, RolledBack, Failed, Promoted] {
        assert_eq!(wait(Terms { plan: plan(&schedule, Order::Together), policy: &policy }, &at(state, 0, 0)), None);
    }
}

#[test]
fn a_promotion_is_open_for_its_whole_window_whoever_may_find_harm() {
    let schedule = linear(100);
    for enabled in [true, false] {
        let mut policy = Policy { rollback_window: seconds(100), ..Policy::bare() };
        policy.analysis.enabled = enabled;
        let terms = Terms { plan: plan(&schedule, Order::Together), policy: &policy };
        let promoted = step(terms, &Release::idle(), Event::Promote).expect("promoted");
        let at = |passed: u64| step(terms, &promoted, elapsed(passed)).expect("time passes");
        let left = wait(terms, &at(40)).and_then(|wait| wait.time);
        assert_eq!((left, is_open(&policy, &at(40))), (Some(seconds(60)), true), "{enabled}");
        let blown = step(terms, &at(99), Event::FuseBlown(evidence())).expect("observed");
        assert_eq!((blown.state, wait(terms, &at(99)).is_some()), (RolledBack, true), "{enabled}");
        assert_eq!((wait(terms, &at(100)), is_open(&policy, &at(100))), (None, false), "{enabled}");
    }
}

#[test]
fn every_rule_has_a_name_that_leads_back_and_progress_survives_the_store() {
    for rule in Rule::ALL {
        assert_eq!(Rule::from_name(rule.name()), Some(rule));
    }
    let progress = Progress {
        since_raise: Duration::from_millis(1500),
        gates_passed: weight(10),
        at_gate: Some(Duration::ZERO),
        not_yet: seconds(1),
        held: seconds(2),
        healthy: seconds(3),
        since_promotion: seconds(4),
    };
    assert_eq!(progress.to_string().parse(), Ok(progress));
    assert_eq!(Progress::default().to_string(), "");
    for wrong in ["held", "held=x", "held=-1", "hold=1", "gates_passed=10001"] {
        assert!(wrong.parse::<Progress>().is_err(), "{wrong}");
    }
}

fn any_judgement() -> impl Strategy<Value = Judgement> {
    prop_oneof![
        1 => Just(Judgement::Harmful(evidence())),
        1 => Just(Judgement::BothBad(evidence())),
        1 => Just(Judgement::Untrusted(evidence())),
        4 => Just(Judgement::NoWorse(evidence())),
        6 => Just(Judgement::NotYet(NotYet::default())),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let wait = || prop::option::weighted(0.3, Just("wait".to_owned()));
    prop_oneof![
        12 => (0..20_000u64).prop_map(|ms| Event::Elapsed(Duration::from_millis(ms))),
        12 => any_judgement().prop_map(Event::Judged),
        2 => (wait(), any::<bool>()).prop_map(|(hold, fails)| {
            Event::External(External { hold, fail: fails.then(evidence), freeze: None })
        }),
        1 => Just(Event::FuseBlown(evidence())),
        1 => Just(Event::WeightsRefused),
        1 => Just(Event::WeightsTaken),
        3 => Just(Event::Start),
        1 => Just(Event::Freeze),
        3 => Just(Event::Resume),
        3 => Just(Event::Approve),
        1 => (0..=10_000u16).prop_map(|weight| Event::SetWeight(hundredths(weight))),
        1 => (0..SHARDS, 0..=10_000u16).prop_map(|(shard, weight)| Event::SetShardWeight { shard, weight: hundredths(weight) }),
        1 => Just(Event::Rollback),
        1 => Just(Event::Promote),
    ]
}

fn any_length() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), (1..60_000u64).prop_map(Duration::from_millis)]
}

fn any_gates() -> impl Strategy<Value = Vec<Gate>> {
    let pause = prop_oneof![Just(Pause::Approve), (1..60u64).prop_map(|time| Pause::For(seconds(time)))];
    prop::collection::btree_map(1..=10_000u16, pause, 0..3)
        .prop_map(|gates| gates.into_iter().map(|(at, pause)| Gate { at: hundredths(at), pause }).collect())
}

prop_compose! {
    fn any_policy()(
        enabled in any::<bool>(),
        freezes in any::<bool>(),
        freeze_after in prop::option::of(any_length()),
        accelerate in 1_000_000..5_000_000u32,
        hold in any_length(),
        max_step in prop::option::of(1..=10_000u16),
        gates in any_gates(),
        promote_after in any_length(),
        progress_deadline in prop::option::of(any_length()),
        fails in any::<bool>(),
        rollback_window in any_length(),
    ) -> Policy {
        Policy {
            analysis: Analysis {
                enabled,
                on_failure: if freezes { OnFailure::Freeze } else { OnFailure::Rollback },
                freeze_after,
                accelerate: Millionths(accelerate),
                ..Policy::bare().analysis
            },
            hold,
            max_step: max_step.map(hundredths),
            gates,
            promote_after,
            progress_deadline,
            on_deadline: if fails { OnDeadline::Fail } else { OnDeadline::Freeze },
            rollback_window,
            asks_first: false,
        }
    }
}

/// What the test keeps in mind of what has happened, apart from the controller.
struct Memory {
    /// Harm was found, and no person has said anything since that may raise a weight.
    harm: bool,
    /// Since the last word of the judge, if there was one since the release began.
    judged: Option<Duration>,
    trouble: bool,
    hold: bool,
    since_raise: Duration,
}

/// What holds when time passes.
fn assert_time_is_harmless(
    terms: Terms<'_>,
    memory: &Memory,
    before: &Release,
    after: &Release,
    passed: Duration,
) -> Result<(), TestCaseError> {
    let Terms { plan, policy } = terms;
    let raised = !after.weights.at_most(&before.weights);
    if after.state != Failed {
        prop_assert!(before.weights.at_most(&after.weights), "time lowers nothing but a failed release");
    }
    prop_assert!(after.schedule_time >= before.schedule_time);
    let speed = if policy.analysis.enabled { f64::from(policy.analysis.accelerate.0) / 1e6 } else { 1.0 };
    let gone = (after.schedule_time - before.schedule_time).as_secs_f64();
    prop_assert!(gone <= passed.as_secs_f64() * speed + 1e-6, "no jump in schedule time: {gone} in {passed:?}");
    prop_assert!(
        after.weights.at_most(&before.weights.max(&plan.weights_at(after.schedule_time))),
        "never above the plan: {after:?}"
    );
    if gone > 0.0 || raised {
        prop_assert_eq!(before.state, Progressing);
        prop_assert!(!memory.hold && !memory.trouble, "held: {:?}", before);
        let fresh = memory.judged.is_some_and(|age| age <= FRESH_MAX);
        prop_assert!(!policy.analysis.enabled || fresh, "never on missing data: {:?}", before);
    }
    if raised {
        prop_assert!(!memory.harm, "never up after harm");
        prop_assert!(memory.since_raise.saturating_add(passed) >= policy.hold);
        let shut = policy.gates.iter().find(|gate| gate.at > before.progress.gates_passed);
        let most = shut.map_or(Weight::FULL, |gate| gate.at).max(before.weights.highest());
        prop_assert!(after.weights.highest() <= most, "no further than the gate");
        if let Some(step) = policy.max_step {
            let parts = passed.as_secs().max(1).saturating_add(1);
            let most = u64::from(step.hundredths()) * parts;
            for shard in 0..SHARDS {
                let raise = after.weights.of(shard).hundredths() - before.weights.of(shard).hundredths();
                // Planned steps that are small enough may come one after the other.
                let planned = plan.weights_at(before.schedule_time).of(shard) <= before.weights.of(shard);
                prop_assert!(planned || u64::from(raise) <= most, "{raise} in {passed:?}");
            }
        }
    }
    if after.state == Promoted && before.state != Promoted {
        prop_assert_eq!(&after.weights, &Weights::FULL);
        prop_assert!(before.state == Progressing);
        prop_assert!(before.progress.healthy.saturating_add(passed) >= policy.promote_after);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_found_and_said_these_hold(
        schedule in prop_oneof![9 => any_schedule(), 1 => Just(Schedule::Manual)],
        one_by_one in any::<bool>(),
        policy in any_policy(),
        events in prop::collection::vec(any_event(), 1..80),
    ) {
        let order = if one_by_one { Order::OneByOne } else { Order::Together };
        let terms = Terms { plan: plan(&schedule, order), policy: &policy };
        let mut memory =
            Memory { harm: false, judged: None, trouble: false, hold: false, since_raise: Duration::MAX };
        let mut before = Release::idle();
        for event in events {
            let Ok(after) = step(terms, &before, event.clone()) else {
                prop_assert!(matches!(event, Event::Start | Event::Freeze | Event::Resume | Event::Approve));
                continue;
            };
            prop_assert!(!after.reason.is_empty());
            // With v1's share, always 100 %.
            prop_assert!(after.weights.at_most(&Weights::FULL));
            prop_assert!(!after.state.is_off() || after.weights == Weights::ZERO);
            let by_person = matches!(
                event,
                Event::Start | Event::Resume | Event::Approve | Event::SetWeight(_) | Event::SetShardWeight { .. } | Event::Promote
            );
            if !by_person && !matches!(event, Event::Elapsed(_)) {
                prop_assert!(after.weights.at_most(&before.weights), "{:?} raises nothing", event);
            }
            if matches!(event, Event::Resume | Event::Approve) {
                let first = Weights::equal(schedule.first_weight());
                prop_assert!(after.weights.at_most(&before.weights.max(&first)));
            }
            let open = is_judged(&policy, &before);
            match &event {
                Event::Elapsed(passed) => {
                    assert_time_is_harmless(terms, &memory, &before, &after, *passed)?;
                    memory.judged = memory.judged.map(|age| age.saturating_add(*passed));
                    memory.since_raise = memory.since_raise.saturating_add(*passed);
                }
                Event::Judged(judgement) if open => {
                    memory.judged = Some(Duration::ZERO);
                    memory.trouble = matches!(judgement, Judgement::BothBad(_) | Judgement::Untrusted(_));
                    if let Judgement::Harmful(_) = judgement {
                        memory.harm = true;
                        let stands = after.state == Frozen && policy.analysis.on_failure == OnFailure::Freeze;
                        prop_assert!(stands || after.state == RolledBack, "{:?}", after);
                    }
                }
                Event::External(External { hold, .. }) => memory.hold = hold.is_some(),
                Event::FuseBlown(_) if is_open(&policy, &before) => {
                    memory.harm = true;
                    prop_assert_eq!((after.state, after.rule), (RolledBack, Rule::Fuse));
                }
                Event::Rollback => prop_assert_eq!(after.state, RolledBack),
                Event::Promote => prop_assert_eq!((after.state, &after.weights), (Promoted, &Weights::FULL)),
                _ => {}
            }
            if by_person {
                memory.harm = false;
            }
            if needs_new_evidence(&before, &after) || after.state.is_off() {
                (memory.judged, memory.trouble) = (None, false);
            }
            if event == Event::Start {
                memory.since_raise = Duration::MAX;
            } else if !after.weights.at_most(&before.weights) {
                // At some moment of the time that has passed.
                memory.since_raise = if let Event::Elapsed(passed) = event { passed } else { Duration::ZERO };
            }
            let rolled_back = step(terms, &after, Event::Rollback).expect("from every state");
            prop_assert_eq!((rolled_back.state, &rolled_back.weights), (RolledBack, &Weights::ZERO));
            prop_assert_eq!(step(terms, &rolled_back, Event::Rollback), Ok(rolled_back.clone()));
            prop_assert!(after.progress.at_gate.is_none() || matches!(after.state, Paused | Frozen), "{:?}", after);
            prop_assert!(wait(terms, &after).is_some() || after.state.is_off() || after.state == Promoted);
            before = after;
        }
    }
}
