//! What outlives the agent: where each release stands, and what has happened. SQLite; all SQL of the agent is here.
//!
//! A write is whole or absent: one transaction for the state and the event that explains it. With the write-ahead log
//! and `synchronous=NORMAL` a killed agent loses nothing; a power cut may lose the last moments, which the take-over
//! from the kernel's weights makes good.

mod history;
mod migrate;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use crate::decide::{
    controller::{Decision, Outside, Release, Rule, State},
    settings::Settings,
    weights::Weights,
};

pub use self::history::{Asked, Recorded};

/// Marks a database file as grayxdp's ("gxdp"), in SQLite's header.
const APPLICATION_ID: i32 = 0x6778_6470;
/// Version of `schema.sql`, in SQLite's header.
const SCHEMA_VERSION: i32 = 3;
/// How long a write waits for somebody who reads the file at the moment.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the state database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its directory cannot be made.
    #[error(
        "cannot create the directory {} for the state database: {source}. Create it, or set `state` under [agent] to a \
         path that the agent can write",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It cannot be opened, or not for writing.
    #[error(
        "cannot open the state database {} for writing: {source}. Check the path's permissions and file system, or set \
         `state` under [agent] to a path that the agent can write",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// It is not what SQLite has written.
    #[error(
        "the state database {path} is damaged ({detail}). Restore it from a backup, or move {path} away together with \
         {path}-wal and {path}-shm and start again: the agent then takes the weights over from the kernel and freezes \
         the releases there; the history is lost",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A database of another program.
    #[error(
        "{} is a database of another program. Set `state` under [agent] to a path of grayxdp's own",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by another release of grayxdp.
    #[error(
        "the state database {} has schema {found}; this agent knows schema {SCHEMA_VERSION}. Run the grayxdp that wrote \
         it, or set `state` under [agent] to a new path",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i32,
    },
    /// A write did not come through.
    #[error(
        "cannot write the state database {}: {source}. Check that the disk is not full and the file still there",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A write has just failed, and is not tried again yet.
    #[error("{reason}")]
    StillNot {
        /// Why that one did.
        reason: String,
    },
    /// A read did not come through.
    #[error("cannot read the state database {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// A release, what it was made under, and what has been changed beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRelease {
    /// Where it stands.
    pub release: Release,
    /// Its schedule, as text: only compared.
    pub schedule: String,
    /// Its shards, as text: only compared.
    pub shards: String,
    /// The backends that are its v2.
    pub canary: BTreeSet<SocketAddr>,
    /// The weights before a raise that is stored ahead of its deed: the kernel may still have those. `None` once it is
    /// known what the kernel has.
    pub raised_from: Option<Weights>,
    /// Pins and backends that were changed at run time.
    pub settings: Settings,
}

/// What one transaction writes: where a release stands now, and what brought it there.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its service.
    pub service: String,
    /// Where it stands.
    pub stored: StoredRelease,
    /// When.
    pub at: SystemTime,
    /// Why; `None` where only schedule time has passed.
    pub decision: Option<Decision>,
    /// What the judge has seen of it, with the reading up to which it has; empty where that begins anew. `None` where
    /// nothing has come since it was written last.
    pub analysis: Option<String>,
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
}

impl Store {
    /// Opens the file, or makes it. Checks that it is whole, grayxdp's, and can be written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)
                .map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
        }
        let failed = |source| open_error(path, source);
        let mut connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        check(path, &connection)?;
        connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())).map_err(failed)?;
        connection.pragma_update(None, "synchronous", "normal").map_err(failed)?;
        migrate::create(&mut connection).map_err(failed)?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Where the release of a service stands; `None` for a service that was never stored.
    pub fn release(&self, service: &str) -> Result<Option<StoredRelease>, StoreError> {
        let row = self
            .connection
            .prepare_cached(
                "SELECT state, schedule_time_ms, weights, raised_from, schedule, shards, canary, settings, reason, rule,
                        progress
                 FROM releases WHERE service = ?1",
            )
            .and_then(|mut statement| statement.query_row([service], release_columns).optional())
            .map_err(|source| self.read_error(source))?;
        row.map(|columns| {
            columns.check().ok_or_else(|| StoreError::Damaged {
                path: self.path.clone(),
                detail: format!("the release of {service} has values that no release can have"),
            })
        })
        .transpose()
    }

    /// Writes entries, in order: all of them or, on an error, none.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let Self { path, connection } = self;
        write(connection, entries).map_err(|source| StoreError::Write { path: path.clone(), source })
    }

    /// Writes about as much as a take-over does, and takes it out again: whether the disk has room is known afterwards.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        const BYTES: usize = 32 << 10;
        // No service has this name. Should the agent die in between, the row stays until the next probe.
        let written = self
            .connection
            .execute(
                "INSERT OR REPLACE INTO releases
                     (service, state, schedule_time_ms, weights, schedule, shards, canary, settings, reason, updated_ms)
                 VALUES ('', '', 0, '', '', '', '', '', ?1, 0)",
                [" ".repeat(BYTES)],
            )
            .and_then(|_| self.connection.execute("DELETE FROM releases WHERE service = ''", []));
        written.map(drop).map_err(|source| StoreError::Write { path: self.path.clone(), source })
    }

    /// What was decided, the latest first.
    pub fn decisions(&self, asked: Asked<'_>) -> Result<Vec<Recorded>, StoreError> {
        history::decisions(&self.connection, asked).map_err(|source| self.read_error(source))
    }

    /// What the judge had seen of a service's release; `None` if nothing, or if that does not count any more.
    pub fn analysis(&self, service: &str) -> Result<Option<String>, StoreError> {
        let found = self
            .connection
            .prepare_cached("SELECT state FROM analyses WHERE service = ?1")
            .and_then(|mut statement| statement.query_row([service], |row| row.get::<_, String>(0)).optional())
            .map_err(|source| self.read_error(source))?;
        Ok(found.filter(|state| !state.is_empty()))
    }

    fn read_error(&self, source: rusqlite::Error) -> StoreError {
        damaged(&self.path, &source).unwrap_or(StoreError::Read { path: self.path.clone(), source })
    }
}

