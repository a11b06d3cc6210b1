//! Pins and backends at run time, on a fake kernel and a real database.

use std::path::Path;

use super::*;
use crate::{
    agent::{
        fake_kernel::{FakeKernel, config},
        releases::tests::{killed, new_agent},
    },
    decide::{controller::Event, settings::BackendSetting},
    store::{
        Store,
        tests::{break_store, mend_store},
    },
};

const WEB: usize = 0;
const PERSON: Cause<'static> = Cause::new("command", "uid 0");

fn pin(text: &str, version: Version) -> Change {
    Change::Pin(Pin { rule: text.parse().expect("a rule"), version })
}

fn add(version: Version, address: &str) -> Change {
    Change::AddBackend { version, address: address.to_owned(), weight: 2 }
}

fn backends(releases: &Releases<FakeKernel>) -> Vec<String> {
    let said = |backend: &BackendSetting| {
        format!("{} {} {} {}", backend.version.name(), backend.address, backend.weight, backend.state.name())
    };
    releases.kernel.backends[WEB].iter().flatten().map(said).collect()
}

fn pins(releases: &Releases<FakeKernel>) -> Vec<String> {
    let pins = releases.kernel.pins[WEB].iter().flatten();
    pins.map(|pin| format!("{} {}", pin.rule, pin.version.name())).collect()
}

fn applied_now(directory: &Path) -> Config {
    let config = config(directory);
    applied(&config, &Store::open(&config.agent.state).expect("a store")).expect("readable")
}

#[test]
fn changes_reach_the_kernel_at_once_and_survive_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    assert_eq!((&releases.kernel.pins[WEB], &releases.kernel.backends[WEB]), (&None, &None), "nothing to say");
    for change in [
        pin("source 198.51.100.0/24", Version::V2),
        pin("dscp 46", Version::V1),
        add(Version::V2, "10.0.2.11:8080"),
        Change::Drain("10.0.1.10:8080".to_owned()),
        Change::RemoveBackend("10.0.2.10:8080".to_owned()),
    ] {
        releases.change("web", &change, PERSON).unwrap_or_else(|error| panic!("{change:?}: {error}"));
    }
    let expected_backends = ["v1 10.0.1.10:8080 1 draining", "v1 10.0.1.11:8080 3 live", "v2 10.0.2.11:8080 2 live"];
    let expected_pins = ["source 198.51.100.0/24 v2", "dscp 46 v1"];
    assert_eq!(backends(&releases), expected_backends);
    assert_eq!(pins(&releases), expected_pins);

    releases.command("web", Event::Promote, PERSON).expect("promoted");
    let releases = killed(directory.path(), releases);
    // v2's backend of the config has gone, and it is still the same canary.
    assert_eq!(releases.release(WEB).state.name(), "promoted");
    assert_eq!(backends(&releases), expected_backends, "told again, for one is drained");
    let config = applied_now(directory.path());
    let web = &config.services[WEB];
    assert_eq!(
        web.members().iter().map(|member| member.address.to_string()).collect::<Vec<_>>(),
        ["10.0.1.10:8080", "10.0.1.11:8080", "10.0.2.11:8080"]
    );
    assert_eq!(web.pins.len(), 2, "the kernel begins with them");
    let store = Store::open(&config.agent.state).expect("a store");
    let asked = crate::store::Asked { service: Some("web"), after: 0, count_max: 100 };
    let decisions = store.decisions(asked).expect("readable");
    for reason in
        ["source 198.51.100.0/24 goes to v2", "10.0.1.10:8080 is drained", "10.0.2.10:8080 is a backend no longer"]
    {
        let found = decisions.iter().filter(|recorded| recorded.decision.reason == reason);
        assert!(found.clone().all(|recorded| recorded.decision.rule == Rule::Command));
        assert_eq!(found.count(), 1, "{reason}: {decisions:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    for (change, part) in [
        (Change::Drain("10.0.1.99:8080".to_owned()), "web: 10.0.1.99:8080 is no backend of this service"),
        (Change::Drain("10.0.1.10".to_owned()), "an IP address and a port"),
        (Change::Undrain("10.0.1.10:8080".to_owned()), "is not drained"),
        (Change::RemoveBackend("10.0.2.10:8080".to_owned()), "last backend of v2"),
        (Change::Unpin("dscp 1".parse().expect("a rule")), "nothing is pinned by dscp 1"),
        (pin("source 2001:db8::/32", Version::V2), "the VIP is IPv4"),
        (add(Version::V2, "10.0.1.10:8080"), "is a backend of v1 already"),
        (add(Version::V2, "203.0.113.10:80"), "is where clients meet service `web`"),
        (add(Version::V2, "[2001:db8::1]:80"), "the VIP's family, IPv4"),
        (add(Version::V2, "127.0.0.1:80"), "loopback"),
    ] {
        let error = releases.change("web", &change, PERSON).expect_err(part).to_string();
        assert!(error.contains(part), "{change:?}: {error}");
    }
    assert!(matches!(
        releases.change("wob", &pin("dscp 1", Version::V2), PERSON),
        Err(CommandError::UnknownService { .. })
    ));
    assert_eq!((&releases.kernel.pins[WEB], &releases.kernel.backends[WEB]), (&None, &None));
    let many = (1..=249u8).map(|last| format!("10.0.9.{last}:1"));
    for address in many {
        releases.change("web", &add(Version::V2, &address), PERSON).expect("there is room");
    }
    let error = releases.change("web", &add(Version::V2, "10.0.9.250:1"), PERSON).expect_err("no room").to_string();
    assert!(error.contains("v2 has 250 backends: at most 250 are possible"), "{error}");
    releases.change("web", &Change::RemoveBackend("10.0.9.1:1".to_owned()), PERSON).expect("removed");
    // The other protocol's address is another one.
    releases.change("web", &add(Version::V2, "10.0.1.10:53"), PERSON).expect("TCP, not UDP");
}

