//! The file of `grayxdp simulate`: a `[simulate]` table, and beside it services of which only the release is read. A whole
//! config file will do, with `[simulate]` added.

use std::time::Duration;

use grayxdp_common::weight::Weight;
use toml::{Spanned, de::DeValue};

use super::{
    ConfigErrors, External, Key, ModeKind, Observe,
    problems::Problems,
    release,
    section::{ROOT, Section},
    service, shards,
    value::{self, Wrong},
};
use crate::{
    decide::{
        controller::Policy,
        plan::{Order, Plan},
        schedule::Schedule,
        shards::{Sharding, Shards},
    },
    simulate::{Fault, Scenario, TrafficModel},
};

const KEYS: &[&str] = &[
    "runs",
    "duration",
    "tick",
    "rate",
    "base_error",
    "v2_error_ratio",
    "v2_latency_ratio",
    "burst_mean",
    "drift",
    "fault_at",
    "seed",
];
const RUNS_DEFAULT: u32 = 1000;
const RUNS_MAX: u32 = 10_000_000;
const DURATION_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// A release is looked at so often, unless that is more or less often than makes sense.
const LOOKS: u32 = 300;
const TICK_LEAST: Duration = Duration::from_secs(1);
const TICK_MOST: Duration = Duration::from_secs(10);
/// Releases of a file without services.
const NAME_DEFAULT: &str = "web";

/// What a file says.
#[derive(Clone, PartialEq, Debug)]
pub struct Simulation {
    /// How many releases.
    pub runs: u32,
    /// How long each is watched.
    pub duration: Duration,
    /// How often the judge looks.
    pub tick: Duration,
    /// Of the random numbers.
    pub seed: u64,
    /// Traffic of both versions.
    pub traffic: TrafficModel,
    /// At least one.
    pub services: Vec<SimulatedService>,
}

/// A service whose release is simulated.
#[derive(Clone, PartialEq, Debug)]
pub struct SimulatedService {
    /// As in the file, or `web`.
    pub name: String,
    /// What is hashed to place a client.
    pub key: Key,
    sharding: Sharding,
    shard_count: u32,
    /// How v2's weight is to move.
    pub schedule: Schedule,
    order: Order,
    /// What stops, ends and undoes its release.
    pub policy: Policy,
}

impl SimulatedService {
    /// Its schedule, for all of its shards.
    pub fn plan(&self) -> Plan<'_> {
        let shards = Shards::new(&self.sharding, self.shard_count);
        Plan { schedule: &self.schedule, order: self.order, shards }
    }
}

impl Simulation {
    /// Reads and checks the text of a file; the name is for the errors.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let problems = Problems::new(text);
        match read(&problems) {
            Some(simulation) if problems.is_empty() => Ok(simulation),
            _ => Err(problems.into_errors(file_name)),
        }
    }

    /// What is simulated of one of its services.
    pub fn scenario<'a>(&'a self, service: &'a SimulatedService) -> Scenario<'a> {
        let &Self { runs, duration, tick, seed, ref traffic, .. } = self;
        Scenario { runs, duration, tick, seed, traffic, plan: service.plan(), policy: &service.policy }
    }
}

/// `None` only after a problem was noted.
fn read(problems: &Problems<'_>) -> Option<Simulation> {
    let document = problems.parse()?;
    let root = Section::new(problems, ROOT, &document, &["simulate", "service", "agent", "timeouts"]);
    let help = "begin with `[simulate]`; every key has a default, such as `runs = 1000`";
    let simulate = root.required_section("simulate", KEYS, help);
    let services: Option<Vec<_>> = match root.optional_item("service") {
        Some(_) => {
            root.required_sections("service", service::KEYS, "").and_then(|all| all.iter().map(read_service).collect())
        }
        None => Some(vec![default_service(NAME_DEFAULT, Key::SourceIp)]),
    };
    let section = simulate?;
    let traffic = read_traffic(&section);
    let runs = section.or("runs", RUNS_DEFAULT, |value| value::integer(value, 1..=RUNS_MAX));
    let duration = section.or("duration", DURATION_DEFAULT, value::period);
    let tick = section.or("tick", None, |value| value::period(value).map(Some));
    let seed = section.or("seed", 1, |value| value::integer(value, 0..=u32::MAX));
    let services = services?;
    // Where clients are placed by address, errors are counted by groups of them.
    let groups = services.iter().any(|service| service.key == Key::SourceIp);
    let duration = duration?.into_inner();
    Some(Simulation {
        runs: runs?.into_inner(),
        duration,
        tick: tick?.into_inner().unwrap_or((duration / LOOKS).clamp(TICK_LEAST, TICK_MOST)),
        seed: u64::from(seed?.into_inner()),
        traffic: TrafficModel { groups, ..traffic? },
        services,
    })
}

