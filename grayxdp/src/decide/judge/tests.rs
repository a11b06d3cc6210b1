//! Scenes: what the judge says of them.

use super::*;
use crate::decide::{evidence::NotYet, signals::GroupCounts};

const SECOND: Duration = Duration::from_secs(1);
/// Connections are independent, as in most of these scenes.
const CONFIG: JudgeConfig = JudgeConfig {
    false_alarm: 0.01,
    tolerate: 1.0,
    negligible_latency: Duration::from_micros(250),
    tolerate_latency: 1.02,
    margin: 1.5,
    negligible: 0.001,
    max_error_rate: None,
    max_p99: None,
    correlated: false,
    peeks: true,
    one_sided: false,
    lag: Duration::from_secs(15),
};

fn percent(percent: u16) -> Weight {
    Weight::from_hundredths(percent * 100).expect("at most 100 %")
}

fn refused(flows: u64, refused: u64) -> Signals {
    Signals { counts: Counts { flows, refused, ..Counts::default() }, ..Signals::default() }
}

fn tick<'a>(weight: u16, v1: &'a Signals, v2: &'a Signals) -> Tick<'a> {
    let weight = (percent(weight), percent(weight));
    Tick { elapsed: SECOND, weight, shards: weight, v1, v2, backends: &[] }
}

/// What is said after so many ticks that are all alike, and in which one something else was said for the first time.
fn after(judge: &mut Judge, ticks: u32, tick: &Tick<'_>) -> Verdict {
    for _ in 0..ticks {
        judge.absorb(tick);
    }
    judge.verdict()
}

fn evidence(judgement: Judgement) -> Evidence {
    match judgement {
        Judgement::Harmful(evidence)
        | Judgement::BothBad(evidence)
        | Judgement::Untrusted(evidence)
        | Judgement::NoWorse(evidence) => *evidence,
        Judgement::NotYet(NotYet { evidence, .. }) => *evidence.expect("some evidence"),
    }
}

#[test]
fn before_anything_came_nothing_is_said() {
    let mut judge = Judge::new(CONFIG);
    let nothing = Signals::default();
    assert_eq!(judge.judgement(), Judgement::NotYet(NotYet::default()));
    for weight in [0, 5, 100] {
        assert_eq!(after(&mut judge, 1000, &tick(weight, &nothing, &nothing)), Verdict::NotYet);
    }
}

#[test]
fn a_worse_version_is_harmful_for_good_and_its_bad_backend_is_named() {
    let mut judge = Judge::new(CONFIG);
    let (v1, v2) = (refused(900, 1), refused(100, 10));
    let backends = [1u8, 2, 3].map(|last| {
        let refused = if last == 2 { 10 } else { 0 };
        (([10, 0, 0, last], 80).into(), Counts { flows: 33, refused, ..Counts::default() })
    });
    let bad = Tick { backends: &backends, ..tick(10, &v1, &v2) };
    assert_eq!(after(&mut judge, 5, &bad), Verdict::Harmful);
    let found = evidence(judge.judgement());
    assert_eq!((found.signal.as_str(), found.backend), ("errors", Some(([10, 0, 0, 2], 80).into())));
    assert!(found.value >= found.limit && found.interval.is_some_and(|(low, _)| low > 5.0), "{found:?}");
    let (better1, better2) = (refused(900, 1), refused(100, 0));
    assert_eq!(after(&mut judge, 1000, &tick(10, &better1, &better2)), Verdict::Harmful);
    assert_eq!(evidence(judge.judgement()), found);
}

#[test]
fn an_equal_version_is_cleared_about_when_it_was_said_and_taken_back_soon_when_it_turns_bad() {
    for (v1, v2) in [(refused(900, 9), refused(100, 1)), (refused(900, 0), refused(100, 0))] {
        let mut judge = Judge::new(CONFIG);
        after(&mut judge, 20, &tick(10, &v1, &v2));
        let Judgement::NotYet(NotYet { samples: Some(samples), time: Some(time), .. }) = judge.judgement() else {
            panic!("{:?}", judge.judgement());
        };
        let mut waited = 0u32;
        while judge.verdict() == Verdict::NotYet && waited < 10_000 {
            judge.absorb(&tick(10, &v1, &v2));
            waited += 1;
        }
        assert_eq!(judge.verdict(), Verdict::NoWorse);
        let (said, found) = (time.as_secs_f64(), f64::from(waited));
        assert!((0.5..2.0).contains(&(found / said)), "said {said}, found {found}");
        assert!((samples as f64 / (said * 1000.0) - 1.0).abs() < 0.1, "{samples}");
        after(&mut judge, 600, &tick(10, &v1, &v2));
        let worse = refused(100, 3 + 3 * v1.counts.refused);
        assert_ne!(after(&mut judge, 4, &tick(10, &v1, &worse)), Verdict::NoWorse);
    }
}

