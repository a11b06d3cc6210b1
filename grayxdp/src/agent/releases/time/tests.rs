//! The whole loop on a fake kernel: what it counts goes to the judge, what that says to the controller, and what becomes of
//! it to the kernel's weights and the store.

use std::path::Path;

use super::*;
use crate::{
    agent::{
        fake_kernel::{FakeKernel, config},
        releases::tests::{killed, new_agent},
    },
    config::OnRollback,
    decide::{
        controller::{Decision, OnDeadline, OnFailure, State},
        evidence::Judgement,
        signals::{Counts, ServiceSignals, Signals},
        weights::Weights,
    },
    store::{
        Asked, Store,
        tests::{break_store, mend_store},
    },
};

const WEB: usize = 0;
const SECOND: Duration = Duration::from_secs(1);
const PERSON: Cause<'static> = Cause::new("command", "uid 0");
/// New connections in a tenth of a second.
const RATE: u64 = 200;

/// One connection in so many fails, of each version; 0 for none.
#[derive(Clone, Copy)]
struct Faults {
    v1: u64,
    v2: u64,
}

const EQUAL: Faults = Faults { v1: 100, v2: 100 };
const BROKEN: Faults = Faults { v1: 100, v2: 4 };

/// Lets clients come for a tenth of a second: as many to v2 as its weight says.
fn traffic(kernel: &mut FakeKernel, faults: Faults) {
    let weight = u64::from(kernel.weights[WEB].mean().hundredths());
    let Some(readings) = &mut kernel.signals else { return };
    if readings.is_empty() {
        // Counters outlive agents and releases: they do not begin with zero.
        let old = Signals {
            counts: Counts { flows: 1_000_000, refused: 900_000, ..Counts::default() },
            ..Signals::default()
        };
        let backends = vec![("10.0.2.10:8080".parse().expect("an address"), old.counts)];
        readings.push(ServiceSignals { service: WEB, v1: old.clone(), v2: old, backends, ..ServiceSignals::default() });
    }
    let web = &mut readings[0];
    let mut add = |to_v2: bool, flows: u64, one_in: u64| {
        let counts = if to_v2 { &mut web.v2.counts } else { &mut web.v1.counts };
        let errors = |flows: u64| flows.checked_div(one_in).unwrap_or(0);
        let more = errors(counts.flows + flows) - errors(counts.flows);
        counts.flows += flows;
        counts.refused += more;
        counts.established += flows - more;
    };
    // To the last one over time, though a tenth of a second has no whole number of them.
    let total = |counts: u64| counts * weight / 10_000;
    let came = kernel.clients;
    let to_v2 = total(came + RATE) - total(came);
    kernel.clients = came + RATE;
    add(false, RATE - to_v2, faults.v1);
    add(true, to_v2, faults.v2);
    web.backends[0].1 = web.v2.counts;
}

/// So many seconds go by with traffic.
fn run(releases: &mut Releases<FakeKernel>, seconds: u32, faults: Faults) {
    for _ in 0..seconds * 10 {
        traffic(&mut releases.kernel, faults);
        releases.advance(SECOND / 10);
    }
}

/// Up to a state, at most so many seconds; how many it took.
fn run_until(releases: &mut Releases<FakeKernel>, state: State, seconds_max: u32, faults: Faults) -> u32 {
    for second in 0..seconds_max {
        if releases.release(WEB).state == state {
            return second;
        }
        run(releases, 1, faults);
    }
    panic!("not {} within {seconds_max} s: {:?}", state.name(), releases.release(WEB));
}

fn started(directory: &Path) -> Releases<FakeKernel> {
    let mut releases = new_agent(directory);
    traffic(&mut releases.kernel, EQUAL);
    releases.command("web", Event::Start, PERSON).expect("started");
    releases
}

fn decisions(directory: &Path) -> Vec<Decision> {
    let store = Store::open(&directory.join("state.db")).expect("a store");
    let asked = Asked { service: Some("web"), after: 0, count_max: 1000 };
    store.decisions(asked).expect("readable").into_iter().rev().map(|recorded| recorded.decision).collect()
}

#[test]
fn a_v2_as_good_as_v1_is_promoted_and_each_raise_says_on_which_figures() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    let took = run_until(&mut releases, State::Promoted, 130, EQUAL);
    assert!((99..=102).contains(&took), "as planned: {took}");
    let raises: Vec<Decision> =
        decisions(directory.path()).into_iter().filter(|decision| decision.event == "weight_changed").collect();
    assert_eq!(raises.len(), 10);
    let last = raises[9].evidence.as_ref().expect("figures");
    assert!(last.n1 > 0 && last.n2 > 0, "{last:?}");
    assert!(raises[8].sentence("web").starts_with("web: v2 80.00 % → 90.00 %: "), "{}", raises[8].sentence("web"));
}

