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
mod service;
mod source;
mod too_big;
mod trace;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::Control,
    verdict::Verdict,
};
use outcome::Outcome;
use packet::Packet;
use parse::{Odd, Parsed};
use service::Role;

/// Decides on a packet, changes it, and returns the XDP action.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let Some(control) = maps::control() else { return emit::PASS };
    trace::begin(context, control);
    let outcome = process(context, control);
    count::verdict(outcome.verdict_index());
    trace::end(control, outcome);
    emit::action(outcome)
}

#[inline(always)]
fn process(context: &XdpContext, control: &'static Control) -> Outcome {
    let mut parsed = Parsed::default();
    if let Err(odd) = parse::parse(Packet::new(context), &mut parsed) {
        return process_odd(context, odd);
    }
    let outcome = match service::role(control, parsed.source, parsed.destination) {
        Role::Request(id) => match grayxdp_request(context.ctx, &parsed, id.0) {
            reset::IS_SEVERED => grayxdp_reset_request(context.ctx, &parsed, id.0),
            outcome => outcome,
        },
        Role::Reply(id) => match grayxdp_reply(context.ctx, &parsed, id.raw().into()) {
            reset::IS_SEVERED => grayxdp_reset_reply(context.ctx, &parsed, id.raw().into()),
            outcome => outcome,
        },
        Role::Stranger => nothing(),
    };
    Outcome::from_raw(outcome)
}

#[inline(always)]
fn process_odd(context: &XdpContext, odd: Odd) -> Outcome {
    let outcome = match odd {
        Odd::LaterFragment => grayxdp_fragment(context.ctx),
        Odd::Icmp => grayxdp_icmp(context.ctx),
        odd => grayxdp_odd(context.ctx, odd as u32),
    };
    match outcome {
        icmp::TO_BACKEND => Outcome::from_raw(grayxdp_icmp_to_backend(context.ctx)),
        icmp::TO_CLIENT => Outcome::from_raw(grayxdp_icmp_to_client(context.ctx)),
        outcome => Outcome::from_raw(outcome),
    }
}

// VERIFIER: global functions are looked at once, for any arguments; others once for every state of their callers, which
// for these would be too many. Their frames lie on the stack one at a time. Therefore numbers in place of pointers to entries, which are looked up again; and pointers
// that may be null, as far as the verifier knows.

/// A client's packet. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_request(context: *mut xdp_md, parsed: *const Parsed, service: u32) -> u64 {
    // SAFETY: `process` has just made it; the verifier takes null into account, the compiler need not.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    request::forward(&XdpContext::new(context), control, parsed, id, service).raw()
}

/// A backend's packet. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_reply(context: *mut xdp_md, parsed: *const Parsed, backend: u32) -> u64 {
    // SAFETY: as in `grayxdp_request`.
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
    // SAFETY: as in `grayxdp_request`.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else { return nothing() };
    let id = ServiceId(service);
    let (Some(control), Some(service)) = (maps::control(), maps::service(id)) else { return nothing() };
    reset::request(context, control, parsed, id, service).map_or(nothing(), Outcome::raw)
}

/// A backend's packet of a severed connection. Returns an [`Outcome`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn grayxdp_reset_reply(context: *mut xdp_md, parsed: *const Parsed, backend: u32) -> u64 {
    // SAFETY: as in `grayxdp_request`.
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