/// `None` after a problem was noted.
fn read_traffic(section: &Section<'_>) -> Option<TrafficModel> {
    let default = TrafficModel::default();
    let ratio = |key: &str, example: &str| {
        section.or(key, 1.0, |value| value::real(value, 0.001..=10_000.0, example)).map(Spanned::into_inner)
    };
    let rate = section.or("rate", default.rate, rate);
    let base_error = section.or("base_error", default.base_error, part);
    let error_ratio = ratio("v2_error_ratio", "2");
    let latency_ratio = ratio("v2_latency_ratio", "1.2");
    let burst_mean = section.or("burst_mean", default.burst_mean, |value| value::real(value, 1.0..=10_000.0, "10"));
    let drift = section.or("drift", default.drift, |value| value::real(value, 0.0..=3.0, "0.3"));
    let at = section.or("fault_at", default.fault.at, value::length);
    Some(TrafficModel {
        rate: rate?.into_inner(),
        base_error: base_error?.into_inner(),
        burst_mean: burst_mean?.into_inner(),
        drift: drift?.into_inner(),
        fault: Fault {
            error_ratio: error_ratio?,
            latency_ratio: latency_ratio?,
            at: at?.into_inner(),
            ..default.fault
        },
        ..default
    })
}

/// Connections a second: a number, or as on the command line.
fn rate(value: &DeValue<'_>) -> Result<f64, Wrong> {
    let wrong = || Wrong::new("connections a second, above 0 and at most ten million", "write 1000, or \"1000/s\"");
    let rate = match value.as_str() {
        Some(text) => rate_from_text(text).ok(),
        None => value::real(value, 0.0..=RATE_MAX, "1000").ok(),
    };
    rate.filter(|rate| *rate > 0.0).ok_or_else(wrong)
}

/// A part of all: a number up to one, or percent in quotes.
fn part(value: &DeValue<'_>) -> Result<f64, Wrong> {
    let wrong = || Wrong::new("a part from 0 to 1, or a percent in quotes", "write 0.005, or \"0.5%\"");
    let part = match value.as_str() {
        Some(text) => part_from_text(text).ok(),
        None => value::real(value, 0.0..=1.0, "0.005").ok(),
    };
    part.ok_or_else(wrong)
}

const RATE_MAX: f64 = 1e7;

/// `1000/s`, or `1000`: connections a second.
pub fn rate_from_text(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches("/s").trim_end().parse::<f64>().ok();
    number.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX).ok_or_else(|| {
        format!("`{text}` is no rate: expected connections a second, above 0 and at most ten million, such as 1000/s")
    })
}

/// `0.5%`, or `0.005`: a part of all.
pub fn part_from_text(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.trim().strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (text.trim(), 1.0),
    };
    let part = number.trim().parse::<f64>().ok().map(|number| number / whole);
    part.filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| format!("`{text}` is no part of all: expected 0% to 100%, such as 0.5%, or 0 to 1"))
}

fn default_service(name: &str, key: Key) -> SimulatedService {
    let release = release::Release::default();
    let hundredths = |hundredths| Weight::from_hundredths(hundredths).unwrap_or_default();
    SimulatedService {
        name: name.to_owned(),
        key,
        sharding: Sharding::Hash,
        shard_count: 1,
        schedule: Schedule::Linear {
            from: hundredths(500),
            to: Weight::FULL,
            step: hundredths(500),
            every: Duration::from_secs(60),
        },
        order: release.order,
        policy: release.policy.of_service(key, ModeKind::Nat, Observe::None, &External::default()),
    }
}

