//! What is missing in a database file, and what an older grayxdp wrote otherwise.

use rusqlite::{Connection, TransactionBehavior};

use super::{APPLICATION_ID, SCHEMA_VERSION};

/// Up to schema 2 decisions had neither rule nor figures.
const EVENTS_TO_3: &str = "
    ALTER TABLE events ADD COLUMN rule TEXT NOT NULL DEFAULT '';
    ALTER TABLE events ADD COLUMN evidence TEXT;";
/// Nor had releases a policy to go through.
const RELEASES_TO_3: &str = "
    ALTER TABLE releases ADD COLUMN rule TEXT NOT NULL DEFAULT 'command';
    ALTER TABLE releases ADD COLUMN progress TEXT NOT NULL DEFAULT '';";

/// Makes what is missing. The version is written every time: it shows that the file can be written.
pub(super) fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // An agent may be upgraded in the middle of a release. A new file has version 0.
    let found = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))?;
    if found == 1 {
        transaction.execute_batch("ALTER TABLE releases RENAME TO releases_1")?;
    }
    if found == 2 {
        transaction.execute_batch(RELEASES_TO_3)?;
    }
    if (1..=2).contains(&found) {
        transaction.execute_batch(EVENTS_TO_3)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.execute_batch(include_str!("schema.sql"))?;
    if found == 1 {
        transaction.execute_batch(include_str!("from_1.sql"))?;
    }
    transaction.commit()
}