/// Refuses what is damaged, foreign or of another version, before anything is written.
fn check(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let failed = |source| open_error(path, source);
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(failed);
    let objects: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if objects == 0 {
        return Ok(());
    }
    if number("application_id")? != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let found = number("user_version")?;
    if !(1..=SCHEMA_VERSION).contains(&found) {
        return Err(StoreError::Version { path: path.to_owned(), found });
    }
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if finding != "ok" {
        return Err(StoreError::Damaged { path: path.to_owned(), detail: finding });
    }
    Ok(())
}

fn write(connection: &mut Connection, entries: &[Entry]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for entry in entries {
        write_release(&transaction, entry)?;
        if let Some(decision) = &entry.decision {
            history::insert(&transaction, entry.at, &entry.service, decision)?;
        }
        if let Some(state) = &entry.analysis {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO analyses (service, state, updated_ms) VALUES (?1, ?2, ?3)")?
                .execute(params![entry.service, state, unix_milliseconds(entry.at)])?;
        }
    }
    transaction.commit()
}

fn write_release(transaction: &Transaction<'_>, entry: &Entry) -> rusqlite::Result<()> {
    let StoredRelease { release, schedule, shards, canary, raised_from, settings } = &entry.stored;
    let canary: Vec<String> = canary.iter().map(ToString::to_string).collect();
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO releases
                 (service, state, schedule_time_ms, weights, raised_from, schedule, shards, canary, settings, reason,
                  updated_ms, rule, progress)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            entry.service,
            release.state.name(),
            milliseconds(release.schedule_time),
            release.weights.to_text(),
            raised_from.as_ref().map(Weights::to_text),
            schedule,
            shards,
            canary.join(" "),
            settings.to_string(),
            release.reason,
            unix_milliseconds(entry.at),
            release.rule.name(),
            release.progress.to_string(),
        ])
        .map(drop)
}

/// A row of `releases`, before its values are checked.
struct ReleaseColumns {
    state: String,
    schedule_time_ms: u64,
    weights: String,
    raised_from: Option<String>,
    schedule: String,
    shards: String,
    canary: String,
    settings: String,
    reason: String,
    rule: String,
    progress: String,
}

fn release_columns(row: &Row<'_>) -> rusqlite::Result<ReleaseColumns> {
    Ok(ReleaseColumns {
        state: row.get(0)?,
        schedule_time_ms: row.get(1)?,
        weights: row.get(2)?,
        raised_from: row.get(3)?,
        schedule: row.get(4)?,
        shards: row.get(5)?,
        canary: row.get(6)?,
        settings: row.get(7)?,
        reason: row.get(8)?,
        rule: row.get(9)?,
        progress: row.get(10)?,
    })
}

impl ReleaseColumns {
    fn check(self) -> Option<StoredRelease> {
        let release = Release {
            state: State::from_name(&self.state)?,
            schedule_time: Duration::from_millis(self.schedule_time_ms),
            weights: self.weights.parse().ok()?,
            reason: self.reason,
            rule: Rule::from_name(&self.rule)?,
            progress: self.progress.parse().ok()?,
            outside: Outside::default(),
        };
        let canary = self.canary.split_whitespace().map(|address| address.parse().ok()).collect::<Option<_>>()?;
        let raised_from = match self.raised_from {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let settings = self.settings.parse().ok()?;
        Some(StoredRelease { release, schedule: self.schedule, shards: self.shards, canary, raised_from, settings })
    }
}

fn damaged(path: &Path, error: &rusqlite::Error) -> Option<StoreError> {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Some(StoreError::Damaged { path: path.to_owned(), detail: error.to_string() })
        }
        _ => None,
    }
}

fn open_error(path: &Path, source: rusqlite::Error) -> StoreError {
    damaged(path, &source).unwrap_or(StoreError::Open { path: path.to_owned(), source })
}

/// As SQLite's integers hold it; a length beyond 292 million years is cut there.
fn milliseconds(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

fn unix_milliseconds(moment: SystemTime) -> i64 {
    milliseconds(moment.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests;
