//! The `[service.health]` table: how the backends of a service are checked.

use std::time::Duration;

use toml::{Spanned, de::DeValue};

use super::{
    Protocol,
    section::Section,
    value::{self, Wrong},
};
use crate::decide::health::Rules;

const KEYS: &[&str] = &["check", "path", "host", "expect", "port", "every", "timeout", "rise", "fall"];

const PATH_DEFAULT: &str = "/healthz";
const EXPECT_DEFAULT: StatusRange = StatusRange { first: 200, last: 399 };
const EVERY_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;

/// Below, the checks of a large pool would be a load of their own.
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(3600);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Most outcomes in a row that can be asked for.
const IN_A_ROW_MAX: u32 = 100;
/// The longest path or host, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// How the backends of a service are checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// What a backend has to do.
    pub check: Check,
    /// Where it has to do it, unless on the port that it serves clients on; not 0.
    pub port: Option<u16>,
    /// How long it may take, from the connect on. Shorter than the period; 10 ms to 60 s.
    pub timeout: Duration,
    /// How often (100 ms to 1 h), and how many outcomes in a row make a change (1 to 100).
    pub rules: Rules,
}

/// What a backend has to do to pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Check {
    /// Accept a TCP connection.
    Tcp,
    /// Answer an HTTP/1.1 GET.
    Http {
        /// Path, and query if any, as they go over the wire.
        path: String,
        /// What the Host header says, unless the backend's address.
        host: Option<String>,
        /// The status that it has to answer with.
        expect: StatusRange,
    },
}

/// Why a UDP service needs the key.
const UDP_PORT_HELP: &str = "both checks are by TCP, which the port of a UDP service does not answer: add `port = …`, a \
                             TCP port on which the backends tell whether they are well; or remove `health`";

/// HTTP statuses from one to another, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// Whether the status is one of them.
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }

    /// As in the config: `200-399`, or `204`, which stands for both ends. `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let status = |text: &str| {
            let is_plain = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let status = is_plain.then(|| text.parse().ok()).flatten();
            status.filter(|status| (100..=599).contains(status))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (status(first)?, status(last)?);
        (first <= last).then_some(Self { first, last })
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Http,
}

const KINDS: [(&str, Kind); 2] = [("tcp", Kind::Tcp), ("http", Kind::Http)];

/// The table of a service, if it has one. The outer `None` is returned only after a problem was noted.
pub(super) fn read(service: &Section<'_>, protocol: Option<&Protocol>) -> Option<Option<HealthCheck>> {
    let Some(item) = service.optional_item("health") else {
        return Some(None);
    };
    let section = item.section(KEYS);
    let kind = section.required("check", "\"tcp\"", |value| value::choice(value, &KINDS)).map(Spanned::into_inner);
    let check = check(&section, kind);
    let port = match protocol {
        Some(Protocol::Udp) => section.required_item("port", UDP_PORT_HELP),
        _ => section.optional_item("port"),
    };
    // What is missing though it is required has been noted, and makes the whole config void.
    let port = match port {
        Some(item) => item.read(value::port).map(|port| Some(port.into_inner())),
        None => Some(None),
    };
    let (every, timeout) = times(&section).unzip();
    let in_a_row = |key, default| {
        section.or(key, default, |value| value::integer(value, 1..=IN_A_ROW_MAX)).map(Spanned::into_inner)
    };
    let (rise, fall) = (in_a_row("rise", RISE_DEFAULT), in_a_row("fall", FALL_DEFAULT));
    Some(Some(HealthCheck { check: check?, port: port?, timeout: timeout?, rules: Rules::new(every?, rise?, fall?) }))
}

fn check(section: &Section<'_>, kind: Option<Kind>) -> Option<Check> {
    if let Some(Kind::Tcp) = kind {
        for item in ["path", "host", "expect"].into_iter().filter_map(|key| section.optional_item(key)) {
            item.note(
                format!("{} means nothing: the check is `tcp`", item.what()),
                "remove it, or write `check = \"http\"`",
            );
        }
        return Some(Check::Tcp);
    }
    let path = section.or("path", PATH_DEFAULT.to_owned(), path).map(Spanned::into_inner);
    let host = match section.optional_item("host") {
        Some(item) => item.read(host).map(|host| Some(host.into_inner())),
        None => Some(None),
    };
    let expect = section.or("expect", EXPECT_DEFAULT, expect).map(Spanned::into_inner);
    kind?;
    Some(Check::Http { path: path?, host: host?, expect: expect? })
}

/// `every` and `timeout`.
fn times(section: &Section<'_>) -> Option<(Duration, Duration)> {
    let every = section.or("every", EVERY_DEFAULT, |value| within(value, EVERY_MIN, EVERY_MAX));
    let timeout = section.or("timeout", TIMEOUT_DEFAULT, |value| within(value, TIMEOUT_MIN, TIMEOUT_MAX));
    let (every, timeout) = (every?.into_inner(), timeout?.into_inner());
    if timeout < every {
        return Some((every, timeout));
    }
    let (long, short) = (humantime::format_duration(timeout), humantime::format_duration(every));
    let half = humantime::format_duration(every / 2);
    let help = format!("write `timeout = \"{half}\"`, or a longer `every`");
    match section.optional_item("timeout") {
        Some(item) => item.note(format!("{}: expected less than `every` ({short}), found {long}", item.what()), help),
        None => section.note(
            format!(
                "`timeout` of {} is {long} where it is not set: expected less than `every` ({short})",
                section.what()
            ),
            help,
        ),
    }
    None
}