#[test]
fn a_fault_that_begins_late_is_found_about_as_soon() {
    let found_after = |good_ticks| {
        let mut judge = Judge::new(CONFIG);
        let (v1, good, bad) = (refused(900, 9), refused(100, 1), refused(100, 5));
        after(&mut judge, good_ticks, &tick(10, &v1, &good));
        (1..1000).find(|_| after(&mut judge, 1, &tick(10, &v1, &bad)) == Verdict::Harmful)
    };
    let (at_once, late) = (found_after(0).expect("found"), found_after(3600).expect("found"));
    assert!(late <= 4 * at_once, "{at_once} {late}");
}

#[test]
fn slower_responses_are_harmful_at_any_turn() {
    for later in [false, true] {
        let mut judge = Judge::new(CONFIG);
        let signals = |flows: u64, us: u32| {
            let mut signals = refused(flows, 0);
            let times = if later { &mut signals.later_response } else { &mut signals.first_response };
            for part in 1..=10 {
                times.record_us(us * part / 5, flows / 10);
            }
            signals
        };
        let (v1, same, slower) = (signals(900, 10_000), signals(100, 10_000), signals(100, 16_000));
        assert_ne!(after(&mut judge, 300, &tick(10, &v1, &same)), Verdict::Harmful);
        assert_eq!(after(&mut judge, 30, &tick(10, &v1, &slower)), Verdict::Harmful);
        let expected = if later { "latency-later" } else { "latency-first" };
        assert_eq!(evidence(judge.judgement()).signal, expected);
    }
}

/// So many responses of 1 to 2 ms, and so many turns without one.
fn waiting(responses: u64, overdue: u64) -> Signals {
    let established = responses + overdue;
    let counts = Counts { flows: established, established, responses, overdue_waiting: overdue, ..Counts::default() };
    let mut signals = Signals { counts, ..Signals::default() };
    for part in 1..=10 {
        signals.first_response.record_us(1000 + 100 * part, responses / 10);
    }
    signals
}

#[test]
fn a_version_that_answers_nothing_any_more_is_slow_and_its_backend_is_named() {
    let mut judge = Judge::new(CONFIG);
    assert_ne!(after(&mut judge, 60, &tick(10, &waiting(900, 0), &waiting(100, 0))), Verdict::Harmful);
    let (v1, v2) = (waiting(900, 0), waiting(50, 20));
    let backends = [([10, 0, 0, 1], 50, 0), ([10, 0, 0, 2], 20, 20)].map(|(address, established, overdue_waiting)| {
        ((address, 80).into(), Counts { established, overdue_waiting, ..Counts::default() })
    });
    let hanging = Tick { backends: &backends, ..tick(10, &v1, &v2) };
    assert_eq!(after(&mut judge, 3, &hanging), Verdict::Harmful);
    let found = evidence(judge.judgement());
    assert_eq!((found.signal.as_str(), found.backend), ("latency-first", Some(([10, 0, 0, 2], 80).into())));
    assert!(found.e2 >= 20 && found.e2 <= 60, "{found:?}");
    // The good minute before does not hide it.
    let lately = found.lately.expect("it was not so from the beginning");
    assert!(lately.seconds <= 30 && lately.e2 == found.e2 && lately.n1 < found.n1 / 2, "{found:?}");
}

#[test]
fn a_turn_that_is_answered_after_it_was_overdue_counts_once() {
    let mut judge = Judge::new(CONFIG);
    after(&mut judge, 60, &tick(10, &waiting(900, 0), &waiting(100, 0)));
    let before = judge.comparisons.iter().find(|each| each.kind == Kind::FirstResponse).expect("there").counted();
    let mut found = waiting(0, 4);
    found.counts.overdue_gone = 2;
    let mut answered = waiting(0, 0);
    answered.counts.overdue_answered = 3;
    answered.first_response.record_us(5_000_000, 3);
    after(&mut judge, 1, &tick(10, &waiting(900, 0), &found));
    after(&mut judge, 1, &tick(10, &waiting(900, 0), &answered));
    let counted = judge.comparisons.iter().find(|each| each.kind == Kind::FirstResponse).expect("there").counted();
    assert_eq!((counted.n2 - before.n2, counted.e2 - before.e2), (6, 6));
}

