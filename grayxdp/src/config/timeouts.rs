//! The `[timeouts]` table: how long a flow may be idle before it is forgotten.

use std::time::Duration;

use toml::Spanned;

use super::{section::Section, value};

pub(super) const KEYS: &[&str] = &["tcp_half_open", "tcp_established", "tcp_closing", "udp"];

/// How long a flow may be idle before it is forgotten; whole seconds, 1 s to 8 h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP: from the SYN until both sides have spoken.
    pub tcp_half_open: Duration,
    /// TCP: an open connection.
    pub tcp_established: Duration,
    /// TCP: after a FIN from both sides, or an RST.
    pub tcp_closing: Duration,
    /// UDP, where the service has no `udp_idle` of its own.
    pub udp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_half_open: Duration::from_secs(10),
            tcp_established: Duration::from_secs(3600),
            tcp_closing: Duration::from_secs(10),
            udp: Duration::from_secs(60),
        }
    }
}

/// `None` after a problem was noted.
pub(super) fn read(section: &Section<'_>) -> Option<Timeouts> {
    let default = Timeouts::default();
    let timeout = |key, default| section.or(key, default, value::timeout).map(Spanned::into_inner);
    // All are read before the first `?`, so that every problem is noted.
    let tcp_half_open = timeout("tcp_half_open", default.tcp_half_open);
    let tcp_established = timeout("tcp_established", default.tcp_established);
    let tcp_closing = timeout("tcp_closing", default.tcp_closing);
    let udp = timeout("udp", default.udp);
    Some(Timeouts {
        tcp_half_open: tcp_half_open?,
        tcp_established: tcp_established?,
        tcp_closing: tcp_closing?,
        udp: udp?,
    })
}
