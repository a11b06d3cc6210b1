//! `status --wait`: says what is decided of a release until it has come where it was to come, or will not. Each way that
//! this can end has an exit code of its own.

use std::{
    ffi::OsStr,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{args::Output, client::Client, error::CliError, history, print};
use crate::agent::shapes::{HistoryQuery, ServiceStatus};

/// How often is asked where the release stands.
const POLL: Duration = Duration::from_millis(250);
/// For how long an agent that has answered before may be away: it may be a new one that is starting.
const AWAY_MAX: Duration = Duration::from_secs(10);

pub(super) const WAIT_HELP: &str = "\
Examples:
  grayxdp status
  grayxdp status web -o json
  grayxdp start web && grayxdp status web --wait --timeout 2h
  grayxdp status web --wait=paused      # at a gate: time for tests of your own

Exit codes of --wait: 0 it came there; 1 wrong usage or an error; 2 rolled back; 3 paused or frozen, and needs a person;
4 undecided at its deadline; 5 the agent cannot be reached; 124 the timeout is over.";

/// What is asked for.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct StatusArgs {
    /// The service; all if left out, but --wait needs it where there are several.
    pub service: Option<String>,
    /// Wait until the release has come there, and say what is decided meanwhile.
    #[arg(long, value_name = "STATE", num_args = 0..=1, require_equals = true, default_missing_value = "promoted")]
    pub wait: Option<Target>,
    /// Wait no longer than this: a duration such as 90s or 2h
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

/// Where a release is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Target {
    /// v2 gets everything.
    Promoted,
    /// It stands at a gate, or at the end of a schedule that ends below 100 %.
    Paused,
    /// v2 gets everything, and the time in which harm still rolls back is over.
    Done,
}

/// Why a release will not come there, or has not.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub(crate) enum WaitError {
    #[error("{service} was rolled back: {reason}")]
    RolledBack { service: String, reason: String },
    #[error("{service} needs a person: {reason}")]
    NeedsPerson { service: String, reason: String },
    #[error("{service} is undecided at its deadline: {reason}")]
    Undecided { service: String, reason: String },
    #[error("{service} has no release to wait for: {reason}. `grayxdp start {service}` begins one")]
    NotStarted { service: String, reason: String },
    #[error(
        "{service} is promoted, and pauses nowhere any more: a gate or a schedule that ends below 100 % makes it pause"
    )]
    PausesNoMore { service: String },
    #[error("{service} was not there within {}: it is {state} at {weight:.2} %, {message}", humantime::format_duration(*timeout))]
    TimedOut { service: String, timeout: Duration, state: String, weight: f64, message: String },
}

impl WaitError {
    /// As the help says.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::NotStarted { .. } | Self::PausesNoMore { .. } => 1,
            Self::RolledBack { .. } => 2,
            Self::NeedsPerson { .. } => 3,
            Self::Undecided { .. } => 4,
            Self::TimedOut { .. } => 124,
        }
    }

    /// For programs.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::RolledBack { .. } => "rolled_back",
            Self::NeedsPerson { .. } => "needs_person",
            Self::Undecided { .. } => "undecided",
            Self::NotStarted { .. } => "not_started",
            Self::PausesNoMore { .. } => "pauses_no_more",
            Self::TimedOut { .. } => "timed_out",
        }
    }
}

/// The exit code of a command line that makes no sense. That of waiting must not be taken for a rollback.
pub(super) fn usage_exit_code<S: AsRef<OsStr>>(arguments: &[S]) -> u8 {
    let waits = |argument: &S| argument.as_ref().to_str().is_some_and(|text| text.starts_with("--wait"));
    let is_status = arguments.iter().any(|argument| argument.as_ref() == "status");
    if is_status && arguments.iter().any(waits) { 1 } else { 2 }
}