#[test]
fn turns_without_an_answer_blame_nobody_where_both_have_them_or_answers_take_as_long() {
    for overdue in [(9, 1), (90, 10), (900, 100)] {
        let mut judge = Judge::new(CONFIG);
        let (v1, v2) = (waiting(900, overdue.0), waiting(100, overdue.1));
        assert_ne!(after(&mut judge, 600, &tick(10, &v1, &v2)), Verdict::Harmful, "{overdue:?}");
    }
    // Of a turn that waits nobody knows whether it is slower than answers that take longer than it has waited.
    let mut judge = Judge::new(CONFIG);
    let slow = |responses: u64, overdue: u64| {
        let mut signals = waiting(0, overdue);
        signals.first_response.record_us(10_000_000, responses);
        signals
    };
    let (v1, v2) = (slow(900, 0), slow(100, 20));
    assert_ne!(after(&mut judge, 600, &tick(10, &v1, &v2)), Verdict::Harmful);
}

#[test]
fn closed_windows_repeated_segments_and_bad_answers_are_harmful() {
    let one = |counts: Counts| Signals { counts: Counts { flows: 100, ..counts }, ..Signals::default() };
    let (watched_segments, answers_good) = (1000, 1000);
    for (signal, v1, v2) in [
        (
            "zero-windows",
            Counts { watched_segments, zero_windows: 1, ..Counts::default() },
            Counts { watched_segments, zero_windows: 40, ..Counts::default() },
        ),
        (
            "retransmissions",
            Counts { watched_segments, retransmissions: 1, ..Counts::default() },
            Counts { watched_segments, retransmissions: 40, ..Counts::default() },
        ),
        (
            "answers",
            Counts { answers_good, answers_server_error: 1, ..Counts::default() },
            Counts { answers_good, answers_server_error: 40, ..Counts::default() },
        ),
    ] {
        let mut judge = Judge::new(CONFIG);
        let (v1, v2) = (one(v1), one(v2));
        assert_eq!(after(&mut judge, 30, &tick(50, &v1, &v2)), Verdict::Harmful, "{signal}");
        assert_eq!(evidence(judge.judgement()).signal, signal);
    }
}

#[test]
fn where_replies_do_not_pass_unanswered_connections_and_clients_resets_are_judged_and_nothing_else() {
    let config = JudgeConfig { one_sided: true, max_p99: Some(Duration::from_millis(100)), ..CONFIG };
    let unseen = ["answers", "latency-first", "latency-later", "latency-handshake", "zero-windows", "retransmissions"];
    assert_eq!(config.unseen(), [&unseen[..], &["max_p99"]].concat());
    assert_eq!(CONFIG.unseen(), [""; 0]);
    let of = |n: u64, unanswered: u64, client_resets: u64| {
        let established = n - unanswered;
        Signals {
            counts: Counts { flows: n, established, unanswered, client_resets, ..Counts::default() },
            ..Signals::default()
        }
    };
    let v1 = of(900, 9, 18);
    for (signal, v2, expected) in [
        ("errors", of(100, 20, 2), Verdict::Harmful),
        ("client-resets", of(100, 1, 30), Verdict::Harmful),
        ("no worse", of(100, 1, 2), Verdict::NoWorse),
    ] {
        let mut judge = Judge::new(config);
        let found = after(&mut judge, if expected == Verdict::Harmful { 60 } else { 1200 }, &tick(10, &v1, &v2));
        assert_eq!(found, expected, "{signal}: {:?}", judge.judgement());
        if expected == Verdict::Harmful {
            assert_eq!(evidence(judge.judgement()).signal, signal);
        }
    }
    // Clients that give up are no error where replies pass.
    let mut judge = Judge::new(CONFIG);
    assert_ne!(after(&mut judge, 60, &tick(10, &v1, &of(100, 1, 30))), Verdict::Harmful);
    // Nor are they blamed on v2 where they come from few clients, who fall on one version together.
    let mut v2 = of(100, 1, 12);
    let grouped = |each: u64, of_one: u64| {
        let mut groups = vec![GroupCounts { flows: each, errors: 0 }; 256];
        groups[3].errors = of_one;
        groups
    };
    let mut v1 = v1;
    (v1.groups, v2.groups) = (grouped(9, 18), grouped(1, 12));
    let mut judge = Judge::new(JudgeConfig { correlated: true, ..config });
    assert_ne!(after(&mut judge, 5, &tick(10, &v1, &v2)), Verdict::Harmful, "{:?}", judge.judgement());
}

