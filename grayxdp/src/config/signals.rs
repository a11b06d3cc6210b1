//! `observe` and the `[service.fuse]` table: what is looked for in responses, and when the kernel itself gives v2 up.

use std::time::Duration;

use toml::Spanned;

use super::{
    ModeKind, Protocol,
    section::Section,
    value::{self, Wrong},
};

const FUSE_KEYS: &[&str] = &["failures", "window"];
const FAILURES_DEFAULT: u32 = 20;
const FAILURES_MAX: u32 = 1_000_000;
const WINDOW_DEFAULT: Duration = Duration::from_secs(10);
/// Windows are counted in steps of about a second.
const WINDOW_MIN: Duration = Duration::from_secs(2);
const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// What responses are looked into for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Observe {
    /// They are not.
    #[default]
    None,
    /// The status of HTTP/1 responses.
    Http1,
    /// Whether the server begins a TLS handshake, or sends an alert in its place.
    Tls,
    /// The response code of DNS messages.
    Dns,
}

impl Observe {
    const ALL: [Self; 4] = [Self::None, Self::Http1, Self::Tls, Self::Dns];

    /// As in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Http1 => "http1",
            Self::Tls => "tls",
            Self::Dns => "dns",
        }
    }
}

/// When the kernel itself sends new connections back to v1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fuse {
    /// Failures of v2 that are too many, if v1 does far better; 1 to 1,000,000.
    pub failures: u32,
    /// The time in which they have to come, give or take once as much; 2 s to 1 h.
    pub window: Duration,
}

/// `None` after a problem was noted.
pub(super) fn observe(service: &Section<'_>, protocol: Option<&Protocol>, mode: Option<ModeKind>) -> Option<Observe> {
    let names = Observe::ALL.map(|observe| (observe.name(), observe));
    let item = service.optional_item("observe");
    let observe = service.or("observe", Observe::default(), |value| value::choice(value, &names))?.into_inner();
    if let (Some(item), Some(mode)) = (&item, mode.filter(|mode| !mode.sees_replies()))
        && observe != Observe::None
    {
        item.note(format!("{} needs replies, which do not pass in mode `{}`", item.what(), mode.name()), "remove it");
        return None;
    }
    if let (Some(item), Observe::Http1 | Observe::Tls, Some(Protocol::Udp)) = (item, observe, protocol) {
        item.note(
            format!("{} is `{}`, which goes by TCP: the protocol is `udp`", item.what(), observe.name()),
            "write `observe = \"dns\"`, or remove it",
        );
        return None;
    }
    Some(observe)
}

/// The fuse of a service; none where it is switched off. The outer `None` is returned only after a problem was noted.
pub(super) fn fuse(service: &Section<'_>) -> Option<Option<Fuse>> {
    let Some(item) = service.optional_item("fuse") else {
        return Some(Some(Fuse { failures: FAILURES_DEFAULT, window: WINDOW_DEFAULT }));
    };
    let section = item.section(FUSE_KEYS);
    let failures = section.or("failures", FAILURES_DEFAULT, |value| value::integer(value, 0..=FAILURES_MAX));
    let window = section.or("window", WINDOW_DEFAULT, |value| {
        let window = value::duration(value)?;
        let is_right = (WINDOW_MIN..=WINDOW_MAX).contains(&window);
        if is_right { Ok(window) } else { Err(Wrong::new("a time from 2 s to 1 h", "write `window = \"10s\"`")) }
    });
    let (failures, window) = (failures.map(Spanned::into_inner)?, window.map(Spanned::into_inner)?);
    Some((failures != 0).then_some(Fuse { failures, window }))
}
