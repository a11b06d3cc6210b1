//! Releases on a fake kernel and a real database: commands, faults, and agents that die in between.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{
    agent::fake_kernel::{Dies, FakeKernel, config},
    decide::controller::{External, Outside},
    store::tests::{break_store, mend_store},
};

const WEB: usize = 0;
const DNS: usize = 1;
const SECOND: Duration = Duration::from_secs(1);
const PERSON: Cause<'static> = Cause::new("command", "uid 0");

fn percent(whole: u16) -> Weight {
    Weight::from_hundredths(whole * 100).expect("at most 100")
}

fn all(whole: u16) -> Weights {
    Weights::equal(percent(whole))
}

fn agent(directory: &Path, kernel: FakeKernel) -> Releases<FakeKernel> {
    let config = config(directory);
    let store = Store::open(&config.agent.state).expect("a store");
    let mut releases = Releases::new(config.services, kernel, store);
    releases.take_over().expect("taken over");
    releases
}

pub(super) fn new_agent(directory: &Path) -> Releases<FakeKernel> {
    agent(directory, FakeKernel::with_pinned(&[None, None]))
}

/// The agent is killed, and the next one finds the kernel as it is.
pub(super) fn killed(directory: &Path, releases: Releases<FakeKernel>) -> Releases<FakeKernel> {
    let pinned: Vec<_> = releases.kernel.weights.iter().cloned().map(Some).collect();
    drop(releases);
    agent(directory, FakeKernel::with_pinned(&pinned))
}

fn stored(directory: &Path, service: &str) -> Release {
    let store = Store::open(&directory.join("state.db")).expect("a store");
    store.release(service).expect("readable").expect("stored").release
}

/// What of a release is stored.
fn lasting(release: &Release) -> Release {
    Release { outside: Outside::default(), ..release.clone() }
}

fn events(directory: &Path, service: &str) -> Vec<String> {
    let store = Store::open(&directory.join("state.db")).expect("a store");
    let asked = Asked { service: Some(service), after: 0, count_max: 100 };
    let decisions = store.decisions(asked).expect("readable").into_iter().rev().map(|recorded| recorded.decision);
    decisions
        .map(|decision| {
            let Decision { event, from, to, state, actor, .. } = decision;
            format!("{event} {from} {to} {} {actor}", state.name())
        })
        .collect()
}

#[test]
fn a_release_runs_through_its_schedule_and_leaves_a_history() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::Start, PERSON).expect("started");
    let mut seen = vec![releases.kernel.weights[WEB].mean()];
    for _ in 0..1100 {
        releases.advance(SECOND / 10);
        assert_eq!(
            releases.kernel.weights[WEB].mean(),
            releases.release(WEB).weights.mean(),
            "kernel and release agree after each tick"
        );
        if seen.last() != Some(&releases.kernel.weights[WEB].mean()) {
            seen.push(releases.kernel.weights[WEB].mean());
        }
    }
    assert_eq!(seen, (0..=10).map(|step| percent(step * 10)).collect::<Vec<_>>());
    assert_eq!(releases.release(WEB).state, State::Promoted);
    assert_eq!(stored(directory.path(), "web"), lasting(releases.release(WEB)));
    let events = events(directory.path(), "web");
    assert_eq!(
        events[..3],
        [
            "taken_over 0.00 0.00 idle agent",
            "command 0.00 0.00 progressing uid 0",
            "weight_changed 0.00 10.00 progressing schedule",
        ]
    );
    assert_eq!(events.last().map(String::as_str), Some("weight_changed 90.00 100.00 promoted schedule"));
    assert_eq!(releases.kernel.weights[DNS].mean(), Weight::ZERO, "the other service is left alone");
}

#[test]
fn a_killed_agent_loses_at_most_a_second_of_the_schedule() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::Start, PERSON).expect("started");
    for _ in 0..254 {
        releases.advance(SECOND / 10);
    }
    let before = releases.release(WEB).clone();
    let mut releases = killed(directory.path(), releases);
    let after = releases.release(WEB).clone();
    assert_eq!((after.state, after.weights.mean()), (State::Progressing, percent(20)));
    let lost = before.schedule_time - after.schedule_time;
    assert!(lost <= SECOND, "{lost:?}");
    assert_eq!(releases.kernel.written, [], "traffic sees nothing of a new agent");
    releases.advance(SECOND * 5);
    assert_eq!(releases.kernel.weights[WEB].mean(), percent(30));
}

