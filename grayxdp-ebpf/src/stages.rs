//! The program's functions, as the kernel knows them: entry glue around the stages.
//!
//! VERIFIER: global functions are looked at once, for any arguments; others once for every state of their callers, of which
//! there would be too many. Therefore numbers in place of pointers to entries, which are looked up again here, and pointers
//! to plain memory that may be null, as far as the verifier knows. A function's frame leaves the stack, which has 512
//! bytes for all that are under way, before `lib.rs` calls the next one.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{Control, Endpoint, FlowOwner, FlowSeen, FragmentEntry, FuseTally},
    verdict::Verdict,
};

use crate::{
    chain::{self, Chain},
    choose::Placed,
    encapsulate, fast, flow, fragment, fuse,
    heard::{self, Heard},
    icmp, maps, odd,
    outcome::{Outcome, next},
    packet::Packet,
    parse::{self, Odd, Parsed},
    reply,
    request::{self, Begun},
    reset,
    route::{self, Departure, Way},
    scratch, service,
    service::Class,
    signals::{self, Entrant, Spoken},
    source, too_big, trace,
};

/// The short way of most packets. Returns an [`Outcome`], or [`next::SLOW`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_fast(context: *mut xdp_md, control: *const Control) -> u64 {
    let Some(control) = given(control) else { return next::SLOW };
    fast::process(&XdpContext::new(context), control)
}

/// Parses a packet and looks up whose it is. Returns a [`Class`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_classify(context: *mut xdp_md, parsed: *mut Parsed) -> u64 {
    let Some(parsed) = given_mut(parsed) else { return Class::STRANGER };
    let Some(control) = maps::control() else { return Class::STRANGER };
    match parse::parse(&XdpContext::new(context), parsed) {
        Ok(()) => Class::of(service::role(control, parsed.source, parsed.destination)).0,
        Err(odd) => u64::from(odd as u32),
    }
}

/// Looks through IPv6 extension headers. Returns a [`Chain`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_walk(context: *mut xdp_md, protocol: u32, offset: u32) -> u64 {
    let packet = Packet::new(&XdpContext::new(context));
    #[expect(clippy::cast_possible_truncation, reason = "a protocol's number, as `chain.rs` widened it")]
    Chain::to_raw(chain::walk_headers(packet, protocol as u8, offset as usize))
}

/// The flow that a client's packet belongs to. Returns a [`Begun`], what is next, or an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_meet(parsed: *const Parsed, service: u32) -> u64 {
    let Some(parsed) = given(parsed) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    request::meet(control, parsed, id, service)
}

/// A new flow, or one that is met in its middle. Returns a [`Begun`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_begin(parsed: *const Parsed, service: u32) -> u64 {
    let Some(parsed) = given(parsed) else { return nothing() };
    let id = ServiceId(service);
    let Some(service) = maps::service(id) else { return nothing() };
    request::begin(parsed, id, service).0
}

/// A client's packet, whose flow is known. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_request(context: *mut xdp_md, parsed: *const Parsed, service: u32, begun: u64) -> u64 {
    let Some(parsed) = given(parsed) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    request::forward(&XdpContext::new(context), control, parsed, id, service, Begun(begun)).raw()
}

/// A backend's packet. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_reply(context: *mut xdp_md, parsed: *const Parsed, backend: u32) -> u64 {
    let Some(parsed) = given(parsed) else { return nothing() };
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `process` widened it")]
    let Some(id) = BackendId::from_raw(backend as u16) else { return nothing() };
    let (Some(control), Some(backend)) = (maps::control(), maps::backend(id)) else { return nothing() };
    reply::forward(&XdpContext::new(context), control, parsed, id, backend).raw()
}

/// A backend's packet of no flow that has an entry. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_untracked(context: *mut xdp_md, parsed: *const Parsed, backend: u32) -> u64 {
    let Some(parsed) = given(parsed) else { return nothing() };
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `lib.rs` widened it")]
    let Some(id) = BackendId::from_raw(backend as u16) else { return nothing() };
    let (Some(control), Some(backend)) = (maps::control(), maps::backend(id)) else { return nothing() };
    reply::untracked(&XdpContext::new(context), control, parsed, id, backend).raw()
}

/// A client's packet of a severed connection. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_reset_request(context: *mut xdp_md, parsed: *const Parsed, service: u32) -> u64 {
    let Some(parsed) = given(parsed) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    reset::request(context, control, parsed, id, service).map_or(nothing(), Outcome::raw)
}