fn within(value: &DeValue<'_>, least: Duration, most: Duration) -> Result<Duration, Wrong> {
    let duration = value::duration(value)?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
    Err(Wrong::new(format!("a duration from {least} to {most}"), format!("write a duration such as \"{least}\"")))
}

/// The characters of RFC 3986 (section 3.3 and 3.4): all others have to be percent-encoded to go over the wire.
fn path(value: &DeValue<'_>) -> Result<String, Wrong> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte);
    let fits = |path: &&str| path.starts_with('/') && path.len() <= TEXT_BYTES_MAX && path.bytes().all(good);
    value.as_str().filter(fits).map(str::to_owned).ok_or_else(|| {
        Wrong::new(
            format!("a path of at most {TEXT_BYTES_MAX} bytes that begins with `/`"),
            "write a path such as \"/healthz\"; encode blanks and the like (`%20`)",
        )
    })
}

/// A host name or address, and a port if need be.
fn host(value: &DeValue<'_>) -> Result<String, Wrong> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let fits = |host: &&str| (1..=TEXT_BYTES_MAX).contains(&host.len()) && host.bytes().all(good);
    value.as_str().filter(fits).map(str::to_owned).ok_or_else(|| {
        Wrong::new("a host name", "write what the Host header is to say, such as \"web.example\", without `http://`")
    })
}

