//! What answers, and their absence, do to a release on a fake kernel.

use std::path::Path;

use grayxdp_common::weight::Weight;

use super::*;
use crate::{
    agent::fake_kernel::{FakeKernel, config},
    config::{Query, Webhook},
    decide::external::{Answer, Answers, OnMissing, Policy, Rule},
    decide::schedule::Schedule,
    store::Store,
};

const WEB: usize = 0;
const SECOND: Duration = Duration::from_secs(1);
const PERSON: Cause<'static> = Cause::new("command", "uid 0");

fn releases(directory: &Path, external: config::External) -> Releases<FakeKernel> {
    let mut config = config(directory);
    config.services[WEB].external = external;
    let store = Store::open(&config.agent.state).expect("a store");
    let mut releases = Releases::new(config.services, FakeKernel::with_pinned(&[None, None]), store);
    releases.take_over().expect("taken over");
    releases
}

fn query(failures: u32, on_missing: OnMissing) -> config::External {
    let rule = Rule::Limits { min: None, max: Some(5.0) };
    let policy = Policy { name: "cpu".to_owned(), rule, every: SECOND * 5, failures, on_missing };
    let url = "http://127.0.0.1:9090".parse().expect("an address");
    let query = Query { url, template: "cpu".to_owned(), timeout: SECOND, policy };
    config::External { queries: vec![query], webhooks: vec![] }
}

fn webhook(on: Moment) -> config::External {
    let url = "http://127.0.0.1:1".parse().expect("an address");
    let webhook = Webhook { name: "gate".to_owned(), url, on, timeout: SECOND, retries: 0, backoff: SECOND };
    config::External { queries: vec![], webhooks: vec![webhook] }
}

fn answer(releases: &mut Releases<FakeKernel>, v2: Answer) {
    releases.hear(Heard::Answers { service: WEB, query: 0, answers: Answers { v1: None, v2 } });
}

/// Time passes, with this answer every five seconds.
fn pass(releases: &mut Releases<FakeKernel>, seconds: u32, v2: Option<&Answer>) {
    for tick in 0..seconds * 10 {
        if let Some(v2) = v2.filter(|_| tick.is_multiple_of(50)) {
            answer(releases, v2.clone());
        }
        releases.advance(SECOND / 10);
    }
}

fn percent_in_kernel(releases: &Releases<FakeKernel>) -> u16 {
    releases.kernel.weights[WEB].mean().hundredths() / 100
}

#[test]
fn only_good_answers_let_a_release_go_on() {
    for bad in [
        None,
        Some(Answer::NoData),
        Some(Answer::NotFinite("NaN".to_owned())),
        Some(Answer::Many(10)),
        Some(Answer::Malformed("HTML".to_owned())),
        Some(Answer::TimedOut(SECOND)),
        Some(Answer::Refused("HTTP 400".to_owned())),
        Some(Answer::Unreachable("refused".to_owned())),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = releases(directory.path(), query(3, OnMissing::Hold));
        releases.command("web", Event::Start, PERSON).expect("started");
        pass(&mut releases, 120, bad.as_ref());
        assert_eq!((percent_in_kernel(&releases), releases.release(WEB).state), (0, State::Progressing), "{bad:?}");
        let held = releases.release(WEB).outside.held.clone().expect("held");
        assert!(held.why.contains("query `cpu`"), "{}", held.why);
        pass(&mut releases, 15, Some(&Answer::Value(1.0)));
        assert_eq!(percent_in_kernel(&releases), 10, "it goes on by itself: {bad:?}");
    }
}

#[test]
fn bad_answers_in_a_row_roll_back_and_a_retry_begins_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = releases(directory.path(), query(3, OnMissing::Hold));
    releases.command("web", Event::Start, PERSON).expect("started");
    pass(&mut releases, 15, Some(&Answer::Value(1.0)));
    assert_eq!(percent_in_kernel(&releases), 10);
    answer(&mut releases, Answer::Value(9.0));
    answer(&mut releases, Answer::Value(9.0));
    assert_eq!(releases.release(WEB).state, State::Progressing);
    answer(&mut releases, Answer::Value(9.0));
    assert_eq!((percent_in_kernel(&releases), releases.release(WEB).state), (0, State::RolledBack));
    let reason = &releases.release(WEB).reason;
    assert!(reason.contains("cpu by query: 9.0000 (limit 5.0000)"), "{reason}");
    releases.command("web", Event::Start, PERSON).expect("started again");
    answer(&mut releases, Answer::Value(9.0));
    pass(&mut releases, 1, None);
    assert_eq!(releases.release(WEB).state, State::Progressing, "the former answers count no more");
}