/// `None` after a problem was noted.
fn read_service(section: &Section<'_>) -> Option<SimulatedService> {
    let keys = [Key::SourceIp, Key::Connection].map(|key| (key.name(), key));
    let name = section.or("name", NAME_DEFAULT.to_owned(), value::name);
    let key = section.or("key", Key::SourceIp, |value| value::choice(value, &keys));
    let sharding = shards::read(section);
    let release =
        section.optional_item("release").map(|item| release::read(&item.section(release::KEYS), Some(ModeKind::Nat)));
    let (name, key) = (name?.into_inner(), key?.into_inner());
    let default = default_service(&name, key);
    let (sharding, shard_count) = sharding?;
    let Some(release) = release else {
        return Some(SimulatedService { sharding, shard_count, ..default });
    };
    let release = release?;
    if release.schedule == Schedule::Manual {
        section.note(
            format!("{} has a manual schedule: nothing would ever move", section.what()),
            "write another schedule, such as `{ kind = \"linear\", from = 5, to = 100, step = 5, every = \"1m\" }`",
        );
        return None;
    }
    let (schedule, order, policy) = (
        release.schedule,
        release.order,
        release.policy.of_service(key, ModeKind::Nat, Observe::None, &External::default()),
    );
    Some(SimulatedService { name, key, sharding, shard_count, schedule, order, policy })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Simulation {
        Simulation::parse("sim.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn every_key_has_a_default() {
        let found = parsed("[simulate]");
        assert_eq!((found.runs, found.duration, found.tick), (1000, Duration::from_secs(1800), Duration::from_secs(6)));
        let [service] = &found.services[..] else { panic!("{found:?}") };
        assert_eq!((service.name.as_str(), service.schedule.kind(), service.key), ("web", "linear", Key::SourceIp));
        assert!(service.policy.analysis.enabled && found.traffic.groups);
    }

    #[test]
    fn what_the_file_says_is_simulated() {
        let found = parsed(
            r#"
            [simulate]
            runs = 50
            duration = "10m"
            rate = "200/s"
            base_error = "0.1%"
            v2_error_ratio = 5
            v2_latency_ratio = 1.2
            burst_mean = 10
            drift = 0.3
            fault_at = "2m"
            seed = 7
            [[service]]
            name = "shop"
            key = "connection"
            release.schedule = { kind = "step", weights = [1, 100], every = "30s" }
            release.analysis = { false_alarm = 2 }
            "#,
        );
        let fault = Fault { error_ratio: 5.0, latency_ratio: 1.2, at: Duration::from_secs(120), ..Fault::default() };
        let traffic = TrafficModel {
            rate: 200.0,
            base_error: 0.001,
            burst_mean: 10.0,
            drift: 0.3,
            fault,
            ..TrafficModel::default()
        };
        assert_eq!((found.runs, found.seed, found.traffic, found.tick), (50, 7, traffic, Duration::from_secs(2)));
        let [service] = &found.services[..] else { panic!("{found:?}") };
        assert_eq!((service.name.as_str(), service.schedule.kind()), ("shop", "step"));
        let judge = service.policy.analysis.judge;
        assert!(!judge.correlated && (judge.false_alarm - 0.02).abs() < 1e-12, "{judge:?}");
        assert!((parsed("[simulate]\nrate = 200\nbase_error = 0.1").traffic.base_error - 0.1).abs() < 1e-12);
    }

    #[test]
    fn errors_say_what_was_expected() {
        for (text, part) in [
            ("", "begin with `[simulate]`"),
            ("[simulate]\nruns = 0", "from 1 to"),
            ("[simulate]\nrate = 0", "connections a second"),
            ("[simulate]\nrate = \"many\"", "connections a second"),
            ("[simulate]\nbase_error = 5", "a part from 0 to 1, or a percent in quotes"),
            ("[simulate]\nbase_error = \"120%\"", "a percent in quotes"),
            ("[simulate]\nburst_mean = 0.5", "from 1 to"),
            ("[simulate]\nv2_error_rate = 2", "v2_error_ratio"),
            ("[simulate]\n[[service]]\nrelease.schedule = { kind = \"manual\" }", "nothing would ever move"),
        ] {
            let errors = Simulation::parse("sim.toml", text).expect_err(text).to_string();
            assert!(errors.contains(part), "{text}: {errors}");
        }
    }

    #[test]
    fn rates_and_parts_are_written_as_people_do() {
        assert_eq!((rate_from_text("1000/s"), rate_from_text("50")), (Ok(1000.0), Ok(50.0)));
        assert_eq!((part_from_text("0.5%"), part_from_text("0.005")), (Ok(0.005), Ok(0.005)));
        for text in ["", "x", "-1/s", "0", "1e9/s", "1000/m"] {
            assert!(rate_from_text(text).is_err(), "{text}");
        }
        for text in ["", "%", "101%", "1.5", "-0.1"] {
            assert!(part_from_text(text).is_err(), "{text}");
        }
    }
}