/// Where a release stands as to what is waited for; `None` where it may still come there.
fn judge(service: &ServiceStatus, target: Target) -> Option<Result<(), WaitError>> {
    let (name, reason) = (service.name.clone(), service.reason.clone());
    let needs_person = service.waits.as_ref().is_some_and(|wait| wait.needs_person);
    let is_deadline = ["freeze-after", "progress-deadline"].contains(&service.rule.as_str());
    match (service.state.as_str(), target) {
        ("promoted", Target::Promoted) | ("paused", Target::Paused) => Some(Ok(())),
        ("promoted", Target::Done) => service.waits.is_none().then_some(Ok(())),
        ("promoted", Target::Paused) => Some(Err(WaitError::PausesNoMore { service: name })),
        ("rolled-back", _) => Some(Err(WaitError::RolledBack { service: name, reason })),
        ("idle", _) => Some(Err(WaitError::NotStarted { service: name, reason })),
        ("failed", _) => Some(Err(WaitError::Undecided { service: name, reason })),
        ("frozen", _) if is_deadline => Some(Err(WaitError::Undecided { service: name, reason })),
        ("frozen" | "paused", _) if needs_person => Some(Err(WaitError::NeedsPerson { service: name, reason })),
        _ => None,
    }
}

/// Where it stands, without what changes all the time.
fn message(service: &ServiceStatus) -> String {
    match &service.waits {
        Some(waits) => format!("{}; waits for {}", service.reason, waits.what),
        None => service.reason.clone(),
    }
}

pub(super) fn execute(
    client: &Client,
    output: Output,
    service: Option<&str>,
    target: Target,
    timeout: Option<Duration>,
) -> Result<(), CliError> {
    wait(client, output, service, target, timeout, &mut |line| print::part(line).map(drop))
}