#[test]
fn a_v2_that_fails_is_rolled_back_with_its_evidence_and_may_try_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    releases.services[WEB].on_rollback = OnRollback::Sever;
    run(&mut releases, 25, EQUAL);
    assert_eq!(releases.kernel.weights[WEB].mean().hundredths(), 2000);
    let took = run_until(&mut releases, State::RolledBack, 15, BROKEN);
    assert!(took <= 10, "{took}");
    assert_eq!(releases.kernel.weights[WEB], Weights::ZERO);
    assert_eq!(releases.kernel.severed.first(), Some(&WEB));
    let last = decisions(directory.path()).pop().expect("one");
    assert_eq!((last.event.as_str(), last.rule, last.actor.as_str()), ("harm", Rule::Harm, "analysis"));
    let evidence = last.evidence.as_ref().expect("figures");
    assert!(evidence.e2 > 0 && evidence.n2 > evidence.e2, "{evidence:?}");
    assert!(last.reason.contains(&evidence.to_string()), "{}", last.reason);
    assert!(matches!(releases.judgement(WEB), Some(Judgement::Harmful(_))), "it is still shown");

    // Nothing moves by itself; a person may try again, with evidence gathered anew.
    run(&mut releases, 30, EQUAL);
    assert_eq!(releases.kernel.weights[WEB], Weights::ZERO);
    let mut releases = killed_with_signals(directory.path(), releases);
    assert_eq!(releases.release(WEB).state, State::RolledBack);
    releases.command("web", Event::Start, PERSON).expect("again");
    run(&mut releases, 25, EQUAL);
    assert_eq!(
        (releases.release(WEB).state, releases.kernel.weights[WEB].mean().hundredths()),
        (State::Progressing, 2000)
    );
}

#[test]
fn harm_freezes_where_the_config_says_so_and_a_resume_begins_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    releases.services[WEB].policy.analysis.on_failure = OnFailure::Freeze;
    run(&mut releases, 25, EQUAL);
    run_until(&mut releases, State::Frozen, 15, BROKEN);
    run(&mut releases, 20, EQUAL);
    assert_eq!(releases.kernel.weights[WEB].mean().hundredths(), 2000);
    assert_eq!(
        decisions(directory.path()).iter().filter(|decision| decision.rule == Rule::Harm).count(),
        1,
        "said once"
    );
    releases.command("web", Event::Resume, PERSON).expect("resumed");
    run(&mut releases, 20, EQUAL);
    assert_eq!(releases.release(WEB).state, State::Progressing);
    assert!(releases.kernel.weights[WEB].mean().hundredths() > 2000);
}

#[test]
fn without_readings_nothing_is_raised_until_they_come_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    run(&mut releases, 15, EQUAL);
    let signals = releases.kernel.signals.take();
    run(&mut releases, 60, EQUAL);
    let release = releases.release(WEB);
    assert_eq!((release.state, release.weights.mean().hundredths()), (State::Progressing, 1000));
    assert!(release.schedule_time < SECOND * 20, "{:?}", release.schedule_time);
    assert_eq!(release.outside.held.as_ref().map(|held| held.rule), Some(Rule::NoData));
    releases.kernel.signals = signals;
    run(&mut releases, 10, EQUAL);
    assert_eq!(releases.kernel.weights[WEB].mean().hundredths(), 2000);
    let said: Vec<String> = decisions(directory.path()).into_iter().map(|decision| decision.event).collect();
    let held: Vec<&String> = said.iter().filter(|event| ["no-data", "goes-on"].contains(&event.as_str())).collect();
    assert_eq!(held, ["no-data", "goes-on"], "each once");
}

#[test]
fn without_analysis_a_release_goes_by_its_schedule_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.services[WEB].policy.analysis.enabled = false;
    releases.kernel.signals = None;
    releases.command("web", Event::Start, PERSON).expect("started");
    run(&mut releases, 25, BROKEN);
    assert_eq!(releases.kernel.weights[WEB].mean().hundredths(), 2000);
    assert_eq!(releases.judgement(WEB), None);
}

#[test]
fn a_service_of_which_nothing_is_counted_goes_by_its_schedule_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.command("web", Event::Start, PERSON).expect("started");
    for _ in 0..25 {
        releases.advance(SECOND);
    }
    assert_eq!(releases.kernel.weights[WEB].mean().hundredths(), 2000);
    assert!(releases.is_blind(WEB) && matches!(releases.judgement(WEB), Some(Judgement::NotYet(_))));
    run(&mut releases, 2, EQUAL);
    assert!(!releases.is_blind(WEB));
}

