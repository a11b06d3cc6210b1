//! Next hops, kept fresh from the kernel's routes and neighbours, for the packet program to use without a look-up.
//!
//! The kernel tells of changes by netlink. What it tells is only taken as a sign that something has changed: then the
//! tables concerned are read anew, and next hops follow from them by a pure function. A next hop that is not certain is
//! absent, and the program asks the kernel as it would without this. The neighbours that are used are kept known: the
//! kernel does not see the packets that the program sends, and would forget them, or not notice that they have moved.
//!
//! It runs on a thread of its own, in the network namespace of whoever started it: netlink requests wait in the kernel for
//! its lock on network configuration, which others may hold for long.

mod changes;
mod freshness;
mod kernel;
mod longest_prefix;
mod netlink;
mod parse;
mod prefix;
mod resolve;
mod tables;
mod watcher;

use std::{io, net::IpAddr};

pub use self::watcher::{Watcher, watch};

/// Routes of a family in a [`Snapshot`]; of a family with more there are none.
pub const ROUTES_PER_FAMILY_MAX: usize = 16;

/// Where a packet goes next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NextHop {
    /// The interface to leave by.
    pub ifindex: u32,
    /// Ethernet address of the neighbour.
    pub destination_mac: [u8; 6],
    /// Ethernet address of the interface.
    pub source_mac: [u8; 6],
    /// Longest IP packet in bytes, header included; longer ones are the kernel's to deal with.
    pub mtu: u16,
}

/// What is known at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// All backends, each once, in the order of their addresses. Without a next hop: ask the kernel.
    pub backends: Vec<(IpAddr, Option<NextHop>)>,
    /// The way of everything else, at most [`ROUTES_PER_FAMILY_MAX`] of a family, the longest prefix first within it. The
    /// first one that an address lies in counts; for an address in none of them: ask the kernel.
    pub routes: Vec<Route>,
}

impl Snapshot {
    /// Nothing is known about these backends.
    pub fn unresolved(backends: &[IpAddr]) -> Self {
        Self { backends: backends.iter().map(|&backend| (backend, None)).collect(), routes: Vec::new() }
    }
}

/// A network, and where packets to it go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// The network's first address.
    pub destination: IpAddr,
    /// Its length in bits: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub prefix_len: u8,
    /// `None`: ask the kernel, also if a shorter prefix has a next hop.
    pub hop: Option<NextHop>,
}

/// Why next hops cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum NextHopError {
    /// The kernel does not tell.
    #[error(
        "cannot {what} by netlink: {source}. The agent needs AF_NETLINK sockets: see that the service manager's \
         RestrictAddressFamilies= and seccomp filters allow them"
    )]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no thread or no event loop.
    #[error("cannot start the thread that keeps next hops: {0}. See the limits on tasks and open files (`ulimit -a`)")]
    Thread(io::Error),
}
