-- Where each service stands: one row a service, written at each change and at least once a second while its release
-- progresses.
CREATE TABLE IF NOT EXISTS releases (
    service TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    schedule_time_ms INTEGER NOT NULL CHECK (schedule_time_ms >= 0),
    -- Hundredths of a percent: one number, or one for each shard, separated by spaces.
    weights TEXT NOT NULL,
    -- The same: the weights before a raise that was stored ahead of its deed; null once it is known what the kernel has.
    raised_from TEXT,
    schedule TEXT NOT NULL,
    -- What the weights are of.
    shards TEXT NOT NULL,
    -- Addresses of v2's backends, separated by spaces.
    canary TEXT NOT NULL,
    -- Pins and backends that were changed at run time: one line each.
    settings TEXT NOT NULL,
    reason TEXT NOT NULL,
    updated_ms INTEGER NOT NULL,
    -- What brought it there.
    rule TEXT NOT NULL DEFAULT 'command',
    -- What it has been through: `name=number` words.
    progress TEXT NOT NULL DEFAULT ''
) STRICT;

-- What the judge has seen of a release, with the reading of the counters up to which it has: one row a service, written in
-- one transaction with its row in `releases`.
CREATE TABLE IF NOT EXISTS analyses (
    service TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;

-- What has happened: one row for each command and each change of a weight or a state.
CREATE TABLE IF NOT EXISTS events (
    id INTEGER NOT NULL PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    service TEXT NOT NULL,
    event TEXT NOT NULL,
    from_hundredths INTEGER NOT NULL,
    to_hundredths INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    -- By which rule; empty in what was written before there were any.
    rule TEXT NOT NULL DEFAULT '',
    -- The figures behind it, as JSON.
    evidence TEXT
) STRICT;

CREATE INDEX IF NOT EXISTS events_by_service ON events (service, id);

CREATE TRIGGER IF NOT EXISTS events_are_not_changed BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

CREATE TRIGGER IF NOT EXISTS events_are_not_deleted BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;