/// A backend's packet of a severed connection. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_reset_reply(context: *mut xdp_md, parsed: *const Parsed, backend: u32) -> u64 {
    let Some(parsed) = given(parsed) else { return nothing() };
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `process` widened it")]
    let Some(id) = BackendId::from_raw(backend as u16) else { return nothing() };
    let (Some(control), Some(backend)) = (maps::control(), maps::backend(id)) else { return nothing() };
    reset::reply(context, control, parsed, id, backend).map_or(nothing(), Outcome::raw)
}

/// An ICMP message: an echo request is dealt with, and an error told apart.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_icmp(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    icmp::process(&XdpContext::new(context), control).raw()
}

/// An ICMP error about a packet that a service sent. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_icmp_to_backend(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    icmp::to_backend(&XdpContext::new(context), control).raw()
}

/// An ICMP error about a packet that a client sent. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_icmp_to_client(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    icmp::to_client(&XdpContext::new(context), control).raw()
}

/// A fragment other than the first. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_fragment(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    fragment::follow(&XdpContext::new(context), control).raw()
}

/// A packet that is none of these, or malformed. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_odd(context: *mut xdp_md, odd: u32) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    odd::process(&XdpContext::new(context), control, Odd::from_raw(odd)).raw()
}

/// Finds the entry of a flow whose first bucket this is. Returns its index, or [`flow::NO_ENTRY`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_find(owner: u64, bucket: u32) -> u64 {
    let Some(control) = maps::control() else { return flow::NO_ENTRY };
    flow::locate(control, FlowOwner(owner), bucket)
}

/// Makes an entry for an owner in this bucket. Returns its index, or [`flow::NO_ENTRY`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_insert(owner: u64, bucket: u32, seen: u64) -> u64 {
    let Some(control) = maps::control() else { return flow::NO_ENTRY };
    flow::insert(control, FlowOwner(owner), bucket, FlowSeen::from_word(seen))
}

/// Whether a bucket has a place for a new flow.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_has_room(bucket: u32) -> u64 {
    maps::control().map_or(0, |control| u64::from(flow::has_room(control, bucket)))
}

/// Makes the flow's entry. Returns its index, or [`flow::NO_ENTRY`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_enter(parsed: *const Parsed, service: u32, placed: u64) -> u64 {
    let Some(parsed) = given(parsed) else { return flow::NO_ENTRY };
    let id = ServiceId(service);
    let Some(placed) = Placed::from_word(placed) else { return flow::NO_ENTRY };
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return flow::NO_ENTRY };
    request::enter(control, parsed, id, service, placed)
}

/// How readily a flow's entry is given up, by what was seen of it; zero: not at all. `now` in flow ticks.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_score(seen: u64, now: u32) -> u64 {
    maps::control().map_or(0, |control| flow::score(FlowSeen::from_word(seen), now, control))
}

/// Finds a source port for the flow of an entry; `client` becomes the flow's source. Returns zero where none is free.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_take_source(client: *mut Endpoint, service: u32, entry: u32) -> u64 {
    let Some(client) = given_mut(client) else { return 0 };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return 0 };
    match source::take(control, service, id, *client, entry) {
        Some(source) => {
            *client = source;
            1
        }
        None => 0,
    }
}

/// Takes a slot of the source ports for the flow of an entry. Returns zero where it is not free.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_take_slot(client: *const Endpoint, service: u32, index: u32, entry: u32) -> u64 {
    let (Some(client), Some(control)) = (given(client), maps::control()) else { return 0 };
    u64::from(source::take_slot(control, client, ServiceId(service), index, entry).is_some())
}

/// Asks the kernel for a way. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_ask_kernel(context: *mut xdp_md, departure: *const Departure, way: *mut Way) -> u64 {
    if let (Some(departure), Some(way)) = (given(departure), given_mut(way)) {
        route::ask(&XdpContext::new(context), departure, way);
    }
    0
}

/// Puts the outer header of the planned tunnel in front. Returns zero where it was done.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_wrap(context: *mut xdp_md) -> u64 {
    let Some(tunnel) = scratch::tunnel() else { return 1 };
    u64::from(encapsulate::wrap(&XdpContext::new(context), tunnel).is_none())
}

/// Remembers where a first fragment goes. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_remember(context: *mut xdp_md, entry: *const FragmentEntry) -> u64 {
    if let Some(entry) = given(entry) {
        fragment::store(&XdpContext::new(context), entry);
    }
    0
}