fn expect(value: &DeValue<'_>) -> Result<StatusRange, Wrong> {
    value.as_str().and_then(StatusRange::parse).ok_or_else(|| {
        Wrong::new(
            "an HTTP status from 100 to 599, or two with a hyphen between, the lower first",
            "write \"200-399\" or \"204\", in quotes",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigErrors, sample};

    /// The rest of the service begins in line 11.
    fn parse_rest(protocol: &str, rest: &str) -> Result<Option<HealthCheck>, ConfigErrors> {
        Config::parse("lb.toml", &sample::text(protocol, rest)).map(|config| config.services[0].health.clone())
    }

    fn parse(protocol: &str, health: &str) -> Result<HealthCheck, ConfigErrors> {
        let check = parse_rest(protocol, &format!("[service.health]\n{health}"))?;
        Ok(check.expect("the table is there"))
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let expected = HealthCheck {
            check: Check::Tcp,
            port: None,
            timeout: Duration::from_secs(1),
            rules: Rules::new(Duration::from_secs(2), 2, 3),
        };
        assert_eq!(parse("tcp", "check = \"tcp\"").expect("valid"), expected);
        let http = Check::Http { path: "/healthz".to_owned(), host: None, expect: EXPECT_DEFAULT };
        assert_eq!(parse("tcp", "check = \"http\"").expect("valid"), HealthCheck { check: http, ..expected });
    }

    #[test]
    fn everything_can_be_set() {
        let text = "check = \"http\"\npath = \"/live?full=1\"\nhost = \"web.example:80\"\nexpect = \"204\"\nport = 8081\n\
                    every = \"500ms\"\ntimeout = \"499ms\"\nrise = 1\nfall = 100";
        let expected = HealthCheck {
            check: Check::Http {
                path: "/live?full=1".to_owned(),
                host: Some("web.example:80".to_owned()),
                expect: StatusRange { first: 204, last: 204 },
            },
            port: Some(8081),
            timeout: Duration::from_millis(499),
            rules: Rules::new(Duration::from_millis(500), 1, 100),
        };
        for protocol in ["tcp", "udp"] {
            assert_eq!(parse(protocol, text).expect("valid"), expected);
        }
    }

    /// Protocol and table; then line and column of the only error, and parts of its text.
    type Case = (&'static str, &'static str, (usize, usize), &'static [&'static str]);

    #[test]
    fn each_error_has_a_place_and_says_what_to_do() {
        let cases: &[Case] = &[
            ("tcp", "", (11, 1), &["`check` is missing in `health` of service `web`", "add `check = \"tcp\"`"]),
            ("tcp", "check = \"htp\"", (12, 9), &["one of `tcp`, `http`", "found `\"htp\"`", "did you mean"]),
            ("tcp", "check = \"tcp\"\nevry = \"2s\"", (13, 1), &["unknown key `evry`", "did you mean `every`?"]),
            ("tcp", "check = \"tcp\"\npath = \"/\"", (13, 8), &["`path` of", "the check is `tcp`", "remove it, or"]),
            ("tcp", "check = \"tcp\"\nhost = \"a\"", (13, 8), &["`host` of", "the check is `tcp`"]),
            ("tcp", "check = \"tcp\"\nexpect = \"200\"", (13, 10), &["`expect` of", "the check is `tcp`"]),
            ("tcp", "check = \"http\"\npath = \"health\"", (13, 8), &["begins with `/`", "found `\"health\"`"]),
            ("tcp", "check = \"http\"\npath = \"/a b\"", (13, 8), &["a path", "%20"]),
            ("tcp", "check = \"http\"\npath = \"/a#b\"", (13, 8), &["a path"]),
            ("tcp", "check = \"http\"\npath = \"/ä\"", (13, 8), &["a path"]),
            ("tcp", "check = \"http\"\nhost = \"\"", (13, 8), &["a host name", "Host header"]),
            ("tcp", "check = \"http\"\nhost = \"a\\r\\nb: c\"", (13, 8), &["a host name"]),
            ("tcp", "check = \"http\"\nhost = \"http://a\"", (13, 8), &["a host name", "without `http://`"]),
            ("tcp", "check = \"http\"\nexpect = 200", (13, 10), &["an HTTP status", "found `200`", "in quotes"]),
            ("tcp", "check = \"http\"\nexpect = \"2xx\"", (13, 10), &["an HTTP status"]),
            ("tcp", "check = \"http\"\nexpect = \"399-200\"", (13, 10), &["the lower first"]),
            ("tcp", "check = \"http\"\nexpect = \"200-600\"", (13, 10), &["from 100 to 599"]),
            ("tcp", "check = \"http\"\nexpect = \"+20-399\"", (13, 10), &["an HTTP status"]),
            ("tcp", "check = \"tcp\"\nport = 0", (13, 8), &["a port from 1 to 65535", "found `0`"]),
            ("tcp", "check = \"tcp\"\nevery = 2", (13, 9), &["a duration", "add a unit, in quotes: \"2s\""]),
            ("tcp", "check = \"tcp\"\nevery = \"99ms\"", (13, 9), &["from 100ms to 1h", "found `\"99ms\"`"]),
            ("tcp", "check = \"tcp\"\nevery = \"61m\"", (13, 9), &["from 100ms to 1h"]),
            ("tcp", "check = \"tcp\"\ntimeout = \"9ms\"", (13, 11), &["from 10ms to 1m"]),
            ("tcp", "check = \"tcp\"\ntimeout = \"2s\"", (13, 11), &["less than `every` (2s), found 2s", "\"1s\""]),
            (
                "tcp",
                "check = \"tcp\"\nevery = \"1s\"",
                (11, 1),
                &["is 1s where it is not set", "`timeout = \"500ms\"`"],
            ),
            ("tcp", "check = \"tcp\"\nrise = 0", (13, 8), &["a whole number from 1 to 100"]),
            ("tcp", "check = \"tcp\"\nfall = 101", (13, 8), &["a whole number from 1 to 100"]),
            ("udp", "check = \"tcp\"", (11, 1), &["`port` is missing", "UDP service", "TCP port on which"]),
            ("udp", "check = \"http\"\nport = \"a\"", (13, 8), &["a port from 1 to 65535"]),
        ];
        let mut wrong = Vec::new();
        for (protocol, health, place, parts) in cases {
            let errors = parse(protocol, health).expect_err(health);
            let [error] = errors.errors() else { panic!("{health}: one error, found\n{errors}") };
            let whole = format!("{}; {}", error.message, error.help);
            if (error.line, error.column) != *place || !parts.iter().all(|part| whole.contains(part)) {
                wrong.push(format!("{health}: wanted {place:?} {parts:?}, found\n{errors}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    #[test]
    fn all_errors_of_the_table_are_reported_at_once() {
        let text = "check = \"ping\"\npath = \"x\"\nhost = \"\"\nexpect = \"\"\nport = 0\nevery = 1\ntimeout = 1\nrise = 0\nfall = 0";
        let errors = parse("tcp", text).expect_err("nine errors");
        let lines: Vec<usize> = errors.errors().iter().map(|error| error.line).collect();
        assert_eq!(lines, [12, 13, 14, 15, 16, 17, 18, 19, 20], "{errors}");
    }

    #[test]
    fn without_the_table_there_are_no_checks_and_what_is_no_table_is_one_error() {
        for protocol in ["tcp", "udp"] {
            assert_eq!(parse_rest(protocol, "").expect("valid"), None);
            let errors = parse_rest(protocol, "health = true").expect_err("no table");
            assert_eq!(errors.errors().len(), 1, "{errors}");
            assert!(errors.to_string().contains("`health` of service `web`: expected a table"), "{errors}");
        }
    }

    #[test]
    fn both_ends_of_a_range_belong_to_it() {
        for (text, status, expected) in [
            ("200-399", 199, false),
            ("200-399", 200, true),
            ("200-399", 399, true),
            ("200-399", 400, false),
            ("204", 204, true),
            ("204", 205, false),
        ] {
            let range = StatusRange::parse(text).expect(text);
            assert_eq!(range.contains(status), expected, "{text} {status}");
        }
    }
}
