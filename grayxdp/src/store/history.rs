//! The append-only table of what has happened: typed insert and query.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grayxdp_common::weight::Weight;
use rusqlite::{Connection, Row, Transaction, params, types::Type};

/// What happened to a release: a command, or a change that came by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEvent {
    /// The command's name, or what happened.
    pub event: String,
    /// Weight before.
    pub from: Weight,
    /// Weight after.
    pub to: Weight,
    /// State after, by name.
    pub state: String,
    /// Why, as a sentence.
    pub reason: String,
    /// Who: a user at the socket, the schedule, or the agent.
    pub actor: String,
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    at: SystemTime,
    service: &str,
    event: &HistoryEvent,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO events (at_ms, service, event, from_hundredths, to_hundredths, state, reason, actor)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            super::unix_milliseconds(at),
            service,
            event.event,
            event.from.hundredths(),
            event.to.hundredths(),
            event.state,
            event.reason,
            event.actor,
        ])
        .map(drop)
}

pub(super) fn recent(
    connection: &Connection,
    service: &str,
    count_max: u32,
) -> rusqlite::Result<Vec<(SystemTime, HistoryEvent)>> {
    connection
        .prepare_cached(
            "SELECT at_ms, event, from_hundredths, to_hundredths, state, reason, actor FROM events
             WHERE service = ?1 ORDER BY id DESC LIMIT ?2",
        )?
        .query_map(params![service, count_max], event_columns)?
        .collect()
}

fn event_columns(row: &Row<'_>) -> rusqlite::Result<(SystemTime, HistoryEvent)> {
    let event = HistoryEvent {
        event: row.get(1)?,
        from: weight(row, 2)?,
        to: weight(row, 3)?,
        state: row.get(4)?,
        reason: row.get(5)?,
        actor: row.get(6)?,
    };
    Ok((UNIX_EPOCH + Duration::from_millis(row.get(0)?), event))
}

fn weight(row: &Row<'_>, column: usize) -> rusqlite::Result<Weight> {
    let hundredths: u16 = row.get(column)?;
    Weight::from_hundredths(hundredths)
        .ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, "a weight above 100 %".into()))
}
