//! Others that have a say: a real Prometheus that is asked, webhooks that are asked and told; and what a release makes of it
//! when they are slow, broken, or talk nonsense.

use std::{
    collections::HashSet,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use grayxdp_tests::{
    agent::Agent,
    config::{AgentConfig, ServiceConfig},
    others::{Call, Manner, Others},
    process::wait_until,
    prometheus::Prometheus,
    sweep,
    topology::{Family, Topology},
};
use serde_json::Value;

/// A scrape, a query and a turn of the agent, each a second, on a busy machine.
const HEARD_MAX: Duration = Duration::from_secs(15);
/// More than two steps of the schedule.
const HELD_FOR: Duration = Duration::from_millis(2_500);

fn value_of(value: f64) -> String {
    format!("errors{{service=\"web\",version=\"v1\"}} 1\nerrors{{service=\"web\",version=\"v2\"}} {value}\n")
}

/// One step a second, as long as Prometheus says at most 5; `more` are keys of the query.
fn watched(more: &str) -> ServiceConfig {
    let schedule = r#"kind = "linear", from = 10, to = 100, step = 1, every = "1s""#;
    let mut service = ServiceConfig::web(Family::V4).with_schedule(schedule);
    service.release = format!(
        "{more}\n[[service.release.query]]\nname = \"app-errors\"\nurl = {:?}\n\
         query = 'errors{{service=\"{{{{service}}}}\",version=\"{{{{version}}}}\"}}'\n\
         max = 5\nevery = \"1s\"\ntimeout = \"500ms\"",
        Others::prometheus_url()
    );
    service
}

/// In the kernel; the same must be in the status and on the page of metrics.
fn weight(agent: &Agent<'_>) -> Result<f64> {
    let status = agent.service("web")?;
    let page = agent.metrics()?;
    let line =
        page.lines().find(|line| line.starts_with("grayxdp_kernel_weight_percent{")).context("no such metric")?;
    let exported: f64 = line.rsplit(' ').next().context("a value")?.parse()?;
    let kernel = status["kernel_weight"].as_f64().context("a weight")?;
    // Between both looks there may be a step, and never one down.
    ensure!((kernel..=kernel + 2.0).contains(&exported), "{kernel} in the status, {exported} on the page");
    Ok(kernel)
}

fn wait_for_more_than(agent: &Agent<'_>, percent: f64) -> Result<f64> {
    wait_until("the weight rises", HEARD_MAX, || {
        let weight = weight(agent)?;
        ensure!(weight > percent, "it is {weight}: {}", agent.text(&["status"])?);
        Ok(weight)
    })
}

/// Waits until `status` says these words to a person, and sees that the weight stands still from then on.
fn check_held(agent: &Agent<'_>, words: &str) -> Result<f64> {
    wait_until(&format!("`status` says {words:?}"), HEARD_MAX, || {
        let said = agent.text(&["status"])?;
        ensure!(said.lines().any(|line| line.trim().starts_with("waits for") && line.contains(words)), "{said}");
        Ok(())
    })?;
    let held = weight(agent)?;
    let until = Instant::now() + HELD_FOR;
    while Instant::now() < until {
        let status = agent.service("web")?;
        ensure!(status["state"] == "progressing", "{words}: {status}");
        ensure!(weight(agent)? == held, "{words}: it rose from {held}: {status}");
        sleep(Duration::from_millis(200));
    }
    Ok(held)
}

struct Stage {
    topology: Topology,
}

impl Stage {
    fn new() -> Result<Self> {
        sweep::sweep()?;
        Ok(Self { topology: Topology::new(&sweep::unique_name())? })
    }

    fn start(&self, service: ServiceConfig) -> Result<Agent<'_>> {
        Agent::start(&self.topology.lb, AgentConfig::new(vec![service])?)
    }
}

#[test]
fn no_bad_answer_of_prometheus_lets_the_weight_rise_and_a_good_one_lets_it_go_on() -> Result<()> {
    let stage = Stage::new()?;
    let others = Others::start(&stage.topology.lb)?;
    others.set_page(&value_of(1.0));
    let _prometheus = Prometheus::start(&stage.topology.lb, Others::target())?;
    let agent = stage.start(watched(""))?;
    agent.text(&["start", "web"])?;
    let mut risen = wait_for_more_than(&agent, 10.0)?;
    let ten: String =
        (0..10).map(|each| format!("errors{{service=\"web\",version=\"v2\",pod=\"{each}\"}} 1\n")).collect();
    for (page, manner, words) in [
        (value_of(f64::NAN), Manner::Good, "query `app-errors`: v2: the answer is NaN"),
        (String::new(), Manner::Good, "query `app-errors`: v2: the answer is empty"),
        (ten, Manner::Good, "query `app-errors`: v2: the answer has 10 series"),
        (value_of(1.0), Manner::Html, "query `app-errors`: v2: the answer is not Prometheus' JSON"),
        (value_of(1.0), Manner::Broken, "query `app-errors`: v2: the answer is not Prometheus' JSON: HTTP 500"),
        (value_of(1.0), Manner::Hangs, "query `app-errors`: v2: no answer within 500ms"),
    ] {
        others.set_page(&page);
        others.set("prometheus", manner);
        let held = check_held(&agent, words)?;
        ensure!(held >= risen, "{words}: from {risen} to {held}");
        others.set_page(&value_of(1.0));
        others.set("prometheus", Manner::Good);
        risen = wait_for_more_than(&agent, held)?;
    }
    Ok(())
}