#[test]
fn resets_of_connections_from_before_a_fall_are_not_held_against_the_smaller_share() {
    let of = |n: u64, client_resets: u64| Signals {
        counts: Counts { flows: n, established: n, client_resets, ..Counts::default() },
        ..Signals::default()
    };
    let mut judge = Judge::new(JudgeConfig { one_sided: true, ..CONFIG });
    after(&mut judge, 100, &tick(50, &of(50, 10), &of(50, 10)));
    // The old connections end for a minute and more, as many on one side as on the other.
    for _ in 0..60 {
        let found = after(&mut judge, 1, &tick(5, &of(95, 10), &of(5, 10)));
        assert_ne!(found, Verdict::Harmful, "{:?}", judge.judgement());
    }
}

#[test]
fn when_both_fail_at_once_neither_is_blamed() {
    let mut judge = Judge::new(CONFIG);
    let (well1, well2) = (refused(900, 1), refused(100, 0));
    let (ill1, ill2) = (refused(900, 300), refused(100, 33));
    after(&mut judge, 120, &tick(10, &well1, &well2));
    assert_eq!(after(&mut judge, 10, &tick(10, &ill1, &ill2)), Verdict::BothBad);
    let found = evidence(judge.judgement());
    assert!(found.rule == "v1's past" && found.value > 10.0 * found.limit, "{found:?}");
    assert_eq!(after(&mut judge, 300, &tick(10, &ill1, &ill2)), Verdict::BothBad);
    assert_ne!(after(&mut judge, 120, &tick(10, &well1, &well2)), Verdict::BothBad);
    assert_ne!(judge.verdict(), Verdict::Harmful);
}

#[test]
fn limits_are_for_v2_alone_and_for_both() {
    let config = JudgeConfig { max_error_rate: Some(0.02), tolerate: 50.0, margin: 100.0, ..CONFIG };
    for (errors1, errors2, expected) in
        [(2, 5, Verdict::Harmful), (45, 5, Verdict::BothBad), (45, 1, Verdict::NotYet), (9, 1, Verdict::NotYet)]
    {
        let mut judge = Judge::new(config);
        let (v1, v2) = (refused(900, errors1), refused(100, errors2));
        let found = after(&mut judge, 60, &tick(10, &v1, &v2));
        let is_expected = found == expected || (expected == Verdict::NotYet && found == Verdict::NoWorse);
        assert!(is_expected, "{errors1} {errors2}: {found:?}");
        if expected == Verdict::Harmful {
            let found = evidence(judge.judgement());
            assert_eq!((found.signal.as_str(), found.rule.as_str(), found.limit), ("max_error_rate", "limit", 0.02));
        }
    }
}

#[test]
fn a_share_that_is_not_the_weight_cannot_be_trusted_but_pinned_connections_can() {
    let (v1, v2) = (refused(800, 8), refused(200, 2));
    let mut judge = Judge::new(CONFIG);
    assert_eq!(after(&mut judge, 30, &tick(10, &v1, &v2)), Verdict::Untrusted);
    let found = evidence(judge.judgement());
    assert!((found.value - 0.2).abs() < 1e-9 && (found.limit - 0.1).abs() < 1e-9, "{found:?}");
    let mut judge = Judge::new(CONFIG);
    let mut pinned = v2.clone();
    pinned.counts.unweighted = 111;
    assert_ne!(after(&mut judge, 30, &tick(10, &v1, &pinned)), Verdict::Untrusted);
}

/// Errors are seen ten seconds after their connections began, while the weight goes up, or down.
#[test]
fn late_errors_under_a_moving_weight_blame_nobody() {
    for weights in [[5u16, 50], [50, 5]] {
        let mut judge = Judge::new(CONFIG);
        for second in 0..400usize {
            let weight_at = |second: usize| weights[(second / 100) % 2];
            let (now, then) = (u64::from(weight_at(second)), u64::from(weight_at(second.saturating_sub(10))));
            let (v1, v2) = (refused(1000 - 10 * now, 100 - then), refused(10 * now, then));
            judge.absorb(&tick(weight_at(second), &v1, &v2));
            assert_ne!(judge.verdict(), Verdict::Harmful, "second {second} of {weights:?}");
        }
    }
}

