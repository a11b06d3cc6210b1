//! What is stored is found again; what is damaged is refused.

use std::fs;

use grayxdp_common::weight::Weight;

use super::*;
use crate::decide::{controller::Progress, evidence::tests::sample};

fn weight(hundredths: u16) -> Weight {
    Weight::from_hundredths(hundredths).expect("in range")
}

pub(crate) fn entry(service: &str, hundredths: u16, event: Option<&str>) -> Entry {
    Entry {
        service: service.to_owned(),
        stored: StoredRelease {
            release: Release {
                state: State::Progressing,
                schedule_time: Duration::from_millis(1234),
                weights: Weights::equal(weight(hundredths)),
                reason: "follows the schedule".to_owned(),
                rule: Rule::Schedule,
                progress: "since_raise=1500 gates_passed=1000 at_gate=0".parse().expect("progress"),
                outside: Outside::default(),
            },
            schedule: "linear".to_owned(),
            canary: ["10.0.2.10:8080", "[2001:db8::1]:53"].map(|text| text.parse().expect("an address")).into(),
            shards: "hash 16".to_owned(),
            raised_from: None,
            settings: Settings::default(),
        },
        at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        decision: event.map(|event| Decision {
            event: event.to_owned(),
            from: Weight::ZERO,
            to: weight(hundredths),
            state: State::Progressing,
            rule: Rule::Schedule,
            evidence: Some(sample()),
            reason: "follows the schedule".to_owned(),
            actor: "schedule".to_owned(),
        }),
        analysis: None,
    }
}

/// From now on nothing can be written, as on a full disk.
pub(crate) fn break_store(directory: &Path) {
    let connection = Connection::open(directory.join("state.db")).expect("the store's file");
    let fail = "BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    connection
        .execute_batch(&format!(
            "CREATE TRIGGER full_insert BEFORE INSERT ON releases {fail};
             CREATE TRIGGER full_update BEFORE UPDATE ON releases {fail};"
        ))
        .expect("triggers");
}

pub(crate) fn mend_store(directory: &Path) {
    let connection = Connection::open(directory.join("state.db")).expect("the store's file");
    connection.execute_batch("DROP TRIGGER full_insert; DROP TRIGGER full_update;").expect("triggers");
}

const fn of_web(count_max: u32) -> Asked<'static> {
    Asked { service: Some("web"), after: 0, count_max }
}

#[test]
fn what_is_written_is_found_after_a_restart() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("deeper").join("state.db");
    let (first, mut second) = (entry("web", 1000, Some("start")), entry("web", 2000, Some("weight_changed")));
    second.stored.raised_from = Some(Weights::equal(weight(1000)));
    second.stored.release.weights = Weights::of_shards([2000, 0, 10_000].map(weight).to_vec());
    second.stored.settings =
        "pin v2 dscp 46\nadded v2 10.0.2.11:8080 3\ndrained 10.0.2.10:8080\n".parse().expect("some");
    {
        let mut store = Store::open(&path).expect("a new store");
        assert_eq!(store.release("web").expect("readable"), None);
        store.append(&[first.clone(), second.clone()]).expect("writable");
        store.append(&[entry("dns", 1, None)]).expect("writable");
    }
    let store = Store::open(&path).expect("the same store");
    assert_eq!(store.release("web").expect("readable"), Some(second.stored.clone()));
    assert_eq!(
        store.release("dns").expect("readable").map(|stored| stored.release.weights),
        Some(Weights::equal(weight(1)))
    );
    let decisions = store.decisions(of_web(10)).expect("readable");
    let found: Vec<_> = decisions.iter().map(|each| (each.at, Some(each.decision.clone()))).collect();
    assert_eq!(found, [second, first].map(|entry| (entry.at, entry.decision)));
    assert_eq!(store.decisions(of_web(1)).expect("readable").len(), 1);
    let all = Asked { service: None, after: decisions[1].id, count_max: 10 };
    assert_eq!(store.decisions(all).expect("readable"), decisions[..1], "what came after the first one");
}

#[test]
fn what_the_judge_has_seen_is_written_with_the_release_or_not_at_all() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(&directory.path().join("state.db")).expect("a new store");
    let seen = |state: &str| Entry { analysis: Some(state.to_owned()), ..entry("web", 1000, None) };
    assert_eq!(store.analysis("web").expect("readable"), None);
    store.append(&[seen("up to here")]).expect("writable");
    store.append(&[entry("web", 2000, None)]).expect("writable");
    assert_eq!(store.analysis("web").expect("readable").as_deref(), Some("up to here"));
    store
        .connection
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON releases BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .expect("a trigger");
    store.append(&[seen("further")]).expect_err("refused");
    assert_eq!(store.analysis("web").expect("readable").as_deref(), Some("up to here"));
    store.connection.execute_batch("DROP TRIGGER full").expect("dropped");
    store.append(&[seen("")]).expect("writable");
    assert_eq!(store.analysis("web").expect("readable"), None, "it begins anew");
}

#[test]
fn history_can_only_grow() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(&directory.path().join("state.db")).expect("a new store");
    store.append(&[entry("web", 1000, Some("start"))]).expect("writable");
    for statement in ["UPDATE events SET actor = 'nobody'", "DELETE FROM events"] {
        let error = store.connection.execute(statement, []).expect_err(statement);
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(&directory.path().join("state.db")).expect("a new store");
    store
        .connection
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .expect("a trigger");
    let error = store.append(&[entry("web", 1000, Some("start"))]).expect_err("refused");
    assert!(error.to_string().contains("disk full") && error.to_string().contains("state.db"), "{error}");
    assert_eq!(store.release("web").expect("readable"), None);
}