#[test]
fn a_fuse_that_has_blown_rolls_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    run(&mut releases, 15, EQUAL);
    let tally = FuseTally { flows: [900, 100], failures: [9, 50] };
    // Of a service that there is not: not for us.
    releases.kernel.blown = vec![(7, tally), (WEB, tally)];
    releases.advance(SECOND / 10);
    assert_eq!((releases.release(WEB).state, &releases.kernel.weights[WEB]), (State::RolledBack, &Weights::ZERO));
    let last = decisions(directory.path()).pop().expect("one");
    let evidence = last.evidence.expect("figures");
    assert_eq!((last.rule, evidence.n1, evidence.n2, evidence.e1, evidence.e2), (Rule::Fuse, 900, 100, 9, 50));
    assert_eq!((evidence.value, evidence.limit, evidence.ratio), (50.0, 20.0, Some(50.0)));

    // It stays blown, and is armed for the next try.
    run(&mut releases, 2, EQUAL);
    assert!(releases.kernel.blown.contains(&(WEB, tally)));
    releases.command("web", Event::Start, PERSON).expect("again");
    run(&mut releases, 15, EQUAL);
    assert_eq!(releases.release(WEB).state, State::Progressing);

    // One that blew while no agent was there; and one of a release that was over long ago, which only a person undoes.
    let mut releases = killed_with_signals(directory.path(), releases);
    releases.kernel.blown = vec![(WEB, tally)];
    releases.advance(SECOND / 10);
    assert_eq!(releases.release(WEB).state, State::RolledBack);
    releases.command("web", Event::Promote, PERSON).expect("promoted");
    run(&mut releases, 601, EQUAL);
    releases.kernel.blown = vec![(WEB, tally)];
    releases.advance(SECOND / 10);
    assert_eq!((releases.release(WEB).state, releases.kernel.blown.as_slice()), (State::Promoted, &[][..]));
}

#[test]
fn what_fails_around_a_rollback_does_not_keep_it_from_users() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    run(&mut releases, 25, EQUAL);
    break_store(directory.path());
    run_until(&mut releases, State::RolledBack, 15, BROKEN);
    assert_eq!(releases.kernel.weights[WEB], Weights::ZERO, "on a full disk");
    mend_store(directory.path());
    run(&mut releases, 6, EQUAL);
    assert!(decisions(directory.path()).iter().any(|decision| decision.rule == Rule::Harm), "stored when it could be");

    releases.command("web", Event::Start, PERSON).expect("again");
    run(&mut releases, 15, EQUAL);
    releases.kernel.fails_to_lower = true;
    run_until(&mut releases, State::RollingBack, 15, BROKEN);
    run(&mut releases, 3, BROKEN);
    assert_eq!(releases.release(WEB).state, State::RollingBack);
    releases.kernel.fails_to_lower = false;
    run(&mut releases, 2, BROKEN);
    assert_eq!((releases.release(WEB).state, &releases.kernel.weights[WEB]), (State::RolledBack, &Weights::ZERO));
}

/// The agent is killed; the next one finds kernel and counters as they are.
fn killed_with_signals(directory: &Path, mut releases: Releases<FakeKernel>) -> Releases<FakeKernel> {
    let (signals, clients) = (releases.kernel.signals.take(), releases.kernel.clients);
    let mut next = killed(directory, releases);
    (next.kernel.signals, next.kernel.clients) = (signals, clients);
    next
}

#[test]
fn an_agent_that_is_killed_loses_no_evidence_and_counts_nothing_twice() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    // The first look is where counting begins.
    releases.advance(Duration::ZERO);
    let counts = |releases: &Releases<FakeKernel>| {
        let signals = releases.kernel.signals.as_ref().expect("readable");
        (signals[0].v1.counts, signals[0].v2.counts)
    };
    let before = counts(&releases);
    for seconds in [13, 7, 1, 4] {
        run(&mut releases, seconds, EQUAL);
        // In the middle of a second, and with clients coming while nobody looks.
        for _ in 0..5 {
            traffic(&mut releases.kernel, EQUAL);
            releases.advance(SECOND / 10);
        }
        releases = killed_with_signals(directory.path(), releases);
        for _ in 0..20 {
            traffic(&mut releases.kernel, EQUAL);
        }
    }
    assert_eq!(releases.release(WEB).state, State::Progressing);
    // Up to a moment just after a look.
    releases.advance(Duration::ZERO);
    let after = counts(&releases);
    let judgement = releases.judgement(WEB).expect("judged");
    let evidence = judgement.evidence().expect("figures");
    let came = |before: Counts, after: Counts| (after.flows - before.flows, after.refused - before.refused);
    assert_eq!((evidence.n1, evidence.e1), came(before.0, after.0), "{evidence:?}");
    assert_eq!((evidence.n2, evidence.e2), came(before.1, after.1), "{evidence:?}");
}