/// Makes the packet a RST, to one end or the other. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_convert(context: *mut xdp_md) -> u64 {
    let failed = Outcome::of(Verdict::DroppedRewriteFailed);
    let (Some(onwards), Some(control)) = (scratch::onwards(), maps::control()) else { return failed.raw() };
    reset::convert(&XdpContext::new(context), control, onwards).unwrap_or(failed).raw()
}

/// Turns the packet into an answer that it is too big. Returns zero where it was done.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_too_big(context: *mut xdp_md, mtu: u32) -> u64 {
    u64::from(too_big::try_answer(&XdpContext::new(context), mtu).is_none())
}

/// Takes a sample's first bytes. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_take_head(context: *mut xdp_md) -> u64 {
    u64::from(trace::take_head(&XdpContext::new(context)).is_some())
}

/// Tells the agent of a sample. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_tell(outcome: u64, service: u32) -> u64 {
    u64::from(trace::tell(Outcome::from_raw(outcome), service).is_some())
}

/// Counts a flow that got its entry. Returns whether the fuse is to be judged.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_entered(index: u32, entrant: u64, seen: u64) -> u64 {
    let Some(control) = maps::control() else { return 0 };
    u64::from(signals::entered(control, index, Entrant(entrant), FlowSeen::from_word(seen)).unwrap_or(false))
}

/// Counts a flow that lost its entry. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_lost(index: u32, seen: u64, backend: u32) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `signals.rs` widened it")]
    let (Some(control), Some(id)) = (maps::control(), BackendId::from_raw(backend as u16)) else { return 0 };
    u64::from(signals::lost(control, index, FlowSeen::from_word(seen), id).is_some())
}

/// Looks whether a backend's data have been sent before. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_watch(index: u32, data: u64, len: u32, backend: u32) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `signals.rs` widened it")]
    let (Some(control), Some(id)) = (maps::control(), BackendId::from_raw(backend as u16)) else { return 0 };
    u64::from(heard::watch(control, index, data, len, id).is_some())
}

/// Counts what a client's packet of a known flow changes. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_spoken(index: u32, spoken: u32, before: u64, backend: u32) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as the callers widened it")]
    let (Some(control), Some(id)) = (maps::control(), BackendId::from_raw(backend as u16)) else { return 0 };
    u64::from(signals::spoken(control, Spoken::from_raw(spoken), index, FlowSeen::from_word(before), id).is_some())
}

/// Counts what a backend's packet of a known flow changes. Returns whether the fuse is to be judged.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_heard(context: *mut xdp_md, heard: u32, index: u32, before: u64, backend: u32) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as the callers widened it")]
    let (Some(control), Some(id)) = (maps::control(), BackendId::from_raw(backend as u16)) else { return 0 };
    let context = XdpContext::new(context);
    let before = FlowSeen::from_word(before);
    u64::from(heard::heard(&context, control, Heard::from_raw(heard), index, before, id).unwrap_or(false))
}

/// Counts that a flow's packets do not arrive. Returns whether the fuse is to be judged.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_unreachable(index: u32, before: u64, backend: u32) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `icmp.rs` widened it")]
    let (Some(control), Some(id)) = (maps::control(), BackendId::from_raw(backend as u16)) else { return 0 };
    u64::from(signals::unreachable(control, index, FlowSeen::from_word(before), id).unwrap_or(false))
}

/// Blows a service's fuse, if it is time to. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_judge(service: u32, now: u32) -> u64 {
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return 0 };
    u64::from(fuse::judge(control, id, service, now).is_some())
}

/// Adds what one CPU counted for a service's fuse. Returns nothing of meaning.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn grayxdp_add_tally(service: u32, cpu: u32, now: u32, sum: *mut FuseTally) -> u64 {
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return 0 };
    let Some(sum) = given_mut(sum) else { return 0 };
    u64::from(fuse::add_tally(control, id, service, cpu, now, sum).is_some())
}

/// A packet that concerns nobody.
#[inline(always)]
pub(crate) fn nothing() -> u64 {
    Outcome::of(Verdict::PassedNoService).raw()
}

/// What a caller of these functions lent.
#[inline(always)]
fn given<'a, T>(lent: *const T) -> Option<&'a T> {
    // SAFETY: every caller is in this crate and passes a reference to a value that outlives the call.
    unsafe { lent.as_ref() }
}

/// What a caller of these functions lent, to be changed.
#[inline(always)]
fn given_mut<'a, T>(lent: *mut T) -> Option<&'a mut T> {
    // SAFETY: as in `given`; the caller has no other reference to it while the call lasts.
    unsafe { lent.as_mut() }
}
