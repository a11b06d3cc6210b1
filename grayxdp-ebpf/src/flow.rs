//! The flow table: which backend did a flow begin on? The only writer of the flow map.
//!
//! A BPF LRU hash: when it is full, the flows longest unseen make room. Its value says when a flow was last seen, written
//! at most once a tick, for a shared line written with every packet would cost more than the rest of the path.

use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId},
    layout::{Address, BackendEntry, FLOW_TICK_SHIFT, FlowEntry, FlowKey, ServiceEntry},
};

use crate::{
    helpers, maps,
    parse::{PROTOCOL_UDP, Parsed},
};

/// A flow of a service, and the moment at which it is looked at.
pub(crate) struct Flow {
    key: FlowKey,
    service: ServiceId,
    now_ticks: u32,
}

impl Flow {
    #[inline(always)]
    pub(crate) fn new(service: ServiceId, client: Address, client_port: Be16) -> Self {
        Self { key: FlowKey::new(client, client_port, service), service, now_ticks: now_ticks() }
    }

    /// The backend that the flow began on. A UDP conversation that was idle for too long is none.
    #[inline(always)]
    pub(crate) fn backend(
        &self,
        packet: &Parsed,
        service: &ServiceEntry,
    ) -> Option<(BackendId, &'static BackendEntry)> {
        let entry = maps::flow(&self.key)?;
        let idle_ticks = self.now_ticks.wrapping_sub(entry.last_seen_ticks);
        if packet.destination.protocol == PROTOCOL_UDP && idle_ticks > service.udp_idle_ticks {
            return None;
        }
        let found = self.backend_of(entry)?;
        self.refresh(entry);
        Some(found)
    }

    /// Whether this backend is the one that the flow began on.
    #[inline(always)]
    pub(crate) fn is_on(&self, backend: BackendId) -> Option<()> {
        let entry = maps::flow(&self.key)?;
        if entry.backend != u32::from(backend.raw()) {
            return None;
        }
        self.refresh(entry);
        Some(())
    }

    /// Keeps the flow on a backend from now on; an error where the map has no place for it.
    #[inline(always)]
    pub(crate) fn begin_on(&self, backend: BackendId) -> Result<(), i32> {
        maps::store_flow(&self.key, &FlowEntry::new(backend, self.now_ticks))
    }

    /// An entry may outlive its service, whose number then names another one: such an entry is none.
    #[inline(always)]
    fn backend_of(&self, entry: FlowEntry) -> Option<(BackendId, &'static BackendEntry)> {
        let id = BackendId::from_raw(u16::try_from(entry.backend).ok()?)?;
        let backend = maps::backend(id)?;
        if backend.endpoint.protocol == 0 || backend.service != self.service.0 {
            return None;
        }
        Some((id, backend))
    }

    #[inline(always)]
    fn refresh(&self, entry: FlowEntry) {
        if entry.last_seen_ticks != self.now_ticks {
            // Another CPU may move the flow meanwhile (a new SYN); the later store wins, and the flow's next SYN mends it.
            let _ = maps::store_flow(&self.key, &FlowEntry { last_seen_ticks: self.now_ticks, ..entry });
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "wraps after 146 years")]
fn now_ticks() -> u32 {
    (helpers::coarse_clock_ns() >> FLOW_TICK_SHIFT) as u32
}