/// The agent dies while it does something, and the next one finds what is left.
fn killed_while(
    directory: &Path,
    mut releases: Releases<FakeKernel>,
    dies: Dies,
    deed: impl FnOnce(&mut Releases<FakeKernel>),
) -> Releases<FakeKernel> {
    releases.kernel.dies = Some(dies);
    let deed = std::panic::AssertUnwindSafe(|| deed(&mut releases));
    std::panic::catch_unwind(deed).expect_err("it dies");
    killed(directory, releases)
}

#[test]
fn an_agent_that_dies_between_its_two_writes_never_makes_the_next_one_raise_what_somebody_lowered() {
    use Dies::{AfterTheWrite, BeforeTheWrite};
    use State::{Frozen, Progressing, RolledBack};
    let to_zero = Event::SetWeight(Weight::ZERO);
    let to_ten = Event::SetWeight(percent(10));
    // At which second of the schedule; what is going on; when it dies; state and weight that the next agent begins with.
    for (at_s, event, dies, expected) in [
        // Lowered in the kernel, and not in the store. At 15 s the schedule has just gone from 0 to 10 %.
        (15, Event::Rollback, AfterTheWrite, (Frozen, 0)),
        (15, to_zero, AfterTheWrite, (Frozen, 0)),
        (25, Event::Rollback, AfterTheWrite, (Frozen, 0)),
        // Back to the very weight that the last step came from.
        (25, to_ten.clone(), AfterTheWrite, (Frozen, 10)),
        (20, to_ten, AfterTheWrite, (Frozen, 10)),
        // Nothing has happened yet: as if nobody had said anything, which is what they were told.
        (25, Event::Rollback, BeforeTheWrite, (Progressing, 20)),
        // Raised in the store, and not in the kernel: the schedule takes the same step again.
        (29, Event::Elapsed(SECOND), BeforeTheWrite, (Progressing, 20)),
        (29, Event::Elapsed(SECOND), AfterTheWrite, (Progressing, 30)),
        // A kernel at 0 % may be one that was rolled back.
        (9, Event::Elapsed(SECOND), BeforeTheWrite, (Frozen, 0)),
        (9, Event::Elapsed(SECOND), AfterTheWrite, (Progressing, 10)),
        (25, Event::SetWeight(percent(60)), BeforeTheWrite, (Frozen, 20)),
        (25, Event::Promote, BeforeTheWrite, (Frozen, 20)),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = new_agent(directory.path());
        releases.command("web", Event::Start, PERSON).expect("started");
        for _ in 0..at_s {
            releases.advance(SECOND);
        }
        let mut releases = killed_while(directory.path(), releases, dies, |releases| match &event {
            Event::Elapsed(passed) => releases.advance(*passed),
            event => drop(releases.command("web", event.clone(), PERSON)),
        });
        let (state, whole) = expected;
        let found = releases.release(WEB).clone();
        assert_eq!(
            (found.state, found.weights.mean()),
            (state, percent(whole)),
            "{at_s} {event:?} {dies:?}: {found:?}"
        );
        assert_eq!(releases.kernel.weights[WEB].mean(), percent(whole), "{at_s} {event:?} {dies:?}");
        for _ in 0..30 {
            releases.advance(SECOND);
        }
        let stands_still = matches!(state, Frozen | RolledBack);
        assert_eq!(releases.kernel.weights[WEB].mean() == percent(whole), stands_still, "{at_s} {event:?} {dies:?}");
    }
}

