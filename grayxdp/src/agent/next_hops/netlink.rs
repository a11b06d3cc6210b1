//! Talks to the kernel: reads its tables, has neighbours asked for, hears that something has changed.
//!
//! The kernel answers a request while it is being sent, and continues a dump while it is being read: an answer that is
//! not there at once will not come.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    ops::ControlFlow,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage},
    rule::RuleMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

use super::{
    freshness::Probe,
    parse,
    prefix::Family,
    tables::{FamilyTables, KernelRoute, Link, NeighbourKey, Neighbours, Rules, Tables},
};

/// Routes of one family that are read; a host that has more gets no next hops for it.
const ROUTES_READ_MAX: usize = 16_384;
/// The kernel fills at most 32 KiB at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Datagrams that are taken in before tables are read; what is left is a reason to read them once more.
const DRAINED_MAX: usize = 65_536;
/// How often a dump is tried again that a change has made inconsistent.
const DUMPS_MAX: usize = 5;
/// `NLM_F_DUMP_INTR`.
const DUMP_INTERRUPTED: u16 = 0x10;

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

/// Why a request has no answer.
#[derive(Debug)]
enum Unanswered {
    /// The kernel says no.
    Refused(io::Error),
    /// Tables changed while they were read.
    Interrupted,
    /// Nothing more can be read by this socket.
    Broken(io::Error),
}

impl From<Unanswered> for io::Error {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Refused(error) | Unanswered::Broken(error) => error,
            Unanswered::Interrupted => {
                Self::new(io::ErrorKind::Interrupted, "the tables change faster than they can be read")
            }
        }
    }
}

/// A message of an answer; `None` for one that cannot be read.
type Answer = Option<RouteNetlinkMessage>;

