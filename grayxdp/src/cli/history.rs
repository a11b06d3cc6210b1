//! `history`: what was decided, by whom, and on which figures.

use std::{thread::sleep, time::Duration};

use clap::Args;

use super::{args::Output, client::Client, error::CliError, print};
use crate::agent::shapes::{DecisionStatus, HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, HistoryQuery};

/// How often `--follow` asks for more.
const POLL: Duration = Duration::from_millis(500);

/// What is asked for.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct HistoryArgs {
    /// Only this service.
    pub service: Option<String>,
    /// The latest so many decisions.
    #[arg(long, value_name = "N", default_value_t = HISTORY_LIMIT_DEFAULT,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(HISTORY_LIMIT_MAX)))]
    pub limit: u32,
    /// Go on with what is decided from now on; with `-o json` one object a line.
    #[arg(short, long)]
    pub follow: bool,
}

pub(super) fn execute(client: &Client, output: Output, arguments: HistoryArgs) -> Result<(), CliError> {
    let HistoryArgs { service, limit, follow } = arguments;
    let query = HistoryQuery { service, after: None, limit: Some(limit) };
    let answer = client.history(&query)?;
    if output == Output::Json && !follow {
        return print::text(&format!("{}\n", answer.json.trim_end()));
    }
    if answer.body.decisions.is_empty() && !follow {
        return print::text("nothing was decided yet\n");
    }
    let mut decisions = answer.body.decisions;
    // What is not listed is not news, either.
    let mut last = if limit == 0 { latest(client, &query)? } else { 0 };
    loop {
        for decision in &decisions {
            last = last.max(decision.id);
            if !print::part(&shown(output, decision)?)? {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        sleep(POLL);
        decisions = since(client, query.service.as_deref(), last)?;
    }
}

/// What was decided after the one of that id.
pub(super) fn since(client: &Client, service: Option<&str>, after: i64) -> Result<Vec<DecisionStatus>, CliError> {
    let query =
        HistoryQuery { service: service.map(str::to_owned), after: Some(after), limit: Some(HISTORY_LIMIT_MAX) };
    Ok(client.history(&query)?.body.decisions)
}

/// The id of the last decision; 0 before the first.
pub(super) fn latest(client: &Client, query: &HistoryQuery) -> Result<i64, CliError> {
    let last = client.history(&HistoryQuery { limit: Some(1), ..query.clone() })?.body.decisions.pop();
    Ok(last.map_or(0, |decision| decision.id))
}

/// One line.
pub(super) fn shown(output: Output, decision: &DecisionStatus) -> Result<String, CliError> {
    match output {
        Output::Json => {
            serde_json::to_string(decision).map(|json| json + "\n").map_err(|error| CliError::Print(error.into()))
        }
        Output::Text => Ok(line(decision)),
    }
}

/// As in `2026-01-31T12:00:00Z  web: v2 0.00 % → 10.00 %: follows the schedule (schedule)`.
fn line(decision: &DecisionStatus) -> String {
    let DecisionStatus { time, sentence, actor, event, .. } = decision;
    // To the second, which is what people read.
    let time = time.split_once('.').map_or(time.as_str(), |(seconds, _)| seconds);
    let who = if actor.starts_with("uid ") { format!("{event}, {actor}") } else { actor.clone() };
    format!("{time}Z  {sentence} ({who})\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_one_line() {
        let mut decision = DecisionStatus {
            id: 7,
            time: "2026-01-31T12:00:00.250Z".to_owned(),
            service: "web".to_owned(),
            event: "weight_changed".to_owned(),
            from: 0.0,
            to: 10.0,
            state: "progressing".to_owned(),
            cause: "schedule".to_owned(),
            rule: "schedule".to_owned(),
            evidence: None,
            actor: "schedule".to_owned(),
            sentence: "web: v2 0.00 % → 10.00 %: follows the schedule (linear)".to_owned(),
        };
        let expected = "2026-01-31T12:00:00Z  web: v2 0.00 % → 10.00 %: follows the schedule (linear) (schedule)\n";
        assert_eq!(shown(Output::Text, &decision).expect("a line"), expected);
        (decision.event, decision.actor) = ("freeze".to_owned(), "uid 0".to_owned());
        assert!(line(&decision).ends_with(" (freeze, uid 0)\n"));
        let json = shown(Output::Json, &decision).expect("a line");
        assert_eq!(serde_json::from_str::<DecisionStatus>(&json).expect("an object"), decision);
    }
}
