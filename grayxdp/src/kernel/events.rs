//! Traced packets, as they come out of the program.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::TraceEvent,
    limits::SERVICES_MAX,
};
use rustix::net::{AddressFamily, SocketType, netdevice};

use super::{DataPlane, entries};
use crate::decide::explain::Tables as _;

/// The receiving end. Readable (poll, or tokio's `AsyncFd`) where there is an event; read until there is none.
pub struct TraceEvents {
    ring: RingBuf<MapData>,
}

impl TraceEvents {
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Option<TraceEvent> {
        loop {
            let item = self.ring.next()?;
            // Another length would be another program's: not to be taken for an event, but to be read over.
            if let Some(event) = parse(&item) {
                return Some(event);
            }
        }
    }
}

impl AsFd for TraceEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for TraceEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Whom a traced packet is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// Index into the setup's services; `None` where it is none's.
    pub service: Option<usize>,
    /// Whether the client came by the canary port.
    pub by_canary_port: bool,
    /// The backend that it goes to or comes from.
    pub backend: Option<SocketAddr>,
}

impl DataPlane {
    /// Whom a traced packet is of.
    pub fn traced(&self, event: &TraceEvent) -> Traced {
        let number = u32::from(event.service);
        let inventory = &self.blueprint.inventory;
        let canary = || inventory.service_index(ServiceId(number.checked_sub(SERVICES_MAX)?));
        let own = inventory.service_index(ServiceId(number));
        let entry = BackendId::from_raw(event.backend).and_then(|id| self.maps.backend(id));
        Traced {
            service: own.or_else(canary),
            by_canary_port: own.is_none() && canary().is_some(),
            backend: entry.filter(|entry| entry.is_used()).map(|entry| entries::address_of(&entry)),
        }
    }
}

/// The name that an interface has now; `None` where there is no such interface any more.
pub fn interface_name(index: u32) -> Option<String> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::index_to_name(socket, index).ok()
}

fn parse(bytes: &[u8]) -> Option<TraceEvent> {
    if bytes.len() < size_of::<TraceEvent>() {
        return None;
    }
    // SAFETY: long enough, and integers without padding may hold any bytes.
    Some(unsafe { bytes.as_ptr().cast::<TraceEvent>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_its_bytes_and_less_is_none() {
        let mut bytes = vec![0; size_of::<TraceEvent>() + 1];
        bytes[1..9].copy_from_slice(&77_u64.to_ne_bytes());
        assert_eq!(parse(&bytes[1..]).expect("long enough").time_ns, 77);
        assert!(parse(&bytes[2..]).is_none());
    }
}