/// A socket for requests.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    /// In the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: socket()?, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// Everything.
    pub(super) fn tables(&mut self, backends: &[IpAddr], interfaces: &[u32]) -> io::Result<Tables> {
        let links = self.links(interfaces)?;
        let v4 = self.family(Family::V4)?;
        let v6 = self.family(Family::V6)?;
        let backend_routes = self.backend_routes(backends)?;
        // Last, for they change most often.
        let neighbours = self.neighbours()?;
        Ok(Tables { v4, v6, links, neighbours, backend_routes })
    }

    /// The neighbours of all devices.
    pub(super) fn neighbours(&mut self) -> io::Result<Neighbours> {
        let mut neighbours = Neighbours::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            let found = self.dump(RouteNetlinkMessage::GetNeighbour(message), usize::MAX, |answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => parse::neighbour(&message),
                _ => None,
            })?;
            neighbours.extend(found.into_iter().flatten().flatten());
        }
        Ok(neighbours)
    }

    /// Makes the kernel ask a neighbour for its address.
    pub(super) fn probe(&mut self, probe: Probe) -> io::Result<()> {
        let (flags, (ifindex, address)) = match probe {
            Probe::Create(key) => (NLM_F_CREATE | NLM_F_EXCL, key),
            Probe::Confirm(key) => (0, key),
        };
        let mut message = NeighbourMessage::default();
        message.header.family = address_family(Family::of(address));
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::None;
        // As if a packet were being sent there, but without a packet that the neighbour would have to refuse.
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(address)));
        self.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_ACK | flags, |_| ControlFlow::Continue(()))?;
        Ok(())
    }

    fn links(&mut self, interfaces: &[u32]) -> io::Result<HashMap<u32, Link>> {
        let mut links = HashMap::new();
        for &ifindex in interfaces {
            let mut message = LinkMessage::default();
            message.header.index = ifindex;
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            let answer = self.ask_one(RouteNetlinkMessage::GetLink(message))?;
            if let Some(RouteNetlinkMessage::NewLink(message)) = answer {
                links.extend([parse::link(&message)]);
            }
        }
        Ok(links)
    }

    fn family(&mut self, family: Family) -> io::Result<FamilyTables> {
        Ok(FamilyTables { rules: self.rules(family)?, routes: self.routes(family)? })
    }

    fn rules(&mut self, family: Family) -> io::Result<Rules> {
        let mut message = RuleMessage::default();
        message.header.family = address_family(family);
        let rules = self.dump(RouteNetlinkMessage::GetRule(message), usize::MAX, |answer| match answer {
            RouteNetlinkMessage::NewRule(message) => Some(message),
            _ => None,
        })?;
        let readable: Option<Vec<RuleMessage>> = rules.and_then(|rules| rules.into_iter().collect());
        Ok(readable.map_or(Rules::Other, |messages| parse::rules(&messages, family)))
    }

    fn routes(&mut self, family: Family) -> io::Result<Option<Vec<KernelRoute>>> {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(family);
        let routes = self.dump(RouteNetlinkMessage::GetRoute(message), ROUTES_READ_MAX, |answer| match answer {
            // What is none of the family's is no route, but can be read.
            RouteNetlinkMessage::NewRoute(message) => Some(parse::route(&message, family)),
            _ => None,
        })?;
        let Some(routes) = routes else { return Ok(None) };
        let readable: Option<Vec<Option<KernelRoute>>> = routes.into_iter().collect();
        Ok(readable.map(|routes| routes.into_iter().flatten().collect()))
    }

    fn backend_routes(&mut self, backends: &[IpAddr]) -> io::Result<HashMap<IpAddr, KernelRoute>> {
        let mut routes = HashMap::new();
        for &backend in backends {
            let family = Family::of(backend);
            let mut message = RouteMessage::default();
            message.header.address_family = address_family(family);
            message.header.destination_prefix_length = family.bits();
            // The route itself, not what this host would make of it for a packet of its own.
            message.header.flags = RouteFlags::FibMatch;
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(backend)));
            let answer = self.ask_one(RouteNetlinkMessage::GetRoute(message))?;
            if let Some(RouteNetlinkMessage::NewRoute(message)) = answer {
                routes.extend(parse::route(&message, family).map(|route| (backend, route)));
            }
        }
        Ok(routes)
    }

    /// The one answer to a request; `None` if the kernel has none.
    fn ask_one(&mut self, request: RouteNetlinkMessage) -> io::Result<Answer> {
        let mut found = None;
        let asked = self.ask(request, NLM_F_ACK, |answer| {
            found = answer;
            ControlFlow::Continue(())
        });
        match asked {
            // No such device, no route, or a route that is a prohibition.
            Err(Unanswered::Refused(_)) => Ok(None),
            asked => asked.map(|()| found).map_err(io::Error::from),
        }
    }

    /// All answers, `None` for those that cannot be read; `None` for all of them if they are too many, or the kernel does
    /// not have such a table.
    fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        count_max: usize,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Option<Vec<Option<T>>>> {
        for _ in 0..DUMPS_MAX {
            let mut found = Vec::new();
            let dumped = self.ask(request.clone(), NLM_F_DUMP, |answer| {
                found.push(answer.and_then(&read));
                if found.len() > count_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match dumped {
                Ok(()) if found.len() > count_max => {
                    // The rest of the dump would come in the way of all that is asked next.
                    *self = Self::open()?;
                    return Ok(None);
                }
                Ok(()) => return Ok(Some(found)),
                Err(Unanswered::Interrupted) => {}
                Err(Unanswered::Refused(error)) if is_unsupported(&error) => return Ok(None),
                Err(unanswered) => return Err(unanswered.into()),
            }
        }
        Err(Unanswered::Interrupted.into())
    }

    /// Sends a request, and reads until its answer ends, or `each` has had enough of it.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(Answer) -> ControlFlow<()>,
    ) -> Result<(), Unanswered> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(Unanswered::Broken)?;

        let mut is_interrupted = false;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0).map_err(Unanswered::Broken)?;
            for bytes in messages_in(&self.buffer) {
                let Some((flags, sequence)) = head(bytes) else { continue };
                // The end of an answer that was given up.
                if sequence != self.sequence {
                    continue;
                }
                is_interrupted |= flags & DUMP_INTERRUPTED != 0;
                let payload = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map(|message| message.payload);
                let (answer, code) = match payload {
                    Ok(NetlinkPayload::InnerMessage(message)) => (Some(message), None),
                    Ok(NetlinkPayload::Done(done)) => (None, Some(done.code)),
                    Ok(NetlinkPayload::Error(error)) => (None, Some(error.raw_code())),
                    Ok(_) => continue,
                    Err(_) => (None, None),
                };
                match code {
                    None if each(answer).is_break() => return Ok(()),
                    None => {}
                    Some(code) if code < 0 => {
                        return Err(Unanswered::Refused(io::Error::from_raw_os_error(code.saturating_neg())));
                    }
                    Some(_) if is_interrupted => return Err(Unanswered::Interrupted),
                    Some(_) => return Ok(()),
                }
            }
        }
    }
}

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
        let socket = socket()?;
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
        Ok(_) => Ok(messages_in(datagram).map(|bytes| outdated_by(bytes, neighbours)).max().unwrap_or(Outdated::All)),
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

fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // To the kernel, which also keeps other processes from sending here.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPFNOSUPPORT))
}

/// The messages in a datagram, headers included.
fn messages_in(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER_BYTES)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Bytes of `struct nlmsghdr` (linux/netlink.h).
const HEADER_BYTES: usize = 16;

/// Flags and sequence number.
fn head(message: &[u8]) -> Option<(u16, u32)> {
    let flags = u16::from_ne_bytes(*message.get(6..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
    Some((flags, sequence))
}