/// Waits, and says one line for each change.
pub(crate) fn wait(
    client: &Client,
    output: Output,
    service: Option<&str>,
    target: Target,
    timeout: Option<Duration>,
    say: &mut dyn FnMut(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let began = Instant::now();
    let first = client.service(service)?;
    let name = first.name.clone();
    let of_service = HistoryQuery { service: Some(name.clone()), ..HistoryQuery::default() };
    let mut last = history::latest(client, &of_service)?;
    if output == Output::Text {
        say(&format!("{name}: v2 {:.2} % ({}): {}\n", first.weight, first.state, message(&first)))?;
    }
    let mut status = first;
    let mut away_since: Option<Instant> = None;
    loop {
        if let Some(end) = judge(&status, target) {
            // What brought it there was decided before it stood there.
            let _ = tell(client, output, &name, last, say);
            if output == Output::Json {
                let json = serde_json::to_string(&status).map_err(|error| CliError::Print(error.into()))?;
                say(&(json + "\n"))?;
            }
            return Ok(end?);
        }
        if let Some(timeout) = timeout.filter(|timeout| began.elapsed() >= *timeout) {
            let (state, weight, message) = (status.state.clone(), status.weight, message(&status));
            return Err(WaitError::TimedOut { service: name, timeout, state, weight, message }.into());
        }
        sleep(timeout.map_or(POLL, |timeout| POLL.min(timeout.saturating_sub(began.elapsed()))));
        let answers = tell(client, output, &name, last, say).and_then(|last| Ok((last, client.service(Some(&name))?)));
        match answers {
            Ok(answers) => {
                (last, status) = answers;
                away_since = None;
            }
            Err(CliError::Client(error)) if error.is_unreachable() => {
                if away_since.get_or_insert_with(Instant::now).elapsed() >= AWAY_MAX {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Says what was decided after the decision of that id; the id of the last one.
fn tell(
    client: &Client,
    output: Output,
    service: &str,
    mut last: i64,
    say: &mut dyn FnMut(&str) -> Result<(), CliError>,
) -> Result<i64, CliError> {
    for decision in history::since(client, Some(service), last)? {
        match output {
            Output::Text => say(&format!("{}\n", decision.sentence))?,
            Output::Json => say(&history::shown(output, &decision)?)?,
        }
        last = last.max(decision.id);
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::shapes::WaitStatus;

    fn service(state: &str, rule: &str, waits: Option<bool>) -> ServiceStatus {
        let mut service: ServiceStatus = serde_json::from_str(
            r#"{"name":"web","vip":"203.0.113.10","port":80,"protocol":"tcp","mode":"nat","key":"source-ip","state":"",
            "reason":"as given","weight":20.0,"kernel_weight":20.0,"measured_share":null,
            "schedule":{"kind":"linear","elapsed_s":1.0,"duration_s":8.0,"next_weight":null,"next_in_s":null},
            "versions":{"v1":{"new_flows":0,"packets_in":0,"bytes_in":0,"packets_out":0,"bytes_out":0,"flow_misses":0,
            "untracked_flows":0,"backends":[]},"v2":{"new_flows":0,"packets_in":0,"bytes_in":0,"packets_out":0,"bytes_out":0,
            "flow_misses":0,"untracked_flows":0,"backends":[]}}}"#,
        )
        .expect("a service");
        (service.state, service.rule) = (state.to_owned(), rule.to_owned());
        let wait = |needs_person| WaitStatus { what: "something".to_owned(), time_s: None, needs_person };
        service.waits = waits.map(wait);
        service
    }

    /// The exit code; `None` where it goes on waiting.
    fn exit_code(status: &ServiceStatus, target: Target) -> Option<u8> {
        judge(status, target).map(|end| end.map_or_else(|error| error.exit_code(), |()| 0))
    }

    #[test]
    fn each_end_has_its_exit_code() {
        use Target::{Done, Paused, Promoted};
        for (state, rule, waits, target, expected) in [
            ("promoted", "schedule-end", Some(false), Promoted, Some(0)),
            ("promoted", "schedule-end", Some(false), Done, None),
            ("promoted", "schedule-end", None, Done, Some(0)),
            ("promoted", "schedule-end", None, Paused, Some(1)),
            ("paused", "gate", Some(true), Paused, Some(0)),
            ("paused", "gate", Some(true), Promoted, Some(3)),
            ("paused", "gate", Some(true), Done, Some(3)),
            // A gate that opens by itself.
            ("paused", "gate", Some(false), Promoted, None),
            ("paused", "schedule-end", Some(true), Promoted, Some(3)),
            ("frozen", "command", Some(true), Promoted, Some(3)),
            ("frozen", "harm", Some(true), Promoted, Some(3)),
            ("frozen", "freeze-after", Some(true), Promoted, Some(4)),
            ("frozen", "progress-deadline", Some(true), Paused, Some(4)),
            ("failed", "progress-deadline", None, Promoted, Some(4)),
            ("rolled-back", "harm", None, Promoted, Some(2)),
            ("rolled-back", "command", None, Paused, Some(2)),
            ("rolling-back", "harm", Some(false), Promoted, None),
            ("progressing", "schedule", Some(false), Promoted, None),
            ("idle", "command", None, Promoted, Some(1)),
        ] {
            let found = exit_code(&service(state, rule, waits), target);
            assert_eq!(found, expected, "{state} {rule} {target:?}");
        }
        let late = WaitError::TimedOut {
            service: "web".to_owned(),
            timeout: Duration::from_secs(90),
            state: "progressing".to_owned(),
            weight: 20.0,
            message: "as given".to_owned(),
        };
        assert_eq!((late.exit_code(), late.code()), (124, "timed_out"));
        assert_eq!(late.to_string(), "web was not there within 1m 30s: it is progressing at 20.00 %, as given");
    }

    #[test]
    fn wrong_usage_of_waiting_is_no_rollback() {
        for (line, expected) in [
            ("grayxdp status --wait=somewhere", 1),
            ("grayxdp status web --timeout 5 --wait", 1),
            ("grayxdp status --timeout 5s", 2),
            ("grayxdp start --wait", 2),
        ] {
            let arguments: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(usage_exit_code(&arguments), expected, "{line}");
        }
    }
}
