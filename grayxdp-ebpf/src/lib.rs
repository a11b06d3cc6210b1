//! The packet program: parse -> service -> flow -> choose -> route -> rewrite -> count -> emit.
//!
//! A library, so that the benchmark's harness calls the same code. Every packet leaves through [`run`], with one counted
//! verdict. What most packets are is inlined into one function; what is rare (`odd.rs` and what it calls) lies in
//! functions of its own, so that it costs the others no registers.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]

mod choose;
mod count;
mod emit;
mod encapsulate;
mod flow;
mod fragment;
mod helpers;
mod icmp;
mod link;
mod maps;
mod odd;
mod outcome;
mod packet;
mod parse;
mod reply;
mod request;
mod reset;
mod rewrite;
mod route;
mod scratch;
mod service;
mod source;
mod too_big;
mod trace;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    verdict::Verdict,
};
use outcome::{Outcome, next};
use packet::Packet;
use parse::{Odd, Parsed};
use request::Begun;
use service::Role;

/// Decides on a packet, changes it, and returns the XDP action.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let Some(control) = maps::control() else { return emit::PASS };
    trace::begin(context, control);
    let mut outcome = Outcome::from_raw(process(context));
    if outcome.is_wrapped() && encapsulate::grayxdp_wrap(context.ctx) != 0 {
        outcome = Outcome::of(Verdict::DroppedRewriteFailed);
    }
    count::verdict(outcome.verdict_index());
    trace::end(control, outcome);
    emit::action(context, outcome)
}

/// The stages, one after the other. Each that is a function of its own leaves the stack before the next one begins.
#[inline(always)]
fn process(context: &XdpContext) -> u64 {
    let Some(parsed) = scratch::parsed() else { return nothing() };
    match Class(grayxdp_classify(context.ctx, parsed)).role() {
        Ok(Role::Request(id)) => process_request(context, parsed, id),
        Ok(Role::Reply(id)) => match grayxdp_reply(context.ctx, parsed, id.raw().into()) {
            next::RESET => grayxdp_reset_reply(context.ctx, parsed, id.raw().into()),
            outcome => outcome,
        },
        Ok(Role::Stranger) => nothing(),
        Err(odd) => process_odd(context, odd),
    }
}

/// What a packet is, in one register: the role in the upper half, and who or what in the lower one.
struct Class(u64);

impl Class {
    const REQUEST: u64 = 1 << 32;
    const REPLY: u64 = 2 << 32;
    const STRANGER: u64 = 3 << 32;

    #[inline(always)]
    fn of(role: Role) -> Self {
        Self(match role {
            Role::Request(id) => Self::REQUEST | u64::from(id.0),
            Role::Reply(id) => Self::REPLY | u64::from(id.raw()),
            Role::Stranger => Self::STRANGER,
        })
    }

    /// The role, or the number of an [`Odd`].
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    fn role(self) -> Result<Role, u32> {
        let number = self.0 as u32;
        match self.0 & (3 << 32) {
            Self::REQUEST => Ok(Role::Request(ServiceId(number))),
            Self::REPLY => BackendId::from_raw(number as u16).map(Role::Reply).ok_or(0),
            Self::STRANGER => Ok(Role::Stranger),
            _ => Err(number),
        }
    }
}

#[inline(always)]
fn process_request(context: &XdpContext, parsed: &Parsed, id: ServiceId) -> u64 {
    let mut met = grayxdp_meet(parsed, id.0);
    if met == next::BEGIN {
        met = grayxdp_begin(parsed, id.0);
    }
    if met & Begun::HERE != 0 && met & 0xff == 0 {
        grayxdp_request(context.ctx, parsed, id.0, met)
    } else if met == next::RESET {
        grayxdp_reset_request(context.ctx, parsed, id.0)
    } else {
        met
    }
}

#[inline(always)]
fn process_odd(context: &XdpContext, odd: u32) -> u64 {
    let outcome = match Odd::from_raw(odd) {
        Odd::LaterFragment => grayxdp_fragment(context.ctx),
        Odd::Icmp => grayxdp_icmp(context.ctx),
        _ => grayxdp_odd(context.ctx, odd),
    };
    match outcome {
        next::TO_BACKEND => grayxdp_icmp_to_backend(context.ctx),
        next::TO_CLIENT => grayxdp_icmp_to_client(context.ctx),
        outcome => outcome,
    }
}