#[test]
fn what_is_lowered_on_a_full_disk_is_done_and_said_to_be_in_danger() {
    for (event, kernel) in
        [(Event::Rollback, percent(0)), (Event::SetWeight(percent(10)), percent(10)), (Event::Freeze, percent(20))]
    {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = new_agent(directory.path());
        releases.command("web", Event::Start, PERSON).expect("started");
        for _ in 0..25 {
            releases.advance(SECOND);
        }
        assert_eq!(releases.unstored(WEB), None);
        break_store(directory.path());
        releases.command("web", event.clone(), PERSON).expect("lowering works");
        assert_eq!(releases.kernel.weights[WEB].mean(), kernel, "{event:?}");
        let said = releases.unstored(WEB).expect("a warning");
        for part in ["done in the kernel", "not stored", "disk full", "restart", "may undo"] {
            assert!(said.contains(part), "{event:?}: {said}");
        }
        assert_eq!(releases.unstored(DNS), None, "nothing of it is at stake");
        mend_store(directory.path());
        releases.advance(SECOND * 10);
        assert_eq!(releases.unstored(WEB), None, "{event:?}");
    }
}

#[test]
fn the_store_never_says_less_than_the_kernel_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    for command in [
        Event::Start,
        Event::Elapsed(SECOND * 15),
        Event::SetWeight(percent(60)),
        Event::SetWeight(percent(5)),
        Event::Resume,
        Event::Promote,
        Event::Rollback,
    ] {
        let _ = releases.command("web", command.clone(), PERSON);
        let stored = stored(directory.path(), "web");
        assert!(stored.weights.mean() >= releases.kernel.weights[WEB].mean(), "{command:?}");
        assert_eq!(stored, lasting(releases.release(WEB)), "{command:?}");
    }
}

#[test]
fn with_a_full_disk_weights_fall_but_do_not_rise() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
    releases.command("dns", Event::SetWeight(percent(50)), PERSON).expect("set");
    break_store(directory.path());

    for refused in [Event::SetWeight(percent(51)), Event::Promote, Event::Resume] {
        let error = releases.command("web", refused.clone(), PERSON).expect_err("refused");
        let message = error.to_string();
        assert!(matches!(error, CommandError::NotStored { .. }), "{message}");
        assert!(message.contains("50.00 %") && message.contains("disk full"), "{message}");
        assert_eq!(
            (releases.release(WEB).weights.mean(), releases.kernel.weights[WEB].mean()),
            (percent(50), percent(50))
        );
        assert_eq!(releases.release(WEB).state, State::Frozen);
    }
    releases.command("web", Event::SetWeight(percent(20)), PERSON).expect("lowering works");
    assert_eq!(releases.kernel.weights[WEB].mean(), percent(20));
    releases.command("web", Event::Rollback, PERSON).expect("rollback works");
    assert_eq!(releases.kernel.weights[WEB].mean(), Weight::ZERO);
    // The manual service keeps its state, Progressing, but less is less there, too.
    releases.command("dns", Event::SetWeight(percent(1)), PERSON).expect("lowering works");
    assert!(releases.store_fault().is_some_and(|fault| fault.contains("disk full")));
    assert_eq!(stored(directory.path(), "web").weights.mean(), percent(50));

    mend_store(directory.path());
    releases.advance(SECOND * 10);
    assert_eq!(releases.store_fault(), None);
    assert_eq!(stored(directory.path(), "web").state, State::RolledBack);
    assert_eq!(stored(directory.path(), "dns").weights.mean(), percent(1));
    let lowered = events(directory.path(), "web").into_iter().filter(|event| event.contains("50.00 20.00")).count();
    assert_eq!(lowered, 1, "what happened meanwhile is in the history");
}

#[test]
fn with_a_full_disk_a_schedule_stands_still_and_goes_on_afterwards() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::Start, PERSON).expect("started");
    break_store(directory.path());
    let written = releases.kernel.written.len();
    for _ in 0..600 {
        releases.advance(SECOND / 10);
    }
    assert_eq!(releases.kernel.written.len(), written, "no flapping");
    assert_eq!(releases.release(WEB).state, State::Progressing);
    assert!(releases.release(WEB).schedule_time < SECOND * 10);
    mend_store(directory.path());
    for _ in 0..60 {
        releases.advance(SECOND / 10);
    }
    assert_eq!(releases.kernel.weights[WEB].mean(), percent(10), "one step, not all that were missed");
}