#[test]
fn what_was_stored_under_another_config_begins_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = started(directory.path());
    run(&mut releases, 25, EQUAL);
    let kernel = FakeKernel::with_pinned(&[Some(releases.kernel.weights[WEB].clone()), None]);
    drop(releases);
    let mut config = config(directory.path());
    config.services[WEB].policy.analysis.judge.margin = 2.0;
    let store = Store::open(&config.agent.state).expect("a store");
    assert!(store.analysis("web").expect("readable").is_some());
    let mut releases = Releases::new(config.services, kernel, store);
    releases.take_over().expect("taken over");
    assert_eq!(releases.release(WEB).state, State::Progressing);
    run(&mut releases, 1, EQUAL);
    let evidence = releases.judgement(WEB).and_then(Judgement::evidence);
    assert!(evidence.is_none_or(|evidence| evidence.n1 < 20 * RATE), "{evidence:?}");
}

#[test]
fn a_release_that_fails_at_its_deadline_is_severed_as_one_rolled_back() {
    for (on_rollback, expected) in [(OnRollback::Sever, vec![WEB, WEB]), (OnRollback::Keep, vec![])] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = started(directory.path());
        let web = &mut releases.services[WEB];
        web.on_rollback = on_rollback;
        (web.policy.progress_deadline, web.policy.on_deadline) = (Some(SECOND * 5), OnDeadline::Fail);
        run(&mut releases, 15, EQUAL);
        releases.kernel.signals = None;
        run(&mut releases, 15, EQUAL);
        assert_eq!((releases.release(WEB).state, &releases.kernel.weights[WEB]), (State::Failed, &Weights::ZERO));
        assert_eq!(releases.kernel.severed, expected, "at once, and once more");
    }
}

/// Frozen, for harm was found; and rolled back by the fuse.
fn with_harm(directory: &Path, on_failure: OnFailure) -> Releases<FakeKernel> {
    let mut releases = started(directory);
    releases.services[WEB].policy.analysis.on_failure = on_failure;
    run(&mut releases, 25, EQUAL);
    let state = if on_failure == OnFailure::Freeze { State::Frozen } else { State::RolledBack };
    run_until(&mut releases, state, 15, BROKEN);
    run(&mut releases, 6, BROKEN);
    releases.kernel.blown = vec![(WEB, FuseTally { flows: [900, 100], failures: [9, 50] })];
    releases
}

fn stored_analysis(directory: &Path) -> Option<String> {
    Store::open(&directory.join("state.db")).expect("a store").analysis("web").expect("readable")
}

#[test]
fn a_release_that_could_not_begin_anew_keeps_the_evidence_of_harm_and_its_blown_fuse() {
    // `start` of one that was rolled back, a higher weight for one that is frozen: by the disk, then by the kernel.
    let to_fifty = Event::SetWeight(grayxdp_common::weight::Weight::from_hundredths(5000).expect("50 %"));
    for (on_failure, command) in [(OnFailure::Rollback, Event::Start), (OnFailure::Freeze, to_fifty.clone())] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = with_harm(directory.path(), on_failure);
        let (before, blown) = (releases.release(WEB).clone(), releases.kernel.blown.clone());
        let stored = stored_analysis(directory.path());
        assert!(stored.as_ref().is_some_and(|text| !text.is_empty()));
        let harmful = |releases: &Releases<FakeKernel>| matches!(releases.judgement(WEB), Some(Judgement::Harmful(_)));
        assert!(harmful(&releases));

        break_store(directory.path());
        let error = releases.command("web", command.clone(), PERSON).expect_err("not stored");
        assert!(matches!(error, CommandError::NotStored { .. }), "{error}");
        assert!(harmful(&releases), "{command:?}");
        assert_eq!((&releases.kernel.blown, releases.release(WEB)), (&blown, &before), "{command:?}");
        mend_store(directory.path());

        if on_failure == OnFailure::Freeze {
            releases.kernel.fails_to_raise = true;
            let error = releases.command("web", command.clone(), PERSON).expect_err("not raised");
            assert!(matches!(error, CommandError::NotRaised { .. }), "{error}");
            assert!(harmful(&releases));
            assert_eq!(releases.kernel.blown, blown);
            assert!(stored_analysis(directory.path()).is_some_and(|text| !text.is_empty()), "the next agent has it");
            releases.kernel.fails_to_raise = false;
        }

        releases.command("web", command.clone(), PERSON).expect("accepted");
        let stored = stored_analysis(directory.path()).unwrap_or_default();
        assert!(stored.contains("\"seen\":null") && stored.contains("\"harm\":null"), "forgotten with the change");
        assert!(!harmful(&releases) && releases.kernel.blown.is_empty());
    }
}
