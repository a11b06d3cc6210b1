//! The end of the short way (`fast.rs`) of a packet that begins a flow in mode `full-nat`: it gets its source address and
//! port. With nothing else on the stack, for the search takes much of it.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::Endpoint,
    verdict::Verdict,
};

use crate::{
    count::{self, Meeting, Passage},
    ends::{self, NewEnd},
    outcome::{Outcome, next},
    packet::Packet,
    scratch,
    source::{self, Taken},
    stages,
};

/// A packet that has its new destination, and no new source; its old one is in `scratch.rs`, too.
#[repr(C)]
pub(crate) struct Sourceless {
    /// How it ends when it has one.
    outcome: u64,
    /// Index of its flow's entry.
    entry: u32,
    ip_len: u16,
    /// See [`Passage::is_fallback`]; zero or one.
    is_fallback: u16,
}

/// Leaves the rest to [`finish`].
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an index, as `fast.rs` widened it")]
pub(crate) fn plan(outcome: Outcome, client: &Endpoint, entry: u64, ip_len: u16, passage: Passage) -> Option<u64> {
    let rest = scratch::sourceless()?;
    rest.outcome = outcome.raw();
    *scratch::source()? = *client;
    rest.entry = entry as u32;
    rest.ip_len = ip_len;
    rest.is_fallback = passage.is_fallback.into();
    Some(next::SOURCE)
}

/// Gives the packet its source. Where no port is free, it is dropped, and counts for no backend.
#[inline(always)]
pub(crate) fn finish(context: &XdpContext) -> Option<Outcome> {
    let rest = scratch::sourceless()?;
    let outcome = Outcome::from_raw(rest.outcome);
    let (id, backend) = (ServiceId(outcome.service().into()), BackendId::from_raw(outcome.backend())?);
    let taken = Taken(stages::grayxdp_take_source(id.0, rest.entry));
    let port = taken.port();
    let Some(address) = source::address(taken.source(), port) else {
        return Some(Outcome::of(Verdict::DroppedNoSourcePort).for_service(id));
    };
    let is_fallback = rest.is_fallback != 0;
    let passage = Passage { meeting: Meeting::New, is_pinned: false, is_fallback, is_tracked: true };
    count::request(backend, rest.ip_len, passage);
    let (packet, new) = (Packet::new(context), NewEnd { address, port });
    let client = scratch::source()?;
    if client.address.is_v4() {
        ends::rewrite_source::<true>(packet, client, new)?;
    } else {
        ends::rewrite_source::<false>(packet, client, new)?;
    }
    Some(outcome)
}