#[test]
fn without_answers_the_config_says_what_becomes_of_a_release() {
    for (on_missing, expected) in [(OnMissing::Freeze, State::Frozen), (OnMissing::Rollback, State::RolledBack)] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut releases = releases(directory.path(), query(2, on_missing));
        releases.command("web", Event::Start, PERSON).expect("started");
        pass(&mut releases, 11, Some(&Answer::Value(1.0)));
        assert_eq!(percent_in_kernel(&releases), 10);
        answer(&mut releases, Answer::NoData);
        assert_eq!(releases.release(WEB).state, State::Progressing);
        answer(&mut releases, Answer::NoData);
        assert_eq!(releases.release(WEB).state, expected);
        assert!(releases.release(WEB).reason.contains("cpu"), "{}", releases.release(WEB).reason);
    }
}

fn says(releases: &mut Releases<FakeKernel>, from: u16, to: u16, answer: Result<(), String>) {
    let weight = |percent: u16| Weight::from_hundredths(percent * 100).expect("at most 100");
    let raise = Raise { from: weight(from), to: weight(to) };
    // As if it had been called: nobody is there to do it.
    let permits = &mut releases.standings[WEB].opinions.permits;
    permits.forget();
    let Permission::Wait { call, .. } = permits.ask(raise) else { panic!("it is to be asked") };
    releases.hear(Heard::Hook { service: WEB, question: call[0], answer });
}

#[test]
fn each_step_waits_for_its_hook() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = releases(directory.path(), webhook(Moment::BeforeStep));
    releases.command("web", Event::Start, PERSON).expect("started");
    pass(&mut releases, 60, None);
    assert_eq!(percent_in_kernel(&releases), 0);
    says(&mut releases, 0, 10, Err("HTTP 500".to_owned()));
    pass(&mut releases, 5, None);
    assert_eq!(percent_in_kernel(&releases), 0);
    let held = releases.release(WEB).outside.held.clone().expect("held");
    assert_eq!(held.why, "webhook `gate`: HTTP 500");
    says(&mut releases, 0, 10, Ok(()));
    pass(&mut releases, 1, None);
    assert_eq!(percent_in_kernel(&releases), 10);
    pass(&mut releases, 60, None);
    assert_eq!(percent_in_kernel(&releases), 10, "a yes to one step is none to the next");
}

#[test]
fn a_person_needs_nobodys_permission_to_go_anywhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = releases(directory.path(), webhook(Moment::BeforePromotion));
    releases.command("web", Event::Start, PERSON).expect("started");
    pass(&mut releases, 200, None);
    assert_eq!(percent_in_kernel(&releases), 90, "only the last step waits");
    releases.command("web", Event::Promote, PERSON).expect("promoted");
    assert_eq!(percent_in_kernel(&releases), 100);
    releases.command("web", Event::Rollback, PERSON).expect("rolled back");
    assert_eq!(percent_in_kernel(&releases), 0);
}

#[test]
fn a_gate_at_the_first_weight_is_no_way_past_the_hook() {
    use crate::decide::controller::{Gate, Pause};
    let directory = tempfile::tempdir().expect("a directory");
    let weight = |percent: u16| Weight::from_hundredths(percent * 100).expect("at most 100");
    for (weights, gates) in [
        (vec![5, 25, 100], vec![Gate { at: weight(5), pause: Pause::Approve }]),
        (vec![100], vec![]),
        (vec![50], vec![]),
    ] {
        let mut releases = releases(directory.path(), webhook(Moment::BeforeRelease));
        let service = &mut releases.services[WEB];
        let weights: Vec<Weight> = weights.into_iter().map(weight).collect();
        service.schedule = Schedule::Step { weights: weights.clone(), every: SECOND };
        service.policy.gates = gates;
        service.policy.asks_first = true;
        releases.command("web", Event::Start, PERSON).expect("started");
        pass(&mut releases, 3, None);
        assert_eq!((percent_in_kernel(&releases), releases.release(WEB).state), (0, State::Progressing), "{weights:?}");
        let first = weights[0].hundredths() / 100;
        says(&mut releases, 0, first, Ok(()));
        releases.advance(SECOND / 10);
        assert_eq!(percent_in_kernel(&releases), first);
        releases.command("web", Event::Rollback, PERSON).expect("rolled back");
    }
}