#[test]
fn a_kernel_that_takes_no_higher_weight_leaves_all_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.kernel.fails_to_raise = true;
    let error = releases.command("web", Event::SetWeight(percent(10)), PERSON).expect_err("refused");
    assert!(matches!(error, CommandError::NotRaised { .. }), "{error}");
    assert_eq!(releases.release(WEB).weights.mean(), Weight::ZERO);
    assert_eq!(stored(directory.path(), "web").weights.mean(), Weight::ZERO);
    assert_eq!(stored(directory.path(), "web").state, State::Idle);
}

#[test]
fn a_rollback_that_the_kernel_refuses_is_tried_until_it_works() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
    releases.kernel.fails_to_lower = true;
    let error = releases.command("web", Event::Rollback, PERSON).expect_err("refused");
    assert!(matches!(error, CommandError::NotLowered { .. }), "{error}");
    assert_eq!(releases.release(WEB).state, State::RollingBack);
    assert_eq!(stored(directory.path(), "web").state, State::RollingBack);
    releases.advance(SECOND * 2);
    assert_eq!(releases.release(WEB).state, State::RollingBack);
    releases.kernel.fails_to_lower = false;
    releases.advance(SECOND * 2);
    assert_eq!(releases.kernel.weights[WEB].mean(), Weight::ZERO);
    assert_eq!(releases.release(WEB).state, State::RolledBack);
    assert_eq!(stored(directory.path(), "web").state, State::RolledBack);
}

#[test]
fn a_rollback_writes_its_zero_even_where_it_should_be() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::Rollback, PERSON).expect("rolled back");
    releases.kernel.weights[WEB] = all(30);
    releases.command("web", Event::Rollback, PERSON).expect("rolled back again");
    assert_eq!(releases.kernel.weights[WEB].mean(), Weight::ZERO);
}

#[test]
fn a_lost_store_keeps_what_the_kernel_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let releases = agent(directory.path(), FakeKernel::with_pinned(&[Some(all(100)), Some(Weights::ZERO)]));
    let web = releases.release(WEB);
    assert_eq!((web.state, web.weights.mean()), (State::Frozen, percent(100)));
    assert_eq!(releases.release(DNS).state, State::Idle);
    assert_eq!(releases.kernel.written, []);
}

#[test]
fn after_a_reboot_the_store_counts() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(25)), PERSON).expect("set");
    drop(releases);
    let releases = new_agent(directory.path());
    assert_eq!(releases.kernel.weights[WEB].mean(), percent(25));
    assert_eq!(releases.release(WEB).state, State::Frozen);
}

#[test]
fn the_lower_of_two_weights_wins() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(25)), PERSON).expect("set");
    releases.kernel.weights[WEB] = all(40);
    let releases = killed(directory.path(), releases);
    assert_eq!(releases.kernel.weights[WEB].mean(), percent(25));
    assert_eq!(stored(directory.path(), "web").weights.mean(), percent(25));
}

#[test]
fn a_new_canary_does_not_inherit_the_weight_of_a_promoted_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::Promote, PERSON).expect("promoted");
    drop(releases);
    let mut config = config(directory.path());
    let [web, _] = &mut config.services[..] else { panic!("two services") };
    std::mem::swap(&mut web.v1, &mut web.v2);
    let store = Store::open(&config.agent.state).expect("a store");
    let mut releases = Releases::new(config.services, FakeKernel::with_pinned(&[None, None]), store);
    releases.take_over().expect("taken over");
    let web = releases.release(WEB);
    assert_eq!(
        (web.state, web.weights.mean(), releases.kernel.weights[WEB].mean()),
        (State::Idle, Weight::ZERO, Weight::ZERO)
    );
    assert!(web.reason.contains("promoted at 100.00 %"), "{}", web.reason);
}

#[test]
fn an_unknown_service_is_named_with_those_that_exist() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    let error = releases.command("wob", Event::Start, PERSON).expect_err("unknown");
    assert_eq!(error.to_string(), "there is no service `wob`; this agent has: web, dns");
    assert!(matches!(releases.command("web", Event::Freeze, PERSON), Err(CommandError::Refused { .. })));
}