#[test]
fn a_number_past_its_limit_rolls_back_and_names_the_metric() -> Result<()> {
    past_the_limit("", "rolled-back", |_| 0.0)
}

#[test]
fn a_number_past_its_limit_freezes_where_the_config_says_so() -> Result<()> {
    past_the_limit("analysis = { on_failure = \"freeze\" }", "frozen", |weight| weight)
}

fn past_the_limit(more: &str, state: &str, end: impl Fn(f64) -> f64) -> Result<()> {
    let stage = Stage::new()?;
    let others = Others::start(&stage.topology.lb)?;
    others.set_page(&value_of(1.0));
    let _prometheus = Prometheus::start(&stage.topology.lb, Others::target())?;
    let mut service = watched(more);
    service.release.push_str(&hook("undo", "rollback"));
    let agent = stage.start(service)?;
    agent.text(&["start", "web"])?;
    wait_for_more_than(&agent, 11.0)?;
    others.set_page(&value_of(9.0));
    let status = agent.wait_for("web", HEARD_MAX, |status| status["state"] == state)?;
    let history = agent.json(&["history", "web", "--limit", "1"])?;
    let decision = &history["decisions"][0];
    assert_eq!(status["kernel_weight"].as_f64(), decision["from"].as_f64().map(end), "{status} {decision}");
    assert_eq!(
        (&decision["cause"], &decision["evidence"]["signal"]),
        (&"external".into(), &"app-errors".into()),
        "{decision}"
    );
    assert_eq!(
        (decision["evidence"]["value"].as_f64(), decision["evidence"]["limit"].as_f64()),
        (Some(9.0), Some(5.0))
    );
    for text in [agent.text(&["status"])?, agent.text(&["history", "web"])?] {
        assert!(text.contains("app-errors by query: 9.0000 (limit 5.0000)"), "{text}");
    }
    // Who wants to hear of rollbacks hears of this one, with the figures; of a freeze nothing.
    let is_rollback = state == "rolled-back";
    wait_until("the rollback is told", HEARD_MAX, || {
        ensure!(!is_rollback || !others.calls("undo").is_empty(), "not yet");
        Ok(())
    })?;
    let told = others.calls("undo");
    assert_eq!(told.len(), usize::from(is_rollback), "{told:?}");
    for call in &told {
        check_cloud_event(call)?;
        let data = &call.event["data"];
        assert_eq!((&data["state"], &data["evidence"]["metric"]), (&state.into(), &"app-errors".into()), "{data}");
        assert_eq!((&data["from"], data["to"].as_f64()), (&decision["from"], Some(0.0)), "{data}");
    }
    // Good numbers are no reason to go up again without a person.
    others.set_page(&value_of(1.0));
    sleep(HELD_FOR);
    let after = agent.service("web")?;
    assert_eq!((&after["state"], &after["kernel_weight"]), (&status["state"], &status["kernel_weight"]), "{after}");
    Ok(())
}

/// What the specification wants of every event.
fn check_cloud_event(call: &Call) -> Result<()> {
    let Call { method, content_type, event } = call;
    ensure!(method == "POST" && content_type.starts_with("application/cloudevents+json"), "{call:?}");
    ensure!(event["specversion"] == "1.0", "{event}");
    for attribute in ["id", "source", "type", "subject", "time", "datacontenttype"] {
        ensure!(event[attribute].as_str().is_some_and(|text| !text.is_empty()), "{attribute}: {event}");
    }
    ensure!(event["type"].as_str().is_some_and(|kind| kind.starts_with("grayxdp.release.")), "{event}");
    ensure!(event["subject"] == "web" && event["data"]["service"] == "web", "{event}");
    let time = event["time"].as_str().unwrap_or_default();
    ensure!(time.len() == 24 && time.as_bytes()[10] == b'T' && time.ends_with('Z'), "{event}");
    // Names of attributes are lower-case letters and digits.
    let names = event.as_object().context("an object")?.keys();
    ensure!(
        names.into_iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())),
        "{event}"
    );
    Ok(())
}

