//! Tables of sections, good and bad ones.

use super::*;
use crate::config::{Config, ConfigErrors, sample};

/// Lines from 15 on.
fn parse(rest: &str) -> Result<External, ConfigErrors> {
    let rest = format!("[service.release]\nschedule = {{ kind = \"manual\" }}\n\n\n{rest}");
    Config::parse("lb.toml", &sample::text("tcp", &rest)).map(|config| config.services[0].external.clone())
}

const QUERY: &str =
    "[[service.release.query]]\nname = \"cpu\"\nurl = \"http://127.0.0.1:9090\"\nquery = \"x{{version}}\"";
const WEBHOOK: &str = "[[service.release.webhook]]\nname = \"gate\"\nurl = \"https://ci.example.org/a\"";

#[test]
fn what_is_left_out_has_its_default() {
    let found = parse(&format!("{QUERY}\nmax = 0.8\n{WEBHOOK}\non = \"before-step\"")).expect("valid");
    let policy = Policy {
        name: "cpu".to_owned(),
        rule: Rule::Limits { min: None, max: Some(0.8) },
        every: EVERY_DEFAULT,
        failures: 3,
        on_missing: OnMissing::Hold,
    };
    let query = Query {
        url: "http://127.0.0.1:9090".parse().expect("an address"),
        template: "x{{version}}".to_owned(),
        timeout: QUERY_TIMEOUT_DEFAULT,
        policy,
    };
    let webhook = Webhook {
        name: "gate".to_owned(),
        url: "https://ci.example.org/a".parse().expect("an address"),
        on: Moment::BeforeStep,
        timeout: HOOK_TIMEOUT_DEFAULT,
        retries: 2,
        backoff: BACKOFF_DEFAULT,
    };
    assert_eq!(found, External { queries: vec![query], webhooks: vec![webhook] });
    assert_eq!(parse("").expect("valid"), External::default());
}

#[test]
fn each_rule_is_read() {
    for (keys, rule) in [
        ("min = 1", Rule::Limits { min: Some(1.0), max: None }),
        ("min = -1\nmax = 2.5", Rule::Limits { min: Some(-1.0), max: Some(2.5) }),
        ("at_most_times_v1 = 1.5", Rule::AtMostTimesV1(1.5)),
        ("at_least_times_v1 = 0.9", Rule::AtLeastTimesV1(0.9)),
    ] {
        let found = parse(&format!("{QUERY}\n{keys}")).expect(keys);
        assert_eq!(found.queries.first().map(|query| query.policy.rule), Some(rule));
    }
}

#[test]
fn nonsense_is_refused_with_its_place_and_advice() {
    let query = |keys: &str| format!("{QUERY}\n{keys}");
    let webhook = |keys: &str| format!("{WEBHOOK}\n{keys}");
    let mut wrong = Vec::new();
    for (text, line, parts) in [
        (query(""), 15, ["none of `min`, `max`", "`max = 0.8`"]),
        (query("max = nan"), 19, ["expected a number, found `nan`", "0.8"]),
        (query("max = inf"), 19, ["expected a number", "0.8"]),
        (query("max = \"1\""), 19, ["expected a number", "no quotes"]),
        (query("min = 2\nmax = 1"), 20, ["`max` (1) is below `min` (2)", "swap"]),
        (query("max = 1\nat_most_times_v1 = 2"), 20, ["one rule too many", "compare"]),
        (query("at_most_times_v1 = 0"), 19, ["more than 0", "1.5"]),
        (query("max = 1\nevery = \"10ms\""), 20, ["from 1s to 1h", "1s"]),
        (query("max = 1\ntimeout = \"2m\""), 20, ["from 100ms to 1m", "100ms"]),
        (query("max = 1\nfailures = 0"), 20, ["whole number from 1 to 100", "1"]),
        (query("max = 1\non_missing = \"ignore\""), 20, ["`hold`, `freeze`, `rollback`", "hold"]),
        (query("max = 1\non_mising = \"hold\""), 20, ["unknown key `on_mising`", "did you mean `on_missing`"]),
        (QUERY.replace("{{version}}", "{{versoin}}") + "\nmax = 1", 18, ["no placeholders but", "`{{versoin}}`"]),
        (QUERY.replace("{{version}}", "") + "\nat_most_times_v1 = 2", 18, ["compared with itself", "`{{version}}`"]),
        (QUERY.replace("http:", "ftp:") + "\nmax = 1", 17, ["an http or https address", "scheme"]),
        (query(&format!("max = 1\n{QUERY}\nmax = 2")), 21, ["`cpu` is there twice", "a name of its own"]),
        (webhook(""), 15, ["`on` is missing", "before-step"]),
        (webhook("on = \"step\""), 18, ["`before-step`", "rollback"]),
        (webhook("on = \"event\"\nretries = 11"), 19, ["from 0 to 10", "0"]),
        (webhook("on = \"event\"\nbackoff = \"0s\""), 19, ["from 100ms to 1m", "100ms"]),
        ("query = []".to_owned(), 15, ["one or more `[[query]]`", "[[query]]"]),
    ] {
        let errors = parse(&text).expect_err(&text);
        let [error] = errors.errors() else { panic!("{text}: one error, found\n{errors}") };
        let whole = format!("{}; {}", error.message, error.help);
        if error.line != line || !parts.iter().all(|part| whole.contains(part)) {
            wrong.push(format!("{text}: wanted line {line} {parts:?}, found\n{errors}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