#[test]
fn closing_stores_where_all_stand_and_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::Start, PERSON).expect("started");
    releases.advance(SECOND * 10);
    releases.advance(SECOND / 2);
    let written = releases.kernel.written.len();
    let (kernel, closed) = releases.close(Cause::new("agent_stopped", "agent"));
    closed.expect("stored");
    assert_eq!(kernel.written.len(), written);
    assert_eq!(stored(directory.path(), "web").schedule_time, SECOND * 10 + SECOND / 2);
    assert_eq!(
        events(directory.path(), "web").last().map(String::as_str),
        Some("agent_stopped 10.00 10.00 progressing agent")
    );
}

#[test]
fn one_shard_is_set_by_its_name_and_the_rest_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(10)), PERSON).expect("set");
    releases.set_shard_weight("web", "3", percent(20), PERSON).expect("set");
    let expected = all(10).with(3, 16, percent(20));
    assert_eq!((&releases.kernel.weights[WEB], releases.release(WEB).state), (&expected, State::Frozen));
    assert!(releases.release(WEB).reason.contains("shard `3` set to 20.00 %"), "{}", releases.release(WEB).reason);
    let error = releases.set_shard_weight("web", "16", percent(20), PERSON).expect_err("0 to 15");
    assert!(error.to_string().contains("no shard `16`; there are: 0, 1, 2,"), "{error}");
    let mut releases = killed(directory.path(), releases);
    assert_eq!(releases.kernel.weights[WEB], expected, "a restart changes nothing");
    assert_eq!(releases.kernel.written, []);

    // Some shards get more, one gets less: less goes first, and stays done where more cannot be stored.
    break_store(directory.path());
    let error = releases.command("web", Event::SetWeight(percent(15)), PERSON).expect_err("refused");
    assert!(matches!(error, CommandError::NotStored { .. }), "{error}");
    assert_eq!(releases.kernel.weights[WEB], all(10).with(3, 16, percent(15)));
    mend_store(directory.path());
    releases.command("web", Event::SetWeight(percent(15)), PERSON).expect("set");
    assert_eq!(releases.kernel.weights[WEB], all(15));
}

#[test]
fn other_shards_take_the_lowest_weight_of_the_former_ones() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(10)), PERSON).expect("set");
    releases.set_shard_weight("web", "3", percent(20), PERSON).expect("set");
    let kernel = FakeKernel::with_pinned(&[Some(releases.kernel.weights[WEB].clone()), Some(Weights::ZERO)]);
    drop(releases);
    let mut config = config(directory.path());
    config.services[WEB].shard_count = 4;
    let store = Store::open(&config.agent.state).expect("a store");
    let mut releases = Releases::new(config.services, kernel, store);
    releases.take_over().expect("taken over");
    assert_eq!((&releases.kernel.weights[WEB], releases.release(WEB).state), (&all(10), State::Frozen));
    assert!(releases.release(WEB).reason.contains("other shards"), "{}", releases.release(WEB).reason);
}

#[test]
fn a_release_shard_by_shard_goes_through_all_of_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = config(directory.path());
    let web = &mut config.services[WEB];
    (web.order, web.shard_count) = (crate::decide::plan::Order::OneByOne, 3);
    let store = Store::open(&config.agent.state).expect("a store");
    let mut releases = Releases::new(config.services, FakeKernel::with_pinned(&[None, None]), store);
    releases.take_over().expect("taken over");
    releases.command("web", Event::Start, PERSON).expect("started");
    for _ in 0..3000 {
        releases.advance(SECOND / 10);
        assert_eq!(releases.kernel.weights[WEB], releases.release(WEB).weights);
    }
    assert_eq!(releases.release(WEB).state, State::Promoted);
    let written = releases.kernel.written.iter().map(|(_, weights)| weights.clone());
    let expected = (1..=30).map(|step| {
        Weights::of_shards((0..3).map(|shard| percent((step * 10u16).saturating_sub(shard * 100).min(100))).collect())
    });
    assert_eq!(written.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn a_rollback_severs_where_the_config_wants_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
    releases.command("web", Event::Rollback, PERSON).expect("rolled back");
    assert!(releases.kernel.severed.is_empty());
    releases.services[WEB].on_rollback = OnRollback::Sever;
    releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
    releases.kernel.fails_to_set = true;
    let error = releases.command("web", Event::Rollback, PERSON).expect_err("not severed");
    assert!(matches!(error, CommandError::NotSevered { .. }) && error.to_string().contains("rolled back"), "{error}");
    assert_eq!((releases.kernel.weights[WEB].clone(), releases.release(WEB).state), (Weights::ZERO, State::RolledBack));
    releases.kernel.fails_to_set = false;
    releases.command("web", Event::Rollback, PERSON).expect("rolled back");
    assert_eq!(releases.kernel.severed, [WEB]);
    // What a packet began that had its backend before.
    releases.advance(SECOND);
    releases.advance(SECOND);
    assert_eq!(releases.kernel.severed, [WEB; 2]);
    // Severed when the weight is there at last.
    releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
    releases.kernel.fails_to_lower = true;
    releases.command("web", Event::Rollback, PERSON).expect_err("not lowered");
    assert_eq!(releases.kernel.severed, [WEB; 2]);
    releases.kernel.fails_to_lower = false;
    releases.advance(SECOND * 2);
    assert_eq!(releases.kernel.severed, [WEB; 3]);
    // Nothing that began since is severed.
    releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
    releases.advance(SECOND * 2);
    assert_eq!(releases.kernel.severed, [WEB; 3]);
}