#[test]
fn a_kernel_that_refuses_leaves_all_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.kernel.fails_to_set = true;
    for change in [pin("dscp 46", Version::V2), Change::Drain("10.0.1.10:8080".to_owned())] {
        let error = releases.change("web", &change, PERSON).expect_err("refused");
        assert!(matches!(error, CommandError::NotSet { .. }), "{error}");
    }
    assert_eq!(*releases.settings(WEB), Settings::default());
    assert!(applied_now(directory.path()).services[WEB].pins.is_empty());
}

#[test]
fn on_a_full_disk_traffic_can_be_kept_away_but_not_brought() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    break_store(directory.path());
    for change in [pin("dscp 46", Version::V2), add(Version::V2, "10.0.2.11:8080")] {
        let error = releases.change("web", &change, PERSON).expect_err("refused");
        assert!(matches!(error, CommandError::NotStored { .. }), "{error}");
    }
    assert_eq!((&releases.kernel.pins[WEB], &releases.kernel.backends[WEB]), (&None, &None));
    releases.change("web", &Change::Drain("10.0.1.10:8080".to_owned()), PERSON).expect("drained");
    assert_eq!(backends(&releases)[0], "v1 10.0.1.10:8080 1 draining");
    assert!(releases.unstored(WEB).is_some_and(|said| said.contains("may undo")));
    mend_store(directory.path());
    releases.advance(std::time::Duration::from_secs(10));
    let releases = killed(directory.path(), releases);
    assert_eq!(backends(&releases)[0], "v1 10.0.1.10:8080 1 draining");
}

#[test]
fn what_was_added_to_the_former_canary_is_no_part_of_another_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut releases = new_agent(directory.path());
    releases.change("web", &add(Version::V2, "10.0.2.11:8080"), PERSON).expect("added");
    releases.command("web", Event::Promote, PERSON).expect("promoted");
    drop(releases);
    let mut config = config(directory.path());
    let web = &mut config.services[WEB];
    web.v1.backends = std::mem::take(&mut web.v2.backends);
    web.v2.backends = vec![Backend { address: "10.0.3.10:8080".parse().expect("an address"), weight: 1 }];
    let store = Store::open(&config.agent.state).expect("a store");
    let applied = applied(&config, &store).expect("readable");
    assert_eq!(applied.services[WEB].v2, config.services[WEB].v2);
    let mut releases = Releases::new(config.services, FakeKernel::with_pinned(&[None, None]), store);
    releases.take_over().expect("taken over");
    assert_eq!(releases.release(WEB).state.name(), "idle");
    assert_eq!(*releases.settings(WEB), Settings::default());
}