// VERIFIER: global functions are looked at once, for any arguments; others once for every state of their callers, which
// for these would be too many. Their frames lie on the stack one at a time. Therefore numbers in place of pointers to entries, which are looked up again; and pointers
// that may be null, as far as the verifier knows.

/// Parses a packet and looks up whose it is. Returns a [`Class`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_classify(context: *mut xdp_md, parsed: *mut Parsed) -> u64 {
    // SAFETY: as in `grayxdp_meet`.
    let Some(parsed) = (unsafe { parsed.as_mut() }) else { return Class::STRANGER };
    let Some(control) = maps::control() else { return Class::STRANGER };
    match parse::parse(Packet::new(&XdpContext::new(context)), parsed) {
        Ok(()) => Class::of(service::role(control, parsed.source, parsed.destination)).0,
        Err(odd) => u64::from(odd as u32),
    }
}

/// The flow that a client's packet belongs to. Returns a [`Begun`], what is next, or an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_meet(parsed: *const Parsed, service: u32) -> u64 {
    // SAFETY: `process` has just made it; the verifier takes null into account, the compiler need not.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    request::meet(control, parsed, id, service)
}

/// A new flow, or one that is met in its middle. Returns a [`Begun`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_begin(parsed: *const Parsed, service: u32) -> u64 {
    // SAFETY: as in `grayxdp_meet`.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    let id = ServiceId(service);
    let Some(service) = maps::service(id) else { return nothing() };
    request::begin(parsed, id, service).0
}

/// A client's packet, whose flow is known. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_request(context: *mut xdp_md, parsed: *const Parsed, service: u32, begun: u64) -> u64 {
    // SAFETY: as in `grayxdp_meet`.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    request::forward(&XdpContext::new(context), control, parsed, id, service, Begun(begun)).raw()
}

/// A backend's packet. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_reply(context: *mut xdp_md, parsed: *const Parsed, backend: u32) -> u64 {
    // SAFETY: as in `grayxdp_meet`.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `process` widened it")]
    let Some(id) = BackendId::from_raw(backend as u16) else { return nothing() };
    let (Some(control), Some(backend)) = (maps::control(), maps::backend(id)) else { return nothing() };
    reply::forward(&XdpContext::new(context), control, parsed, id, backend).raw()
}

/// A client's packet of a severed connection. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_reset_request(context: *mut xdp_md, parsed: *const Parsed, service: u32) -> u64 {
    // SAFETY: as in `grayxdp_meet`.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    reset::request(context, control, parsed, id, service).map_or(nothing(), Outcome::raw)
}

/// A backend's packet of a severed connection. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_reset_reply(context: *mut xdp_md, parsed: *const Parsed, backend: u32) -> u64 {
    // SAFETY: as in `grayxdp_meet`.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    #[expect(clippy::cast_possible_truncation, reason = "a backend's number, as `process` widened it")]
    let Some(id) = BackendId::from_raw(backend as u16) else { return nothing() };
    let (Some(control), Some(backend)) = (maps::control(), maps::backend(id)) else { return nothing() };
    reset::reply(context, control, parsed, id, backend).map_or(nothing(), Outcome::raw)
}

/// An ICMP message: an echo request is dealt with, and an error told apart.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_icmp(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    icmp::process(&XdpContext::new(context), control).raw()
}

/// An ICMP error about a packet that a service sent. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_icmp_to_backend(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    icmp::to_backend(&XdpContext::new(context), control).raw()
}

/// An ICMP error about a packet that a client sent. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_icmp_to_client(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    icmp::to_client(&XdpContext::new(context), control).raw()
}

/// A fragment other than the first. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_fragment(context: *mut xdp_md) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    fragment::follow(&XdpContext::new(context), control).raw()
}

/// A packet that is none of these, or malformed. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_odd(context: *mut xdp_md, odd: u32) -> u64 {
    let Some(control) = maps::control() else { return nothing() };
    odd::process(&XdpContext::new(context), control, Odd::from_raw(odd)).raw()
}

/// A packet that concerns nobody.
#[inline(always)]
fn nothing() -> u64 {
    Outcome::of(Verdict::PassedNoService).raw()
}