/// What can come to pass.
#[derive(Clone, Debug)]
enum Happening {
    Command(Event),
    Passed(Duration),
    Observed(Event),
    DiskFull,
    DiskMended,
    KernelRefuses,
    KernelTakes,
    Killed,
}

fn evidence() -> Box<Evidence> {
    Box::new(Evidence {
        signal: "errors".to_owned(),
        rule: "e-process".to_owned(),
        n1: 900,
        n2: 100,
        e1: 1,
        e2: 50,
        ratio: None,
        interval: None,
        value: 1e9,
        limit: 100.0,
        backend: None,
        lately: None,
    })
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => prop_oneof![
            Just(Event::Start),
            Just(Event::Freeze),
            Just(Event::Resume),
            Just(Event::Rollback),
            Just(Event::Promote),
            (0..=100u16).prop_map(|whole| Event::SetWeight(percent(whole))),
            (0..16usize, 0..=100u16)
                .prop_map(|(shard, whole)| Event::SetShardWeight { shard, weight: percent(whole) }),
        ]
        .prop_map(Happening::Command),
        4 => (0..20_000u64).prop_map(|length| Happening::Passed(Duration::from_millis(length))),
        2 => prop_oneof![
            Just(Event::Judged(Judgement::Harmful(evidence()))),
            Just(Event::Judged(Judgement::NoWorse(evidence()))),
            Just(Event::FuseBlown(evidence())),
            any::<bool>().prop_map(|waits| {
                Event::External(External { hold: waits.then(|| "wait".to_owned()), ..External::default() })
            }),
        ]
        .prop_map(Happening::Observed),
        1 => Just(Happening::DiskFull),
        1 => Just(Happening::DiskMended),
        1 => Just(Happening::KernelRefuses),
        1 => Just(Happening::KernelTakes),
        1 => Just(Happening::Killed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever fails and whenever the agent dies: v2 never gets more than what is wanted and what is stored.
    #[test]
    fn the_kernel_never_has_more_of_v2_than_store_and_release(happenings in prop::collection::vec(happening(), 1..40)) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = new_agent(directory.path());
        let mut disk_full = false;
        for happening in happenings {
            let before = releases.kernel.weights[WEB].clone();
            match happening.clone() {
                Happening::Command(event) => {
                    let refused = releases.command("web", event.clone(), PERSON).is_err();
                    let after = releases.kernel.weights[WEB].clone();
                    // What is less is done even where what is more cannot be.
                    prop_assert!(!refused || after.at_most(&before), "{:?}", event);
                    if event == Event::Rollback {
                        prop_assert_eq!(after, Weights::ZERO);
                    }
                }
                Happening::Passed(length) => releases.advance(length),
                Happening::Observed(event) => {
                    releases.observe(WEB, event.clone());
                    let after = &releases.kernel.weights[WEB];
                    prop_assert!(after.at_most(&before), "{:?} raises nothing", event);
                    if matches!(event, Event::FuseBlown(_) | Event::Judged(Judgement::Harmful(_))) {
                        let open = controller::is_judged(&releases.services[WEB].policy, releases.release(WEB));
                        prop_assert!(!open, "{:?}: {:?}", event, releases.release(WEB));
                    }
                }
                Happening::DiskFull if !disk_full => {
                    break_store(directory.path());
                    disk_full = true;
                }
                Happening::DiskMended if disk_full => {
                    mend_store(directory.path());
                    disk_full = false;
                }
                Happening::KernelRefuses => releases.kernel.fails_to_raise = true,
                Happening::KernelTakes => releases.kernel.fails_to_raise = false,
                Happening::Killed if !disk_full => {
                    releases = killed(directory.path(), releases);
                    prop_assert!(releases.kernel.weights[WEB].at_most(&before));
                }
                Happening::DiskFull | Happening::DiskMended | Happening::Killed => {}
            }
            let kernel = releases.kernel.weights[WEB].clone();
            let stored = releases.journal.release("web").expect("readable").expect("stored").release;
            prop_assert_eq!(&kernel, &releases.release(WEB).weights, "{:?}", happening);
            prop_assert!(kernel.at_most(&stored.weights), "{:?}: {} in the kernel, {} stored", happening, kernel, stored.weights);
        }
    }
}

