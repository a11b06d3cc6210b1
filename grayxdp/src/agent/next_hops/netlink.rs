//! Netlink's way of asking and answering; knows nothing of what is asked.
//!
//! The kernel answers a request while it is being sent, and continues a dump while it is being read: an answer that is
//! not there at once will not come.

use std::{io, ops::ControlFlow};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel fills at most 32 KiB at once.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// How often a dump is tried that changes make inconsistent.
const DUMPS_MAX: usize = 5;
/// `NLM_F_DUMP_INTR` (linux/netlink.h).
const DUMP_INTERRUPTED: u16 = 0x10;

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
pub(super) type Answer = Option<RouteNetlinkMessage>;

/// A socket for requests.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// In the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: socket()?, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// Has something done.
    pub(super) fn tell(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        Ok(self.ask(request, NLM_F_ACK | flags, |_| ControlFlow::Continue(()))?)
    }

    /// The one answer to a request; `None` if the kernel has none.
    pub(super) fn ask_one(&mut self, request: RouteNetlinkMessage) -> io::Result<Answer> {
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
    pub(super) fn dump<T>(
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

/// A socket for netlink, in the network namespace of this thread.
pub(super) fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // To the kernel, which also keeps other processes from sending here.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPFNOSUPPORT))
}

/// The messages in a datagram, headers included.
pub(super) fn messages_in(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
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
