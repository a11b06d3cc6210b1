//! The append-only table of what was decided: typed insert and query.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grayxdp_common::weight::Weight;
use rusqlite::{Connection, Params, Row, Transaction, params, types::Type};

use crate::decide::controller::{Decision, Rule, State};

/// A decision in the history.
#[derive(Clone, PartialEq, Debug)]
pub struct Recorded {
    /// Grows with each decision, of whichever service.
    pub id: i64,
    /// When.
    pub at: SystemTime,
    /// Of which service.
    pub service: String,
    /// What.
    pub decision: Decision,
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    at: SystemTime,
    service: &str,
    decision: &Decision,
) -> rusqlite::Result<()> {
    let Decision { event, from, to, state, rule, evidence, reason, actor } = decision;
    let evidence = evidence.as_ref().map(serde_json::to_string).transpose();
    let evidence = evidence.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    transaction
        .prepare_cached(
            "INSERT INTO events
                 (at_ms, service, event, from_hundredths, to_hundredths, state, reason, actor, rule, evidence)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            super::unix_milliseconds(at),
            service,
            event,
            from.hundredths(),
            to.hundredths(),
            state.name(),
            reason,
            actor,
            rule.name(),
            evidence,
        ])
        .map(drop)
}

/// Which decisions are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Of this service only.
    pub service: Option<&'a str>,
    /// With a higher id only.
    pub after: i64,
    /// The latest so many.
    pub count_max: u32,
}

/// The latest first.
pub(super) fn decisions(connection: &Connection, asked: Asked<'_>) -> rusqlite::Result<Vec<Recorded>> {
    const COLUMNS: &str =
        "id, at_ms, service, event, from_hundredths, to_hundredths, state, reason, actor, rule, evidence";
    let Asked { service, after, count_max } = asked;
    let statement = |condition: &str| {
        let text = format!("SELECT {COLUMNS} FROM events WHERE {condition} id > ?1 ORDER BY id DESC LIMIT ?2");
        connection.prepare_cached(&text)
    };
    match service {
        Some(service) => rows(&mut *statement("service = ?3 AND")?, params![after, count_max, service]),
        None => rows(&mut *statement("")?, params![after, count_max]),
    }
}

fn rows(statement: &mut rusqlite::Statement<'_>, values: impl Params) -> rusqlite::Result<Vec<Recorded>> {
    statement.query_map(values, columns)?.collect()
}

fn columns(row: &Row<'_>) -> rusqlite::Result<Recorded> {
    let state: String = row.get(6)?;
    let actor: String = row.get(8)?;
    let rule: String = row.get(9)?;
    let evidence: Option<String> = row.get(10)?;
    let decision = Decision {
        event: row.get(3)?,
        from: weight(row, 4)?,
        to: weight(row, 5)?,
        state: State::from_name(&state).ok_or_else(|| unknown(6, format!("no state is called {state}")))?,
        rule: if rule.is_empty() { former_rule(&actor) } else { known_rule(&rule)? },
        evidence: evidence.map(|json| serde_json::from_str(&json).map_err(|error| unknown(10, error))).transpose()?,
        reason: row.get(7)?,
        actor,
    };
    Ok(Recorded {
        id: row.get(0)?,
        at: UNIX_EPOCH + Duration::from_millis(row.get(1)?),
        service: row.get(2)?,
        decision,
    })
}

fn known_rule(name: &str) -> rusqlite::Result<Rule> {
    Rule::from_name(name).ok_or_else(|| unknown(9, format!("no rule is called {name}")))
}

/// Up to schema 2 the history said who, and not by which rule.
fn former_rule(actor: &str) -> Rule {
    match actor {
        "schedule" => Rule::Schedule,
        "agent" => Rule::Agent,
        _ => Rule::Command,
    }
}

fn unknown(column: usize, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, why.into())
}

fn weight(row: &Row<'_>, column: usize) -> rusqlite::Result<Weight> {
    let hundredths: u16 = row.get(column)?;
    Weight::from_hundredths(hundredths)
        .ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, "a weight above 100 %".into()))
}
