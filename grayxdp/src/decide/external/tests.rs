//! Tables of answers, and what each does to a release.

use grayxdp_common::weight::Weight;
use proptest::prelude::*;

use super::{
    hook::{Moment, Permission, Permits, Question, Raise},
    *,
};

const EVERY: Duration = Duration::from_secs(10);

fn policy(rule: Rule, on_missing: OnMissing) -> Policy {
    Policy { name: "cpu".to_owned(), rule, every: EVERY, failures: 2, on_missing }
}

fn answers(v1: Option<f64>, v2: Answer) -> Answers {
    Answers { v1: v1.map(Answer::Value), v2 }
}

fn after(policy: &Policy, all: &[Answers]) -> Standing {
    let mut watch = Watch::default();
    all.iter().for_each(|answers| watch.take(policy, answers));
    watch.standing(policy)
}

#[test]
fn prometheus_answers_mean_this() {
    let vector =
        |series: &str| format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{series}]}}}}"#);
    let one = |value: &str| format!(r#"{{"metric":{{}},"value":[1700000000.1,"{value}"]}}"#);
    let ten = vec![one("1"); 10].join(",");
    for (status, body, expected) in [
        (200, vector(&one("0.25")), Answer::Value(0.25)),
        (200, vector(&one("-3e2")), Answer::Value(-300.0)),
        (200, vector(&one("NaN")), Answer::NotFinite("NaN".to_owned())),
        (200, vector(&one("+Inf")), Answer::NotFinite("+Inf".to_owned())),
        (200, vector(""), Answer::NoData),
        (200, vector(&ten), Answer::Many(10)),
        (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}"#.to_owned(), Answer::Value(7.0)),
        (
            400,
            r#"{"status":"error","error":"parse error"}"#.to_owned(),
            Answer::Refused("HTTP 400: parse error".to_owned()),
        ),
    ] {
        assert_eq!(prometheus::read(status, body.as_bytes()), expected, "{body}");
    }
    for body in [
        "<html><body>502 Bad Gateway</body></html>".to_owned(),
        String::new(),
        "[]".to_owned(),
        r#"{"status":"success"}"#.to_owned(),
        r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#.to_owned(),
        r#"{"status":"success","data":{"resultType":"string","result":[1,"x"]}}"#.to_owned(),
        vector(r#"{"metric":{}}"#),
        vector(&one("seven")),
    ] {
        assert!(matches!(prometheus::read(200, body.as_bytes()), Answer::Malformed(_)), "{body}");
    }
}

#[test]
fn only_a_good_answer_passes_and_only_bad_ones_in_a_row_fail() {
    let limits = policy(Rule::Limits { min: Some(1.0), max: Some(5.0) }, OnMissing::Hold);
    let value = |value| answers(None, Answer::Value(value));
    let silent = answers(None, Answer::NoData);
    let is_fail = |standing: &Standing| matches!(standing, Standing::Fail(_));
    let is_hold = |standing: &Standing| matches!(standing, Standing::Hold(_));
    assert!(is_hold(&after(&limits, &[])));
    assert_eq!(after(&limits, &[value(1.0)]), Standing::Pass);
    assert_eq!(after(&limits, &[value(9.0), value(5.0)]), Standing::Pass);
    assert!(is_hold(&after(&limits, &[value(9.0)])));
    assert!(is_fail(&after(&limits, &[value(9.0), value(0.5)])));
    assert!(is_hold(&after(&limits, &[value(9.0), value(2.0), value(9.0)])));
    // Silence does not make a bad answer good.
    assert!(is_hold(&after(&limits, &[value(9.0), silent.clone()])));
    assert!(is_fail(&after(&limits, &[value(9.0), silent.clone(), value(9.0)])));
    assert!(is_hold(&after(&limits, &vec![silent.clone(); 100])));
    let freeze = policy(limits.rule, OnMissing::Freeze);
    assert!(matches!(after(&freeze, &[silent.clone(), silent.clone()]), Standing::Freeze(_)));
    let rollback = policy(limits.rule, OnMissing::Rollback);
    assert!(is_hold(&after(&rollback, std::slice::from_ref(&silent))));
    assert!(is_fail(&after(&rollback, &[silent.clone(), silent])));
}

#[test]
fn versions_are_compared_at_one_moment() {
    for (rule, v1, v2, passes) in [
        (Rule::AtMostTimesV1(1.5), 10.0, 15.0, true),
        (Rule::AtMostTimesV1(1.5), 10.0, 15.1, false),
        (Rule::AtMostTimesV1(1.5), 0.0, 0.0, true),
        (Rule::AtMostTimesV1(1.5), 0.0, 0.1, false),
        (Rule::AtLeastTimesV1(0.9), 100.0, 90.0, true),
        (Rule::AtLeastTimesV1(0.9), 100.0, 89.0, false),
    ] {
        let policy = policy(rule, OnMissing::Hold);
        let found = after(&policy, &[answers(Some(v1), Answer::Value(v2))]);
        assert_eq!(found == Standing::Pass, passes, "{rule:?} {v1} {v2}: {found:?}");
    }
    let compared = policy(Rule::AtMostTimesV1(1.5), OnMissing::Hold);
    let without_v1 = Answers { v1: Some(Answer::NotFinite("NaN".to_owned())), v2: Answer::Value(1.0) };
    let Standing::Hold(reason) = after(&compared, &[without_v1]) else { panic!("held") };
    assert_eq!(reason, "query `cpu`: v1: the answer is NaN, which is no number to compare");
}

#[test]
fn an_answer_that_is_old_holds() {
    let limits = policy(Rule::Limits { min: None, max: Some(5.0) }, OnMissing::Hold);
    let mut watch = Watch::default();
    watch.take(&limits, &answers(None, Answer::Value(1.0)));
    watch.elapsed(EVERY * 3);
    assert_eq!(watch.standing(&limits), Standing::Pass);
    watch.elapsed(Duration::from_secs(1));
    assert_eq!(watch.standing(&limits), Standing::Hold("query `cpu`: the last answer is 31s old".to_owned()));
}

#[test]
fn placeholders_are_filled_in_and_wrong_ones_found() {
    let template = r#"rate(x{service="{{service}}",version="{{version}}"}[{{interval}}])"#;
    assert_eq!(unknown_placeholder(template), None);
    let filled = fill_in(template, "web", "v2", Duration::from_secs(90));
    assert_eq!(filled, r#"rate(x{service="web",version="v2"}[90s])"#);
    assert_eq!(unknown_placeholder("{{service}} {{ version }}"), Some("{{ version }}"));
    assert_eq!(unknown_placeholder("{{service"), Some("{{service"));
}

const RAISE: Raise = Raise { from: Weight::ZERO, to: Weight::FULL };

fn raise(from: u16, to: u16) -> Raise {
    let weight = |percent: u16| Weight::from_hundredths(percent * 100).expect("at most 100 %");
    Raise { from: weight(from), to: weight(to) }
}

/// Who is called, and the questions.
fn called(permission: Permission) -> Option<Vec<Question>> {
    match permission {
        Permission::Granted => None,
        Permission::Wait { call, .. } => Some(call),
    }
}

fn hooks_called(permission: Permission) -> Option<Vec<usize>> {
    called(permission).map(|call| call.into_iter().map(|question| question.hook).collect())
}

#[test]
fn a_raise_waits_for_every_hook_of_its_moment() {
    let hooks = [
        ("start", Moment::BeforeRelease),
        ("step", Moment::BeforeStep),
        ("end", Moment::BeforePromotion),
        ("log", Moment::Event),
    ];
    let mut permits = Permits::new(hooks.map(|(name, moment)| (name.to_owned(), moment)));
    let questions = called(permits.ask(raise(0, 10))).expect("asked");
    assert_eq!(questions.iter().map(|question| question.hook).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(hooks_called(permits.ask(raise(0, 10))), Some(vec![]), "asked once");
    permits.answer(questions[0], Ok(()));
    assert_eq!(hooks_called(permits.ask(raise(0, 10))), Some(vec![]));
    permits.answer(Question { number: 99, ..questions[1] }, Ok(()));
    assert_eq!(hooks_called(permits.ask(raise(0, 10))), Some(vec![]), "a yes to something else");
    permits.answer(questions[1], Ok(()));
    assert_eq!(permits.ask(raise(0, 10)), Permission::Granted);
    assert_eq!(hooks_called(permits.ask(raise(10, 20))), Some(vec![1]), "each raise is asked for");
    assert_eq!(hooks_called(permits.ask(raise(20, 100))), Some(vec![1, 2]));
}

#[test]
fn a_no_is_asked_again_after_a_while() {
    let mut permits = Permits::new([("gate".to_owned(), Moment::BeforeStep)]);
    let first = called(permits.ask(RAISE)).expect("asked")[0];
    permits.answer(first, Err("HTTP 500".to_owned()));
    let waits = Permission::Wait { reason: "webhook `gate`: HTTP 500".to_owned(), call: vec![] };
    assert_eq!(permits.ask(RAISE), waits);
    permits.elapsed(Duration::from_secs(9));
    assert_eq!(permits.ask(RAISE), waits);
    permits.elapsed(Duration::from_secs(1));
    let again = called(permits.ask(RAISE)).expect("asked")[0];
    permits.answer(first, Ok(()));
    assert_ne!(permits.ask(RAISE), Permission::Granted, "a late answer to the first question");
    permits.answer(again, Ok(()));
    assert_eq!(permits.ask(RAISE), Permission::Granted);
    permits.forget();
    assert_eq!(hooks_called(permits.ask(RAISE)), Some(vec![0]));
}

proptest! {
    #[test]
    fn nothing_that_a_server_says_panics_or_passes_by_chance(body in prop::collection::vec(any::<u8>(), 0..200), status in any::<u16>()) {
        let answer = prometheus::read(status, &body);
        prop_assert!(!matches!(answer, Answer::Value(_)));
        let limits = policy(Rule::Limits { min: None, max: Some(5.0) }, OnMissing::Hold);
        prop_assert!(matches!(after(&limits, &[answers(None, answer)]), Standing::Hold(_)));
    }
}
