//! Hears that something has changed, and tells how much must be read again.

use std::{collections::BTreeSet, io};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use tokio::io::unix::AsyncFd;

use super::{
    netlink::{self, BUFFER_BYTES},
    parse,
    tables::NeighbourKey,
};

/// Datagrams that are taken in before tables are read; what is left is a reason to read them once more.
const DRAINED_MAX: usize = 65_536;

/// Multicast groups of all that next hops depend on (`RTNLGRP_…`, linux/rtnetlink.h).
const GROUPS: [u32; 11] = [
    1,  // LINK
    3,  // NEIGH
    5,  // IPV4_IFADDR
    7,  // IPV4_ROUTE
    8,  // IPV4_RULE
    9,  // IPV6_IFADDR
    11, // IPV6_ROUTE
    19, // IPV6_RULE
    24, // IPV4_NETCONF: forwarding
    25, // IPV6_NETCONF
    32, // NEXTHOP
];

/// What a change makes outdated; the greater includes the lesser.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Outdated {
    Nothing,
    Neighbours,
    All,
}

/// A socket that hears of changes.
#[derive(Debug)]
pub(super) struct Changes {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Changes {
    /// Hears everything from now on. In the network namespace of this thread, on a Tokio runtime.
    pub(super) fn subscribe() -> io::Result<Self> {
        let socket = netlink::socket()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        // SAFETY: the socket owns its descriptor, and keeps the same one until it is dropped.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// Waits for a change that concerns these neighbours, or anything else but neighbours.
    pub(super) async fn next(&mut self, neighbours: &BTreeSet<NeighbourKey>) -> io::Result<Outdated> {
        loop {
            let mut ready = self.socket.readable_mut().await?;
            self.buffer.clear();
            let read = ready.try_io(|socket| socket.get_ref().recv(&mut self.buffer, 0));
            if let Ok(read) = read {
                let outdated = outdated(read, &self.buffer, neighbours)?;
                if outdated > Outdated::Nothing {
                    return Ok(outdated);
                }
            }
        }
    }

    /// All that has come in so far, without waiting.
    pub(super) fn drain(&mut self, neighbours: &BTreeSet<NeighbourKey>) -> io::Result<Outdated> {
        let mut all = Outdated::Nothing;
        for _ in 0..DRAINED_MAX {
            self.buffer.clear();
            match self.socket.get_ref().recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                read => all = all.max(outdated(read, &self.buffer, neighbours)?),
            }
        }
        Ok(all)
    }
}

fn outdated(read: io::Result<usize>, datagram: &[u8], neighbours: &BTreeSet<NeighbourKey>) -> io::Result<Outdated> {
    match read {
        Ok(_) => Ok(netlink::messages_in(datagram)
            .map(|bytes| outdated_by(bytes, neighbours))
            .max()
            .unwrap_or(Outdated::All)),
        // Changes have been lost.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Outdated::All),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Outdated::Nothing),
        Err(error) => Err(error),
    }
}

fn outdated_by(bytes: &[u8], neighbours: &BTreeSet<NeighbourKey>) -> Outdated {
    let payload = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map(|message| message.payload);
    let message = match payload {
        Ok(NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message),
        )) => message,
        _ => return Outdated::All,
    };
    match parse::neighbour(&message) {
        Some((key, _)) if neighbours.contains(&key) => Outdated::Neighbours,
        _ => Outdated::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        AddressFamily,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
        route::RouteMessage,
    };

    use super::*;

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn neighbour(last: u8) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 2;
        message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, last].into()))];
        message
    }

    #[test]
    fn only_neighbours_that_are_used_make_neighbours_outdated_and_all_else_makes_everything() {
        let used = [(2, [10, 0, 0, 1].into())].into();
        let new = |last| bytes(RouteNetlinkMessage::NewNeighbour(neighbour(last)));
        let gone = bytes(RouteNetlinkMessage::DelNeighbour(neighbour(1)));
        let route = bytes(RouteNetlinkMessage::DelRoute(RouteMessage::default()));
        let mut unknown = route.clone();
        unknown[4..6].copy_from_slice(&80_u16.to_ne_bytes());
        for (what, datagram, expected) in [
            ("used", new(1), Outdated::Neighbours),
            ("unused", new(2), Outdated::Nothing),
            ("gone", gone, Outdated::Neighbours),
            ("route", route.clone(), Outdated::All),
            ("settings of a device", unknown, Outdated::All),
            ("several", [new(2), route, new(1)].concat(), Outdated::All),
            ("nothing that can be read", vec![1, 2, 3], Outdated::All),
        ] {
            assert_eq!(outdated(Ok(datagram.len()), &datagram, &used).unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn after_an_overrun_everything_is_outdated() {
        let overrun = io::Error::from_raw_os_error(libc::ENOBUFS);
        assert_eq!(outdated(Err(overrun), &[], &BTreeSet::new()).unwrap(), Outdated::All);
        let broken = io::Error::from_raw_os_error(libc::EBADF);
        assert!(outdated(Err(broken), &[], &BTreeSet::new()).is_err());
    }
}