#[test]
fn nobody_is_asked_for_a_release_that_stands_still() {
    let directory = tempfile::tempdir().expect("a directory");
    for stop in [Event::Rollback, Event::Freeze] {
        let mut releases = releases(directory.path(), webhook(Moment::BeforeStep));
        releases.services[WEB].policy.asks_first = true;
        releases.command("web", Event::Start, PERSON).expect("started");
        pass(&mut releases, 15, None);
        assert!(releases.standings[WEB].opinions.waiting.is_some());
        releases.command("web", stop.clone(), PERSON).expect("stopped");
        releases.advance(SECOND / 10);
        assert!(releases.standings[WEB].opinions.waiting.is_none(), "{stop:?}");
        // A late yes is none to what is asked for later.
        releases.hear(Heard::Hook { service: WEB, question: Question { hook: 0, number: 1 }, answer: Ok(()) });
        if stop == Event::Freeze {
            releases.command("web", Event::Resume, PERSON).expect("resumed");
        } else {
            releases.command("web", Event::Start, PERSON).expect("started again");
        }
        pass(&mut releases, 15, None);
        assert_eq!(percent_in_kernel(&releases), 0, "{stop:?}");
        releases.command("web", Event::Rollback, PERSON).expect("rolled back");
    }
}

#[test]
fn resuming_without_answers_is_good_for_as_many_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = releases(directory.path(), query(2, OnMissing::Freeze));
    releases.command("web", Event::Start, PERSON).expect("started");
    answer(&mut releases, Answer::NoData);
    answer(&mut releases, Answer::NoData);
    assert_eq!(releases.release(WEB).state, State::Frozen);
    releases.command("web", Event::Resume, PERSON).expect("resumed");
    pass(&mut releases, 1, None);
    answer(&mut releases, Answer::NoData);
    assert_eq!(releases.release(WEB).state, State::Progressing);
    answer(&mut releases, Answer::NoData);
    assert_eq!(releases.release(WEB).state, State::Frozen);
}

#[test]
fn deadlines_go_on_while_a_hook_is_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = releases(directory.path(), webhook(Moment::BeforeStep));
    releases.services[WEB].policy.asks_first = true;
    releases.services[WEB].policy.progress_deadline = Some(SECOND * 30);
    releases.command("web", Event::Start, PERSON).expect("started");
    pass(&mut releases, 35, None);
    assert_eq!(releases.release(WEB).state, State::Progressing, "10 s to the first step, and 25 s since");
    pass(&mut releases, 10, None);
    assert_eq!(releases.release(WEB).state, State::Frozen);
}

/// Webhooks are told what is so: one of rollbacks that it has begun, once; one of events also that it came through.
#[tokio::test]
async fn a_rollback_that_the_kernel_refuses_at_first_is_told_once() {
    const SOON: Duration = Duration::from_secs(5);
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let take = |body: axum::body::Bytes| async move {
        let event: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let text = |of: &serde_json::Value| of.as_str().unwrap_or_default().to_owned();
        told.send((text(&event["type"]), text(&event["data"]["state"]), event["data"]["to"].as_f64())).expect("heard");
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(axum::routing::post(take))).await });

    for (moment, expected) in
        [(Moment::Rollback, &["rolling-back"][..]), (Moment::Event, &["progressing", "rolling-back", "rolled-back"])]
    {
        let directory = tempfile::tempdir().expect("a directory");
        let mut external = webhook(moment);
        external.webhooks[0].url = format!("http://{address}").parse().expect("an address");
        let mut releases = releases(directory.path(), external);
        let (tasks, _answers) = External::start(releases.services()).expect("starts");
        releases.set_external(tasks);
        releases.command("web", Event::Start, PERSON).expect("started");
        releases.kernel.fails_to_lower = true;
        releases.command("web", Event::Rollback, PERSON).expect_err("refused");
        releases.advance(SECOND * 2);
        releases.kernel.fails_to_lower = false;
        releases.advance(SECOND * 2);
        assert_eq!(releases.release(WEB).state, State::RolledBack);
        for state in expected {
            let (kind, found, to) = tokio::time::timeout(SOON, heard.recv()).await.expect("in time").expect("a call");
            assert_eq!((found.as_str(), to), (*state, Some(0.0)), "{kind}");
        }
        let more = tokio::time::timeout(SECOND / 5, heard.recv()).await;
        assert!(more.is_err(), "{more:?}");
    }
}