#[test]
fn what_is_no_database_of_ours_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.db");

    fs::write(&path, "this is no database, but a text that is long enough to have a header of its own".repeat(20))
        .expect("a file");
    let before = fs::read(&path).expect("readable");
    let error = Store::open(&path).expect_err("no database");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().expect("UTF-8")), "{error}");
    assert_eq!(fs::read(&path).expect("readable"), before);

    fs::remove_file(&path).expect("removable");
    Connection::open(&path).expect("a database").execute_batch("CREATE TABLE other (x)").expect("a table");
    assert!(matches!(Store::open(&path), Err(StoreError::Foreign { .. })));

    fs::remove_file(&path).expect("removable");
    drop(Store::open(&path).expect("a new store"));
    Connection::open(&path).expect("a database").pragma_update(None, "user_version", 99).expect("writable");
    assert!(matches!(Store::open(&path), Err(StoreError::Version { found: 99, .. })));
}

#[test]
fn a_file_of_schema_1_is_brought_up_to_date_with_its_release() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.db");
    drop(Store::open(&path).expect("a new store"));
    let old = Connection::open(&path).expect("a database");
    old.execute_batch(
        "DROP TABLE releases;
         DROP TABLE analyses;
         ALTER TABLE events DROP COLUMN rule;
         ALTER TABLE events DROP COLUMN evidence;
         CREATE TABLE releases (
             service TEXT NOT NULL PRIMARY KEY,
             state TEXT NOT NULL,
             schedule_time_ms INTEGER NOT NULL CHECK (schedule_time_ms >= 0),
             weight_hundredths INTEGER NOT NULL CHECK (weight_hundredths BETWEEN 0 AND 10000),
             schedule TEXT NOT NULL,
             canary TEXT NOT NULL,
             reason TEXT NOT NULL,
             updated_ms INTEGER NOT NULL
         ) STRICT;
         PRAGMA user_version = 1;
         INSERT INTO releases VALUES ('web', 'frozen', 1234, 2000, 'linear', '10.0.2.10:8080', 'by hand', 5);",
    )
    .expect("as schema 1 has it");
    drop(old);
    for _ in 0..2 {
        let mut store = Store::open(&path).expect("readable");
        let stored = store.release("web").expect("readable").expect("stored");
        assert_eq!((stored.release.state, stored.release.weights), (State::Frozen, Weights::equal(weight(2000))));
        assert_eq!((stored.raised_from, stored.settings), (None, Settings::default()));
        store.append(&[entry("dns", 1, Some("start"))]).expect("writable");
    }
}

#[test]
fn a_file_of_schema_2_is_brought_up_to_date_with_its_history() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.db");
    let mut store = Store::open(&path).expect("a new store");
    store.append(&[entry("web", 1000, Some("weight_changed"))]).expect("writable");
    drop(store);
    let old = Connection::open(&path).expect("a database");
    old.execute_batch(
        "DROP TABLE analyses;
         ALTER TABLE events DROP COLUMN rule;
         ALTER TABLE events DROP COLUMN evidence;
         ALTER TABLE releases DROP COLUMN rule;
         ALTER TABLE releases DROP COLUMN progress;
         PRAGMA user_version = 2;",
    )
    .expect("as schema 2 has it");
    drop(old);
    for count in 1..3 {
        let mut store = Store::open(&path).expect("readable");
        let stored = store.release("web").expect("readable").expect("stored");
        assert_eq!((stored.release.rule, stored.release.progress), (Rule::Command, Progress::default()));
        let decisions = store.decisions(of_web(10)).expect("readable");
        let oldest = &decisions[count - 1].decision;
        assert_eq!((oldest.rule, &oldest.evidence), (Rule::Schedule, &None), "as its actor says");
        let mut another = entry("web", 1000, Some("weight_changed"));
        another.stored.release =
            Release { rule: Rule::Command, progress: Progress::default(), ..another.stored.release };
        store.append(&[another]).expect("writable");
    }
}

#[test]
fn a_damaged_page_is_found_at_the_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.db");
    drop(Store::open(&path).expect("a new store"));
    let mut bytes = fs::read(&path).expect("readable");
    assert!(bytes.len() > 8192, "the schema fills more than a page");
    bytes[4096..].fill(0xa5);
    fs::write(&path, bytes).expect("writable");
    let error = Store::open(&path).expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_value_that_no_release_can_have_is_an_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(&directory.path().join("state.db")).expect("a new store");
    store.append(&[entry("web", 1000, None)]).expect("writable");
    for values in [
        "state = 'dancing'",
        "weights = '10001'",
        "weights = ''",
        "raised_from = '-1'",
        "settings = 'x'",
        "rule = 'x'",
        "progress = 'held=-1'",
    ] {
        store.append(&[entry("web", 1000, None)]).expect("writable");
        store.connection.execute(&format!("UPDATE releases SET {values}"), []).expect("writable");
        assert!(matches!(store.release("web"), Err(StoreError::Damaged { .. })), "{values}");
    }
}

#[test]
fn a_path_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("a file");
    let error = Store::open(&file.join("state.db")).expect_err("no directory");
    assert!(matches!(error, StoreError::Directory { .. }) && error.to_string().contains("file"), "{error}");
    let error = Store::open(directory.path()).expect_err("a directory");
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    let error = Store::open(Path::new("/proc/state.db")).expect_err("not writable");
    assert!(error.to_string().contains("/proc/state.db"), "{error}");
}

#[test]
fn a_probe_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(&directory.path().join("state.db")).expect("a new store");
    store.append(&[entry("web", 1000, None)]).expect("writable");
    store.probe().expect("writable");
    store.probe().expect("writable");
    let count: u32 =
        store.connection.query_row("SELECT count(*) FROM releases", [], |row| row.get(0)).expect("readable");
    assert_eq!(count, 1);
}