#[test]
fn one_clients_burst_is_one_error_and_many_clients_errors_are_many() {
    let spread = |errors: u64, clients: usize| {
        let mut signals = refused(100, errors);
        signals.groups = vec![GroupCounts { flows: 1, errors: 0 }; 256];
        for client in 0..clients {
            signals.groups[client * 7 % 256].errors = errors / clients as u64;
        }
        signals
    };
    let mut v1 = spread(0, 1);
    v1.counts.flows = 1900;
    for (clients, correlated, expected) in
        [(1, true, Verdict::NotYet), (40, true, Verdict::Harmful), (1, false, Verdict::Harmful)]
    {
        let mut judge = Judge::new(JudgeConfig { correlated, ..CONFIG });
        let v2 = spread(40, clients);
        after(&mut judge, 20, &tick(5, &v1, &spread(0, 1)));
        assert_eq!(after(&mut judge, 1, &tick(5, &v1, &v2)), expected, "{clients} {correlated}");
    }
}

#[test]
fn odd_input_does_no_harm() {
    let odd = [
        (refused(0, 50), refused(0, 50)),
        (refused(0, 0), refused(0, 50)),
        (refused(1, 50), refused(1, 50)),
        (refused(u64::MAX / 4, 0), refused(u64::MAX / 4, 0)),
    ];
    for (v1, v2) in &odd {
        for elapsed in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            for weight in [0, 50, 100] {
                let mut judge = Judge::new(CONFIG);
                let odd = Tick { elapsed, ..tick(weight, v1, v2) };
                (0..3).for_each(|_| drop(judge.tick(&odd)));
                assert_ne!(judge.verdict(), Verdict::Harmful, "{:?} {:?} {elapsed:?} {weight}", v1.counts, v2.counts);
                assert_eq!(Judge::from_json(CONFIG, &judge.to_json()).expect("readable"), judge);
            }
        }
    }
}

#[test]
fn what_comes_late_when_all_is_on_one_version_blames_nobody() {
    for (weight, v1, v2) in [(0, refused(1000, 2), refused(0, 5)), (100, refused(0, 5), refused(1000, 2))] {
        let mut judge = Judge::new(CONFIG);
        let (before1, before2) = (refused(500, 1), refused(500, 1));
        after(&mut judge, 60, &tick(50, &before1, &before2));
        assert_ne!(after(&mut judge, 600, &tick(weight, &v1, &v2)), Verdict::Harmful, "{weight}");
    }
}

#[test]
fn sparse_traffic_is_judged_in_the_end() {
    let mut judge = Judge::new(CONFIG);
    let (v1, v2, nothing) = (refused(1, 0), refused(1, 1), Signals::default());
    let mut found = None;
    for minute in 0..200 {
        after(&mut judge, 59, &tick(50, &nothing, &nothing));
        judge.absorb(&tick(50, &v1, &v2));
        if judge.verdict() == Verdict::Harmful {
            found = found.or(Some(minute));
        }
    }
    assert!(found.is_some_and(|minutes| (5..30).contains(&minutes)), "{found:?}");
}

#[test]
fn a_judge_that_is_restored_goes_on_to_the_last_bit() {
    let mut judge = Judge::new(CONFIG);
    let mut restored = judge.clone();
    for second in 0..300u64 {
        let mut v1 = refused(900 + second % 7, second % 5);
        v1.first_response.record_us(1000 + u32::try_from(second).expect("small") * 31, 900);
        v1.groups = vec![GroupCounts { flows: 3, errors: second % 2 }; 256];
        let mut v2 = refused(100 + second % 3, second % 2);
        v2.first_response.record_us(1000 + u32::try_from(second).expect("small") * 29, 100);
        let backends = [(([10, 0, 0, 1], 80).into(), v2.counts)];
        let now = Tick { backends: &backends, ..tick(if second < 100 { 5 } else { 10 }, &v1, &v2) };
        assert_eq!(judge.tick(&now), restored.tick(&now), "second {second}");
        if second % 13 == 0 {
            restored = Judge::from_json(CONFIG, &restored.to_json()).expect("readable");
            assert_eq!(restored, judge, "second {second}");
        }
    }
}

#[test]
fn a_state_of_something_else_is_refused_with_the_reason() {
    let text = Judge::new(CONFIG).to_json();
    let other = JudgeConfig { margin: 2.0, ..CONFIG };
    for (config, text, part) in [
        (CONFIG, String::new(), "cannot be read"),
        (CONFIG, "{}".to_owned(), "cannot be read"),
        (CONFIG, text.replace("\"version\":4", "\"version\":99"), "version 99, this agent reads version 4"),
        (CONFIG, text.replace("beginnings", "begun"), "cannot be read"),
        (other, text.clone(), "under other settings"),
    ] {
        let error = Judge::from_json(config, &text).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
    }
}
