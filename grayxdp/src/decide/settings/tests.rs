//! Settings: what each change does, and what is left of them under another config.

use super::*;

fn member(version: Version, port: u16, weight: u32) -> Member {
    Member { version, address: at(port), weight }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// Ports 1 and 2 serve v1, port 3 serves v2.
fn config() -> Vec<Member> {
    vec![member(Version::V1, 1, 1), member(Version::V1, 2, 5), member(Version::V2, 3, 1)]
}

fn rule(text: &str) -> PinRule {
    text.parse().expect("a rule")
}

/// Ports and states, in order.
fn brief(settings: &Settings) -> Vec<(u16, &'static str)> {
    settings.backends(&config()).iter().map(|backend| (backend.address.port(), backend.state.name())).collect()
}

#[test]
fn backends_come_and_go_at_run_time() {
    let config = config();
    let none = Settings::default();
    assert_eq!(brief(&none), [(1, "live"), (2, "live"), (3, "live")]);
    let drained = none.drain(&config, at(2)).expect("there");
    assert_eq!(brief(&drained), [(1, "live"), (2, "draining"), (3, "live")]);
    assert_eq!(drained.drain(&config, at(2)), Ok(drained.clone()), "twice is once");
    assert_eq!(drained.undrain(&config, at(2)), Ok(none.clone()));
    let added = drained.add(&config, member(Version::V2, 4, 7)).expect("new");
    assert_eq!(brief(&added), [(1, "live"), (2, "draining"), (3, "live"), (4, "live")]);
    let removed =
        added.remove(&config, at(3)).and_then(|changed| changed.remove(&config, at(2))).expect("not the last");
    assert_eq!(brief(&removed), [(1, "live"), (4, "live")]);
    assert_eq!(removed.removed(&config).map(|member| member.address.port()).collect::<Vec<_>>(), [2, 3]);
    // Back as the config has it, and back as it never was.
    let back = removed.add(&config, member(Version::V1, 2, 5)).expect("not there");
    assert_eq!(back.members(&config)[1], (member(Version::V1, 2, 5), Origin::Config));
    let other = removed.add(&config, member(Version::V2, 2, 9)).expect("not there");
    assert_eq!(other.members(&config)[2], (member(Version::V2, 2, 9), Origin::RunTime));
    assert_eq!(other.remove(&config, at(2)), Ok(removed));
}

#[test]
fn what_does_not_fit_is_refused_with_advice() {
    let config = config();
    let none = Settings::default();
    for (misfit, part) in [
        (none.drain(&config, at(9)), "there are: 10.0.0.1:1, 10.0.0.1:2, 10.0.0.1:3"),
        (none.undrain(&config, at(1)), "is not drained"),
        (none.add(&config, member(Version::V2, 1, 1)), "is a backend of v1 already"),
        (none.remove(&config, at(3)), "last backend of v2"),
        (none.remove(&config, at(9)), "is no backend"),
        (none.unpin(&[], rule("dscp 1")), "nothing is pinned by dscp 1"),
        (none.unpin(&[Pin { rule: rule("dscp 1"), version: Version::V2 }], rule("dscp 1")), "in the config file"),
    ] {
        let misfit = misfit.expect_err(part).to_string();
        assert!(misfit.contains(part), "{misfit}");
    }
}

#[test]
fn a_pin_of_run_time_lies_over_one_of_the_config() {
    let pin = |text: &str, version| Pin { rule: rule(text), version };
    let config = [pin("dscp 46", Version::V2), pin("source 10.0.0.0/8", Version::V2)];
    let settings = Settings::default().pin(pin("source 192.0.2.0/24", Version::V2)).pin(pin("dscp 46", Version::V1));
    let found: Vec<String> = settings
        .pins(&config)
        .iter()
        .map(|(pin, origin)| format!("{} {} {}", pin.rule, pin.version.name(), origin.name()))
        .collect();
    assert_eq!(found, ["source 10.0.0.0/8 v2 config", "source 192.0.2.0/24 v2 run-time", "dscp 46 v1 run-time"]);
    let without = settings.unpin(&config, rule("dscp 46")).expect("pinned");
    assert_eq!(without.pins(&config)[2], (pin("dscp 46", Version::V2), Origin::Config));
    assert_eq!(settings.pin(pin("dscp 46", Version::V2)).pins(&config).len(), 3);
}

#[test]
fn all_of_it_survives_its_text() {
    let config = config();
    let settings = Settings::default()
        .pin(Pin { rule: rule("source 2001:db8::/32"), version: Version::V2 })
        .pin(Pin { rule: rule("dscp 46"), version: Version::V1 })
        .add(&config, member(Version::V2, 4, 7))
        .and_then(|settings| settings.drain(&config, at(4)))
        .and_then(|settings| settings.remove(&config, at(1)))
        .expect("fits");
    let text = settings.to_string();
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "pin v2 source 2001:db8::/32",
            "pin v1 dscp 46",
            "added v2 10.0.0.1:4 7",
            "removed 10.0.0.1:1",
            "drained 10.0.0.1:4"
        ]
    );
    assert_eq!(text.parse(), Ok(settings));
    assert_eq!("".parse(), Ok(Settings::default()));
    for text in ["dance", "pin v3 dscp 1", "added v2 10.0.0.1:4", "removed x"] {
        assert_eq!(text.parse::<Settings>(), Err(NoSetting(text.to_owned())));
    }
}

#[test]
fn what_means_nothing_any_more_is_dropped() {
    let old = config();
    let settings = Settings::default()
        .add(&old, member(Version::V2, 4, 7))
        .and_then(|settings| settings.add(&old, member(Version::V2, 5, 1)))
        .and_then(|settings| settings.drain(&old, at(1)))
        .and_then(|settings| settings.drain(&old, at(4)))
        .and_then(|settings| settings.remove(&old, at(3)))
        .expect("fits");
    assert_eq!(settings.fitted(&old, |_| false), settings, "nothing has changed");
    // Port 1 has gone; port 4 is in the config now; port 5 serves somebody else; so the config's v2 counts again.
    let new = [member(Version::V1, 2, 5), member(Version::V2, 3, 1), member(Version::V2, 4, 1)];
    let fitted = settings.fitted(&new, |address| address == at(5));
    assert_eq!(fitted.to_string(), "removed 10.0.0.1:3\ndrained 10.0.0.1:4\n");
    let alone = [member(Version::V1, 2, 5), member(Version::V2, 3, 1)];
    assert_eq!(settings.fitted(&alone, |_| true).to_string(), "", "a version is never left without backends");
}