/// What is logged meanwhile.
fn logged(deed: impl FnOnce()) -> String {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.reopen().map(std::sync::Mutex::new).expect("the file"));
    tracing::subscriber::with_default(subscriber.finish(), deed);
    std::fs::read_to_string(log.path()).expect("readable")
}

#[test]
fn of_a_change_that_comes_through_in_part_that_part_is_logged() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(10)), PERSON).expect("set");
    releases.set_shard_weight("web", "3", percent(20), PERSON).expect("set");
    releases.kernel.fails_to_raise = true;
    let log = logged(|| {
        let error = releases.command("web", Event::SetWeight(percent(15)), PERSON).expect_err("refused");
        assert!(matches!(error, CommandError::NotRaised { .. }), "{error}");
    });
    let found = all(10).with(3, 16, percent(15));
    assert_eq!((&releases.kernel.weights[WEB], &releases.release(WEB).weights), (&found, &found));
    assert!(log.contains("weight_changed") && log.contains(&format!("to={found}")), "{log}");
    let log = logged(|| drop(releases.command("web", Event::SetWeight(percent(40)), PERSON)));
    assert!(!log.contains("weight_changed"), "nothing has happened: {log}");
}

#[test]
fn a_rollback_that_the_kernel_refuses_is_logged_when_it_is_wanted_and_when_it_is_done() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
    releases.kernel.fails_to_lower = true;
    let log = logged(|| drop(releases.command("web", Event::Rollback, PERSON)));
    assert!(log.contains("to=\"rolling-back\""), "{log}");
    releases.kernel.fails_to_lower = false;
    let log = logged(|| releases.advance(SECOND * 2));
    assert!(log.contains("to=\"rolled-back\""), "{log}");
}

#[test]
fn a_rollback_that_the_former_agent_had_begun_severs_too() {
    for (on_rollback, expected) in [(OnRollback::Sever, vec![WEB]), (OnRollback::Keep, vec![])] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = new_agent(directory.path());
        releases.command("web", Event::SetWeight(percent(50)), PERSON).expect("set");
        releases.kernel.fails_to_lower = true;
        releases.command("web", Event::Rollback, PERSON).expect_err("refused");
        let pinned: Vec<_> = releases.kernel.weights.iter().cloned().map(Some).collect();
        drop(releases);
        let mut config = config(directory.path());
        config.services[WEB].on_rollback = on_rollback;
        let store = Store::open(&config.agent.state).expect("a store");
        let mut releases = Releases::new(config.services, FakeKernel::with_pinned(&pinned), store);
        releases.take_over().expect("taken over");
        assert_eq!((releases.release(WEB).state, releases.kernel.weights[WEB].mean()), (State::RolledBack, percent(0)));
        for _ in 0..30 {
            releases.advance(SECOND / 10);
        }
        assert_eq!(releases.kernel.severed, expected);
    }
}