fn raises(calls: &[Call]) -> Vec<(Option<f64>, Option<f64>)> {
    let number = |call: &Call, key: &str| call.event["data"][key].as_f64();
    calls.iter().map(|call| (number(call, "from"), number(call, "to"))).collect()
}

/// Each webhook of the long test, and when it is called.
const HOOKS: [(&str, &str); 6] = [
    ("first", "before-release"),
    ("smoke", "before-release"),
    ("step", "before-step"),
    ("last", "before-promotion"),
    ("undo", "rollback"),
    ("all", "event"),
];

/// Lines of the config.
fn hook(name: &str, on: &str) -> String {
    let url = Others::hook_url(name);
    format!(
        "\n[[service.release.webhook]]\nname = {name:?}\nurl = {url:?}\non = {on:?}\ntimeout = \"500ms\"\nretries = 0"
    )
}

/// All that was called is well-formed, and each event is one of its own.
fn check_events(others: &Others) -> Result<()> {
    let mut ids = HashSet::new();
    for (name, on) in HOOKS {
        let calls = others.calls(name);
        ensure!(!calls.is_empty(), "{name} was never called");
        for call in &calls {
            check_cloud_event(call).with_context(|| format!("webhook {name}"))?;
            let is_question = call.event["type"] == "grayxdp.release.question";
            ensure!(is_question == on.starts_with("before"), "{name}: {call:?}");
            // Whoever is told of a rollback is told of the same event as those that are told of all.
            ensure!(name == "undo" || ids.insert(call.event["id"].to_string()), "{name}: {call:?}");
        }
    }
    Ok(())
}

#[test]
fn webhooks_are_asked_before_each_raise_and_told_of_all_else_as_cloud_events() -> Result<()> {
    let stage = Stage::new()?;
    let others = Others::start(&stage.topology.lb)?;
    let mut service =
        ServiceConfig::web(Family::V4).with_schedule(r#"kind = "linear", from = 0, to = 100, step = 50, every = "1s""#);
    service.release = HOOKS.map(|(name, on)| hook(name, on)).concat();
    // Told, not asked: it holds nothing up.
    others.set("undo", Manner::Broken);
    others.set("first", Manner::Broken);
    others.set("smoke", Manner::Hangs);
    let agent = stage.start(service)?;
    agent.text(&["start", "web"])?;
    // One says no, the other says nothing: nothing moves, and a person sees why.
    let held = check_held(&agent, "webhook `first`: HTTP 500; webhook `smoke`: no answer within 500ms")?;
    assert_eq!((held, others.calls("last").len()), (0.0, 0));
    let log = agent.log();
    for (name, why) in [("first", "HTTP 500"), ("smoke", "no answer within 500ms")] {
        let says = |line: &&str| line.contains("webhook_failed") && line.contains(name) && line.contains(why);
        assert!(log.lines().any(|line| says(&line)), "{name}: {log}");
    }
    // One good answer is not enough, and both are asked again by themselves.
    others.set("first", Manner::Good);
    others.set("smoke", Manner::Good);
    wait_until("the release goes on", Duration::from_secs(20), || {
        let weight = weight(&agent)?;
        ensure!(weight == 50.0, "{weight}: {}", agent.text(&["status"])?);
        Ok(())
    })?;
    agent.wait_for("web", HEARD_MAX, |status| status["state"] == "promoted" && status["kernel_weight"] == 100.0)?;
    agent.text(&["rollback", "web"])?;
    assert_eq!(weight(&agent)?, 0.0);

    wait_until("the rollback is told", HEARD_MAX, || {
        let told = |name: &str| raises(&others.calls(name)).contains(&(Some(100.0), Some(0.0)));
        ensure!(told("undo") && told("all"), "{:?} {:?}", others.calls("undo"), others.calls("all"));
        Ok(())
    })?;
    let of = |name: &str| raises(&others.calls(name));
    let (half, full) = ((Some(0.0), Some(50.0)), (Some(50.0), Some(100.0)));
    assert_eq!((of("step").first(), of("step").last()), (Some(&half), Some(&full)));
    assert_eq!((of("last"), of("undo")), (vec![full], vec![(Some(100.0), Some(0.0))]));
    assert!(of("first").len() >= 2 && of("first").iter().all(|raise| *raise == half), "{:?}", of("first"));

    check_events(&others)?;
    let undone = &others.calls("undo")[0].event;
    assert!(["rolling-back", "rolled-back"].map(Value::from).contains(&undone["data"]["state"]), "{undone}");
    assert!(others.calls("all").iter().any(|call| call.event["id"] == undone["id"]), "{undone}");
    Ok(())
}
